"""Plain HTTP to a server on this machine, as a kubelet or a client sends it: no proxy, no retries."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Stream", "complete", "get", "post", "stream_completion"]

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, and how long it took in seconds."""

    status: int
    text: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def get(port: int, path: str, *, timeout: float = 10.0) -> Answer:
    """Raises OSError where there is no answer; ConnectionRefusedError where nothing listens."""
    return _ask("GET", port, path, body=None, timeout=timeout)


def post(port: int, path: str, body: dict[str, Any], *, timeout: float = 60.0) -> Answer:
    """As `get`."""
    return _ask("POST", port, path, body=json.dumps(body), timeout=timeout)


def complete(port: int, *, model: str, tokens: int, prompt: str = "slm", timeout: float = 120.0) -> Answer:
    """One completion of exactly `tokens` tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0.0}
    return post(port, "/v1/completions", body, timeout=timeout)


@dataclass(slots=True, kw_only=True)
class Stream:
    """A streamed completion as far as it came."""

    status: int = 0
    chunks: int = 0
    finish_reason: str | None = None
    done: bool = False
    """Whether the closing [DONE] arrived."""
    broke: str = ""
    """How the connection ended, where it was cut."""
    last_at: float = 0.0
    """time.monotonic() of the last chunk."""


def stream_completion(port: int, *, model: str, tokens: int, into: Stream, timeout: float = 180.0) -> Stream:
    """Stream one completion of `tokens` tokens; `into` shows its progress while it runs. Raises nothing."""
    body = {
        "model": model,
        "prompt": "slm",
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
    }
    with closing(http.client.HTTPConnection(HOST, port, timeout=timeout)) as connection:
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            into.status = answer.status
            for line in answer:
                _note(line.strip(), into)
        except (OSError, http.client.HTTPException) as error:
            into.broke = repr(error)
    return into


def _note(line: bytes, into: Stream) -> None:
    if not line.startswith(b"data: "):
        return
    into.last_at = time.monotonic()
    data = line.removeprefix(b"data: ")
    if data == b"[DONE]":
        into.done = True
        return
    into.chunks += 1
    for choice in json.loads(data).get("choices", ()):
        into.finish_reason = choice["finish_reason"] or into.finish_reason


def _ask(method: str, port: int, path: str, *, body: str | None, timeout: float) -> Answer:
    began = time.monotonic()
    with closing(http.client.HTTPConnection(HOST, port, timeout=timeout)) as connection:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    return Answer(status=answer.status, text=text, seconds=time.monotonic() - began)
