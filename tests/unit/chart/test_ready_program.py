"""The program in the pod of `helm test`, run as it is rendered against a server that plays the API and the operator."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.chart import render
from tests.support.pki import Authority

LIST = {"kind": "SLMDeploymentList", "items": []}
TOKEN = "the operator's"


@contextmanager
def _serving(answers: list[tuple[int, str]], *, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    """Answers in turn, the last one for ever; its port, and what it was asked for by whom."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            status, body = answers[0] if len(answers) == 1 else answers.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _run(
    folder: Path, *, api: list[tuple[int, str]], operator: list[tuple[int, str]], seconds: str = "0"
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    (container,) = render().one("Pod")["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    authority = Authority(folder, name="ca")
    pair = authority.issue_server("api")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    (folder / "token").write_text(f"{TOKEN}\n")
    with _serving(api, tls=tls) as (port, asked), _serving(operator) as (ready, _):
        environment |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
        environment |= {
            "READY_URL": f"http://127.0.0.1:{ready}/readyz",
            "READY_SECONDS": seconds,
            "ACCOUNT": str(folder),
        }
        assert container["command"] == ["python3", "-c"]
        command = [sys.executable, "-I", "-c", *container["args"]]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False), asked


def test_it_passes_where_the_api_is_served_and_the_operator_becomes_ready(tmp_path: Path) -> None:
    waits = [(503, "no list of pods yet"), (200, "ok")]
    done, asked = _run(tmp_path, api=[(200, json.dumps(LIST))], operator=waits, seconds="60")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["ok: SLMDeployments are served", "ok: the operator is ready"]
    assert asked == [f"/apis/slmpack.dev/v1alpha1/slmdeployments?limit=1 Bearer {TOKEN}"]


@pytest.mark.parametrize(
    ("api", "operator", "message"),
    [
        ((404, "404 page not found"), (200, "ok"), "FAILED: SLMDeployments are served: GET https://127.0.0.1:"),
        ((403, "slmdeployments is forbidden"), (200, "ok"), "answers 403: slmdeployments is forbidden"),
        ((200, '{"kind": "Status"}'), (200, "ok"), "FAILED: SLMDeployments are served"),
        (
            (200, json.dumps(LIST)),
            (503, "the Lease is held by slmpack-1"),
            "answers 503: the Lease is held by slmpack-1",
        ),
    ],
)
def test_it_fails_with_what_is_wrong(
    api: tuple[int, str], operator: tuple[int, str], message: str, tmp_path: Path
) -> None:
    done, _ = _run(tmp_path, api=[api], operator=[operator])
    assert done.returncode == 1
    assert message in done.stderr
