"""A Hugging Face Hub on loopback that has the configs which ship with slmpack, and nothing else."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from slmpack.adapters.tables import bundled_config, bundled_models
from tests.support.components import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["a_hub"]

CONFIG = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/config\.json$")


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked = CONFIG.match(self.path)
        config = bundled_config(asked["repo"]) if asked and asked["repo"] in bundled_models() else None
        body = json.dumps(config).encode() if config else b"Entry not found"
        self.send_response(200 if config else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def a_hub() -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer((LOOPBACK, 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, name="hub", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
