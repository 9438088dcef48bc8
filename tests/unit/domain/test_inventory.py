"""What each kind of GPU node offers, and why a node offers nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.inventory import GpuNode, Offer, free_on, read_nodes, where
from slmpack.domain.quantity import GIB, MIB
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare
from slmpack.domain.snapshot import NodeView, PodPhase
from tests.support.builders import A100_40, H100, L4, POLICY, a_node, a_stranger, mig_node, mps_node, whole_node

GPU, SHARED = "nvidia.com/gpu", "nvidia.com/gpu.shared"


def read(view: NodeView) -> GpuNode:
    (node,) = read_nodes((view,), POLICY.gpus)
    return node


def mps(resource: str = GPU, *, replicas: int = 4) -> MpsShare:
    """An H100's share: CUDA sees 81082 MiB, of which 1024 MiB are kept for the MPS server."""
    return MpsShare(
        resource=resource,
        replicas=replicas,
        gpu_memory_bytes=81082 * MIB,
        limit_bytes=(81082 - 1024) // replicas * MIB,
        active_thread_percentage=100 // replicas,
    )


def mig(profile: str, mib: int) -> MigSlice:
    return MigSlice(resource=f"nvidia.com/mig-{profile}", profile=profile, memory_bytes=mib * MIB)


def shared_node(**labels: str) -> NodeView:
    return a_node(
        "n", product=f"{H100}-SHARED", resources={GPU: 4}, labels={f"nvidia.com/gpu.{k}": v for k, v in labels.items()}
    )


OFFERS = {
    "whole GPUs": (
        whole_node("n", product=H100, gpus=8),
        [Offer(share=Exclusive(resource=GPU, memory_bytes=81082 * MIB), units=8, gpus=8)],
    ),
    "a GPU whose CUDA total nobody measured counts 98 % of it": (
        whole_node("n", product=A100_40),
        [Offer(share=Exclusive(resource=GPU, memory_bytes=int(40960 * 0.98) * MIB), units=1, gpus=1)],
    ),
    "a smaller label than the catalogue is believed": (
        a_node("n", product=H100, labels={"nvidia.com/gpu.memory": "40000"}),
        [Offer(share=Exclusive(resource=GPU, memory_bytes=39200 * MIB), units=1, gpus=1)],
    ),
    "a larger label than the catalogue is not": (
        a_node("n", product=H100, labels={"nvidia.com/gpu.memory": "999999"}),
        [Offer(share=Exclusive(resource=GPU, memory_bytes=81082 * MIB), units=1, gpus=1)],
    ),
    "a label of 0 MiB says nothing": (
        a_node("n", product=H100, labels={"nvidia.com/gpu.memory": "0"}),
        [Offer(share=Exclusive(resource=GPU, memory_bytes=81082 * MIB), units=1, gpus=1)],
    ),
    "MPS": (mps_node("n", gpus=2), [Offer(share=mps(), units=8, gpus=2)]),
    "MPS with the resource renamed: the product keeps its name": (
        a_node(
            "n",
            product=H100,
            resources={SHARED: 10},
            labels={**mps_node("m", replicas=10).labels, "nvidia.com/gpu.product": H100},
        ),
        [Offer(share=mps(SHARED, replicas=10), units=10, gpus=1)],
    ),
    "MPS with a share withdrawn": (
        replace(mps_node("n", gpus=2), allocatable={GPU: 7}),
        [Offer(share=mps(), units=7, gpus=2)],
    ),
    "MIG, mixed": (
        mig_node("n", slices={"1g.5gb": 3, "3g.20gb": 1}),
        [Offer(share=mig("1g.5gb", 4864), units=3, gpus=1), Offer(share=mig("3g.20gb", 19968), units=1, gpus=1)],
    ),
    "MIG with media engines": (
        mig_node("n", slices={"1g.5gb.me": 1}),
        [Offer(share=mig("1g.5gb.me", 4864), units=1, gpus=1)],
    ),
    "a MIG profile beside whole GPUs": (
        a_node(
            "n", product=A100_40, resources={GPU: 2, "nvidia.com/mig-1g.5gb": 7}, labels={"nvidia.com/gpu.count": "3"}
        ),
        [
            Offer(share=Exclusive(resource=GPU, memory_bytes=int(40960 * 0.98) * MIB), units=2, gpus=2),
            Offer(share=mig("1g.5gb", 4864), units=7, gpus=1),
        ],
    ),
    "a MIG profile that only its label describes": (
        a_node(
            "n",
            product=A100_40,
            resources={"nvidia.com/mig-9g.9gb": 1},
            labels={"nvidia.com/mig-9g.9gb.memory": "9000"},
        ),
        [Offer(share=mig("9g.9gb", 9000), units=1, gpus=1)],
    ),
    "the smaller of label and catalogue bounds a slice": (
        a_node(
            "n",
            product=A100_40,
            resources={"nvidia.com/mig-1g.5gb": 1},
            labels={"nvidia.com/mig-1g.5gb.memory": "4000"},
        ),
        [Offer(share=mig("1g.5gb", 4000), units=1, gpus=1)],
    ),
    "labels that are no numbers are no numbers": (
        a_node(
            "n",
            product=H100,
            labels={"nvidia.com/gpu.replicas": "four", "nvidia.com/gpu.memory": "-1", "nvidia.com/gpu.count": "²"},
        ),
        [Offer(share=Exclusive(resource=GPU, memory_bytes=81082 * MIB), units=1, gpus=1)],
    ),
    "another device of NVIDIA's beside GPUs": (
        a_node("n", product=H100, resources={GPU: 1, "nvidia.com/hostdev": 2}),
        [Offer(share=Exclusive(resource=GPU, memory_bytes=81082 * MIB), units=1, gpus=1)],
    ),
}


