"""Liveness, readiness and metrics on one port; where it is asked for, a page, too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from slmpack.page.document import Document

__all__ = ["HealthServer", "Pages", "Patient"]

logger = logging.getLogger(__name__)

OLDEST_TURN_SECONDS = 180.0
"""More than the longest turn against an API server that hangs."""
PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


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


class Pages(Protocol):
    """What is shown at /."""

    async def document(self, *, refreshes: bool) -> Document:
        """The page now."""
        ...


class HealthServer:
    """/healthz, /readyz and /metrics; with `page`, /."""

    def __init__(self, patient: Patient, *, metrics: Callable[[], bytes], page: Pages | None = None) -> None:
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
        if page is not None:
            app.add_routes([web.get("/", _Front(page).serve)])
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


class _Front:
    """The page over HTTP: GET and HEAD, and nothing that a browser may keep, frame or load from elsewhere."""

    def __init__(self, page: Pages) -> None:
        self._page = page

    async def serve(self, request: web.Request) -> web.Response:
        """`?refresh=no` for a page that stays as it is."""
        document = await self._page.document(refreshes=request.query.get("refresh") != "no")
        policy = f"{document.policy}; frame-ancestors 'none'"
        return web.Response(
            body=document.html.encode(),
            content_type="text/html",
            charset="utf-8",
            headers={**PAGE_HEADERS, "Content-Security-Policy": policy},
        )
