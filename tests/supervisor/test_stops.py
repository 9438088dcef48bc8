"""Ends: requests in flight are answered, the endpoint goes before the engine, and nothing stays."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.pack_fakes.bench import PackBench


class Client(threading.Thread):
    """One request in the background."""

    def __init__(self, bench: PackBench, *, index: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self.status: int | str = "none"
        self._bench, self._index, self._seconds = bench, index, seconds

    def run(self) -> None:
        try:
            self.status = self._bench.ask(self._index, f"/v1/completions?seconds={self._seconds}", method="POST")
        except OSError as error:
            self.status = repr(error)


def test_sigterm_drains(bench: PackBench) -> None:
    bench.config["endpointSeconds"] = 0.5
    bench.start()
    bench.until_ready(0, 1)
    bench.until(lambda: bench.endpoints(0) and bench.endpoints(1), what="published")
    client = Client(bench, index=0, seconds=2)
    client.start()
    bench.until(lambda: bench.of(0, "request"), what="in flight")
    bench.supervisor.terminate()
    bench.until(lambda: bench.call("GET", "/readyz", token=None)[0] == 503, what="not ready")
    assert bench.report()["ending"] is True
    assert bench.call("PUT", "/v1/engines", {"running": [0]})[0] == 409
    bench.supervisor.terminate()  # once more changes nothing
    assert bench.wait_exit() == 0
    client.join()
    assert client.status == 200
    assert "SIGTERM received" in bench.last_line()
    assert "already ending" in bench.text()
    for index in range(2):
        sigterm = bench.of(index, "SIGTERM")[0]["at"]
        before = [one for one in patches(bench, index) if one["at"] < sigterm]
        assert [condition(one) for one in before][-1] == (False, True, True)
        assert sigterm - before[-1]["at"] >= 0.5
        assert bench.endpoints(index) == []
    bench.until_nothing_left()


def test_an_engine_that_hangs_is_killed_after_its_clients_were_terminated(bench: PackBench) -> None:
    bench.engine_behaves(0, ignore_term=True)
    bench.config |= {"drainSeconds": 0.3, "exitSeconds": 0.3}
    bench.start()
    bench.until_ready(0, 1)
    assert bench.put(1) == 202
    bench.until(lambda: bench.engine(0)["state"] == "stopped", what="stopped")
    worker = [event["pid"] for event in bench.events("mps", "terminate_client")]
    assert len(worker) == 1
    left = [event for event in bench.events("mps", "client left") if event["pid"] == worker[0]]
    assert left[0]["at"] > bench.events("mps", "terminate_client")[0]["at"] > bench.of(0, "SIGTERM")[0]["at"]
    assert not bench.of(0, "exit")
    assert bench.engine(1)["ready"]


def test_what_an_engine_leaves_behind_is_ended_and_reaped(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    bench.engine_behaves(0, orphan=600)
    bench.start()
    bench.until_ready(0)
    orphan = Path(f"/proc/{bench.of(0, 'orphan')[0]['pid']}")
    assert orphan.exists()
    bench.put()
    bench.until(lambda: bench.engine(0)["state"] == "stopped", what="stopped")
    bench.until(lambda: not orphan.exists(), what="reaped")
    assert bench.supervisor.poll() is None


def test_a_daemon_that_hangs_does_not_save_an_engine(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    bench.engine_behaves(0, ignore_term=True)
    bench.config |= {"drainSeconds": 0.1, "exitSeconds": 0.1}
    bench.intervals["control_limit"] = 1.0
    bench.start()
    bench.until_ready(0)
    bench.touch("mps.hang")
    bench.supervisor.terminate()
    assert bench.wait_exit() == 0
    bench.until_nothing_left()


def test_sigint_in_the_middle_of_a_start(bench: PackBench) -> None:
    bench.engine_behaves(0, attach="never listen")
    bench.start()
    bench.until(lambda: bench.of(0, "start"), what="started")
    bench.supervisor.send_signal(signal.SIGINT)
    assert bench.wait_exit() == 0
    assert not bench.of(1)
    bench.until_nothing_left()


def test_one_to_three_to_two_under_load_loses_no_request_of_a_survivor(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=3, running=[0])
    bench.start()
    bench.until_ready(0)
    load = [Load(bench, 0) for _ in range(2)]
    assert bench.put(0, 1, 2) == 202
    assert bench.put(2, 1, 0) == 200
    bench.until_ready(0, 1, 2)
    load += [Load(bench, 2)]
    bench.until(lambda: all(one.done > 2 for one in load), what="load")
    assert bench.put(0, 2) == 202
    bench.until(lambda: bench.engine(1)["state"] == "stopped", what="stopped")
    seen = [one.done for one in load]
    bench.until(lambda: all(one.done > before for one, before in zip(load, seen, strict=True)), what="load goes on")
    for one in load:
        one.stop()
    assert [one.failed for one in load] == [[], [], []]
    assert [len(bench.of(index, "start")) for index in range(3)] == [1, 1, 1]
    assert [bool(bench.endpoints(index)) for index in range(3)] == [True, False, True]
    states = [engine["state"] for engine in bench.report()["engines"]]
    assert states == ["ready", "stopped", "ready"]
    assert patches(bench, 0)[-1]["at"] < bench.of(1, "start")[0]["at"]


class Load(threading.Thread):
    """One request after another to one engine."""

    def __init__(self, bench: PackBench, index: int) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.failed: list[object] = []
        self._bench, self._index = bench, index
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                status: object = self._bench.ask(self._index, "/v1/completions?seconds=0.05", method="POST")
            except OSError as error:
                status = repr(error)
            if status != 200:
                self.failed.append(status)
            self.done += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


def patches(bench: PackBench, index: int) -> list[dict[str, object]]:
    return [event for event in bench.events("api", "patch") if event["name"] == f"pack-e{index}"]


def condition(event: dict[str, object]) -> tuple[bool, bool, bool]:
    endpoints = event["endpoints"]
    assert isinstance(endpoints, list)
    found = endpoints[0]["conditions"]
    return found["ready"], found["serving"], found["terminating"]
