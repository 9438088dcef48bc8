"""`slmpack plan --repack`, from the files of a cluster: said for people, for machines, and as the page shows it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from slmpack.adapters.tables import load_engine_table
from slmpack.cli.manifests import read_manifests
from slmpack.cli.world import Question, observe_world
from slmpack.devcluster.nodes import mps_node
from slmpack.domain.plan import CreatePod
from slmpack.domain.planner import plan_cluster
from slmpack.render.pod import render_pod
from tests.support.cli import Json, a_cr, slmpack, write
from tests.unit.cli.test_plan_json import DOCS

if TYPE_CHECKING:
    import pytest

PAGE = DOCS.parent / "repack.md"
EXAMPLE = DOCS.parent.parent / "examples" / "repack" / "two-half-empty-gpus.yaml"
ENGINES = load_engine_table()


def running(folder: Path, cr: Json, node: Json) -> list[Json]:
    """The pods that a plan on this node makes, as they are once they run."""
    manifests = read_manifests([write(folder, "one.yaml", cr, node)])
    question = Question(manifests=manifests, cluster=False, kubeconfig=None, model_seconds=0)
    world = asyncio.run(observe_world(question))
    found = []
    for action in plan_cluster(world.snapshot, world.policy).actions:
        assert isinstance(action, CreatePod)
        pod = render_pod(action, engines=ENGINES)
        pod["metadata"]["uid"] = f"uid-{action.name}"
        pod["spec"]["nodeName"] = node["metadata"]["name"]
        pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        found.append(pod)
    return found


def two_of_a_kind(folder: Path, *, shares: int = 4) -> str:
    """Two GPUs with a replica each."""
    crs = [a_cr(name, sharing={"mode": "MPS", "maxPerGPU": 2}) for name in ("chat", "code")]
    nodes = [mps_node(name, replicas=shares) for name in ("gpu-a", "gpu-b")]
    pods = [pod for cr, node in zip(crs, nodes, strict=True) for pod in running(folder, cr, node)]
    return write(folder, "all.yaml", *crs, *nodes, *pods)


def advised(text: str) -> str:
    return text.partition("\nrepack\n")[2]


def test_people_are_told_what_to_run_and_what_it_frees(tmp_path: Path) -> None:
    result = slmpack("plan", "-f", two_of_a_kind(tmp_path), "--repack")
    assert result.exit_code == 0, result.output
    (block,) = re.findall(r"```\nrepack\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert advised(result.stdout) == block
    assert "kubectl delete pod -n default chat-0\n" in block


def test_the_example_is_what_these_tests_plan_on(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    made = Path(two_of_a_kind(tmp_path)).read_text(encoding="utf-8")
    text = (
        f"# What `kubectl get slm,nodes,pods -o yaml` says where two GPUs carry what one could: docs/repack.md.\n{made}"
    )
    if request.config.getoption("--update-golden"):
        EXAMPLE.write_text(text, encoding="utf-8")
    assert text == EXAMPLE.read_text(encoding="utf-8")


def test_machines_get_one_key_more(tmp_path: Path) -> None:
    files = two_of_a_kind(tmp_path)
    repack = json.loads(slmpack("plan", "-f", files, "--repack", "-o", "json").stdout)["repack"]
    assert repack["gpus"] == 1
    assert repack["moves"] == [
        {"pod": "default/chat-0", "deployment": "default/chat", "node": "gpu-a", "to": ["gpu-b"]}
    ]
    (freed,) = repack["freed"]
    assert (freed["node"], freed["product"], freed["gpus"]) == ("gpu-a", "NVIDIA-H100-80GB-HBM3", 1)
    assert freed["power_w"] == repack["power_w"]
    assert 0 <= freed["power_w"]["low"] <= freed["power_w"]["value"] <= freed["power_w"]["high"]
    assert freed["power_w"]["basis"] == "assumed"
    assert "repack" not in json.loads(slmpack("plan", "-f", files, "-o", "json").stdout)
    for key in ("gpus", "power_w", "moves", "freed"):
        assert f"`{key}`" in PAGE.read_text(encoding="utf-8")


def test_where_nothing_can_be_gained_it_says_so(tmp_path: Path) -> None:
    files = write(tmp_path, "full.yaml", *_alone(tmp_path))
    result = slmpack("plan", "-f", files, "--repack")
    assert advised(result.stdout) == "  No move of running replicas would free a GPU.\n"
    assert json.loads(slmpack("plan", "-f", files, "--repack", "-o", "json").stdout)["repack"] is None


def _alone(folder: Path) -> list[Json]:
    cr, node = a_cr("chat", sharing={"mode": "MPS", "maxPerGPU": 2}), mps_node("gpu-a", replicas=4)
    return [cr, node, *running(folder, cr, node)]


def test_a_plan_with_work_to_do_comes_first(tmp_path: Path) -> None:
    result = slmpack("plan", "-f", write(tmp_path, "new.yaml", a_cr(), mps_node("gpu-a", replicas=4)), "--repack")
    assert "The plan has work to do" in advised(result.stdout)


def test_nobodys_names_steer_a_terminal_or_a_shell(tmp_path: Path) -> None:
    text = Path(two_of_a_kind(tmp_path)).read_text(encoding="utf-8").replace("gpu-a", '"gpu-a\\e[31m; reboot\\n"')
    (tmp_path / "all.yaml").write_text(text, encoding="utf-8")
    shown = advised(slmpack("plan", "-f", str(tmp_path / "all.yaml"), "--repack", width=200).stdout)
    assert "    kubectl cordon 'gpu-a\ufffd[31m; reboot '\n" in shown
    assert "    kubectl uncordon 'gpu-a\ufffd[31m; reboot '\n" in shown
    assert "frees 1 GPU of node gpu-a\ufffd[31m; reboot  (NVIDIA" in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
