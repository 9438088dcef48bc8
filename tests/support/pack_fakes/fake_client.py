"""What a CUDA process does to MPS, for the fakes: attach by the pipe directory, or run without."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

__all__ = ["attach", "event", "say"]

WHO = os.environ.get("FAKE_WHO", "gpu")


def attach() -> socket.socket | None:
    """An open connection: a client. None: there is no daemon in that folder, so the process runs outside MPS."""
    pipe = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(f"{pipe}/control")
        connection.sendall(b"attach\n")
    except OSError:
        connection.close()
        return None
    connection.recv(64)  # waits as long as the server lets it wait
    return connection


def event(what: str, **more: object) -> None:
    """One line in the state folder's events."""
    line = json.dumps({"who": WHO, "what": what, "at": time.monotonic(), **more}) + "\n"
    with (Path(os.environ["FAKE_PACK_STATE"]) / "events.jsonl").open("a") as file:
        file.write(line)


def say(text: str) -> None:
    """One line of output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
