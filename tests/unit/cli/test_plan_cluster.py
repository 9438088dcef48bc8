"""`slmpack plan --cluster`: the cluster as it would be with the files applied."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import Result

from slmpack.api.crd import build_crd
from slmpack.cli.manifests import read_manifests
from slmpack.cli.world import Question, observe_world
from slmpack.devcluster.cluster import EmbeddedCluster, system_clock
from slmpack.devcluster.kubelet import Kubelets
from slmpack.devcluster.nodes import mps_node, whole_node
from slmpack.domain.plan import CreatePod
from slmpack.domain.planner import plan_cluster
from slmpack.render.pod import render_pod
from tests.support.cli import Json, a_cr, slmpack, write

SLM_PATH = "/apis/slmpack.dev/v1alpha1/namespaces/default/slmdeployments"


class Cluster:
    def __init__(self, cluster: EmbeddedCluster, folder: Path) -> None:
        self.api, self.kubeconfig = cluster.api, str(cluster.kubeconfig(folder / "kubeconfig"))

    async def plan(self, *args: str) -> Result:
        """In a thread: the command runs an event loop of its own."""
        return await asyncio.to_thread(
            slmpack, "plan", "--cluster", "--bundled-models", "--kubeconfig", self.kubeconfig, *args
        )

    async def plan_json(self, *args: str) -> Json:
        result = await self.plan("-o", "json", *args)
        assert result.exit_code in {0, 2}, result.output
        plan: Json = json.loads(result.stdout)
        return plan


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    nodes = [mps_node("h100", replicas=4), whole_node("l4", gpus=2)]
    async with (
        EmbeddedCluster(crds=[build_crd()]) as embedded,
        Kubelets(embedded.api, nodes=nodes, clock=system_clock),
    ):
        yield Cluster(embedded, tmp_path)


async def test_an_empty_cluster_has_nothing_unplaced(cluster: Cluster) -> None:
    result = await cluster.plan()
    assert result.exit_code == 0, result.output
    assert "h100  NVIDIA-H100-80GB-HBM3" in result.stdout


async def test_a_cluster_without_the_crd_is_planned_on_before_anything_is_installed(tmp_path: Path) -> None:
    async with EmbeddedCluster() as embedded, Kubelets(embedded.api, nodes=[whole_node("l4")], clock=system_clock):
        bare = Cluster(embedded, tmp_path)
        result = await bare.plan("-f", write(tmp_path, "cr.yaml", a_cr(replicas=1)))
        assert result.exit_code == 0, result.output
        assert "default/qwen  1 of 1 replicas placed" in result.stdout
        assert "the cluster has no CRD of SLMDeployments yet" in result.stderr
        assert "l4  NVIDIA-L4" in (await bare.plan()).stdout


async def test_files_count_as_applied_and_change_nothing(cluster: Cluster, tmp_path: Path) -> None:
    await cluster.api.create(SLM_PATH, a_cr(replicas=1))
    await cluster.api.create(SLM_PATH, a_cr("other", replicas=1))
    plan = await cluster.plan_json("-f", write(tmp_path, "cr.yaml", a_cr(replicas=3)))
    assert [deployment["name"] for deployment in plan["deployments"]] == ["qwen"]
    assert plan["deployments"][0]["replicas"] == {"wanted": 3, "placed": 3, "unplaced": 0}
    owners = {block["deployment"] for gpu in plan["gpus"] for block in gpu["blocks"]}
    assert owners == {"default/qwen", "default/other"}
    present = await cluster.api.get(f"{SLM_PATH}/qwen")
    assert present["spec"]["replicas"] == 1


async def test_without_files_all_of_the_cluster(cluster: Cluster) -> None:
    await cluster.api.create(SLM_PATH, a_cr(replicas=1))
    await cluster.api.create(SLM_PATH, a_cr("other", replicas=9))
    result = await cluster.plan()
    assert result.exit_code == 2
    assert "default/qwen  1 of 1 replicas placed" in result.stdout
    assert "default/other: 5 unplaced, DoesNotPay" in result.stdout


async def test_what_would_end_is_said(cluster: Cluster, tmp_path: Path) -> None:
    await cluster.api.create(SLM_PATH, a_cr(replicas=2, sharing={"mode": "Exclusive"}))
    planned = await cluster.plan()
    assert "would end now" not in planned.stdout
    for pod in await running_pods(cluster):
        await cluster.api.create("/api/v1/namespaces/default/pods", pod)
    result = await cluster.plan("-f", write(tmp_path, "cr.yaml", a_cr(sharing={"mode": "Exclusive"})))
    assert result.exit_code == 0, result.output
    assert "default/qwen-1 would end now: ScaledDown" in result.stdout


async def running_pods(cluster: Cluster) -> list[Json]:
    """The pods that the operator would make for the cluster's SLMDeployments, rendered as it does."""
    world = await observe_world(
        Question(
            manifests=read_manifests(()),
            cluster=True,
            kubeconfig=cluster.kubeconfig,
            model_seconds=0,
            bundled_models=True,
        )
    )
    plan = plan_cluster(world.snapshot, world.policy)
    creates = [action for action in plan.actions if isinstance(action, CreatePod)]
    return [dict(render_pod(create, engines=world.policy.engines)) for create in creates]


async def test_a_cluster_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    async with EmbeddedCluster() as embedded:
        kubeconfig = str(embedded.kubeconfig(tmp_path / "kubeconfig"))
    result = await asyncio.to_thread(slmpack, "plan", "--cluster", "--kubeconfig", kubeconfig)
    assert result.exit_code == 1
    assert "the cluster cannot be read" in result.stderr
    assert "Traceback" not in result.output
