"""What dies, and what then happens to the others."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

from tests.support.pack_fakes.bench import PackBench


def test_an_engine_that_crashes_is_restarted_alone(bench: PackBench) -> None:
    bench.start()
    bench.until_ready(0, 1)
    for restarts, code in enumerate((3, 0), start=1):
        bench.until(lambda: bench.endpoints(0), what="published")
        bench.crash(0, code)
        bench.until(lambda: bench.engine(0)["reason"] == "Crashed", what="crash seen")
        said = bench.engine(0)["message"]
        assert said == f"ended with exit code {code}; its last line: ERROR it crashes as it was told"
        bench.until_ready(0, 1)
        assert bench.engine(0)["restarts"] == restarts
        assert (len(bench.of(0, "start")), len(bench.of(1, "start"))) == (1 + restarts, 1)
        crashed, restarted = bench.of(0, "crash")[-1]["at"], bench.of(0, "start")[-1]["at"]
        assert restarted - crashed > bench.intervals["backoff"]
        between = [
            event["endpoints"]
            for event in bench.events("api", "patch")
            if event["name"] == "pack-e0" and crashed < event["at"] < bench.of(0, "listens")[-1]["at"]
        ]
        assert between[-1] == []
    bench.until(lambda: bench.endpoints(0), what="published again")


def test_a_crash_loop_backs_off_and_disturbs_nobody(bench: PackBench) -> None:
    bench.engine_behaves(0, fail=1)
    bench.start()
    bench.until_ready(1)
    bench.until(lambda: len(bench.of(0, "start")) >= 4, what="tries")
    at = [event["at"] for event in bench.of(0, "start")]
    # Each pause is longer than its own back-off; nothing is said of how much longer.
    for index, pause in enumerate((0.3, 0.6, 1.2)):
        assert at[index + 1] - at[index] > pause
    assert bench.engine(1)["ready"]
    assert len(bench.of(1, "start")) == 1


def test_a_daemon_that_dies_ends_the_pod(bench: PackBench) -> None:
    bench.start()
    bench.until_ready(0, 1)
    os.kill(json.loads((bench.folder / "mps.json").read_text())["pid"], signal.SIGKILL)
    assert bench.wait_exit() == 70
    assert "the MPS control daemon ended with signal 9" in bench.last_line()
    bench.until_nothing_left()
    assert [bench.endpoints(index) for index in range(2)] == [[], []]


def test_a_server_that_dies_ends_the_pod(bench: PackBench) -> None:
    bench.start()
    bench.until_ready(0, 1)
    os.kill(json.loads((bench.folder / "mps.json").read_text())["server"], signal.SIGKILL)
    assert bench.wait_exit() == 70
    # The engines, its clients, die at the same moment: whichever is seen first is the reason.
    assert "has ended while engines were its clients" in bench.last_line() or "died within" in bench.last_line()
    bench.until_nothing_left()


def test_a_server_in_fault_ends_the_pod(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    bench.start()
    bench.until_ready(0)
    bench.touch("mps.fault")
    assert bench.wait_exit() == 70
    assert "is in state FAULT" in bench.last_line()
    bench.until_nothing_left()
    assert bench.endpoints(0) == []


def test_two_deaths_together_are_a_fault_of_the_gpu(bench: PackBench) -> None:
    bench.start()
    bench.until_ready(0, 1)
    pids = [bench.of(index, "start")[0]["pid"] for index in range(2)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert bench.wait_exit() == 70
    assert "engines 0 and 1 died within" in bench.last_line()
    bench.until_nothing_left()


def test_a_control_program_that_hangs_is_said_and_harms_no_engine(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    bench.intervals["control_limit"] = 1.0
    bench.start()
    bench.until_ready(0)
    bench.touch("mps.hang")
    bench.until(lambda: "did not answer" in bench.report()["daemon"]["message"], what="hang seen")
    assert bench.engine(0)["ready"]
    bench.remove("mps.hang")
    bench.until(lambda: bench.report()["daemon"]["message"] == "", what="answers again")


def test_a_sick_engine_is_withdrawn_and_comes_back(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    bench.start()
    bench.until(lambda: bench.endpoints(0), what="published")
    bench.ask(0, "/sick")
    bench.until(lambda: bench.endpoints(0) == [], what="withdrawn")
    assert bench.engine(0)["message"] == "/health does not answer 200"
    assert bench.call("GET", "/readyz", token=None)[0] == 503
    bench.ask(0, "/well")
    bench.until(lambda: bench.endpoints(0), what="published again")
    assert len(bench.of(0, "start")) == 1


def test_kill_9_of_the_supervisor_leaves_nothing(bench: PackBench) -> None:
    bench.start()
    bench.until_ready(0, 1)
    bench.supervisor.kill()
    bench.until_nothing_left()
