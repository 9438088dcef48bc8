"""Pods that share one machine: each has a fake address that the cluster knows, and a loopback address where it listens.

EndpointSlices refuse loopback addresses, so pods publish others; the proxy leads an operator from one to the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Self
from urllib.parse import urlsplit

__all__ = ["PodNetwork", "PodProxy"]

EXCHANGE_SECONDS = 30.0
HEAD_BYTES = 65_536
CHUNK_BYTES = 65_536


class PodNetwork:
    """The loopback addresses of this process's pods; use it as a context manager.

    It owns 127.X.0.0/16 as long as it lives, so that two test runs on one machine do not meet on the pods' ports.
    """

    def __init__(self) -> None:
        self._claim = socket.socket(socket.AF_UNIX)
        self._addresses: dict[str, str] = {}
        for step in range(254):
            self._net = f"127.{1 + (os.getpid() + step) % 254}"
            with contextlib.suppress(OSError):
                self._claim.bind(f"\0slmpack-pods-{self._net}")  # a name without a file, free again when we end
                return
        self._claim.close()
        raise OSError("no 127.X.0.0/16 is free")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._claim.close()

    @property
    def host(self) -> str:
        """An address that is no pod's."""
        return f"{self._net}.0.1"

    def join(self, ip: str) -> str:
        """Where the pod with this address is to listen."""
        number = len(self._addresses)
        return self._addresses.setdefault(ip, f"{self._net}.{1 + number // 254}.{1 + number % 254}")

    def find(self, ip: str) -> str:
        """Where it listens. OSError if there is no such pod, as for an address without a route."""
        if ip not in self._addresses:
            raise OSError(f"no route to {ip}")
        return self._addresses[ip]


class PodProxy:
    """A forward proxy for plain HTTP, one exchange a connection, in the running event loop."""

    def __init__(self, network: PodNetwork) -> None:
        self._network = network
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Listen; the proxy's URL."""
        self._server = await asyncio.start_server(self._serve, self._network.host, 0, limit=HEAD_BYTES)
        return f"http://{self._network.host}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop, and cut what is open."""
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                await self._exchange(reader, writer)
        except (OSError, EOFError, ValueError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, rest = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)
        method, url, version = line.decode("latin-1").split(" ")
        target = urlsplit(url)
        path = f"{target.path or '/'}{'?' if target.query else ''}{target.query}"
        try:
            there = self._network.find(target.hostname or "")
            answers, requests = await asyncio.open_connection(there, target.port or 80)
        except OSError as error:
            head = f"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: {len(str(error))}\r\n\r\n"
            writer.write(f"{head}{error}".encode())
            await writer.drain()
            return
        requests.write(f"{method} {path} {version}\r\n".encode("latin-1") + rest)
        sending = asyncio.ensure_future(_pass_on(reader, requests))
        try:
            await _pass_on(answers, writer)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            requests.close()
            with contextlib.suppress(OSError):
                await requests.wait_closed()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
