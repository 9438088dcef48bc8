"""MIG nodes behave as the device plugin and GPU feature discovery make them; a plan that misreads them turns red."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from slmpack.adapters.node_views import node_view
from slmpack.devcluster import nodes
from slmpack.devcluster.cluster import EmbeddedCluster, system_clock
from slmpack.devcluster.kubelet import Kubelets
from slmpack.domain.plan import CreatePod
from slmpack.domain.sharing import Exclusive, MigSlice
from slmpack.render.pod import render_pod
from tests.support.builders import a_demand, a_deployment, a_snapshot, creates, plan
from tests.support.render_cases import ENGINES
from tests.unit.devcluster.samples import PODS, eventually
from tests.unit.devcluster.test_kubelet import FAST, condition, has_failed, is_ready, words

Json = dict[str, Any]
GPU = "nvidia.com/gpu"
MADE = {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-11-21T12:00:00Z"}
SINGLE = nodes.mig_single_node("single", profile="1g.10gb", count=7)
MIXED = nodes.a100_mig_node("mixed", profiles={"1g.10gb": 7})
INVALID = nodes.mig_invalid_node("invalid")


def planned(node: Json, *, replicas: int = 1) -> tuple[CreatePod, ...]:
    """What the operator decides for the node as its labels describe it."""
    view = node_view(node | {"metadata": node["metadata"] | MADE})
    assert view is not None
    deployment = a_deployment(demand=a_demand(replicas=replicas))
    return tuple(creates(plan(a_snapshot(deployments=(deployment,), nodes=(view,)))))


def pod_of(create: CreatePod) -> Json:
    body = render_pod(create, engines=ENGINES, supervisor_image=None, token_hash="")
    return body | {"metadata": body["metadata"] | {"namespace": "default", "ownerReferences": []}}


def moved_to(create: CreatePod, resource: str) -> CreatePod:
    share = create.placement.share
    assert isinstance(share, MigSlice)
    return replace(create, placement=replace(create.placement, share=replace(share, resource=resource)))


def as_on_a_whole_gpu(create: CreatePod) -> CreatePod:
    """The same bytes as a fraction of the GPU, not of the instance."""
    share = create.placement.share
    assert isinstance(share, MigSlice)
    part = share.memory_bytes / (81920 * 2**20) * create.settings.gpu_memory_utilization
    return replace(create, settings=replace(create.settings, gpu_memory_utilization=round(part, 3)))


@asynccontextmanager
async def running(node: Json) -> AsyncIterator[Callable[[CreatePod, Callable[[Json], object]], Any]]:
    cluster = EmbeddedCluster()
    async with Kubelets(cluster.api, nodes=[node], clock=system_clock, timing=FAST):

        async def run(create: CreatePod, happens: Callable[[Json], object]) -> Json:
            body = pod_of(create)
            await cluster.api.create(PODS, body)

            async def look() -> Json | None:
                found: Json = await cluster.api.get(f"{PODS}/{body['metadata']['name']}")
                return found if happens(found) else None

            return await eventually(look)

        yield run


@pytest.mark.parametrize(
    ("node", "resource"), [(SINGLE, GPU), (MIXED, "nvidia.com/mig-1g.10gb")], ids=["single", "mixed"]
)
async def test_the_operators_plan_for_a_mig_node_becomes_ready(node: Json, resource: str) -> None:
    async with running(node) as run:
        for create in planned(node, replicas=7):
            pod = await run(create, is_ready)
            assert pod["spec"]["containers"][0]["resources"]["limits"][resource] == "1"


@pytest.mark.parametrize(
    ("node", "wrong"),
    [(SINGLE, "nvidia.com/mig-1g.10gb"), (MIXED, GPU)],
    ids=["a mixed strategy's resource on a single node", "a single strategy's resource on a mixed node"],
)
async def test_the_other_strategys_resource_is_never_scheduled(node: Json, wrong: str) -> None:
    (create,) = planned(node)
    async with running(node) as run:
        pod = await run(moved_to(create, wrong), lambda obj: condition(obj, "PodScheduled") == "False")
    message = next(item["message"] for item in pod["status"]["conditions"] if item["type"] == "PodScheduled")
    assert message == f"0/1 nodes are available: 1 Insufficient {wrong}."


@pytest.mark.parametrize("node", [SINGLE, MIXED], ids=["single", "mixed"])
async def test_utilisation_against_the_whole_gpu_leaves_no_kv_cache_on_a_slice(node: Json) -> None:
    (create,) = planned(node)
    async with running(node) as run:
        failed = await run(as_on_a_whole_gpu(create), lambda obj: has_failed(obj) or _has_crashed(obj))
    assert "No available memory for the cache blocks" in _last_words(failed)


async def test_a_slice_taken_for_a_whole_gpu_is_too_small_for_the_batch() -> None:
    """A reader that overlooks the suffix of the product sees seven whole GPUs of 80 GiB."""
    (create,) = planned(SINGLE)
    (on_a_gpu,) = planned(nodes.whole_node("whole", product=nodes.A100))
    assert isinstance(on_a_gpu.placement.share, Exclusive)
    blind = replace(create, settings=replace(on_a_gpu.settings, kv_cache_memory_bytes=60 * 2**30))
    async with running(SINGLE) as run:
        failed = await run(blind, lambda obj: has_failed(obj) or _has_crashed(obj))
    assert "CUDA out of memory" in _last_words(failed)


def test_gpus_that_are_not_cut_alike_get_no_pod() -> None:
    assert planned(INVALID) == ()


def test_single_strategy_labels_describe_the_instance() -> None:
    """As GPU feature discovery overrides those of the GPU; its family stays."""
    labels = nodes.mig_single_node("n", profile="2g.20gb", count=6, product=nodes.H100, gpus=2)["metadata"]["labels"]
    assert {key.removeprefix("nvidia.com/"): value for key, value in labels.items()}.items() >= {
        "mig.strategy": "single",
        "mig.capable": "true",
        "gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-2g.20gb",
        "gpu.count": "6",
        "gpu.memory": "20096",
        "gpu.multiprocessors": "32",
        "gpu.slices.gi": "2",
        "gpu.slices.ci": "2",
        "gpu.replicas": "1",
        "gpu.sharing-strategy": "none",
        "gpu.family": "hopper",
    }.items()


def _has_crashed(pod: Json) -> bool:
    return any(item.get("lastState", {}).get("terminated") for item in pod["status"].get("containerStatuses", []))


def _last_words(pod: Json) -> str:
    """Of a container that its pod restarts, too."""
    if has_failed(pod):
        return words(pod)
    return str(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"])
