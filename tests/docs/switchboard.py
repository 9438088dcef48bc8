"""`kubectl port-forward` for stand-in kubelets, which stream nothing: the way is asked of the test, the bytes go here.

What is forwarded to is real for the chart's own pods. An engine's pod is answered by a stand-in that speaks vLLM's API.
Run as a program, this module is the `kubectl port-forward` that a page's shell finds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["PORTS", "SWITCHBOARD", "a_switchboard"]

LOOPBACK = "127.0.0.1"
SWITCHBOARD, PORTS = "DOCS_SWITCHBOARD", "DOCS_PORTS"
"""Variables: where it answers; JSON from the ports that a page names to those that are free here."""


@contextmanager
def a_switchboard(find: Callable[[str, str, int], str]) -> Iterator[str]:
    """Its address. `find` gives HOST:PORT for (namespace, resource, port), or LookupError."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            try:
                answer, status = find(asked["namespace"], asked["resource"], int(asked["port"])), 200
            except LookupError as error:
                answer, status = str(error), 404
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer.encode())))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="switchboard", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kubectl port-forward", allow_abbrev=False)
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("--address", default="localhost")
    parser.add_argument("resource")
    parser.add_argument("ports", nargs="+")
    return parser.parse_args([word for word in words if word != "port-forward"])


def _ask(namespace: str, resource: str, port: int) -> str:
    query = urlencode({"namespace": namespace, "resource": resource, "port": port})
    try:
        with urllib.request.urlopen(f"{os.environ[SWITCHBOARD]}/?{query}", timeout=30) as answer:
            found: str = answer.read().decode()
            return found
    except urllib.error.HTTPError as error:
        with error:
            sys.exit(f"error: {error.read().decode()}")


async def _serve(pairs: list[tuple[int, str]]) -> None:
    servers = [await asyncio.start_server(_forwarder(target), LOOPBACK, local) for local, target in pairs]
    sys.stdout.write("".join(f"Forwarding from {LOOPBACK}:{local} -> {target}\n" for local, target in pairs))
    sys.stdout.flush()
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _forwarder(target: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    host, _, port = target.rpartition(":")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    return forward


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def main(words: list[str]) -> None:
    """Forward until it is ended."""
    asked = _arguments(words)
    mapped = {int(there): here for there, here in json.loads(os.environ[PORTS]).items()}
    pairs = []
    for pair in asked.ports:
        local, _, remote = pair.rpartition(":")
        port = int(remote)
        pairs.append((mapped[int(local or remote)], _ask(asked.namespace, asked.resource, port)))
    asyncio.run(_serve(pairs))


if __name__ == "__main__":
    main(sys.argv[1:])
