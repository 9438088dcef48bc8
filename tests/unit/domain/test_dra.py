"""What the devices of a DRA driver offer, what they do not, and what a plan makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.dra import DraDevice, claim_resource, is_claimed
from slmpack.domain.inventory import GpuNode, read_nodes
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import DraClaim, Exclusive, Mode
from slmpack.domain.snapshot import NodeView
from tests.support.builders import (
    H100,
    POLICY,
    a_demand,
    a_deployment,
    a_node,
    a_pod,
    a_snapshot,
    creates,
    mig_node,
    plan,
    whole_node,
)


def a_device(name: str, *, profile: str = "1g.10gb", memory_mib: int = 9984, parent: str = "GPU-0") -> DraDevice:
    return DraDevice(
        name=name, profile=profile, memory_bytes=memory_mib * MIB, multiprocessors=16, product=H100, parent=parent
    )


def a_dra_node(*devices: DraDevice, name: str = "d", taken: int = 0) -> NodeView:
    """A node without labels and device plugin, its healthy devices counted."""
    view = a_node(name, resources={})
    counts: dict[str, int] = {}
    for device in devices:
        counts[device.resource] = counts.get(device.resource, 0) + (not device.problem)
    return replace(
        view,
        labels={},
        devices=devices,
        allocatable={**view.allocatable, **counts},
        used_by_others={claim_resource("1g.10gb"): taken},
    )


def read(view: NodeView) -> GpuNode:
    (node,) = read_nodes((view,), POLICY.gpus)
    return node


def refusals(view: NodeView) -> str:
    node = read(view)
    assert {problem.reason for problem in node.refusals} == {Reason.DRA_UNAVAILABLE}
    return "\n".join(problem.message for problem in node.refusals)


TWO = (a_device("a"), a_device("b", parent="GPU-1"))


def test_devices_of_one_profile_are_one_offer_and_tell_the_product_where_no_label_does() -> None:
    node = read(a_dra_node(*TWO, a_device("c", profile="2g.20gb", memory_mib=20096)))
    assert node.product == H100
    assert node.refusals == ()
    small, large = node.offers
    assert (small.resource, small.units, small.gpus) == ("mig.nvidia.com/1g.10gb", 2, 2)
    assert isinstance(small.share, DraClaim)
    assert (small.share.device_class, small.share.profile) == ("mig.nvidia.com", "1g.10gb")
    assert small.share.memory_bytes <= 9984 * MIB
    assert (large.resource, large.units, large.gpus) == ("mig.nvidia.com/2g.20gb", 1, 1)


def test_the_memory_is_what_the_driver_publishes_or_less_where_the_catalogue_knows_less() -> None:
    (offer,) = read(a_dra_node(a_device("a", memory_mib=9000))).offers
    assert offer.share == DraClaim(
        resource="mig.nvidia.com/1g.10gb", device_class="mig.nvidia.com", profile="1g.10gb", memory_bytes=9000 * MIB
    )
    (offer,) = read(a_dra_node(a_device("a", memory_mib=11_000))).offers
    assert isinstance(offer.share, DraClaim)
    assert 9000 * MIB < offer.share.memory_bytes < 11_000 * MIB
    (offer,) = read(a_dra_node(a_device("a", profile="11000Mi", memory_mib=11_000))).offers
    assert isinstance(offer.share, DraClaim)
    assert offer.share.memory_bytes == 11_000 * MIB


FAULTS = {
    "the adapter's": (replace(TWO[0], problem="the driver tainted it x:NoSchedule"), "tainted it x:NoSchedule"),
    "no memory": (a_device("c", memory_mib=0), "no capacity memory"),
    "a compute instance": (a_device("c", profile="1c.2g.20gb"), "shares its GPU instance's memory"),
    "another product": (replace(TWO[0], product="NVIDIA-Z9"), "part of a NVIDIA-Z9"),
}


@pytest.mark.parametrize(("device", "message"), FAULTS.values(), ids=FAULTS)
def test_a_device_that_cannot_be_had_offers_nothing_with_the_reason(device: DraDevice, message: str) -> None:
    view = a_dra_node(TWO[1], device)
    (offer,) = read(view).offers
    assert (offer.resource, offer.gpus) == ("mig.nvidia.com/1g.10gb", 1)
    assert message in refusals(view)


def test_alike_faults_are_counted_together() -> None:
    broken = tuple(replace(device, problem="it is gone") for device in TWO)
    assert "2 MIG device(s) 1g.10gb" in refusals(a_dra_node(*broken))
    assert read(a_dra_node(*broken)).offers == ()


def test_what_the_device_plugin_advertises_too_is_not_counted_twice() -> None:
    view = mig_node("n", product=H100, slices={"1g.10gb": 2})
    both = replace(view, devices=TWO, allocatable={**view.allocatable, "mig.nvidia.com/1g.10gb": 2})
    assert [offer.resource for offer in read(both).offers] == ["nvidia.com/mig-1g.10gb"]
    assert "nvidia.com/mig-1g.10gb" in refusals(both)
    assert "GPUCluster" in refusals(both)


def test_a_plugin_that_advertises_none_is_no_hindrance() -> None:
    view = a_dra_node(*TWO)
    (offer,) = read(replace(view, allocatable={**view.allocatable, "nvidia.com/gpu": 0})).offers
    assert offer.units == 2


def test_devices_do_not_describe_what_a_device_plugin_advertises_without_a_label() -> None:
    view = a_dra_node(*TWO)
    node = read(replace(view, allocatable={**view.allocatable, "nvidia.com/gpu": 1}))
    assert node.offers == ()
    assert [problem.reason for problem in node.refusals] == [Reason.UNKNOWN_GPU]


@pytest.mark.parametrize(
    ("resource", "claimed"), [("mig.nvidia.com/1g.10gb", True), ("nvidia.com/mig-1g.10gb", False), ("cpu", False)]
)
def test_which_resources_a_claim_brings(resource: str, claimed: bool) -> None:
    assert is_claimed(resource) is claimed


# ---- the plan


def test_a_replica_is_placed_on_a_device_by_mode_and_by_auto() -> None:
    for mode in (Mode.DRA, Mode.AUTO):
        deployment = a_deployment(demand=a_demand(mode=mode))
        (made,) = creates(plan(a_snapshot(deployments=(deployment,), nodes=(a_dra_node(*TWO),))))
        assert made.record.resource == "mig.nvidia.com/1g.10gb"
        assert made.record.share == "DraClaim 1g.10gb"
        assert not made.record.starts_alone


def test_every_device_holds_one_replica_and_strangers_devices_none() -> None:
    deployment = a_deployment(demand=a_demand(mode=Mode.DRA, replicas=3))
    nodes = (a_dra_node(*TWO, taken=1),)
    first = plan(a_snapshot(deployments=(deployment,), nodes=nodes))
    (made,) = creates(first)
    (unplaced,) = first.deployments[0].unplaced
    assert (unplaced.count, unplaced.problem.reason) == (2, Reason.INSUFFICIENT_GPUS)
    assert [[block.state for block in bar.blocks] for bar in first.bars] == [["foreign"], ["planned"]]
    again = plan(a_snapshot(deployments=(deployment,), nodes=nodes, pods=(a_pod(made, ready=True),)))
    assert creates(again) == []


def test_other_modes_leave_devices_alone() -> None:
    for mode in (Mode.MIG, Mode.EXCLUSIVE):
        deployment = a_deployment(demand=a_demand(mode=mode))
        found = plan(a_snapshot(deployments=(deployment,), nodes=(a_dra_node(*TWO),)))
        assert creates(found) == []
        assert found.deployments[0].unplaced[0].problem.reason is Reason.NO_MATCHING_GPU


def test_why_no_claim_works_is_said_to_who_asks_for_one_only() -> None:
    why = Problem(reason=Reason.DRA_UNAVAILABLE, message="it is not served")
    nodes = (whole_node("w"),)
    asks, other = (a_deployment(mode.value.lower(), a_demand(mode=mode)) for mode in (Mode.DRA, Mode.AUTO))
    found = plan(replace(a_snapshot(deployments=(asks, other), nodes=nodes), dra=why))
    (made,) = creates(found)
    assert isinstance(made.placement.share, Exclusive)
    problem = next(part for part in found.deployments if part.deployment is asks).unplaced[0].problem
    assert problem.reason is Reason.DRA_UNAVAILABLE
    assert "it is not served" in problem.message


def test_a_broken_device_tells_more_than_what_other_nodes_share() -> None:
    broken = a_dra_node(replace(TWO[0], problem="it is gone"))
    deployment = a_deployment(demand=a_demand(mode=Mode.DRA))
    found = plan(a_snapshot(deployments=(deployment,), nodes=(broken, whole_node("w"))))
    problem = found.deployments[0].unplaced[0].problem
    assert problem.reason is Reason.DRA_UNAVAILABLE
    assert "it is gone" in problem.message


def test_a_device_that_is_offered_no_more_while_a_replica_holds_it_is_shown() -> None:
    deployment = a_deployment(demand=a_demand(mode=Mode.DRA))
    (made,) = creates(plan(a_snapshot(deployments=(deployment,), nodes=(a_dra_node(*TWO),))))
    broken = a_dra_node(*(replace(device, problem="it is gone") for device in TWO))
    found = plan(a_snapshot(deployments=(deployment,), nodes=(broken,), pods=(a_pod(made, ready=True),)))
    assert found.actions == ()
    held = [bar for bar in found.bars if bar.resource == "mig.nvidia.com/1g.10gb"]
    assert [(bar.note, bar.profile, bar.is_slice) for bar in held] == [("in use, but not offered", "1g.10gb", True)]
