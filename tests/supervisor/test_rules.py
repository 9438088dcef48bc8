"""The small pure parts: the configuration, attachment, cores, device memory, what the API server is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slmpack.supervisor.attachment import ProbeResult, judge_probe, judge_tree, parse_probe
from slmpack.supervisor.config import MIB, ConfigError, parse_pack
from slmpack.supervisor.cores import split_cores
from slmpack.supervisor.device import DeviceReading, engine_bytes, parse_reading
from slmpack.supervisor.intervals import Intervals, parse_intervals
from slmpack.supervisor.mps_view import MpsView, ServerView, parse_pids
from slmpack.supervisor.processes import Proc, descendants

GIB = 1024 * MIB


def pack() -> dict[str, Any]:
    engine = {"port": 8000, "limitMiB": 24000, "smPercent": None, "args": ["m"], "slice": "p-e0"}
    return {
        "version": 1,
        "command": ["vllm", "serve"],
        "engines": [engine, engine | {"port": 8001, "slice": "p-e1", "smPercent": 40}],
        "running": [0],
        "controlPort": 8090,
        "tokenSHA256": "0" * 64,
        "startSeconds": 600,
        "endpointSeconds": 10,
        "drainSeconds": 35.5,
        "exitSeconds": 15,
    }


def test_a_pack_is_parsed() -> None:
    parsed = parse_pack(json.dumps(pack()))
    assert parsed.command == ("vllm", "serve")
    assert [engine.limit_bytes for engine in parsed.engines] == [24000 * MIB] * 2
    assert [engine.sm_percent for engine in parsed.engines] == [None, 40.0]
    assert (parsed.running, parsed.control_port, parsed.timing.drain) == (frozenset({0}), 8090, 35.5)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["version"], 2, "version: 2 must be 1"),
        (["version"], True, "version"),
        (["more"], 1, "more"),
        (["command"], [], "command"),
        (["command"], ["a\0b"], "NUL"),
        (["command"], "vllm", "must be a list"),
        (["engines"], [], "engines: 0"),
        (["engines", 0], 7, r"engines\[0\]: 7 must be an object"),
        (["engines", 0, "port"], 0, r"engines\[0\].port: 0"),
        (["engines", 0, "port"], 8001, "8001 must not occur twice"),
        (["engines", 0, "port"], 8090, "8090 must not occur twice"),
        (["engines", 0, "port"], "8000", "must be a port"),
        (["engines", 1, "limitMiB"], 0, r"engines\[1\].limitMiB: 0"),
        (["engines", 1, "limitMiB"], 1.5, "whole number"),
        (["engines", 1, "smPercent"], 0, "smPercent"),
        (["engines", 1, "smPercent"], 101, "smPercent"),
        (["engines", 1, "smPercent"], "40", "must be a number"),
        (["engines", 1, "args"], [1], "args"),
        (["engines", 1, "slice"], "p-e0", "must not occur twice"),
        (["engines", 1, "slice"], "../secrets", "EndpointSlice"),
        (["engines", 1, "what"], 1, "what"),
        (["running"], [2], "from 0 to 1"),
        (["running"], [0, 0], "twice"),
        (["tokenSHA256"], "F" * 64, "hexadecimal"),
        (["startSeconds"], 0, "startSeconds"),
        (["drainSeconds"], -1, "drainSeconds"),
        (["exitSeconds"], float("inf"), "exitSeconds"),
        (["exitSeconds"], None, "exitSeconds"),
    ],
)
def test_a_wrong_pack_names_field_value_and_rule(path: list[Any], value: object, said: str) -> None:
    wrong = pack()
    part: Any = wrong
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(ConfigError, match=said):
        parse_pack(json.dumps(wrong))


@pytest.mark.parametrize("field", sorted(pack()))
def test_a_missing_field_is_named(field: str) -> None:
    wrong = pack()
    del wrong[field]
    with pytest.raises(ConfigError, match=field):
        parse_pack(json.dumps(wrong))


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="not JSON"):
        parse_pack("[" * 100_000)


def test_intervals() -> None:
    assert parse_intervals(None) == Intervals()
    assert parse_intervals('{"tick": 0.5}') == Intervals(tick=0.5)
    for wrong in ("[]", '{"tick": "x"}', '{"tock": 1}', "{"):
        with pytest.raises(ConfigError, match="SLMPACK_INTERVALS"):
            parse_intervals(wrong)


@pytest.mark.parametrize(
    ("allowed", "machine", "engines", "expected"),
    [
        (set(range(8)), 8, 2, None),
        ({0}, 8, 2, None),
        ({4, 5, 6, 7}, 8, 2, ((4, 5), (6, 7))),
        ({1, 3, 5, 7, 9}, 16, 2, ((1, 3), (5, 7, 9))),
        ({2, 3, 4}, 16, 3, ((2,), (3,), (4,))),
    ],
)
def test_cores(allowed: set[int], machine: int, engines: int, expected: object) -> None:
    assert split_cores(allowed=allowed, machine=machine, engines=engines) == expected


@pytest.mark.parametrize(
    ("free", "code", "listed", "device_free", "attached", "said"),
    [
        (9, 2, True, 70, True, "9216 MiB free of 81920 MiB and 10496 MiB refused under the limit of 10240 MiB"),
        (9, 2, None, None, True, "refused"),
        (9, 2, False, 70, False, "not among the clients"),
        (9, 0, True, 70, False, "succeeded"),
        (70, 2, True, 70, False, "sees 71680 MiB free"),
        (9, 700, True, 70, False, "CUDA error 700"),
        (9, 2, True, 9, True, "the proof is that it was an MPS client"),
        (9, 2, None, 9, False, "proves nothing"),
    ],
)
def test_what_a_probe_proves(
    free: int, code: int, listed: bool | None, device_free: int | None, attached: bool, said: str
) -> None:
    result = ProbeResult(free_bytes=free * GIB, total_bytes=80 * GIB, allocation_code=code)
    found = judge_probe(
        result, limit_bytes=10 * GIB, listed=listed, device_free=None if device_free is None else device_free * GIB
    )
    assert found.attached is attached
    assert said in found.message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "ended without an answer"),
        (b"libcuda says hello\n", "Expecting value"),
        (b"5\n", "not subscriptable"),
        (b'{"error": "cuInit failed with CUDA error 805"}\n', "could not use the GPU: cuInit"),
        (b'{"freeBytes": 1, "totalBytes": null, "allocationCode": 2}\n', "NoneType"),
        (b'{"freeBytes": 1, "totalBytes": 2}\n', "allocationCode"),
    ],
)
def test_a_probe_that_says_something_else(line: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_probe(line)


def test_what_a_probe_says_is_read() -> None:
    seen = parse_probe(b'{"freeBytes": 1, "totalBytes": 2, "allocationCode": 3}\n')
    assert seen == ProbeResult(free_bytes=1, total_bytes=2, allocation_code=3)


def test_a_tree_is_attached_if_one_of_it_is_a_client() -> None:
    server = ServerView(pid=50, status="ACTIVE", clients=frozenset({7, 8}))
    view = MpsView(asked_at=0, servers=(server,))
    assert judge_tree(view, tree={6, 7}).attached
    missing = judge_tree(view, tree={9})
    assert not missing.attached
    assert "[7, 8]" in missing.message
    assert "no client" in judge_tree(MpsView(asked_at=0, servers=()), tree={9}).message


def test_answers_of_the_control_daemon() -> None:
    assert parse_pids("123\n 456 \nFailed to find server\n") == (123, 456)
    fault = ServerView(pid=5, status="FAULT", clients=frozenset())
    fine = ServerView(pid=6, status="ACTIVE", clients=frozenset())
    assert MpsView(asked_at=0, servers=(fine,)).fault() == ""
    assert "MPS server 5" in MpsView(asked_at=0, servers=(fine, fault)).fault()


def test_device_memory() -> None:
    text = json.dumps(
        {"uuid": "u", "name": "n", "totalBytes": 9, "usedBytes": 5, "processes": [{"pid": 3, "bytes": 2}]}
    )
    reading = parse_reading(text, asked_at=1.0)
    assert reading == DeviceReading(asked_at=1.0, uuid="u", name="n", total_bytes=9, used_bytes=5, processes={3: 2})
    assert engine_bytes(reading, tree={2, 3}, delta=4) == (2, "process")
    assert engine_bytes(reading, tree={2}, delta=4) == (4, "delta")
    assert engine_bytes(reading, tree={2}, delta=None) == (None, "")
    for wrong in ('{"error": "no driver"}', "{}", "[]", "nonsense"):
        with pytest.raises(ValueError):
            parse_reading(wrong, asked_at=0)


def test_descendants() -> None:
    table = {
        pid: Proc(pid=pid, parent=parent, session=1, started=0, zombie=False)
        for pid, parent in ((1, 0), (2, 1), (3, 2), (4, 1), (5, 9))
    }
    assert descendants(table, roots=[2, 77]) == {2, 3}
    assert descendants(table, roots=[1]) == {1, 2, 3, 4}
