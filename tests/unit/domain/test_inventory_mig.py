"""MIG instances in both strategies: whichever name the driver gives them, and the GPUs behind them."""

from __future__ import annotations

from typing import Any

import pytest

from slmpack.adapters.node_views import node_view
from slmpack.devcluster import nodes
from slmpack.domain.inventory import GpuNode, Offer, read_nodes
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import MigSlice
from slmpack.domain.snapshot import NodeView
from tests.support.builders import A100_40, H100, POLICY, a_node, mig_node

GPU = "nvidia.com/gpu"


def read(view: NodeView) -> GpuNode:
    (node,) = read_nodes((view,), POLICY.gpus)
    return node


def viewed(node: dict[str, Any]) -> NodeView:
    """As the operator reads what GPU feature discovery and the device plugin publish."""
    meta = {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-11-21T12:00:00Z"}
    view = node_view(node | {"metadata": node["metadata"] | meta})
    assert view is not None
    return view


def single(profile: str, *, units: int, product: str = A100_40, **labels: str) -> NodeView:
    found = {f"nvidia.com/gpu.{key}": value for key, value in labels.items()}
    return a_node("n", product=f"{product}-MIG-{profile}", resources={GPU: units}, labels=found)


def test_the_single_strategy_offers_slices_as_gpus() -> None:
    node = read(viewed(nodes.mig_single_node("n", profile="1g.10gb", count=14, product=nodes.H100, gpus=2)))
    share = MigSlice(resource=GPU, profile="1g.10gb", memory_bytes=9984 * MIB)
    assert node.offers == (Offer(share=share, units=14, gpus=2),)
    assert (node.product, node.refusals) == (H100, ())


def test_gpus_that_are_not_cut_alike_offer_nothing_in_the_single_strategy() -> None:
    node = read(viewed(nodes.mig_invalid_node("n")))
    assert node.offers == ()
    assert [refusal.reason for refusal in node.refusals] == [Reason.SINGLE_STRATEGY_MIG]


@pytest.mark.parametrize(
    ("view", "gpus"),
    [
        (single("1g.5gb", units=7, count="7"), 1),
        (single("1g.5gb", units=8, count="8"), 2),
        (single("1g.5gb", units=3, count="14"), 2),  # most are withdrawn, and still there
        (single("1g.5gb", units=8, count="many"), 2),
        (single("3g.20gb", units=2, count="2"), 1),
        (single("3g.20gb", units=3, count="3"), 2),
        (single("1g.5gb.me", units=3, count="3"), 3),  # one of them a GPU
        (single("9g.9gb", units=20, count="20", memory="9000"), 1),  # whoever knows nothing claims nothing
    ],
)
def test_a_single_strategy_node_has_as_many_gpus_as_hold_its_instances(view: NodeView, gpus: int) -> None:
    (offer,) = read(view).offers
    assert offer.gpus == gpus
    assert offer.per_gpu <= -(-offer.units // gpus)


@pytest.mark.parametrize(
    ("slices", "labels", "gpus"),
    [
        ({"1g.5gb": 4, "3g.20gb": 2}, {"nvidia.com/gpu.count": "2"}, [2, 2]),
        ({"1g.5gb": 28, "3g.20gb": 1}, {"nvidia.com/gpu.count": "8"}, [8, 1]),  # one instance is on one GPU
        ({"1g.5gb": 7, GPU: 2}, {"nvidia.com/gpu.count": "3"}, [1]),
        ({"1g.5gb": 14, GPU: 8}, {"nvidia.com/gpu.count": "6", "nvidia.com/gpu.replicas": "2"}, [2]),
        ({"1g.5gb": 14}, {"nvidia.com/gpu.count": "?"}, [2]),
        ({"1g.5gb": 7}, {"nvidia.com/gpu.count": "2", "nvidia.com/gpu.replicas": "0"}, [2]),
    ],
)
def test_a_mixed_strategy_node_counts_gpus(slices: dict[str, int], labels: dict[str, str], gpus: list[int]) -> None:
    resources = {name if name == GPU else f"nvidia.com/mig-{name}": count for name, count in slices.items()}
    offers = read(a_node("n", product=A100_40, resources=resources, labels=labels)).offers
    assert [offer.gpus for offer in offers if isinstance(offer.share, MigSlice)] == gpus


@pytest.mark.parametrize(
    ("product", "name", "label", "mib"),
    [
        (H100, "1g.12gb", "11264", 9984),  # a driver's other name: the lower of label and catalogue
        (H100, "1g.12gb", "9000", 9000),
        (H100, "2g.20gb.me", "20096", 20096),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "1g.24gb.gfx", "24192", 24192),
        ("NVIDIA-GB200", "1g.24gb", "23000", 23000),  # the catalogue knows its slices, not its memory
    ],
)
def test_names_that_drift_are_read(product: str, name: str, label: str, mib: int) -> None:
    view = mig_node("n", product=product, slices={name: 2})
    labelled = a_node("n", product=product, resources=view.allocatable, labels={f"nvidia.com/mig-{name}.memory": label})
    share = read(labelled).offers[0].share
    assert share == MigSlice(resource=f"nvidia.com/mig-{name}", profile=name, memory_bytes=mib * MIB)