@pytest.mark.parametrize(("view", "offers"), OFFERS.values(), ids=OFFERS)
def test_what_a_node_offers(view: NodeView, offers: list[Offer]) -> None:
    node = read(view)
    assert list(node.offers) == offers
    assert node.refusals == ()
    assert [offer.resource for offer in node.offers] == [offer.share.resource for offer in offers]


REFUSALS = {
    "time-slicing": (
        shared_node(replicas="4", **{"sharing-strategy": "time-slicing"}),
        Reason.TIME_SLICED,
        "node n: nvidia.com/gpu is shared by time-slicing, which bounds nothing; use MPS or MIG",
    ),
    "replicas without a strategy label": (shared_node(replicas="4"), Reason.TIME_SLICED, "shared by time-slicing"),
    "nothing but the product's suffix tells": (shared_node(), Reason.TIME_SLICED, "shared by time-slicing"),
    "MPS with an unreadable number of replicas": (
        shared_node(replicas="many", **{"sharing-strategy": "mps"}),
        Reason.TIME_SLICED,
        "which bounds nothing",
    ),
    "nothing but the resource's name tells": (
        a_node("n", product=H100, resources={SHARED: 4}),
        Reason.TIME_SLICED,
        "nvidia.com/gpu.shared is shared by time-slicing",
    ),
    "a time-sliced MIG resource": (
        a_node(
            "n", product=A100_40, resources={"nvidia.com/mig-1g.5gb": 8}, labels={"nvidia.com/mig-1g.5gb.replicas": "4"}
        ),
        Reason.TIME_SLICED,
        "node n: nvidia.com/mig-1g.5gb is time-sliced, which bounds nothing",
    ),
    "a time-sliced MIG resource, renamed": (
        a_node("n", product=A100_40, resources={"nvidia.com/mig-1g.5gb.shared": 8}),
        Reason.TIME_SLICED,
        "nvidia.com/mig-1g.5gb.shared is time-sliced",
    ),
    "MIG's single strategy with GPUs that are not cut alike": (
        a_node("n", product=f"{A100_40}-MIG-INVALID", resources={GPU: 0}, labels={"nvidia.com/gpu.count": "0"}),
        Reason.SINGLE_STRATEGY_MIG,
        "that there are others or none; cut all its GPUs alike, or set mig.strategy=mixed",
    ),
    "MIG's single strategy, time-sliced": (
        a_node(
            "n", product=f"{A100_40}-MIG-1g.5gb-SHARED", resources={GPU: 14}, labels={"nvidia.com/gpu.replicas": "2"}
        ),
        Reason.TIME_SLICED,
        "node n: nvidia.com/gpu is time-sliced, which bounds nothing",
    ),
    "MIG's single strategy, where only the product's suffix tells": (
        a_node("n", product=f"{A100_40}-MIG-1g.5gb-SHARED", resources={GPU: 14}),
        Reason.TIME_SLICED,
        "node n: nvidia.com/gpu is time-sliced",
    ),
    "MIG's single strategy, renamed": (
        a_node("n", product=f"{A100_40}-MIG-1g.5gb", resources={SHARED: 14}),
        Reason.TIME_SLICED,
        "node n: nvidia.com/gpu.shared is time-sliced",
    ),
    "MIG's single strategy with a profile that nobody knows": (
        a_node("n", product=f"{A100_40}-MIG-9g.9gb", resources={GPU: 7}),
        Reason.UNKNOWN_GPU,
        "node n: the memory of nvidia.com/gpu is neither labelled nor in the catalogue",
    ),
    "a MIG resource whose strategy label alone tells": (
        a_node(
            "n",
            product=A100_40,
            resources={"nvidia.com/mig-1g.5gb": 8},
            labels={"nvidia.com/mig-1g.5gb.sharing-strategy": "time-slicing"},
        ),
        Reason.TIME_SLICED,
        "node n: nvidia.com/mig-1g.5gb is time-sliced",
    ),
    "an unknown product": (
        a_node("n", product="Tesla-K80"),
        Reason.UNKNOWN_GPU,
        "node n: the GPU product 'Tesla-K80' is not in the catalogue",
    ),
    "no product label": (
        replace(a_node("n"), labels={}),
        Reason.UNKNOWN_GPU,
        "node n: it has no nvidia.com/gpu.product label",
    ),
    "a MIG profile of unknown size": (
        a_node(
            "n", product=A100_40, resources={"nvidia.com/mig-9g.9gb": 1}, labels={"nvidia.com/mig-9g.9gb.memory": "0"}
        ),
        Reason.UNKNOWN_GPU,
        "node n: the memory of nvidia.com/mig-9g.9gb is neither labelled nor in the catalogue",
    ),
    "allocatable 0": (
        a_node("n", product=H100, resources={GPU: 0}),
        Reason.NOT_ADVERTISED,
        f"node n: {H100} is labelled, but no nvidia.com/ resource is allocatable (device plugin?)",
    ),
    "no device plugin": (a_node("n", product=H100, resources={}), Reason.NOT_ADVERTISED, "device plugin?"),
}


