"""Layouts that are proposed: by the planner's own packing, for as many replicas as fit and pay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from slmpack.domain.case import World
from slmpack.domain.gpu import GpuCatalogue
from slmpack.domain.mig_layout import is_allowed
from slmpack.domain.mig_proposal import Proposal, propose_layouts
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Demand, DeploymentView, Key, NodeView, Policy, Rejected
from slmpack.domain.workload import Workload
from tests.support.builders import (
    A100_40,
    H100,
    L4,
    POLICY,
    a_demand,
    a_deployment,
    a_node,
    a_snapshot,
    mig_node,
    mps_node,
    whole_node,
)

LONG = Workload(in_flight=350, input_tokens=3000, output_tokens=1000)


def proposed(
    nodes: tuple[NodeView, ...], *demands: Demand | Rejected | DeploymentView, policy: Policy = POLICY
) -> Proposal:
    views = tuple(
        each if isinstance(each, DeploymentView) else a_deployment(f"d{n}", demand=each)
        for n, each in enumerate(demands)
    )
    world = World.read(a_snapshot(deployments=views, nodes=nodes), policy)
    found = propose_layouts(world, asked={view.key for view in views})
    assert found == propose_layouts(world, asked={view.key for view in views})
    for node in found.nodes:
        for cut in node.gpus:
            assert cut is None or is_allowed(node.gpu, cut.layout.slots)
    return found


def holders(found: Proposal) -> Mapping[tuple[str, str], int]:
    """How many instances of a profile hold replicas of an SLMDeployment."""
    return Counter(
        (holder.deployment.name, slot.profile.name)
        for node in found.nodes
        for cut in node.gpus
        if cut is not None
        for slot, holder in zip(cut.layout.slots, cut.holders, strict=True)
        if holder is not None
    )


def test_small_replicas_get_the_smallest_slices_and_a_stock_layout() -> None:
    found = proposed((whole_node("h", product=H100),), a_demand(replicas=7))
    (node,) = found.nodes
    assert holders(found) == {("d0", "1g.10gb"): 7}
    assert (node.stock, node.stock_for_all, node.at_least, node.is_there) == (
        "all-1g.10gb",
        "all-1g.10gb",
        False,
        False,
    )
    assert [(s.wanted, s.placed, s.problem) for s in found.served] == [(7, 7, None)]


def test_gpus_that_nobody_needs_stay_whole() -> None:
    found = proposed((whole_node("h", product=H100, gpus=3),), a_demand(replicas=8))
    (node,) = found.nodes
    assert [cut and cut.layout.name for cut in node.gpus] == ["7 x 1g.10gb", "7 x 1g.10gb", None]
    assert (node.stock, node.stock_for_all, node.is_there) == (None, "all-1g.10gb", False)


def test_every_deployment_gets_a_replica_before_any_gets_a_second() -> None:
    large = a_demand(replicas=1, max_model_len=32768, engine_args=(("--max-num-seqs", "500"),))
    long = replace(large, workload=Workload(input_tokens=20000, output_tokens=4000))
    found = proposed((whole_node("a", product=A100_40),), a_demand(replicas=7, max_model_len=1024), long)
    placed = {served.deployment.name: served.placed for served in found.served}
    assert placed["d1"] == 1
    assert placed["d0"] >= 1


def test_slices_that_do_not_suffice_are_used_where_not_all_find_one_that_does() -> None:
    demand = replace(a_demand(replicas=7), workload=LONG)
    one = proposed((whole_node("h", product=H100, gpus=1),), demand)
    many = proposed((whole_node("h", product=H100, gpus=8),), demand)
    suffices = [
        {holder.sufficient for node in found.nodes for cut in node.gpus if cut for holder in cut.holders if holder}
        for found in (one, many)
    ]
    assert [found.served[0].placed for found in (one, many)] == [7, 7]
    assert False in suffices[0]
    assert suffices[1] == {True}


def test_cpu_beside_the_gpus_binds_as_it_does_in_the_plan() -> None:
    demand = a_demand(replicas=7, cpu=2_000)
    view = replace(whole_node("h", product=H100, gpus=2, cpu=9_000), used_by_others={"cpu": 2_500})
    found = proposed((view,), demand)
    assert [served.placed for served in found.served] == [3]
    memory = proposed((view,), a_demand(replicas=7, cpu=1, memory=200 * GIB))
    assert [served.placed for served in memory.served] == [2]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": Mode.EXCLUSIVE}, Reason.NO_MATCHING_GPU),
        ({"gpu_products": frozenset({L4})}, Reason.NO_MATCHING_GPU),
        ({"node_selector": {"zone": "a"}}, Reason.SELECTOR_MISMATCH),
        ({"engine_args": (("--max-num-seqs", "4096"),), "max_model_len": 32768}, None),
    ],
)
def test_who_can_have_no_slice_at_all_is_told_why(changes: dict[str, object], reason: Reason | None) -> None:
    demand = replace(a_demand(replicas=2), **changes)  # type: ignore[arg-type]
    found = proposed((whole_node("a", product=A100_40),), demand)
    (served,) = found.served
    assert (served.problem.reason if served.problem else None) == reason
    assert (served.placed == 0, found.nodes == ()) == (reason is not None, reason is not None)


def test_what_is_not_asked_about_or_rejected_has_no_part() -> None:
    problem = Problem(reason=Reason.INVALID_SPEC, message="no")
    found = proposed((whole_node("a", product=A100_40),), Rejected(problems=(problem,)))
    assert (found.nodes, found.served) == ((), ())
    other = World.read(a_snapshot(deployments=(a_deployment(),), nodes=(whole_node("a", product=A100_40),)), POLICY)
    assert propose_layouts(other, asked={Key("llm", "else")}).served == ()


def test_only_gpus_that_can_be_cut_are() -> None:
    off = a_node("off", product=A100_40, labels={"nvidia.com/mig.capable": "false"})
    found = proposed((whole_node("l4"), off, a_node("k", product="Tesla-K80")), a_demand())
    assert (found.nodes, found.unknown) == ((), ())
    assert [served.problem for served in found.served] == [None]


def test_instances_of_unknown_memory_are_not_proposed() -> None:
    assert proposed((whole_node("g", product="NVIDIA-GB200"),), a_demand()).unknown == ("g",)


@pytest.mark.parametrize(
    ("view", "gpus", "at_least"),
    [
        (whole_node("n", product=A100_40, gpus=2), 2, False),
        (replace(whole_node("n", product=A100_40, gpus=2), labels={"nvidia.com/gpu.product": A100_40}), 2, False),
        (mps_node("n", product=A100_40, gpus=2), 2, False),
        (mig_node("n"), 1, False),
        (
            a_node("n", product=f"{A100_40}-MIG-1g.5gb", resources={"nvidia.com/gpu": 14}, labels={"nvidia.com/gpu.count": "14"}),
            2,
            True,
        ),
        (a_node("n", product=f"{A100_40}-MIG-INVALID", resources={}, labels={"nvidia.com/gpu.count": "0"}), 1, True),
    ],
)  # fmt: skip
def test_how_many_gpus_a_node_has(view: NodeView, gpus: int, at_least: bool) -> None:
    (node,) = proposed((view,), a_demand(replicas=1, max_model_len=1024)).nodes
    assert (len(node.gpus), node.at_least) == (gpus, at_least)


def test_a_node_that_is_cut_so_already_is_recognised() -> None:
    demand = a_demand(replicas=7)
    cut = mig_node("n", product=H100, slices={"1g.10gb": 7})
    (node,) = proposed((cut,), demand).nodes
    assert node.is_there
    (other,) = proposed((mig_node("n", product=H100, slices={"1g.10gb": 6}),), demand).nodes
    assert not other.is_there


def test_a_node_that_is_full_and_cordoned_counts_as_empty() -> None:
    view = replace(whole_node("h", product=H100), unschedulable=True, ready=False)
    assert [served.placed for served in proposed((view,), a_demand(replicas=7)).served] == [7]


def test_priority_comes_first_then_age() -> None:
    demands = [replace(a_demand(replicas=20), priority=priority) for priority in (0, 10)]
    found = proposed((whole_node("h", product=H100),), *demands)
    assert {served.deployment.name: served.placed for served in found.served} == {"d0": 0, "d1": 7}


def test_a_catalogue_without_mig_proposes_nothing() -> None:
    bare = tuple(replace(model, mig_profiles=()) for model in POLICY.gpus.models)
    policy = replace(POLICY, gpus=GpuCatalogue(models=bare))
    assert proposed((whole_node("h", product=H100),), a_demand(), policy=policy).nodes == ()
