"""A Prometheus server, asked through prometheus-api-client in threads of our own.

The package is synchronous, waits for ever and retries for seconds by default. Here every request has a timeout, an
answer has a largest size, few threads exist, and a server that does not answer is left alone for a while.
Neither redirects nor proxies and passwords of the environment are followed: a token goes where it was meant to go.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests  # noqa: TID251 - only in threads, under prometheus-api-client
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from slmpack.ports import Clock, Invalid, PortError, Unavailable

__all__ = ["PrometheusClient", "PrometheusSettings", "Series"]

THREADS = 4
LARGEST_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 65_536
FAILURES = 3
"""So many requests in a row without a usable answer, and the server is left alone."""
FIRST_PAUSE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 60.0
SHOWN = 200
"""Characters of what a server said."""
QUERY_REFUSED = frozenset({400, 422})
"""The query is wrong, or takes more than the server grants: the others are not concerned."""
WHOLE = {"partial_response": "false", "deny_partial_response": "1"}
"""Thanos and VictoriaMetrics answer with what they have unless told not to; Prometheus ignores both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSettings:
    """Where Prometheus is, and as whom it is asked."""

    url: str
    timeout_s: float = 3.0
    """Of one request."""
    token_file: Path | None = None
    """Bearer token; read anew for every request, as the kubelet renews tokens."""
    basic_auth_file: Path | None = None
    """user:password."""
    ca_file: Path | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Further ones, such as X-Scope-OrgID."""


@dataclass(frozen=True, slots=True)
class Series:
    """One element of an instant vector. The value may be NaN or infinite."""

    labels: Mapping[str, str]
    value: float


class _Element(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    metric: dict[str, str]
    value: tuple[float, str]


VECTOR = TypeAdapter(list[_Element])


@dataclass(slots=True)
class _Breaker:
    """When a server that does not answer is asked again."""

    failures: int = 0
    closed_until: float = -math.inf
    why: str = ""

    def note(self, error: PortError, *, now: float) -> None:
        if self.closed_until > now:
            return  # asked at the same time as the one that failed before
        self.failures += 1
        self.why = str(error)
        if self.failures >= FAILURES:
            pause = FIRST_PAUSE_SECONDS * 2.0 ** min(self.failures - FAILURES, 16)
            self.closed_until = now + min(pause, LONGEST_PAUSE_SECONDS)

    def heal(self) -> None:
        self.failures, self.closed_until = 0, -math.inf


@dataclass(slots=True)
class PrometheusClient:
    """Instant queries. `ask` never blocks the event loop."""

    settings: PrometheusSettings
    clock: Clock
    _breaker: _Breaker = field(default_factory=_Breaker)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(THREADS))
    _session: _BoundedSession = field(init=False)

    def __post_init__(self) -> None:
        ca_file = self.settings.ca_file
        self._session = _BoundedSession(verify=True if ca_file is None else str(ca_file))

    async def ask(self, query: str, *, at: float | None = None) -> tuple[Series, ...]:
        """The vector at an instant (seconds since the epoch; None: Prometheus' own now).

        Raises Invalid where this query is refused, and Unavailable where the server gives no usable answer.
        """
        await self._slots.acquire()
        if self._breaker.closed_until > self.clock.monotonic():
            self._slots.release()
            # In the same words as when it was asked: whoever tells them has nothing new to tell.
            raise Unavailable(self._breaker.why)
        try:
            answer = await self._in_a_thread(lambda: self._exchange(query, at))
        except Invalid:
            self._breaker.heal()
            raise
        except Unavailable as error:
            self._breaker.note(error, now=self.clock.monotonic())
            raise
        self._breaker.heal()
        return answer

    async def _in_a_thread(self, work: Callable[[], tuple[Series, ...]]) -> tuple[Series, ...]:
        """The slot that was acquired is free again when the thread has ended, not when nobody waits any more.

        Daemon threads: an executor's would keep the process from ending while a server is silent.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Series, ...]] = loop.create_future()

        def run() -> None:
            found = _caught(work)
            # The loop may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_deliver, answer, found)
                loop.call_soon_threadsafe(self._slots.release)

        try:
            threading.Thread(target=run, name="prometheus", daemon=True).start()
        except RuntimeError as error:  # no more threads are to be had
            self._slots.release()
            raise Unavailable(f"{self.settings.url} cannot be asked: {error}") from error
        return await answer

    def _exchange(self, query: str, at: float | None) -> tuple[Series, ...]:
        """One request, in a thread. Raises Invalid and Unavailable."""
        settings = self.settings
        secrets: list[str] = []
        try:
            connect = self._connect(secrets)
            params = WHOLE | {"timeout": f"{settings.timeout_s:g}s"} | ({} if at is None else {"time": repr(at)})
            return _vector(connect.custom_query(query, params=params, timeout=settings.timeout_s))
        except PrometheusApiClientException as error:
            raise self._refused(error, secrets) from error
        except requests.exceptions.Timeout as error:
            raise Unavailable(f"{settings.url} did not answer within {settings.timeout_s:g} s") from error
        except requests.exceptions.JSONDecodeError as error:
            raise Unavailable(f"{settings.url} answered, but not as Prometheus does: no JSON") from error
        except (KeyError, TypeError, ValidationError) as error:
            raise Unavailable(f"{settings.url} answered, but not as Prometheus does: no vector") from error
        except (requests.exceptions.RequestException, HTTPError, OSError, ValueError) as error:
            raise Unavailable(f"{settings.url} does not answer: {_shown(_cause(error), secrets)}") from error

    def _connect(self, secrets: list[str]) -> Any:  # noqa: ANN401 - the package's types are not followed
        """The package's client, as cheap as a dictionary: the session with its connections is kept."""
        settings = self.settings
        headers = {"User-Agent": "slmpack", "Accept-Encoding": "identity", **dict(settings.headers)}
        secrets += [value for _, value in settings.headers]
        auth = None
        if settings.token_file is not None:
            secrets.append(_secret(settings.token_file))
            headers["Authorization"] = f"Bearer {secrets[-1]}"
        if settings.basic_auth_file is not None:
            user, colon, password = _secret(settings.basic_auth_file).partition(":")
            if not colon:
                raise Unavailable(f"{settings.basic_auth_file} does not hold user:password")
            secrets += [password, base64.b64encode(f"{user}:{password}".encode()).decode()]
            auth = (user, password)
        return PrometheusConnect(
            url=settings.url.rstrip("/"),
            headers=headers,
            auth=auth,
            retry=Retry(0),
            session=self._session,
            method="POST",
        )

    def _refused(self, error: Exception, secrets: list[str]) -> PortError:
        """The package puts status and body into the message: `HTTP Status Code 500 (b'...')`."""
        status, body = error.args[0].removeprefix("HTTP Status Code ").split(" ", 1)
        text = _shown(body.removeprefix("(b").removesuffix(")").strip("'\""), secrets)
        if int(status) in QUERY_REFUSED:
            return Invalid(f"the query is refused: {text}", status=int(status))
        hint = " (does it need --prometheus-token-file?)" if status in {"401", "403"} else ""
        return Unavailable(f"{self.settings.url} answered {status}{hint}: {text}", status=int(status))


class _BoundedSession:
    """What the package uses of a requests.Session: the query goes into the body, and answers have a largest size."""

    def __init__(self, *, verify: bool | str) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._lock = threading.Lock()
        self._mounted = False
        self.verify = verify
        self.cert = None

    def mount(self, prefix: str, adapter: requests.adapters.BaseAdapter) -> None:
        """Keep the first adapter, and so its connections."""
        with self._lock:
            if not self._mounted:
                self._session.mount(prefix, adapter)
                self._mounted = True

    def request(  # noqa: PLR0913 - as the package calls it
        self,
        *,
        method: str,
        url: str,
        params: dict[str, str],
        headers: dict[str, str],
        auth: tuple[str, str] | None,
        verify: bool | str,
        cert: None,
        timeout: float,
    ) -> requests.Response:
        """The response, read to its end. Raises what requests and urllib3 raise, and Unavailable."""
        response = self._session.request(
            method,
            url,
            data=params,
            headers=headers,
            auth=auth,
            verify=verify,
            cert=cert,
            timeout=timeout,
            stream=True,
            allow_redirects=False,
        )
        with contextlib.closing(response.raw):
            body = _read(response.raw, seconds=timeout)
        # requests reads a response once, from here: what it finds is what was read within the bounds.
        response.raw = io.BytesIO(body)
        return response


def _read(raw: Any, *, seconds: float) -> bytes:  # noqa: ANN401 - urllib3's
    """The whole body; Timeout for one that comes in drops, Unavailable for one that is too long."""
    end = time.monotonic() + seconds
    body = bytearray()
    while chunk := raw.read1(CHUNK_BYTES, decode_content=False):
        body += chunk
        if len(body) > LARGEST_BYTES:
            raise Unavailable(f"its answer is longer than {LARGEST_BYTES} bytes")
        if time.monotonic() > end:
            raise requests.exceptions.Timeout
    return bytes(body)


def _vector(raw: object) -> tuple[Series, ...]:
    return tuple(Series(it.metric, float(it.value[1])) for it in VECTOR.validate_python(raw))


def _secret(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"{path} cannot be read: {error}") from error
    if not text or not text.isprintable():
        raise Unavailable(f"{path} holds no secret on one line")
    return text


def _cause(error: BaseException) -> str:
    """The words of the first error: requests and urllib3 wrap it in their own, with a whole URL each."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return str(error) or type(error).__name__


def _shown(text: str, secrets: list[str]) -> str:
    """Whoever answers may say anything, our own secrets included."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return " ".join(text.split())[:SHOWN]


def _caught(work: Callable[[], tuple[Series, ...]]) -> tuple[Series, ...] | PortError:
    try:
        return work()
    except PortError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a bug, or what the package raises and we do not know
        return Unavailable(f"{type(error).__name__}: {str(error)[:SHOWN]}")


def _deliver(answer: asyncio.Future[tuple[Series, ...]], found: tuple[Series, ...] | PortError) -> None:
    if answer.done():
        return  # nobody waits for it any more
    if isinstance(found, PortError):
        answer.set_exception(found)
    else:
        answer.set_result(found)
