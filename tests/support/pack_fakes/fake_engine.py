"""`vllm serve MODEL --port=N ...`: an API server and, as vLLM's EngineCore, a worker process that uses the GPU.

GET /health, GET /v1/models, POST /v1/completions[?seconds=S]; GET /crash?code=N ends it at once, GET /sick makes
/health 503 until GET /well. After SIGTERM it answers what is in flight, gives new requests 500, and exits with 0.
It listens on the address FAKE_PACK_BIND, without it on all.

In FAKE_PACK_STATE, engine-PORT.json, read at the start:
  delay (0)           seconds until it listens
  attach ("yes")      "yes"; "no": its worker uses a wrong pipe directory; "never listen": it never gets ready
  fail (null)         exit code of a start that fails
  ignore_term (false) SIGTERM does nothing
  orphan (0)          it leaves a process behind, in a session of its own, that sleeps so many seconds
  bytes (1 GiB)       device memory of the worker
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).parent))

STATE = Path(os.environ["FAKE_PACK_STATE"])
PORT = int(next(word for word in sys.argv if word.startswith("--port=")).split("=")[1])
os.environ["FAKE_WHO"] = f"engine-{PORT}"

from fake_client import event, say  # type: ignore[import-not-found]  # noqa: E402 - it reads FAKE_WHO

WORKER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from fake_client import attach, event
connection = attach()
path = Path(os.environ["FAKE_PACK_STATE"]) / "memory" / str(os.getpid())
path.parent.mkdir(exist_ok=True)
path.write_text(sys.argv[2])
print("up", flush=True)
import select
ends = [sys.stdin] + ([connection] if connection else [])
ready, _, _ = select.select(ends, [], [])
path.unlink(missing_ok=True)
os._exit(1 if connection in ready else 0)
"""


class Engine:
    def __init__(self) -> None:
        path = STATE / f"engine-{PORT}.json"
        settings = json.loads(path.read_text()) if path.exists() else {}
        self.delay = float(settings.get("delay", 0))
        self.attach = str(settings.get("attach", "yes"))
        self.fail = settings.get("fail")
        self.ignore_term = bool(settings.get("ignore_term", False))
        self.orphan = int(settings.get("orphan", 0))
        self.bytes = int(settings.get("bytes", 1 << 30))
        self.flying = 0
        self.draining = False
        self.sick = False
        self.lock = threading.Lock()

    def run(self) -> None:
        event("start", pid=os.getpid(), argv=sys.argv[2:], env=dict(os.environ), cores=sorted(os.sched_getaffinity(0)))
        say(f"INFO fake vLLM on port {PORT}")
        signal.signal(signal.SIGTERM, self.term)
        if self.fail is not None:
            say("ERROR it fails as it was told")
            os._exit(int(self.fail))
        worker = self.start_worker()
        if self.orphan:
            self.leave_orphan()
        time.sleep(self.delay)
        if self.attach == "never listen":
            signal.pause()
        Server.engine = self
        server = ThreadingHTTPServer((os.environ.get("FAKE_PACK_BIND", ""), PORT), Server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        event("listens")
        while True:
            time.sleep(0.01)
            if worker.poll() is not None:
                say("ERROR the worker died")
                event("worker died")
                os._exit(1)
            with self.lock:
                if self.draining and not self.flying:
                    event("exit")
                    worker.kill()
                    worker.wait()
                    os._exit(0)

    def start_worker(self) -> subprocess.Popen[bytes]:
        env = dict(os.environ)
        if self.attach == "no":
            env["CUDA_MPS_PIPE_DIRECTORY"] = "/tmp/no-such-pipe"
        worker = subprocess.Popen(
            [sys.executable, "-IS", "-c", WORKER, str(Path(__file__).parent), str(self.bytes)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if worker.stdout is not None:
            worker.stdout.readline()
        return worker

    def leave_orphan(self) -> None:
        command = f"sleep {self.orphan} >/dev/null & echo $!; sleep 0.5"
        done = subprocess.run(["sh", "-c", command], start_new_session=True, stdout=subprocess.PIPE, check=True)
        event("orphan", pid=int(done.stdout))

    def term(self, *_: object) -> None:
        event("SIGTERM")
        if not self.ignore_term:
            if self.attach == "never listen":
                os._exit(0)
            self.draining = True


class Server(BaseHTTPRequestHandler):
    engine: Engine

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/crash":
            event("crash", code=int(query["code"]))
            say("ERROR it crashes as it was told")
            os._exit(int(query["code"]))
        if url.path in {"/sick", "/well"}:
            self.engine.sick = url.path == "/sick"
        self.answer(503 if self.engine.sick and url.path == "/health" else 200, {"port": PORT})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seconds = float(parse_qs(urlsplit(self.path).query).get("seconds", ["0.01"])[0])
        with self.engine.lock:
            refused = self.engine.draining
            self.engine.flying += not refused
        if refused:
            self.answer(500, {"error": "draining"})
            return
        event("request")
        try:
            time.sleep(seconds)
            self.answer(200, {"port": PORT, "choices": [{"text": "ok"}]})
        finally:
            event("answered")
            with self.engine.lock:
                self.engine.flying -= 1

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        pass


Engine().run()
