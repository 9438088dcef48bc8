"""Kopf as the informer: every event goes to the store of the planner's thread, and nothing is written to the objects.

`on.event` handlers leave no annotation and no finalizer behind (D1). Kopf runs in a thread and event loop of its own:
it cancels the tasks that it finds on its loop when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import kopf

__all__ = ["Kind", "Login", "Watches", "register"]

logger = logging.getLogger(__name__)

Handle = Callable[[str | None, Mapping[str, Any]], None]
"""Type of the event (None for what a watch starts with) and the object; called in Kopf's thread."""
Login = Callable[[], Awaitable[kopf.ConnectionInfo]]
PAGE = 500


class _Endless:
    """Seconds between Kopf's tries. A watcher that has used up its tries ends silently, and Kopf goes on without it."""

    def __iter__(self) -> Iterator[float]:
        return chain((0.1, 0.5, 1.0, 2.0), repeat(5.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind to watch."""

    group: str
    version: str
    plural: str
    handle: Handle
    label: str | None = None
    """Only objects with this label."""


def register(registry: kopf.OperatorRegistry, kinds: tuple[Kind, ...], *, login: Login) -> None:
    """One `on.event` handler a kind, and the login: a registry of one's own has none to fall back on."""

    @kopf.on.login(registry=registry, id="login")
    async def _login(**_: Any) -> kopf.ConnectionInfo:  # noqa: ANN401 - Kopf's keywords
        return await login()

    for kind in kinds:
        _register_kind(registry, kind)


def _register_kind(registry: kopf.OperatorRegistry, kind: Kind) -> None:
    labels = {kind.label: kopf.PRESENT} if kind.label else None

    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=f"see-{kind.plural}", labels=labels)
    async def _see(event: Any, **_: Any) -> None:  # noqa: ANN401 - Kopf's keywords
        kind.handle(event["type"], event["object"])


class Watches:
    """A running Kopf in its own thread; `ended` is called, in that thread, however it ends."""

    def __init__(
        self, kinds: tuple[Kind, ...], *, namespace: str | None, login: Login, ended: Callable[[str], None]
    ) -> None:
        self._registry = kopf.OperatorRegistry()
        register(self._registry, kinds, login=login)
        self._namespace = namespace
        self._ended = ended
        self._stop = threading.Event()
        name = f"kopf-{namespace or 'cluster'}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, *, seconds: float) -> bool:
        """Ask it to end and wait; False if it has not by then."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._operate())
        except Exception as error:
            logger.exception("the watches ended")
            self._ended(f"the watches ended: {type(error).__name__}: {error}")
        else:
            self._ended("the watches ended")

    async def _operate(self) -> None:
        await kopf.operator(
            registry=self._registry,
            settings=_settings(),
            stop_flag=self._stop,
            standalone=True,
            # Without one, Kopf asks for the user's name, which a container's user need not have. (It exports no type.)
            identity="slmpack",  # type: ignore[arg-type]
            clusterwide=self._namespace is None,
            namespaces=() if self._namespace is None else (self._namespace,),
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.chunk_size = PAGE
    settings.networking.error_backoffs = _Endless()
    settings.queueing.exit_timeout = 0.5
    return settings
