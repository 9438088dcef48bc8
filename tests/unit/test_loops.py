"""A loop that ends leaves no connection behind, not even one that nobody closes."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from tests.support import loops


def test_what_nobody_closes_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "GOODBYE_SECONDS", 0.05)
    loop = asyncio.new_event_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, *listening.getsockname()))
        assert not transport.is_closing()
        loop.run_until_complete(loops.connections_closed())
        assert transport.is_closing()
    loop.close()
    del transport
    gc.collect()  # an unclosed socket would warn, and a warning is an error here
