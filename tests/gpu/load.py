"""A closed loop of streamed completions against one engine: as many in flight as asked for, every prompt unique.

Run as a program (`python load.py '<json>'`) it is one engine's client; it sends until its standard input ends and then
prints what it timed. One thread with raw sockets and no parsing of tokens: the client must not be what is measured.
  {"port": 8000, "model": "m", "in_flight": 32, "input": 512, "output": 256, "vocabulary": 1000, "seed": "a"}
Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import random
import select
import selectors
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
STALLED_S = 60.0
"""A stream on which nothing comes for so long is given up."""
MOST_FAILURES = 20
BACK_OFF_S = 0.2
TAIL = 512


@dataclass(kw_only=True)
class Stream:
    """One completion as it comes."""

    connection: socket.socket
    output: int
    """Tokens that it asked for."""
    sent: float
    first: float = 0.0
    last: float = 0.0
    head: bytes = b""
    tail: bytes = b""

    def take(self, chunk: bytes, now: float) -> None:
        """Note when the first token came and when the last thing came."""
        if not self.first and b"data: " in self.tail[-6:] + chunk:
            self.first = now
        self.head = self.head or chunk[:TAIL]
        self.tail = (self.tail + chunk)[-TAIL:]
        self.last = now

    @property
    def succeeded(self) -> bool:
        return self.head.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in self.tail and self.first > 0

    @property
    def trouble(self) -> str:
        return (self.head or b"no answer").decode(errors="replace")[:TAIL]


class Loop:
    """Keeps `in_flight` streams open until told to stop."""

    def __init__(self, order: Json) -> None:
        self.order = order
        self.source = random.Random(order["seed"])
        self.selector = selectors.DefaultSelector()
        self.open: dict[int, Stream] = {}
        self.done: list[list[float]] = []
        """[sent, first token, last token, output tokens] of each completion."""
        self.failures: list[str] = []

    def run(self, stop: int) -> None:
        """Until the file descriptor `stop` can be read."""
        # The first round ends at random lengths: else all prompts would be read at once, for ever.
        for _ in range(self.order["in_flight"]):
            self.start(self.source.randint(2, self.order["output"]))
        while not select.select([stop], [], [], 0)[0] and len(self.failures) < MOST_FAILURES:
            for key, _ in self.selector.select(timeout=0.5):
                self.read(self.open[key.fd])
            now = time.monotonic()
            for stream in [s for s in self.open.values() if now - (s.last or s.sent) > STALLED_S]:
                self.end(stream, trouble="nothing came")

    def start(self, output: int) -> None:
        body = json.dumps(self.body(output)).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\nConnection: close\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.order["port"]), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = time.monotonic()
        connection.sendall(head.encode() + body)
        connection.setblocking(False)
        stream = Stream(connection=connection, output=output, sent=sent)
        self.open[connection.fileno()] = stream
        self.selector.register(connection, selectors.EVENT_READ)

    def body(self, output: int) -> Json:
        """Token ids at random: no two prompts share a block, so no prefix cache can help."""
        prompt = [self.source.randrange(10, self.order["vocabulary"]) for _ in range(self.order["input"])]
        model = self.order["model"]
        fixed = {"temperature": 0.0, "ignore_eos": True, "stream": True, "max_tokens": output}
        return {"model": model, "prompt": prompt, **fixed}

    def read(self, stream: Stream) -> None:
        try:
            chunk = stream.connection.recv(262144)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(stream, trouble=str(error))
            return
        if chunk:
            stream.take(chunk, time.monotonic())
            return
        self.end(stream, trouble="" if stream.succeeded else stream.trouble)

    def end(self, stream: Stream, *, trouble: str) -> None:
        self.selector.unregister(stream.connection)
        del self.open[stream.connection.fileno()]
        stream.connection.close()
        if trouble:
            self.failures.append(trouble)
            time.sleep(BACK_OFF_S)
        else:
            self.done.append([stream.sent, stream.first, stream.last, stream.output])
        if len(self.failures) < MOST_FAILURES:
            self.start(self.order["output"])


def main() -> int:
    loop = Loop(json.loads(sys.argv[1]))
    try:
        loop.run(sys.stdin.fileno())
    except OSError as error:
        loop.failures.append(str(error))
    sys.stdout.write(json.dumps({"done": loop.done, "failures": loop.failures}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
