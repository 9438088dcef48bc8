"""nvidia-cuda-mps-control, as far as a supervisor sees it.

`-f` is the daemon in the foreground, `-d` in the background; without arguments it is fake_mps_ask. The first client makes the daemon start an MPS server, which is a
process of its own. A client is whoever keeps a connection to `control` after saying `attach`.

In FAKE_PACK_STATE:
  mps.json        written: pid, server, pipe, uid
  mps.fault       if it exists, get_server_status says FAULT and no new client is let in
  mps.hang        if it exists, commands are not answered
  mps.uid         if it exists, the server runs under this user ID: clients of others wait, as they do behind a real one
  mps.refuse      if it exists, the daemon ends at once with exit code 1
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

STATE = Path(os.environ["FAKE_PACK_STATE"])
PIPE = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
SERVER = "import sys; sys.stdin.read()"
"""It ends with the daemon, however that ends."""


def event(what: str, **more: object) -> None:
    line = json.dumps({"who": "mps", "what": what, "at": time.monotonic(), **more}) + "\n"
    with (STATE / "events.jsonl").open("a") as file:
        file.write(line)


class Daemon:
    def __init__(self) -> None:
        self.server: subprocess.Popen[bytes] | None = None
        self.clients: dict[int, socket.socket] = {}
        self.waiting: list[socket.socket] = []
        self.lock = threading.Lock()
        self.over = threading.Event()

    def run(self) -> int:
        if (STATE / "mps.refuse").exists():
            self.log("Cannot start: mps.refuse")
            return 1
        path = PIPE / "control"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(64)
            listener.settimeout(0.1)
            signal.signal(signal.SIGTERM, lambda *_: self.over.set())
            self.tell()
            self.log("Start")
            event("daemon", pid=os.getpid(), pipe=str(PIPE))
            while not self.over.is_set():
                self.look_after_server()
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        self.log("Exit")
        event("quit")
        return 0

    def tell(self) -> None:
        server = None if self.server is None else self.server.pid
        text = json.dumps({"pid": os.getpid(), "server": server, "pipe": str(PIPE), "uid": self.uid()})
        (STATE / "mps.json.new").write_text(text)
        (STATE / "mps.json.new").replace(STATE / "mps.json")

    def log(self, text: str) -> None:
        with (Path(os.environ["CUDA_MPS_LOG_DIRECTORY"]) / "control.log").open("a") as file:
            file.write(f"[Control {os.getpid()}] {text}\n")

    def uid(self) -> int:
        path = STATE / "mps.uid"
        return int(path.read_text()) if path.exists() else os.getuid()

    def look_after_server(self) -> None:
        """A server that was killed takes its clients with it."""
        with self.lock:
            if self.server is not None and self.server.poll() is not None:
                self.server = None
                clients, self.clients = self.clients, {}
                for connection in clients.values():
                    connection.shutdown(socket.SHUT_RDWR)
                self.tell()
                event("server lost")

    def serve(self, connection: socket.socket) -> None:
        file = connection.makefile("rw")
        words = file.readline().split()
        if words[:1] == ["attach"]:
            self.attach(connection)
            return
        with connection, file:
            while (STATE / "mps.hang").exists() and not self.over.is_set():
                time.sleep(0.02)
            answer = self.command(words)
            file.write(answer)
            file.flush()

    def attach(self, connection: socket.socket) -> None:
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        with self.lock:
            if uid != self.uid() or (STATE / "mps.fault").exists():
                event("client waits", pid=pid, uid=uid)
                self.waiting.append(connection)
                return
            if self.server is None:
                self.server = subprocess.Popen(
                    [sys.executable, "-IS", "-c", SERVER], stdin=subprocess.PIPE, start_new_session=True
                )
                self.tell()
                event("server", pid=self.server.pid)
            self.clients[pid] = connection
            event("client", pid=pid)
            connection.sendall(b"attached\n")
        while connection.recv(64):
            pass
        with self.lock:
            if self.clients.get(pid) is connection:
                del self.clients[pid]
                event("client left", pid=pid)
        connection.close()

    def command(self, words: list[str]) -> str:
        server = None if self.server is None else self.server.pid
        match words:
            case ["get_server_list"]:
                return "" if server is None else f"{server}\n"
            case ["get_server_status", pid] if pid == str(server):
                return "FAULT\n" if (STATE / "mps.fault").exists() else "ACTIVE\n"
            case ["get_client_list", pid] if pid == str(server):
                return "".join(f"{client}\n" for client in sorted(self.clients))
            case ["terminate_client", pid, client] if pid == str(server):
                event("terminate_client", pid=int(client))
                connection = self.clients.get(int(client))
                return "" if connection is not None else "Client not found\n"
            case ["quit"]:
                self.over.set()
                return ""
            case ["get_server_status" | "get_client_list" | "terminate_client", *_]:
                return "Failed to find server\n"
            case _:
                return f"Unknown command: {' '.join(words)}\n"


def main() -> int:
    match sys.argv[1:]:
        case ["-f"]:
            return Daemon().run()
        case ["-d"]:
            subprocess.Popen([sys.executable, "-IS", __file__, "-f"], start_new_session=True)
            return 0
        case _:
            sys.stderr.write("usage: nvidia-cuda-mps-control [-d | -f]\n")
            return 1


sys.exit(main())
