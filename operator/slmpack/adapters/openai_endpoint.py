"""A client of vLLM's OpenAI server: what it serves, its metrics, and completions whose tokens are timed one by one."""

from __future__ import annotations

import json
import re
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
        try:
            entries = json.loads(await self._get("/v1/models"))["data"]
            models = tuple(_served_model(entry) for entry in entries)
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{self.url}/v1/models is not the list of an OpenAI server: {error!r}") from error
        if not models:
            raise Unavailable(f"{self.url}/v1/models lists no model")
        return models

    async def version(self) -> str | None:
        """The engine's version; None where the server does not tell."""
        try:
            found = json.loads(await self._get("/version")).get("version")
        except (NotFound, ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None

    async def sample(self) -> EngineSample | None:
        """The engine's metrics now; None where the server has none."""
        try:
            return read_exposition(await self._get("/metrics"))
        except NotFound:
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
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable("/v1/completions", error) from error
        if received != output_tokens:
            raise Unavailable(f"a completion ended after {received} of {output_tokens} tokens")

    async def _get(self, path: str) -> str:
        try:
            async with self._http.get(f"{self.url}{path}", timeout=SHORT) as response:
                await self._refuse_bad(response)
                content = b""
                async for chunk in response.content.iter_chunked(65536):
                    content += chunk
                    if len(content) > LARGEST_BYTES:
                        raise Unavailable(f"{self.url}{path} is larger than {LARGEST_BYTES} bytes")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(path, error) from error
        return content.decode(errors="replace")

    async def _refuse_bad(self, response: aiohttp.ClientResponse) -> None:
        if response.status == HTTPStatus.OK:
            return
        text = (await response.content.read(4096)).decode(errors="replace")
        message = f"{response.method} {response.url} answered {response.status}: {_error_message(text)}"
        raise ERRORS.get(response.status, Unavailable)(message, status=response.status)

    def _unavailable(self, path: str, error: Exception) -> Unavailable:
        what = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
        return Unavailable(f"{self.url}{path}: {what}")


async def _read_stream(response: aiohttp.ClientResponse, on_tokens: Callable[[int], object]) -> int:
    """The tokens of a stream of server-sent events. No JSON is parsed: at 64 streams that would be the bottleneck."""
    received, rest = 0, b""
    async for data in response.content.iter_any():
        *events, rest = (rest + data).split(b"\n\n")
        before = received
        for event in events:
            received = _tokens_after(event, received)
        if received > before:
            on_tokens(received - before)
    return received


def _tokens_after(event: bytes, received: int) -> int:
    """How many tokens have come after this event: as its usage says, else one more for each event with a choice."""
    at = event.rfind(USAGE)  # inside generated text the quotes would be escaped
    if at >= 0 and (number := NUMBER.match(event, at + len(USAGE))):
        return int(number[1])
    if event.startswith((b'data: {"error"', b'data: {"object":"error"')):
        # vLLM 0.32 refuses token ids beyond the vocabulary so: status 200, then this event with code 400.
        kind = Invalid if REFUSED.search(event) else Unavailable
        raise kind(f"the stream broke off: {_error_message(event[6:].decode(errors='replace'))}")
    return received + (b'"choices":[{' in event.replace(b" ", b""))


def _served_model(entry: Mapping[str, Any]) -> ServedModel:
    name, longest = str(entry["id"]), entry.get("max_model_len")
    return ServedModel(
        name=name, root=str(entry.get("root") or name), max_model_len=longest if isinstance(longest, int) else None
    )


def _error_message(text: str) -> str:
    """What an OpenAI error says, else the text itself, cut."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        text = str(found["message"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, AttributeError):
        text = " ".join(text.split())
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
