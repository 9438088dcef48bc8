"""Liveness, readiness and metrics on one port."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

__all__ = ["HealthServer", "Patient"]

logger = logging.getLogger(__name__)

OLDEST_TURN_SECONDS = 180.0
"""More than the longest turn against an API server that hangs."""


class Patient(Protocol):
    """Whose health it is."""

    @property
    def age_seconds(self) -> float:
        """Since the last turn ended."""
        ...

    @property
    def trouble(self) -> str:
        """Why it is not ready; empty if it is."""
        ...


class HealthServer:
    """/healthz, /readyz and /metrics."""

    def __init__(self, patient: Patient, *, metrics: Callable[[], bytes]) -> None:
        self._patient = patient
        self._metrics = metrics
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._text),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self, *, host: str, port: int) -> str:
        """Listen; the address, with the port that was chosen if `port` is 0. OSError if it is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        name, chosen = self._runner.addresses[0][:2]
        url = f"http://{f'[{name}]' if ':' in name else name}:{chosen}"
        logger.info("listening on %s", url)
        return url

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        age = self._patient.age_seconds
        return web.Response(text=f"last turn {age:.1f} s ago\n", status=200 if age < OLDEST_TURN_SECONDS else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        trouble = self._patient.trouble
        return web.Response(text=f"{trouble or 'ok'}\n", status=503 if trouble else 200)

    async def _text(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
