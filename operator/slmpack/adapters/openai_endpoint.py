"""A client of vLLM's OpenAI server: what it serves, its metrics, and completions whose tokens are timed one by one."""

from __future__ import annotations

import errno
import json
import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

import aiohttp

from slmpack.adapters.vllm_metrics import read_exposition
from slmpack.domain.profile_faults import EngineSample
from slmpack.ports import Forbidden, Invalid, NotFound, PortError, Unavailable

__all__ = ["OpenAiEndpoint", "ServedModel"]

SHORT = aiohttp.ClientTimeout(total=10, sock_connect=5)
LARGEST_BYTES = 8 * 1024 * 1024
SHOWN_MAX = 300
USAGE = b'"completion_tokens":'
NUMBER = re.compile(rb"\s*(\d+)")
MOST_DIGITS = 12
"""Of a number of tokens that is believed."""
LONGEST_NAME = 1024
FAILED = re.compile(rb'^data:\s*(\{\s*"(?:error"|object":\s*"error").*)', re.MULTILINE)
"""In generated text the quotes and line breaks would be escaped."""
ERRNO = re.compile(r"\[Errno (\d+)\]")
REFUSED = re.compile(rb'"code":\s*4\d\d\b')
ERRORS: Mapping[int, type[PortError]] = {
    HTTPStatus.BAD_REQUEST: Invalid,
    HTTPStatus.UNPROCESSABLE_ENTITY: Invalid,
    HTTPStatus.UNAUTHORIZED: Forbidden,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One entry of /v1/models."""

    name: str
    """What requests call it."""
    root: str
    """Where the engine loaded it from, its name on the Hub as a rule."""
    max_model_len: int | None
    """Tokens that a request may have."""


class OpenAiEndpoint:
    """One server. Every method raises PortError."""

    def __init__(self, url: str, *, token: str | None = None, request_seconds: float = 120.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._limits = aiohttp.ClientTimeout(total=request_seconds, sock_connect=5)
        self._session: aiohttp.ClientSession | None = None
        self.untold: dict[str, str] = {}
        """What the server did not tell, by path, and why."""

    async def __aenter__(self) -> Self:
        # a proxy would be measured instead of the server, so the environment's are not used
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use `async with OpenAiEndpoint(...)`")
        return self._session

    async def models(self) -> tuple[ServedModel, ...]:
        """What /v1/models lists, at least one."""
        text = await self._get("/v1/models")
        try:
            models = tuple(_served_model(entry) for entry in json.loads(text)["data"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = _printable(repr(error))
            raise Unavailable(f"{self.url}/v1/models is not the list of an OpenAI server: {why}") from error
        if not models:
            raise Unavailable(f"{self.url}/v1/models lists no model")
        return models

    async def version(self) -> str | None:
        """The engine's version; None where the server does not tell."""
        text = await self._optional("/version")
        try:
            return None if text is None else _name(json.loads(text)["version"])
        except (ValueError, KeyError, TypeError, RecursionError):
            self.untold["/version"] = f"{self.url}/version is not that of a vLLM server"
            return None

    async def sample(self) -> EngineSample | None:
        """The engine's metrics now; None where the server has none that can be read."""
        text = await self._optional("/metrics")
        try:
            return None if text is None else read_exposition(text)
        except Unavailable as error:
            self.untold["/metrics"] = f"{self.url}{error}"
            return None

    async def complete(
        self, prompt: Sequence[int], *, model: str, output_tokens: int, on_tokens: Callable[[int], object]
    ) -> None:
        """Stream one completion of exactly so many tokens; `on_tokens` is called with how many have just come."""
        body = {
            "model": model,
            "prompt": list(prompt),
            "max_tokens": output_tokens,
            "min_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        try:
            async with self._http.post(f"{self.url}/v1/completions", json=body, timeout=self._limits) as response:
                await self._refuse_bad(response)
                received = await _read_stream(response, on_tokens)
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:
            raise self._unavailable("/v1/completions", error) from error
        if received != output_tokens:
            raise Unavailable(f"a completion ended after {received} of {output_tokens} tokens")

    async def _optional(self, path: str) -> str | None:
        """The answer, or None where the server answers with an error: it can be measured all the same."""
        try:
            return await self._get(path)
        except PortError as error:
            if error.status is None:
                raise
            self.untold[path] = str(error)
            return None

    async def _get(self, path: str) -> str:
        try:
            async with self._http.get(f"{self.url}{path}", timeout=SHORT) as response:
                await self._refuse_bad(response)
                content = b""
                async for chunk in response.content.iter_chunked(65536):
                    content += chunk
                    if len(content) > LARGEST_BYTES:
                        raise Unavailable(f"{self.url}{path} is larger than {LARGEST_BYTES} bytes")
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:
            raise self._unavailable(path, error) from error
        return content.decode(errors="replace")

    async def _refuse_bad(self, response: aiohttp.ClientResponse) -> None:
        if response.status == HTTPStatus.OK:
            return
        text = (await response.content.read(4096)).decode(errors="replace")
        message = f"{response.method} {response.url} answered {response.status}: {_error_message(text)}"
        raise ERRORS.get(response.status, Unavailable)(message, status=response.status)

    def _unavailable(self, path: str, error: Exception) -> Unavailable:
        return Unavailable(f"{self.url}{path}: {_what_happened(error)}")


def _what_happened(error: Exception) -> str:
    """In words: aiohttp's own speak of its settings, and of a redirect loop say nothing."""
    if isinstance(error, aiohttp.TooManyRedirects):
        last = error.history[-1].headers.get("Location", "") if error.history else ""
        times = f"redirected {len(error.history)} times, the last to {_printable(last)}"
        return f"{times}; give the address that answers itself"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.host} port {error.port}: {_reason(error.os_error)}"
    return _printable(str(error)) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


def _reason(error: OSError) -> str:
    """The system's words; of several addresses each reason once."""
    if isinstance(error, ssl.SSLError):  # its numbers are not the system's
        return error.strerror or str(error)
    known = error.errno is not None and error.errno in errno.errorcode
    codes = [error.errno or 0] if known else [int(code) for code in ERRNO.findall(str(error))]
    return " and ".join(dict.fromkeys(map(os.strerror, codes))) or error.strerror or str(error)


async def _read_stream(response: aiohttp.ClientResponse, on_tokens: Callable[[int], object]) -> int:
    """The tokens of a stream of server-sent events. No JSON is parsed: at 64 streams that would be the bottleneck."""
    received, rest = 0, b""
    async for data in response.content.iter_any():
        *events, rest = _events(rest + data)
        if len(rest) > LARGEST_BYTES:
            raise Unavailable(f"an event of the stream is larger than {LARGEST_BYTES} bytes")
        before = received
        for event in events:
            received = _tokens_after(event, received)
        if received > before:
            on_tokens(received - before)
    return received


def _events(data: bytes) -> list[bytes]:
    """The whole events, and what is there of the next. Lines may end in LF, CR LF or CR."""
    if b"\r" not in data:
        return data.split(b"\n\n")
    half = b"\r" if data.endswith(b"\r") else b""  # its LF may be under way
    whole = data.removesuffix(half).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *events, rest = whole.split(b"\n\n")
    return [*events, rest + half]


def _tokens_after(event: bytes, received: int) -> int:
    """How many tokens have come after this event: as its usage says, else one more for each event with a choice."""
    at = event.rfind(USAGE)  # inside generated text the quotes would be escaped
    if at >= 0 and (number := NUMBER.match(event, at + len(USAGE))):
        if len(number[1]) > MOST_DIGITS:
            raise Unavailable(f"the stream's completion_tokens is a number of {len(number[1])} digits")
        return int(number[1])
    if failed := FAILED.search(event):
        # vLLM 0.32 refuses token ids beyond the vocabulary so: status 200, then this event with code 400.
        kind = Invalid if REFUSED.search(event) else Unavailable
        raise kind(f"the stream broke off: {_error_message(failed[1].decode(errors='replace'))}")
    return received + (b'"choices":[{' in event.replace(b" ", b""))


def _served_model(entry: Mapping[str, Any]) -> ServedModel:
    name, longest = _name(entry["id"]), entry.get("max_model_len")
    known = type(longest) is int and 1 <= longest < 10**MOST_DIGITS
    return ServedModel(name=name, root=_name(entry.get("root") or name), max_model_len=longest if known else None)


def _name(value: object) -> str:
    """Raises ValueError for what a profile cannot hold or a terminal should not show."""
    if isinstance(value, str) and value.isprintable() and 1 <= len(value) <= LONGEST_NAME:
        return value
    raise ValueError(f"{_printable(repr(value))} is no name")


def _printable(text: str) -> str:
    """Without line breaks and what steers a terminal, and cut."""
    cut = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
    return " ".join("".join(char if char.isprintable() else " " for char in cut).split())


def _error_message(text: str) -> str:
    """What an OpenAI error says, else the text itself, cut."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        text = str(found["message"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, AttributeError, RecursionError):
        pass
    return _printable(text)
