"""`slmpack plan` from files: what it prints, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from slmpack.adapters.tables import bundled_config
from slmpack.domain.checkpoint import CHECKPOINT_KEY
from tests.support.cli import a_cr, slmpack, some_nodes, write

ROOT = Path(__file__).parents[3]


def test_all_placed_exits_0(tmp_path: Path) -> None:
    result = slmpack(
        "plan", "-f", write(tmp_path, "cr.yaml", a_cr(replicas=3)), "-f", write(tmp_path, "n.yaml", some_nodes())
    )
    assert result.exit_code == 0, result.output
    assert "default/qwen  3 of 3 replicas placed" in result.stdout


def test_some_unplaced_exits_2_and_says_why(tmp_path: Path) -> None:
    cr = a_cr(replicas=7, sharing={"mode": "MPS", "maxPerGPU": 7})
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", cr, some_nodes()))
    assert result.exit_code == 2
    assert "default/qwen: 3 unplaced, InsufficientGpus: every GPU or share" in result.stdout


def test_a_rejected_spec_exits_2_and_names_the_field(tmp_path: Path) -> None:
    result = slmpack("plan", "-f", write(tmp_path, "cr.yaml", a_cr(replicas=-1)))
    assert result.exit_code == 2
    assert "default/qwen  rejected" in result.stdout
    assert "default/qwen  rejected\n  InvalidSpec: spec.replicas: must be at least 0, got -1\n" in result.stdout
    assert result.stdout.count("must be at least 0") == 1, "with its name, and not a second time below the picture"


def test_the_text_as_a_whole(tmp_path: Path) -> None:
    crs = [
        a_cr(replicas=3),
        a_cr("small", model={"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"}, replicas=6, sharing={"mode": "MIG"}),
    ]
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", *crs, some_nodes()), width=90)
    assert result.exit_code == 2
    seen = (Path(__file__).parent / "plan.txt").read_text(encoding="utf-8")
    assert result.stdout == seen


def test_a_replica_that_waits_for_its_turn_has_a_place_and_a_name(tmp_path: Path) -> None:
    result = slmpack(
        "plan",
        "-f",
        write(tmp_path, "all.yaml", a_cr(replicas=3, sharing={"mode": "MPS", "maxPerGPU": 3}), some_nodes()),
        "-o",
        "json",
    )
    assert result.exit_code == 0, result.output
    blocks = [block for gpu in json.loads(result.stdout)["gpus"] for block in gpu["blocks"]]
    assert [(block["replica"], block["state"]) for block in blocks] == [
        ("default/qwen-0", "planned"),
        ("default/qwen-1", "waiting"),
        ("default/qwen-2", "waiting"),
    ]


def test_without_nodes_every_kind_of_gpu_is_there_once() -> None:
    result = slmpack("plan", "-f", str(ROOT / "examples/qwen2.5-1.5b.yaml"), "-o", "json")
    assert result.exit_code == 0, result.output
    nodes = [gpu["node"] for gpu in json.loads(result.stdout)["gpus"]]
    assert "what-if-l4" in nodes
    assert "what-if-h100-sxm5-80gb" in nodes
    assert len(nodes) == len(set(nodes)) > 20


def test_the_note_about_made_up_nodes() -> None:
    text = slmpack("plan", "-f", str(ROOT / "examples/qwen2.5-1.5b.yaml")).stdout
    assert "No nodes are given" in text
    assert "other kinds of GPU in the catalogue stay empty" in text


def test_every_example_fits_the_demos_nodes_or_says_why(tmp_path: Path) -> None:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        result = slmpack("plan", "-f", str(path), "-f", write(tmp_path, "n.yaml", some_nodes()))
        assert result.exit_code in {0, 2}, result.output


def test_standard_input_and_json_files(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.json"
    nodes.write_text(json.dumps(some_nodes()), encoding="utf-8")
    result = slmpack("plan", "-f", "-", "-f", str(nodes), stdin=yaml.safe_dump(a_cr()))
    assert result.exit_code == 0, result.output


def test_a_model_from_a_file_beside_the_cr(tmp_path: Path) -> None:
    config = bundled_config("Qwen/Qwen2.5-0.5B-Instruct")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for source in ("file://model", "file://model/config.json"):
        result = slmpack("plan", "-f", write(tmp_path, "cr.yaml", a_cr(model={"source": source})), width=200)
        assert result.exit_code == 0, result.output
        assert f"one replica of {source} on vLLM" in result.stdout


def test_an_unknown_model_is_a_reason_not_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = slmpack("plan", "-f", write(tmp_path, "cr.yaml", a_cr(model={"source": "hf://nobody/nothing"})))
    assert result.exit_code == 2
    assert "ModelUnavailable: spec.model.source: config.json of hf://nobody/nothing" in re.sub(
        r"\s+", " ", result.output
    )
    assert "Traceback" not in result.output


def test_pods_of_others_take_room(tmp_path: Path) -> None:
    nodes = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [n for n in some_nodes()["items"] if n["metadata"]["name"] == "l4"],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "training", "namespace": "other"},
        "spec": {"nodeName": "l4", "containers": [{"name": "c", "resources": {"requests": {"nvidia.com/gpu": "2"}}}]},
        "status": {"phase": "Running"},
    }
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", a_cr(), nodes, pod), "-o", "json")
    assert result.exit_code == 2, result.output
    states = [block["state"] for gpu in json.loads(result.stdout)["gpus"] for block in gpu["blocks"]]
    assert states == ["foreign", "foreign"]


def test_nodes_written_by_hand_count_as_ready(tmp_path: Path) -> None:
    node = {
        "kind": "Node",
        "metadata": {"name": "n", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}},
        "status": {"allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "1"}},
    }
    assert slmpack("plan", "-f", write(tmp_path, "all.yaml", a_cr(), node)).exit_code == 0


def test_other_kinds_are_named_and_not_used(tmp_path: Path) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", a_cr(), service))
    assert result.exit_code == 0
    assert "1 Service (" in result.stderr


@pytest.mark.parametrize("command", [(), ("plan",), ("run",), ("demo",), ("crd",)])
def test_help_lists_the_exit_codes(command: tuple[str, ...]) -> None:
    result = slmpack(*command, "--help")
    assert result.exit_code == 0
    assert re.search(r"Exit codes:\n +0 ", result.stdout)


def test_crd_prints_what_crds_holds() -> None:
    result = slmpack("crd")
    assert result.exit_code == 0
    assert result.stdout == (ROOT / "crds/slmdeployments.slmpack.dev.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("plan", "--what"), "No such option"),
        (("plan",), "no SLMDeployment is given; add one with -f"),
        (("plan", "--kubeconfig", "f"), "--kubeconfig needs --cluster"),
        (("plan", "--context", "c"), "--context needs --cluster"),
        (("plan", "--cluster", "--kubeconfig", "/nowhere/config"), "--kubeconfig /nowhere/config: no such file"),
        (("run", "--http", "8080"), "'8080' is not HOST:PORT; write for instance 0.0.0.0:8080"),
        (("run", "--node-selector", "a b"), "is no label selector; write for instance 'pool=gpu'"),
        (("run", "--namespace", "a", "--all-namespaces"), "exclude each other"),
        (("demo", "--timeout", "soon"), "'soon' is not a valid float"),
    ],
)
def test_usage_errors_exit_1(args: tuple[str, ...], message: str) -> None:
    result = slmpack(*args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


PROFILE = """
apiVersion: slmpack.dev/v1alpha1
kind: Profile
model: Qwen/Qwen2.5-1.5B-Instruct
gpu: l4
input_tokens: 512
output_tokens: 256
points:
- {concurrency: 1, throughput_tok_s: 80, itl_s: 0.0125}
- {concurrency: 64, throughput_tok_s: 2100, itl_s: 0.03}
"""


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"slmpack.dev/profile": "true"}, " calibrated, ITL"),
        ({}, "there is no ConfigMap measured with the label slmpack.dev/profile"),
        (["not", "labels"], "there is no ConfigMap measured with the label slmpack.dev/profile"),
    ],
    ids=["labelled", "without the label", "odd labels"],
)
def test_a_profile_in_the_files_calibrates_the_plan(tmp_path: Path, labels: object, says: str) -> None:
    cr = a_cr(profileRef={"name": "measured"}, sharing={"gpuProducts": ["NVIDIA-L4"]})
    meta = {"name": "measured", "labels": labels}
    profile = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"profile.yaml": PROFILE}}
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", cr, profile, some_nodes()), width=400)
    assert result.exit_code == 0, result.output
    assert says in result.stdout


def test_a_load_that_is_not_carried_is_a_warning(tmp_path: Path) -> None:
    warning = "warning: the load is more than the GPU answers within the bounds, by prediction"
    heavy, light = ({"requestRate": rate, "inputTokens": 500} for rate in (1000.0, 1.0))
    outputs = [
        slmpack("plan", "-f", write(tmp_path, "all.yaml", a_cr(workload=load), some_nodes())).stdout
        for load in (heavy, light)
    ]
    assert [warning in output for output in outputs] == [True, False]


def test_a_checkpoint_that_disagrees_with_the_config_is_a_warning(tmp_path: Path) -> None:
    config = bundled_config("Qwen/Qwen2.5-1.5B-Instruct")
    assert config is not None
    model = {"source": "pvc://models/qwen", "config": {**config, CHECKPOINT_KEY: 4_000_000_000}}
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", a_cr(model=model), some_nodes()), width=400)
    assert result.exit_code == 0, result.output
    assert "warning: " in result.stdout
    assert "checkpoint" in result.stdout
