"""As much of HTTP/1.1 as the control API needs: one request a connection, small, in time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus

__all__ = ["HttpError", "Request", "Response", "read_request", "render_response"]

HEAD_BYTES = 16_384
BODY_BYTES = 65_536


class HttpError(Exception):
    """The answer to a request that is none."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """`value` is sent as JSON."""

    status: int
    value: object
    allow: str = ""


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The one request; None if the client went away. HttpError if it is not acceptable."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise HttpError(431, f"more than {HEAD_BYTES} bytes of header") from None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise HttpError(400, "not an HTTP/1.1 request")
    headers = _headers(lines)
    return Request(
        method=words[0],
        path=words[1].split("?", 1)[0],
        headers=headers,
        body=await _body(reader, headers=headers),
    )


def render_response(response: Response) -> bytes:
    """Head and body; the connection is closed afterwards."""
    body = json.dumps(response.value).encode() + b"\n"
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if response.allow:
        lines.append(f"Allow: {response.allow}")
    if response.status == 401:
        lines.append("WWW-Authenticate: Bearer")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or not name or name != name.strip():
            raise HttpError(400, "a header line without a name")
        if key in headers and key in {"content-length", "authorization", "transfer-encoding"}:
            raise HttpError(400, f"{name} twice")
        headers[key] = value.strip()
    return headers


async def _body(reader: asyncio.StreamReader, *, headers: dict[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        raise HttpError(411, "a body needs Content-Length")
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdecimal()):
        raise HttpError(400, "Content-Length is no number")
    if len(text) > 9 or int(text) > BODY_BYTES:
        raise HttpError(413, f"more than {BODY_BYTES} bytes of body")
    try:
        return await reader.readexactly(int(text))
    except asyncio.IncompleteReadError:
        raise HttpError(400, "the body is shorter than Content-Length") from None
