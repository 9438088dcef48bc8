"""Event loops of threads that a test ends."""

from __future__ import annotations

import asyncio

__all__ = ["connections_closed"]

GOODBYE_SECONDS = 5.0


async def connections_closed() -> None:
    """Until the running loop holds no connection; what has not said goodbye by then is aborted.

    A loop that stops before leaves open sockets to the garbage collector, whose warning fails a later test. Some nobody
    closes: a task that is cancelled between asyncio's making of a transport and its TLS handshake leaves it open.
    """
    loop = asyncio.get_running_loop()
    registered = loop._selector.get_map()  # type: ignore[attr-defined]
    deadline = loop.time() + GOODBYE_SECONDS
    while len(registered) > 1 and loop.time() < deadline:  # noqa: ASYNC110 - 1 is the loop's own pipe
        await asyncio.sleep(0.01)
    for key in list(registered.values()):
        for handle in filter(None, key.data):
            owner = getattr(handle._callback, "__self__", None)
            if isinstance(owner, asyncio.Transport):
                owner.abort()
    await asyncio.sleep(0.01)
