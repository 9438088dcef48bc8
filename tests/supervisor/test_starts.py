"""Starts: one after another, each with its own limit, none counted before it is seen to be attached."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.pack_fakes.bench import PackBench


def test_start_order_limits_environment_cores_and_report(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=3)
    bench.config["engines"][1]["smPercent"] = 62.5
    bench.engine_behaves(0, delay=0.3)
    bench.engine_behaves(1, delay=0.3, bytes=3 << 30)
    bench.start(HF_TOKEN="secret", CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="1", CUDA_MPS_PIPE_DIRECTORY="/elsewhere")
    bench.until_ready(0, 1, 2)
    # No start before the end of the one before.
    starts = [bench.of(index, "start")[0] for index in range(3)]
    listens = [bench.of(index, "listens")[0]["at"] for index in range(3)]
    probes = bench.events("gpu", "probe")
    for before, after in ((0, 1), (1, 2)):
        assert listens[before] < probes[after]["at"] < starts[after]["at"]
    assert [probe["limit"] for probe in probes] == [24000 << 20, 16000 << 20, 8000 << 20]
    envs = [start["env"] for start in starts]
    assert [env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] for env in envs] == ["0=24000M", "0=16000M", "0=8000M"]
    assert [env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") for env in envs] == [None, "62.5", None]
    assert {env["HF_TOKEN"] for env in envs} == {"secret"}
    assert not [name for env in envs for name in env if name.startswith("SLMPACK_")]
    assert starts[0]["argv"] == bench.config["engines"][0]["args"]
    # A folder of our own, closed to others.
    pipe = Path(envs[0]["CUDA_MPS_PIPE_DIRECTORY"])
    assert {env["CUDA_MPS_PIPE_DIRECTORY"] for env in envs} == {bench.events("mps", "daemon")[0]["pipe"]}
    assert pipe.stat().st_mode & 0o777 == pipe.parent.stat().st_mode & 0o777 == 0o700
    bench.until(lambda: bench.engine(1)["deviceBytes"] == 3 << 30, what="memory read")
    check_report(bench.report())
    assert f"[engine 2] INFO fake vLLM on port {bench.ports[2]}" in bench.text()


def check_report(report: dict[str, Any]) -> None:
    assert report["gpu"] == {
        "uuid": "GPU-fa4e0000-0000-4000-8000-000000000001",
        "name": "Fake H100 80GB",
        "totalBytes": 80 << 30,
        "usedBytes": report["gpu"]["usedBytes"],
    }
    assert report["daemon"] == {"state": "running", "message": ""}
    assert (report["version"], report["podUid"], report["ending"]) == (1, "0000-pod", False)
    assert report["running"] == [0, 1, 2]
    engine = report["engines"][1]
    assert engine["attached"] is True
    assert "16000 MiB" in engine["attachedMessage"]
    assert "is a client of MPS server" in engine["attachedMessage"]
    assert engine["deviceBasis"] == "process"
    assert (engine["state"], engine["reason"], engine["restarts"], engine["limitBytes"]) == (
        "ready",
        "",
        0,
        16000 << 20,
    )
    assert set(engine) == {
        "index", "wanted", "state", "ready", "port", "limitBytes", "attached", "attachedMessage", "restarts", "reason",
        "message", "since", "deviceBytes", "deviceBasis", "cores",
    }  # fmt: skip
    assert set(report) == {
        "version", "podUid", "running", "ending", "daemon", "gpu", "endpointsMessage", "engines",
    }  # fmt: skip


def test_memory_by_difference_where_nvml_tells_no_processes_apart(bench: PackBench) -> None:
    bench.touch("gpu.json", '{"processes": false}')
    bench.engine_behaves(0, bytes=2 << 30)
    bench.engine_behaves(1, bytes=5 << 30)
    bench.start()
    bench.until_ready(0, 1)
    bench.until(lambda: bench.engine(1)["deviceBytes"], what="memory read")
    engines = bench.report()["engines"]
    assert [engine["deviceBytes"] for engine in engines] == [2 << 30, 5 << 30]
    assert {engine["deviceBasis"] for engine in engines} == {"delta"}


def test_a_driver_that_hangs_in_nvml_hangs_nothing(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    bench.touch("gpu.json", '{"hang": "nvml"}')
    bench.intervals["nvml_limit"] = 0.3
    bench.start()
    bench.until_ready(0)
    assert bench.report()["gpu"] is None
    assert bench.engine(0)["deviceBytes"] is None


def test_engines_have_the_cores_of_the_container_to_themselves(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        bench.start()
    finally:
        os.sched_setaffinity(0, before)
    bench.until_ready(0)
    assert bench.of(0, "start")[0]["cores"] == [core]
    alone = (os.cpu_count() or 1) > 1
    assert bench.engine(0)["cores"] == ([core] if alone else None)
    assert ("not pinned" in bench.text()) is not alone


def test_an_engine_outside_mps_never_counts(bench: PackBench) -> None:
    bench.engine_behaves(0, attach="no")
    bench.intervals["backoff_most"] = 300
    bench.start()
    bench.until(lambda: bench.engine(0)["state"] == "failed", what="failed")
    engine = bench.engine(0)
    assert (engine["reason"], engine["attached"], engine["ready"]) == ("NotAttached", False, False)
    assert "is known to the MPS server" in engine["message"]
    bench.until_ready(1)
    assert not [event for event in bench.events("api", "patch") if event["name"] == "pack-e0" and event["endpoints"]]
    bench.until(lambda: bench.of(0, "exit"), what="the engine ended")
    assert bench.call("GET", "/readyz", token=None)[0] == 200


def test_a_limit_that_is_not_in_force_stops_the_start(bench: PackBench) -> None:
    # The helper ignores the pipe directory, as a driver without MPS would.
    bench.start(SLMPACK_PROBE=bench.env["SLMPACK_PROBE"].replace('["', '["env", "CUDA_MPS_PIPE_DIRECTORY=/none", "', 1))
    bench.until(lambda: bench.engine(1)["state"] == "failed", what="failed")
    assert bench.engine(0)["reason"] == "NotAttached"
    assert "not among the clients" in bench.engine(0)["message"]
    assert not bench.of(0)
    assert bench.call("GET", "/readyz", token=None)[0] == 503


def test_a_server_of_another_user_lets_the_probe_wait(bench: PackBench) -> None:
    bench.touch("mps.uid", str(os.getuid() + 1))
    bench.intervals["probe_limit"] = 1.0
    bench.start()
    bench.until(lambda: bench.engine(0)["state"] == "failed", what="failed")
    engine = bench.engine(0)
    assert engine["reason"] == "NotAttached"
    assert "one user ID at a time" in engine["message"]
    assert not bench.of(0)
    bench.supervisor.terminate()
    assert bench.wait_exit() == 0
    bench.until_nothing_left()


def test_a_port_in_use_is_said_and_tried_again(bench: PackBench) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("", bench.ports[0]))
        stranger.listen()
        bench.start()
        bench.until(lambda: bench.engine(0)["reason"] == "PortInUse", what="port in use")
        assert str(bench.ports[0]) in bench.engine(0)["message"]
        bench.until_ready(1)
        assert not bench.of(0)
    bench.until_ready(0)
    assert bench.engine(0)["restarts"] >= 1


def test_an_engine_that_never_gets_ready_is_ended_in_time(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    bench.engine_behaves(0, attach="never listen")
    bench.config["startSeconds"] = 1
    bench.start()
    bench.until(lambda: bench.engine(0)["reason"] == "NotReadyInTime", what="late")
    bench.until(lambda: bench.of(0, "SIGTERM"), what="ended")
    bench.until(lambda: len(bench.of(0, "start")) > 1, what="tried again")
    assert bench.engine(0)["restarts"] >= 1


def test_a_command_that_does_not_exist(bench: PackBench) -> None:
    bench.config["command"] = ["no-such-vllm", "serve"]
    bench.start()
    bench.until(lambda: bench.engine(0)["restarts"] >= 1, what="tried again")
    bench.until(lambda: "cannot start no-such-vllm" in bench.engine(0)["message"], what="said why")


def test_a_daemon_that_cannot_start(bench: PackBench) -> None:
    bench.touch("mps.refuse")
    bench.start()
    assert bench.wait_exit() == 70
    assert "the MPS control daemon ended with exit code 1" in bench.last_line()
    assert "mps.refuse" in bench.last_line()
    bench.until_nothing_left()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SLMPACK_PACK", "{", "not JSON"),
        ("POD_IP", "", "POD_IP"),
        ("SLMPACK_INTERVALS", '{"tock": 1}', "tock"),
        ("SLMPACK_PROBE", "[]", "SLMPACK_PROBE"),
    ],
)
def test_a_wrong_environment_is_named(bench: PackBench, name: str, value: str, said: str) -> None:
    bench.start(**{name: value})
    assert bench.wait_exit() == 78
    assert said in bench.last_line()


def test_a_control_port_in_use(bench: PackBench) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", bench.control_port))
        stranger.listen()
        bench.start()
        assert bench.wait_exit() == 70
    assert "address already in use" in bench.last_line().lower()
    bench.until_nothing_left()
