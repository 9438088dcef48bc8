"""`--loads FILE`: what is taken as measured, what is refused, and the replicas that it makes up."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from slmpack.cli.loads_file import Measured, read_loads
from slmpack.cli.manifests import BadFileError
from slmpack.cli.preview import Preview, preview
from slmpack.domain.load import GpuReading, Latencies, LoadSample
from slmpack.domain.scale_decision import ScalingSpec
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import DeploymentView, Key, Policy, Snapshot
from tests.support.builders import NOW, PACKS, POLICY, a_demand, a_deployment, a_snapshot, mps_node, plan, whole_node
from tests.support.cli import Json, a_cr, slmpack, some_nodes, write

CHAT = Key("default", "chat")
SAMPLE: Json = {"reporting": 1, "running": 4, "waiting": 0, "arrivals_s": 2, "arrivals_peak_s": 3, "arrivals_high_s": 3}


def test_a_file_becomes_samples_and_readings_of_now(tmp_path: Path) -> None:
    gpu = {"node": "n", "uuid": "GPU-1", "power_w": 300, "pods": ["default/chat-0"]}
    path = write(
        tmp_path, "l.yaml", {"loads": {"chat": {**SAMPLE, "ttft_s": None}, "llm/other": SAMPLE}, "gpus": [gpu]}
    )
    found = read_loads(path, now=NOW)
    sample = LoadSample(
        at=NOW, reporting=1, running=4.0, waiting=0.0, arrivals_s=2.0, arrivals_peak_s=3.0, arrivals_high_s=3.0
    )
    assert found.loads == {CHAT: sample, Key("llm", "other"): sample}
    assert found.gpus == (GpuReading(node="n", uuid="GPU-1", at=NOW, power_w=300.0, pods=("default/chat-0",)),)
    assert read_loads(write(tmp_path, "e.yaml", {}), now=NOW) == Measured(loads={}, gpus=())


def test_latencies_are_told_as_buckets(tmp_path: Path) -> None:
    path = tmp_path / "l.yaml"
    path.write_text(
        "loads: {chat: {reporting: 1, ttft_of: {0.5: 90, 1: 99, +Inf: 100}, tpot_of: null}}", encoding="utf-8"
    )
    sample = read_loads(str(path), now=NOW).loads[CHAT]
    assert sample.ttft_of == Latencies(at_most=((0.5, 90.0), (1.0, 99.0), (inf, 100.0)))
    assert sample.tpot_of is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "must be a mapping, got []"),
        ({"load": {}}, "unknown key 'load'; did you mean loads?"),
        ({"loads": []}, None),
        ({"loads": [1]}, "loads: must be a mapping, got [1]"),
        ({"loads": {"chat": 3}}, "loads.chat: must be a mapping, got 3"),
        ({"loads": {"a/b/c": SAMPLE}}, "'a/b/c' is not NAMESPACE/NAME of an SLMDeployment"),
        ({"loads": {"/c": SAMPLE}}, "'/c' is not NAMESPACE/NAME"),
        ({"loads": {"chat": {"arrivals_s": 1}}}, "chat.reporting: None is not the number of replicas"),
        ({"loads": {"chat": {"reporting": True}}}, "chat.reporting: True is not the number of replicas"),
        ({"loads": {"chat": {**SAMPLE, "runing": 1}}}, "unknown key 'runing'; did you mean running?"),
        ({"loads": {"chat": {**SAMPLE, "zzz": 1}}}, "unknown key 'zzz'; the keys here are arrivals_high_s"),
        ({"loads": {"chat": {**SAMPLE, "running": "4"}}}, "chat.running: '4' is not a number of at least 0"),
        ({"loads": {"chat": {**SAMPLE, "kv_usage": 62}}}, "chat.kv_usage: 62 is not a part from 0 to 1"),
        ({"loads": {"chat": {**SAMPLE, "running": -1}}}, "chat.running: -1 is not a number"),
        ({"loads": {"chat": {**SAMPLE, "running": float("nan")}}}, "chat.running: nan is not a number"),
        ({"loads": {"chat": {**SAMPLE, "ttft_of": 3}}}, "chat.ttft_of: must be a mapping, got 3"),
        ({"loads": {"chat": {**SAMPLE, "ttft_of": {"1": 3}}}}, "rising up to +Inf, for instance {0.5: 90, 1: 99, +Inf"),
        ({"loads": {"chat": {**SAMPLE, "tpot_of": {"a": 3, "+Inf": 4}}}}, "chat.tpot_of: must be requests at or below"),
        ({"loads": {"chat": {**SAMPLE, "tpot_of": {"1": None, "+Inf": 4}}}}, "chat.tpot_of: must be requests"),
        ({"gpus": {}}, None),
        ({"gpus": "many"}, "gpus must be a list of GPUs"),
        ({"gpus": [1]}, "gpus[0]: must be a mapping, got 1"),
        ({"gpus": [{"node": "n"}]}, "gpus[0].uuid: None is not a name"),
        ({"gpus": [{"node": "n", "uuid": "u", "pods": "p"}]}, "gpus[0].pods: must be a list of namespace/name"),
        ({"gpus": [{"node": "n", "uuid": "u", "watts": 1}]}, "gpus[0]: unknown key 'watts'"),
        ({"x" * 90: 1}, f"'{'x' * 59}..."),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, body: object, said: str | None) -> None:
    path = write(tmp_path, "l.yaml", body)
    if said is None:
        assert read_loads(path, now=NOW) == Measured(loads={}, gpus=())
        return
    with pytest.raises(BadFileError) as error:
        read_loads(path, now=NOW)
    assert said in str(error.value)
    assert path in str(error.value)


@pytest.mark.parametrize("text", [b"a: [", b"\xff\xfe\x00", b"a: &a [*a]\nb: !!python/object 1"])
def test_what_is_no_yaml_is_told(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "l.yaml"
    path.write_bytes(text)
    with pytest.raises(BadFileError, match="not readable YAML"):
        read_loads(str(path), now=NOW)


def test_a_file_that_is_not_there_or_too_large_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="cannot be read: No such file"):
        read_loads(str(tmp_path / "none"), now=NOW)
    large = tmp_path / "large"
    large.write_bytes(b"#" * (2**24 + 1))
    with pytest.raises(BadFileError, match="is larger than 16 MiB"):
        read_loads(str(large), now=NOW)


def scaled(**demand: Any) -> DeploymentView:
    found = replace(a_demand(replicas=4, **demand), scaling=ScalingSpec(least=1, most=4))
    return a_deployment("chat", found, namespace="default")


def made_up(snapshot: Snapshot, reporting: int, *, policy: Policy = POLICY) -> Preview:
    sample = LoadSample(at=NOW, reporting=reporting)
    return preview(snapshot, Measured(loads={CHAT: sample}, gpus=()), policy)


def test_replicas_that_are_measured_and_not_given_are_made_up() -> None:
    snapshot = a_snapshot(deployments=(scaled(),), nodes=(mps_node("m", replicas=4),))
    found = made_up(snapshot, 2)
    assert [(pod.key.name, pod.node, pod.ready) for pod in found.snapshot.pods] == [
        (f"chat-{n}", "m", True) for n in range(2)
    ]
    assert found.notes == ("default/chat: 2 of the 2 replicas that --loads measures are taken to run; no pod is given",)
    (part,) = plan(found.snapshot).deployments
    assert part.scale is not None
    assert part.scale.current == 2


def test_a_pack_is_made_up_with_its_engines() -> None:
    snapshot = a_snapshot(deployments=(scaled(mode=Mode.MPS_PACK, max_per_gpu=2),), nodes=(whole_node("w", gpus=2),))
    found = made_up(snapshot, 3, policy=PACKS)
    records = [pod.record for pod in found.snapshot.pods if pod.record is not None]
    assert sum(record.replicas for record in records) == 3


def test_replicas_without_room_are_not_made_up() -> None:
    snapshot = a_snapshot(deployments=(scaled(),), nodes=(whole_node("w"),))
    found = made_up(snapshot, 3)
    assert len(found.snapshot.pods) == 1
    assert found.notes[0].startswith("default/chat: 1 of the 3 replicas")


def test_nothing_is_made_up_where_pods_are_given_or_nothing_is_scaled() -> None:
    first = made_up(a_snapshot(deployments=(scaled(),), nodes=(whole_node("w"),)), 1)
    again = made_up(first.snapshot, 3)
    assert (again.snapshot.pods, again.notes) == (first.snapshot.pods, ())
    fixed = a_snapshot(deployments=(a_deployment("chat", namespace="default"),), nodes=(whole_node("w"),))
    assert made_up(fixed, 2).snapshot.pods == ()


def test_a_load_of_nobody_is_told() -> None:
    snapshot = a_snapshot(nodes=(whole_node("w"),))
    assert made_up(snapshot, 1).notes == ("--loads: there is no SLMDeployment default/chat; there is none",)


def test_plan_shows_the_decision(tmp_path: Path) -> None:
    files = write(tmp_path, "all.yaml", a_cr("chat", scaling={"max": 6}, sharing={"mode": "MPS"}), some_nodes())
    without = json.loads(slmpack("plan", "-f", files, "-o", "json").stdout)["deployments"][0]
    assert (without["scale"]["reason"], without["replicas"]["wanted"]) == ("MetricsUnknown", 1)
    busy = SAMPLE | {"arrivals_s": 400, "arrivals_peak_s": 400, "arrivals_high_s": 400, "waiting": 90}
    loads = write(tmp_path, "loads.yaml", {"loads": {"chat": busy | {"input_tokens": 500, "output_tokens": 200}}})
    result = slmpack("plan", "-f", files, "--loads", loads, "-o", "json")
    found = json.loads(result.stdout)["deployments"][0]
    assert found["scale"]["current"] == 1
    assert found["scale"]["wished"] > 1
    assert found["scale"]["known"] is True
    assert {"demand", "capacity", "waiting"} <= {it["name"] for it in found["scale"]["figures"]}
    text = slmpack("plan", "-f", files, "--loads", loads)
    assert f"wanted of 1 to 6, {found['scale']['reason']}: " in " ".join(text.stdout.split())
    assert "1 of the 1 replicas that --loads measures are taken to run" in text.stderr


def test_plan_with_loads_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    result = slmpack("plan", "-f", write(tmp_path, "cr.yaml", a_cr()), "--loads", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr


def test_a_gpu_of_a_node_that_is_not_there_is_told() -> None:
    snapshot = a_snapshot(nodes=(whole_node("w"),))
    found = preview(snapshot, Measured(loads={}, gpus=(GpuReading(node="v", uuid="x", at=NOW),)), POLICY)
    assert found.notes == ("--loads: there is no node v; there is w",)