@pytest.mark.parametrize(("view", "reason", "message"), REFUSALS.values(), ids=REFUSALS)
def test_why_a_node_offers_nothing(view: NodeView, reason: Reason, message: str) -> None:
    node = read(view)
    assert node.offers == ()
    assert [refusal.reason for refusal in node.refusals] == [reason]
    assert message in node.refusals[0].message


def test_products_lose_their_suffix_and_nodes_are_sorted_by_name() -> None:
    views = (
        mps_node("c"),
        a_node("b", product=f"{A100_40}-MIG-1g.5gb-SHARED"),
        whole_node("a"),
        replace(a_node("cpu-only", resources={}), labels={}),
    )
    nodes = read_nodes(views, POLICY.gpus)
    assert [(node.name, node.product) for node in nodes] == [("a", L4), ("b", A100_40), ("c", H100)]


def test_what_is_free_is_allocatable_less_everybodys_requests() -> None:
    view = replace(whole_node("n", gpus=4, cpu=10_000), used_by_others={"cpu": 500, "memory": 2 * GIB, "pods": 3})
    pods = (a_stranger("a", "n", cpu=1_000), a_stranger("b", "n", count=2, resource="example.com/fpga"))
    assert free_on(read(view), pods) == {
        "cpu": 8_500,
        "memory": 510 * GIB,
        "pods": 105,
        GPU: 3,
        "example.com/fpga": -2,
    }


def test_a_pod_takes_room_where_it_is_bound_and_none_once_it_finished() -> None:
    pod = a_stranger("s", "n")
    assert where(pod) == "n"
    assert where(replace(pod, node=None)) is None
    assert where(replace(pod, deleting=True)) == "n"
    assert where(replace(pod, phase=PodPhase.FAILED)) is None
    assert where(replace(pod, phase=PodPhase.SUCCEEDED)) is None
