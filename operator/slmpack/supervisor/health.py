"""GET /health of an engine in this pod."""

from __future__ import annotations

import asyncio

from slmpack.supervisor.limits import TooLateError, within

__all__ = ["get_health"]


async def get_health(port: int, *, host: str, limit: float) -> bool:
    """Whether it answers 200 within `limit` seconds."""
    try:
        return await within(limit, _ask(host, port)) == 200
    except (OSError, TooLateError, ValueError, IndexError):
        return False


async def _ask(host: str, port: int) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
