"""The supervisors of packs: asked in the background how their engines are, told directly which are to run.

A supervisor is asked when its pod is new or has changed, and then every 15 s. One that does not answer keeps its last
report for a while: what is known of a pack that serves must not vanish with one lost packet. New ones are waited for a
moment: an operator that has just started must not say of packs that serve that it knows nothing of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Protocol, Self

import aiohttp

from slmpack.adapters.kube import BY_STATUS
from slmpack.adapters.pack_report import read_report
from slmpack.adapters.pod_session import pod_session
from slmpack.domain.pack import PackReport
from slmpack.ports import Clock, NotFound, PortError, Supervisor, Unavailable

__all__ = ["PackClient", "TokenSource"]

logger = logging.getLogger(__name__)

ASK_SECONDS = 15.0
CALL_SECONDS = 2.0
MISSES = 3
"""So many calls without an answer, one after another, and nothing is known of a pack any more."""
AT_ONCE = 16
LARGEST_BYTES = 256 * 1024
"""64 engines with messages of the length that we keep take less."""
ENGINES = "/v1/engines"


class TokenSource(Protocol):
    """Who we are to a supervisor; `PackKey` is one. Raises PortError."""

    async def token(self, *, owner_uid: str, pod: str) -> str:
        """The token of a pod that exists."""
        ...

    async def token_hash(self, *, owner_uid: str, pod: str) -> str:
        """The hash of the token of one that is to be made."""
        ...


@dataclass(slots=True, kw_only=True)
class _Known:
    pod: Supervisor
    asked_at: float | None = None
    task: asyncio.Task[None] | None = None
    """The asking under way, or waiting for its turn."""
    heard: int = 0
    """Number of the latest call that was answered: an answer that comes late is no news."""
    misses: int = 0
    report: PackReport | None = None
    trouble: str = ""


class PackClient:
    """`ports.Packs` and `ports.PackReports`. `wake` is called whenever a report is another than before."""

    def __init__(
        self, tokens: TokenSource, *, wake: Callable[[], object], clock: Clock, proxy: str | None = None
    ) -> None:
        self._tokens = tokens
        self._wake = wake
        self._clock = clock
        self._proxy = proxy
        self._known: dict[str, _Known] = {}
        self._numbers = count(1)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def refresh(self, there: Iterable[Supervisor]) -> None:
        """Have all that are due asked, and wait for the new ones: as long as one call may take."""
        pods = {pod.uid: pod for pod in there}
        self._known = {uid: self._known.get(uid) or _Known(pod=pod) for uid, pod in pods.items()}
        new = []
        for uid, known in self._known.items():
            if self._is_due(known, pods[uid]):
                is_new = known.asked_at is None
                known.pod, known.asked_at = pods[uid], self._clock.monotonic()
                known.task = asyncio.create_task(self._ask(known), name=f"ask {known.pod.key}")
                self._tasks.add(known.task)
                known.task.add_done_callback(self._tasks.discard)
                new += [known.task] if is_new else []
        if new:
            await asyncio.wait(new, timeout=CALL_SECONDS)

    def report(self, uid: str) -> PackReport | None:
        """What is known now."""
        known = self._known.get(uid)
        return known.report if known is not None else None

    async def token_hash(self, *, owner_uid: str, pod: str) -> str:
        """SHA-256, in hex, of the token of a pod that is to be made. Raises PortError."""
        return await self._tokens.token_hash(owner_uid=owner_uid, pod=pod)

    async def set_engines(self, uid: str, running: tuple[int, ...]) -> None:
        """PUT which engines are to run. Raises PortError: then it may or may not have been heard."""
        known = self._known.get(uid)
        if known is None:
            raise Unavailable("its pod does not run, or has no address yet")
        body = json.dumps({"running": list(running)}).encode()
        if error := await self._exchange(known, "PUT", body=body):
            raise error

    def _is_due(self, known: _Known, pod: Supervisor) -> bool:
        if known.task is not None and not known.task.done():
            return False
        if known.asked_at is None or known.pod != pod:
            return True
        return self._clock.monotonic() - known.asked_at >= ASK_SECONDS

    async def _ask(self, known: _Known) -> None:
        async with self._slots:
            await self._exchange(known, "GET")

    async def _exchange(self, known: _Known, method: str, *, body: bytes | None = None) -> PortError | None:
        """One call, and what it makes of what is known."""
        number = next(self._numbers)
        before = known.report
        try:
            content = await self._in_time(self._call(known.pod, method, body=body))
        except PortError as error:
            known.misses += 1
            if known.misses >= MISSES:
                known.report = None
            self._say(known, str(error))
            failed: PortError | None = error
        else:
            failed = self._hear(known, content, number=number)
        if known.report != before:
            self._wake()
        return failed

    def _hear(self, known: _Known, content: bytes, *, number: int) -> PortError | None:
        if number < known.heard:
            return None  # a later call has been answered already
        known.heard, known.misses = number, 0
        try:
            known.report = read_report(content, uid=known.pod.uid)
        except ValueError as error:
            known.report = None
            self._say(known, f"its report cannot be read: {error}")
            return Unavailable(f"its report cannot be read: {error}")
        self._say(known, "")
        return None

    def _say(self, known: _Known, trouble: str) -> None:
        """One line in the log for each change."""
        if trouble and trouble != known.trouble:
            logger.warning("the supervisor of pack %s at %s: %s", known.pod.key, known.pod.address, trouble)
        elif known.trouble and not trouble:
            logger.info("the supervisor of pack %s answers again", known.pod.key)
        known.trouble = trouble

    async def _in_time(self, call: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await call
        except TimeoutError as error:
            raise Unavailable(f"no answer within {CALL_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(str(error) or type(error).__name__) from error

    async def _call(self, pod: Supervisor, method: str, *, body: bytes | None) -> bytes:
        """The answer's body. Raises PortError, TimeoutError and aiohttp's."""
        token = await self._token(pod)
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        async with self._open().request(
            method,
            f"http://{host}:{pod.port}{ENGINES}",
            data=body,
            headers=headers,
            proxy=self._proxy,
            allow_redirects=False,
        ) as response:
            content = await _at_most(response.content, LARGEST_BYTES)
            if 200 <= response.status < 300:
                return content
            kind = BY_STATUS.get(response.status, Unavailable)
            # Whoever answers may say anything, our own token included.
            text = " ".join(content.decode(errors="replace").replace(token, "***").split())
            raise kind(f"it answered {response.status}: {text[:200]!a}", status=response.status)

    async def _token(self, pod: Supervisor) -> str:
        try:
            return await self._tokens.token(owner_uid=pod.owner_uid, pod=pod.key.name)
        except NotFound as error:
            raise Unavailable(f"the key it was made with is gone: {error}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = pod_session()
        return self._session


async def _at_most(content: aiohttp.StreamReader, most: int) -> bytes:
    found = bytearray()
    async for chunk in content.iter_chunked(65536):
        found += chunk
        if len(found) > most:
            raise Unavailable(f"its answer is longer than {most} bytes")
    return bytes(found)
