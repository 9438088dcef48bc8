"""The demo's cluster: store, scheduler and API server in one async context manager."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from aiohttp import web

from slmpack.devcluster.client import StoreApi
from slmpack.devcluster.scheduler import Scheduler
from slmpack.devcluster.server import Logs, make_app
from slmpack.devcluster.store import Store, Validate

__all__ = ["EmbeddedCluster", "system_clock"]

_LOOPBACK = "127.0.0.1"


def system_clock() -> datetime:
    """The present in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - this is the clock that gets passed in


class EmbeddedCluster:
    """An API server on a free loopback port, and its scheduler; `api` reaches the same store without HTTP.

    `validate` answers what is wrong with a custom object; `crds` are served from the start. Set `logs` to answer
    `kubectl logs` (a stand-in kubelet has them).
    """

    def __init__(
        self,
        *,
        crds: Iterable[dict[str, Any]] = (),
        validate: Validate = lambda _: [],
        clock: Callable[[], datetime] = system_clock,
    ) -> None:
        self.store = Store(clock=clock, validate=validate, crds=crds)
        self.api = StoreApi(self.store)
        self.logs: Logs = lambda _namespace, _pod: None
        self._scheduler = Scheduler(self.store)
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where the API server answers; valid inside the context."""
        return f"http://{_LOOPBACK}:{self._port}"

    async def __aenter__(self) -> Self:
        app = make_app(self.store, logs=self._read_log)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _LOOPBACK, 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close_watches()
        if self._runner is not None:
            await self._runner.cleanup()

    def _read_log(self, namespace: str, pod: str) -> str | None:
        return self.logs(namespace, pod)

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server to `path` and return it."""
        name = "slmpack-demo"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": self.url}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
            "users": [{"name": name, "user": {}}],
        }
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return path
