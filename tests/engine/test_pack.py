"""A pack whose engines are a real vLLM: its supervisor starts, publishes, restarts, drains and ends them.

One pack for all tests, in the order in which they stand; each says first which engines it needs. `pack` says what is
real. What is not: no GPU and no MPS, so no limit is in force; the stand-ins say who is a client.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slmpack.supervisor.processes import read_processes
from tests.engine.client import Stream, complete, get, stream_completion
from tests.engine.pack import STAND_INS, START_SECONDS, Pack, running_pack
from tests.engine.replica import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from tests.engine.conftest import Say

STREAM_SECONDS = 6
"""About, for one; the drain allows 35 to what is in flight."""
STOP_SECONDS = 120
"""Patience for a stop: 57 s are allowed to it, before it is killed."""


@pytest.fixture(scope="module")
def pack(programs: Path, claim: Path, say: Say, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pack]:
    for what, instead in STAND_INS.items():
        say(f"pack: stood in for: {what}: {instead}")
    with running_pack(tmp_path_factory.mktemp("pack"), programs=programs, model=claim) as running:
        began = time.monotonic()
        running.container.wait_until_started()
        say(f"pack: ready, with its first engine, after {time.monotonic() - began:.0f} s")
        yield running


@dataclass(slots=True)
class Asked:
    """What a client saw that asked all the time: a status, or what went wrong."""

    answers: list[int | str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def fine(self) -> bool:
        return len(self.answers) > 10 and set(self.answers) == {200}


@contextmanager
def asked_throughout(port: int) -> Iterator[Asked]:
    """One short completion after another, until the block ends."""
    asked, over = Asked(), threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            began = time.monotonic()
            try:
                asked.answers.append(complete(port, model=NAME, tokens=2).status)
            except (OSError, http.client.HTTPException) as error:
                asked.answers.append(repr(error))
            asked.slowest = max(asked.slowest, time.monotonic() - began)

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(ask)
        try:
            yield asked
        finally:
            over.set()
            job.result()


@dataclass(slots=True)
class Streams:
    """Two clients that stream one completion after another and do not hear that the endpoint is withdrawn."""

    seen: list[Stream] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    clients: list[Future[None]] = field(default_factory=list)

    def one_after_another(self, port: int, *, tokens: int) -> None:
        """Until one is not answered to its end."""
        while not self.over.is_set():
            stream = Stream()
            self.seen.append(stream)
            stream_completion(port, model=NAME, tokens=tokens, into=stream)
            if not stream.done:
                return

    @property
    def in_flight(self) -> list[Stream]:
        """Those that have begun to answer, and have not ended."""
        return [stream for stream in self.seen if stream.chunks and not stream.done]

    def ended(self) -> None:
        """Wait until both clients were refused; every answer that was begun must be whole.

        vLLM answers a request that comes in the very moment of SIGTERM with 200 and [DONE], and nothing else.
        """
        for client in self.clients:
            client.result()
        answered = [stream for stream in self.seen if stream.chunks]
        assert all((one.finish_reason, one.done, one.broke) == ("length", True, "") for one in answered), self.seen
        assert [one.status for one in self.seen if not one.done] == [500, 500], self.seen


@contextmanager
def streaming(pack: Pack, index: int) -> Iterator[Streams]:
    """Begun when the block begins. The lengths differ, so that the two do not end at the same moment."""
    answer = complete(pack.port(index), model=NAME, tokens=100)
    assert answer.status == 200, answer.text
    tokens = min(6000, max(50, round(100 / answer.seconds * STREAM_SECONDS)))
    streams = Streams()
    with ThreadPoolExecutor(2) as pool:
        for count in (tokens, tokens * 4 // 3):
            streams.clients.append(pool.submit(streams.one_after_another, pack.port(index), tokens=count))
        try:
            pack.until(lambda: len(streams.in_flight) == 2, what="both stream")
            yield streams
        finally:
            streams.over.set()


def told_to_end(pack: Pack, index: int) -> float:
    """When the engine got SIGTERM, of time.monotonic()."""
    line = f"[slmpack] engine {index}: SIGTERM\n"
    before = pack.bench.text().count(line)
    pack.until(lambda: pack.bench.text().count(line) > before, what="SIGTERM", seconds=STOP_SECONDS)
    return time.monotonic()


def left_of(processes: dict[int, int]) -> list[int]:
    """Those that still run."""
    alive = {(pid, proc.started) for pid, proc in read_processes().items() if not proc.zombie}
    return [pid for pid, started in processes.items() if (pid, started) in alive]


def test_the_first_engine_becomes_ready_by_its_own_health_and_as_a_client_of_mps(pack: Pack) -> None:
    pack.run(0)
    first, second = pack.bench.report()["engines"]
    assert (first["state"], first["attached"], first["restarts"]) == ("ready", True, 0)
    assert (second["state"], second["wanted"], second["attached"]) == ("stopped", False, None)
    client = re.search(r"process (\d+) is a client of MPS server", first["attachedMessage"])
    assert client is not None, first
    assert int(client[1]) == pack.core(0), "the client is the process that on a GPU holds its memory"
    assert get(pack.port(0), "/health").status == 200
    assert complete(pack.port(0), model=NAME, tokens=8).status == 200
    with pytest.raises(ConnectionRefusedError):
        get(pack.port(1), "/health")
    assert pack.container.probe("readinessProbe").succeeded
    assert pack.container.probe("livenessProbe").succeeded


def test_an_engine_has_its_limit_and_nothing_of_the_supervisors(pack: Pack) -> None:
    pack.run(0)
    variables = dict(
        line.split("=", 1) for line in Path(f"/proc/{pack.server(0)}/environ").read_text().split("\0") if "=" in line
    )
    assert variables["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == f"0={pack.settings['engines'][0]['limitMiB']}M"
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in variables
    assert variables["VLLM_NO_USAGE_STATS"] == "1"
    assert not [name for name in variables if name.startswith("SLMPACK_")]


def test_an_engine_that_is_ready_is_an_endpoint_and_one_that_is_not_is_none(pack: Pack) -> None:
    pack.run(0)
    pack.until(lambda: pack.endpoints(0), what="the endpoint is published")
    (endpoint,) = pack.endpoints(0)
    assert endpoint["conditions"] == {"ready": True, "serving": True, "terminating": False}
    assert (endpoint["addresses"], endpoint["targetRef"]["name"]) == (["10.1.2.3"], f"{NAME}-0")
    assert pack.endpoints(1) == []


def test_a_second_engine_starts_beside_the_first_which_answers_throughout(pack: Pack, say: Say) -> None:
    pack.run(0)
    server, began = pack.server(0), time.monotonic()
    with asked_throughout(pack.port(0)) as asked:
        assert pack.run(0, 1) == 202
        seconds = time.monotonic() - began
        assert complete(pack.port(1), model=NAME, tokens=8).status == 200
    assert asked.fine, asked.answers
    assert pack.bench.put(0, 1) == 200, "nothing is left to do"
    assert pack.server(0) == server
    limits = [pack.settings["engines"][index]["limitMiB"] << 20 for index in (0, 1)]
    assert [one["limitBytes"] for one in pack.bench.report()["engines"]] == limits
    say(
        f"pack: the second engine was ready after {seconds:.0f} s; the first answered {len(asked.answers)} of "
        f"{len(asked.answers)} requests meanwhile, the slowest in {asked.slowest:.1f} s"
    )


def test_an_engine_whose_core_is_killed_is_restarted_alone(pack: Pack, say: Say) -> None:
    """vLLM ends with exit code 0 then; it was not asked to, so it is a crash."""
    pack.run(0, 1)
    server, lost = pack.server(0), pack.tree(1)
    with asked_throughout(pack.port(0)) as asked:
        began = time.monotonic()
        os.kill(pack.core(1), signal.SIGKILL)
        pack.until(lambda: pack.bench.engine(1)["state"] == "backoff", what="the crash is seen")
        seen, crashed = time.monotonic() - began, pack.bench.engine(1)
        assert pack.endpoints(1) == []
        assert left_of(lost) == []
        pack.until(lambda: pack.ready == (0, 1), what="it is ready again", seconds=START_SECONDS)
        again = time.monotonic() - began
    assert (crashed["reason"], crashed["ready"]) == ("Crashed", False)
    assert crashed["message"].startswith("ended with exit code 0"), crashed
    assert asked.fine, asked.answers
    assert pack.server(0) == server
    assert [one["restarts"] for one in pack.bench.report()["engines"]] == [0, 1]
    assert complete(pack.port(1), model=NAME, tokens=8).status == 200
    say(
        f"pack: engine core killed: crash seen and all of it gone after {seen:.1f} s ({crashed['message'][:80]}), "
        f"ready again after {again:.0f} s; the other answered {len(asked.answers)} of {len(asked.answers)} requests"
    )


def test_an_engine_that_is_no_longer_wanted_drains_and_the_other_answers_on(pack: Pack, say: Say) -> None:
    pack.run(0, 1)
    going, staying = pack.tree(0), pack.server(1)
    with asked_throughout(pack.port(1)) as asked, streaming(pack, 0) as streams:
        began = time.monotonic()
        assert pack.bench.put(1) == 202
        pack.until(lambda: not pack.endpoints(0)[0]["conditions"]["ready"], what="its endpoint is withdrawn")
        terminated = told_to_end(pack, 0)
        drained = streams.in_flight
        streams.ended()
        pack.until(lambda: pack.bench.engine(0)["state"] == "stopped", what="it stops", seconds=STOP_SECONDS)
        stopped = time.monotonic()
    assert drained, "no request was in flight when SIGTERM came"
    last = max(stream.last_at for stream in drained)
    assert asked.fine, asked.answers
    assert left_of(going) == []
    assert pack.endpoints(0) == []
    assert pack.bench.engine(0)["reason"] == ""
    assert (pack.server(1), pack.ready) == (staying, (1,))
    say(
        f"pack: drain of one engine: SIGTERM {terminated - began:.1f} s after PUT; what was in flight ({len(drained)}) "
        f"completed within {last - terminated:.1f} s of it; all gone {stopped - last:.1f} s later"
    )


def test_sigterm_drains_what_is_in_flight_and_leaves_nothing(pack: Pack, say: Say) -> None:
    pack.run(1)
    everything = pack.everything()
    with streaming(pack, 1) as streams:
        pack.container.terminate()
        began = time.monotonic()
        pack.until(lambda: not pack.container.probe("readinessProbe").succeeded, what="it is unready")
        assert pack.container.probe("livenessProbe").succeeded
        terminated = told_to_end(pack, 1)
        drained = streams.in_flight
        streams.ended()
        code = pack.container.exit_within(pack.container.runnable.grace_seconds - (time.monotonic() - began))
        ended = time.monotonic()
    assert drained, "no request was in flight when SIGTERM came"
    last = max(stream.last_at for stream in drained)
    assert code == 0, pack.container.tail()
    assert pack.bench.last_line() == "[slmpack] ended: SIGTERM received"
    assert left_of(everything) == []
    assert [pack.endpoints(index) for index in (0, 1)] == [[], []]
    say(
        f"pack: SIGTERM: exit {code} after {ended - began:.1f} s; what was in flight ({len(drained)}) completed within "
        f"{last - terminated:.1f} s of the engine's own SIGTERM, the exit came {ended - last:.1f} s later"
    )
