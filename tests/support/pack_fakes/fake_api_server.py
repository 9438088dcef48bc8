"""An API server that knows EndpointSlices only: GET and merge-PATCH of one, with TLS and a token.

`fake_api_server.py CERTIFICATE KEY [PORT]` prints its port and serves until its input ends. In FAKE_PACK_STATE:
  slices/NAMESPACE/NAME.json   the objects; what is not there is 404
  api.token                    the one token that is accepted
  api.down                     if it exists, every request gets 503
Answered requests are appended to events.jsonl: {"who": "api", "what": "get"|"patch", "name", "endpoints"}.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STATE = Path(os.environ["FAKE_PACK_STATE"])
LOCK = threading.Lock()


def event(what: str, **more: object) -> None:
    line = json.dumps({"who": "api", "what": what, "at": time.monotonic(), **more}) + "\n"
    with (STATE / "events.jsonl").open("a") as file:
        file.write(line)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if (path := self.found()) is not None:
            event("get", name=path.stem)
            self.answer(200, json.loads(path.read_text()))

    def do_PATCH(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if (path := self.found()) is None:
            return
        if self.headers.get("Content-Type") != "application/merge-patch+json":
            self.answer(415, {"message": "the body of the request was in an unknown format"})
            return
        patch = json.loads(body)
        if set(patch) != {"endpoints"}:
            self.answer(422, {"message": "only endpoints may be patched"})
            return
        with LOCK:
            slice_ = json.loads(path.read_text()) | patch
            new = path.with_suffix(".new")
            new.write_text(json.dumps(slice_))
            new.replace(path)
            event("patch", name=path.stem, endpoints=patch["endpoints"])
        self.answer(200, slice_)

    def found(self) -> Path | None:
        words = self.path.split("/")
        if (STATE / "api.down").exists():
            self.answer(503, {"message": "down"})
        elif self.headers.get("Authorization") != f"Bearer {(STATE / 'api.token').read_text().strip()}":
            self.answer(401, {"message": "Unauthorized"})
        elif words[1:5] != ["apis", "discovery.k8s.io", "v1", "namespaces"] or words[6] != "endpointslices":
            self.answer(403, {"message": f"forbidden: {self.path}"})
        elif not (path := STATE / "slices" / words[5] / f"{words[7]}.json").exists():
            self.answer(404, {"message": f'endpointslices.discovery.k8s.io "{words[7]}" not found'})
        else:
            return path
        return None

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        pass


def main() -> None:
    certificate, key, *port = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", int(port[0]) if port else 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


main()
