"""How a whole GPU is cut into a pack: how many engines, how much each, and why no more or none at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.board import Candidate, Room
from slmpack.domain.choice import BoundsNotKept, Choice
from slmpack.domain.cut import cut_pack
from slmpack.domain.fit import fit_pack
from slmpack.domain.gpu import GpuCatalogue, GpuModel
from slmpack.domain.inventory import read_nodes
from slmpack.domain.packing import candidates_for
from slmpack.domain.performance import Unpredictable
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import (
    Exclusive,
    Mode,
    MpsPack,
    cuda_total_bytes,
    describe_share,
    limit_bytes,
    mode_of,
    replicas_in,
    starts_alone,
)
from slmpack.domain.sizing import size_replica
from slmpack.domain.snapshot import Demand, ModelUnknown, NodeView, Policy
from slmpack.domain.workload import Bounds, Objective
from tests.support.builders import (
    H100,
    L4,
    PACKS,
    POLICY,
    a_demand,
    a_deployment,
    a_pod,
    a_snapshot,
    creates,
    mps_node,
    plan,
    whole_node,
)

A10 = "NVIDIA-A10"
"""A second replica of the model does not pay on it."""


def gpu(name: str) -> GpuModel:
    found = POLICY.gpus.find(name)
    assert found is not None
    return found


def room(demand: Demand, node: NodeView, policy: Policy = PACKS) -> Room:
    need = size_replica(demand, policy, ())
    assert not isinstance(need, Problem)
    return candidates_for(demand, need, read_nodes((node,), policy.gpus), policy)


def packs(found: Room) -> list[Candidate]:
    return [candidate for candidate in found.candidates if isinstance(candidate.share, MpsPack)]


def the_pack(demand: Demand, node: NodeView, policy: Policy = PACKS) -> Candidate:
    (pack,) = packs(room(demand, node, policy))
    return pack


def explicit(**changes: object) -> Demand:
    return a_demand(mode=Mode.MPS_PACK, **changes)  # type: ignore[arg-type]


# the share


def test_a_pack_among_the_shares() -> None:
    pack = MpsPack(resource="nvidia.com/gpu", gpu_memory_bytes=80_000, limits_bytes=(300, 200))
    assert (limit_bytes(pack), cuda_total_bytes(pack), replicas_in(pack)) == (200, 80_000, 2)
    assert (mode_of(pack), describe_share(pack), starts_alone(pack)) == (Mode.MPS_PACK, "MpsPack of 2", False)
    assert replicas_in(Exclusive(resource="nvidia.com/gpu", memory_bytes=1)) == 1


def test_what_the_mps_server_leaves_is_cut_in_whole_mebibytes_and_nothing_is_lost() -> None:
    whole = Exclusive(resource="nvidia.com/gpu", memory_bytes=81082 * MIB)
    share = cut_pack(gpu(H100), whole, engines=3).share
    assert isinstance(share, MpsPack)
    assert share.limits_bytes == (26686 * MIB, 26686 * MIB, 26686 * MIB)
    assert (share.gpu_memory_bytes, share.resource) == (81082 * MIB, "nvidia.com/gpu")
    uneven = cut_pack(gpu(H100), whole, engines=4).share
    assert isinstance(uneven, MpsPack)
    assert uneven.limits_bytes == (20015 * MIB, 20015 * MIB, 20014 * MIB, 20014 * MIB)
    assert sum(uneven.limits_bytes) == (81082 - 1024) * MIB


# how many


def test_as_many_engines_as_pay_and_no_more_than_are_wanted() -> None:
    two, eight = (the_pack(explicit(replicas=count), whole_node("n", product=H100)) for count in (2, 8))
    assert (describe_share(two.share), two.fit.pays, two.cap) == ("MpsPack of 2", None, None)
    assert (describe_share(eight.share), eight.fit.pays) == ("MpsPack of 2", 2)
    assert eight.cap is not None
    assert (eight.cap.replicas, eight.cap.problem.reason) == (2, Reason.DOES_NOT_PAY)
    message = eight.cap.problem.message
    assert message.startswith("on a GPU of node n 2 replicas pay; 3 replicas at batch ")
    assert message.endswith("does not pay, being under 5 %; spec.sharing.maxPerGPU overrules it")


def test_each_engine_is_told_the_batch_and_the_cache_of_its_part() -> None:
    found = the_pack(explicit(replicas=2), whole_node("n", product=H100))
    choice, settings = found.fit.choice, found.fit.settings
    assert isinstance(choice, Choice)
    assert (choice.replicas_per_gpu, settings.max_num_seqs) == (2, choice.max_num_seqs)
    limit, total = limit_bytes(found.share), cuda_total_bytes(found.share)
    assert settings.gpu_memory_utilization * total + found.fit.need.footprint.outside_bytes <= limit
    assert settings.kv_cache_memory_bytes is not None
    assert settings.kv_cache_memory_bytes < limit


@pytest.mark.parametrize("replicas", [1, 2, 9])
def test_a_stated_number_is_kept_however_many_are_wanted(replicas: int) -> None:
    found = the_pack(explicit(replicas=replicas, max_per_gpu=3), whole_node("n", product=H100, gpus=2))
    assert describe_share(found.share) == "MpsPack of 3"
    assert found.cap is not None
    assert (found.cap.replicas, found.cap.problem.reason) == (6, Reason.MAX_PER_GPU)


def test_a_stated_number_of_engines_keeps_to_the_latency_of_one_alone() -> None:
    """The knee's ITL bound is twice that of one replica alone on the GPU, not of one among four."""
    batches = [
        the_pack(explicit(replicas=4, max_per_gpu=count), whole_node("n", product=H100)).fit.settings.max_num_seqs
        for count in (1, 2, 4)
    ]
    assert batches == sorted(batches, reverse=True)
    assert 4 * batches[2] < 2 * batches[0]


def test_a_stated_number_that_memory_does_not_hold_is_lowered_to_what_fits() -> None:
    found = the_pack(explicit(replicas=9, max_per_gpu=9), whole_node("n", product=L4))
    engines = replicas_in(found.share)
    assert 1 < engines < 9
    assert limit_bytes(found.share) >= found.fit.need.footprint.total_bytes(0)
    whole = Exclusive(resource="nvidia.com/gpu", memory_bytes=cuda_total_bytes(found.share))
    assert limit_bytes(cut_pack(gpu(L4), whole, engines=engines + 1).share) < 5 << 30, "one more is too small"


def test_no_more_engines_than_the_gpu_admits_clients() -> None:
    few = replace(gpu(H100), mps_max_clients=2)
    policy = replace(PACKS, gpus=GpuCatalogue(models=(few,)))
    assert describe_share(the_pack(explicit(max_per_gpu=5), whole_node("n", product=H100), policy).share) == (
        "MpsPack of 2"
    )


def test_nobody_can_predict_so_one_engine_and_why() -> None:
    blind = replace(PACKS, gpus=GpuCatalogue(models=(replace(gpu(H100), bandwidth_gb_s=None),)))
    node = whole_node("n", product=H100)
    found = the_pack(explicit(replicas=4), node, blind)
    assert isinstance(found.fit.choice, Unpredictable)
    assert describe_share(found.share) == "MpsPack of 1"
    assert found.cap is not None
    assert found.cap.replicas == 1
    assert found.cap.problem.message.startswith("on a GPU of node n 1 replica pays; ")
    stated = the_pack(explicit(replicas=4, max_per_gpu=2), node, blind)
    assert isinstance(stated.fit.choice, Unpredictable)
    assert describe_share(stated.share) == "MpsPack of 2"
    one = the_pack(explicit(replicas=1), node, blind)
    assert one.cap is None, "one is all that is wanted"


def test_bounds_that_cannot_be_kept_are_a_reason() -> None:
    strict = replace(explicit(replicas=2), bounds=Bounds(itl_s=1e-6))
    found = room(strict, whole_node("n", product=H100))
    assert found.candidates == ()
    (problem,) = found.rejections
    assert (problem.reason, problem.field) == (Reason.BOUNDS_NOT_KEPT, "spec.bounds")
    assert problem.message.startswith("MpsPack of 1 on node n: ")
    need = size_replica(strict, PACKS, ())
    assert not isinstance(need, Problem)
    whole = Exclusive(resource="nvidia.com/gpu", memory_bytes=81082 * MIB)
    fitted = fit_pack(strict, need, whole, gpu(H100), PACKS)
    assert fitted is not None
    assert isinstance(fitted[1].choice, BoundsNotKept)


def test_a_gpu_that_holds_not_even_one_says_what_lacks() -> None:
    small = replace(gpu(L4), memory_total_mib=5000, memory_usable_mib=5000)
    policy = replace(PACKS, gpus=GpuCatalogue(models=(small,)))
    found = room(explicit(), whole_node("n", product=L4), policy)
    (problem,) = found.rejections
    assert (found.candidates, problem.reason) == ((), Reason.INSUFFICIENT_GPU_MEMORY)
    assert problem.message == (
        "a replica needs 4.5 GiB of GPU memory; an MPS pack on node n has 4.9 GiB less what the MPS server takes"
    )


def test_a_gpu_without_mps_has_no_packs() -> None:
    bare = replace(gpu(H100), mps_max_clients=None)
    policy = replace(PACKS, gpus=GpuCatalogue(models=(bare,)))
    (problem,) = room(explicit(), whole_node("n", product=H100), policy).rejections
    assert (problem.reason, problem.field) == (Reason.NO_MATCHING_GPU, "spec.sharing.mode")
    assert problem.message == "node n has h100-sxm5-80gb, which has no MPS; use another spec.sharing.mode"
    (alone,) = room(a_demand(replicas=2), whole_node("n", product=H100), policy).candidates
    assert isinstance(alone.share, Exclusive)


def test_an_unknown_model_is_packed_as_it_was_recorded() -> None:
    node = whole_node("n", product=H100)
    (made,) = creates(plan(a_snapshot(deployments=(a_deployment(demand=explicit(replicas=2)),), nodes=(node,)), PACKS))
    pod = replace(a_pod(made, ready=True), deleting=True)
    unknown = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="the source does not answer")
    for most, share in ((None, "MpsPack of 1"), (3, "MpsPack of 3")):
        view = a_deployment(demand=explicit(replicas=2, model=unknown, max_per_gpu=most))
        nodes = (node, whole_node("o", product=H100))
        again = creates(plan(a_snapshot(deployments=(view,), nodes=nodes, pods=(pod,)), PACKS))
        assert (again[0].placement.node, again[0].record.share) == ("o", share)
        assert again[0].record.max_model_len == made.record.max_model_len
        assert again[0].settings.max_num_seqs == made.record.max_num_seqs


# when


def test_a_pack_needs_the_supervisors_image() -> None:
    found = room(explicit(replicas=2), whole_node("n", product=H100), POLICY)
    (problem,) = found.rejections
    assert (found.candidates, problem.reason) == ((), Reason.NO_SUPERVISOR_IMAGE)
    assert "give the operator (and plan) --supervisor-image" in problem.message
    entry = plan(
        a_snapshot(deployments=(a_deployment(demand=explicit(replicas=2)),), nodes=(whole_node("n", product=H100),))
    ).deployments[0]
    assert [(u.count, u.problem.reason) for u in entry.unplaced] == [(2, Reason.NO_SUPERVISOR_IMAGE)]
    assert "would hold a replica" not in entry.unplaced[0].problem.message, "size is not the question"
    assert entry.never


@pytest.mark.parametrize(
    ("demand", "policy", "packed"),
    [
        (a_demand(replicas=2), PACKS, True),
        (a_demand(replicas=2), POLICY, False),
        (a_demand(replicas=1), PACKS, False),
        (a_demand(replicas=1, max_per_gpu=4), PACKS, False),
        (a_demand(replicas=2, max_per_gpu=1), PACKS, False),
        (replace(a_demand(replicas=2), objective=Objective.LATENCY), PACKS, False),
        (replace(a_demand(replicas=2, max_per_gpu=2), objective=Objective.ENERGY), PACKS, True),
        (a_demand(replicas=2, mode=Mode.EXCLUSIVE), PACKS, False),
        (explicit(replicas=1), PACKS, True),
        (replace(explicit(replicas=2), objective=Objective.LATENCY), PACKS, True),
    ],
    ids=[
        "Auto, two are wanted and pay",
        "no image",
        "one is wanted",
        "one is wanted, whatever is allowed",
        "one is allowed",
        "latency",
        "energy",
        "Exclusive",
        "explicit, for one",
        "explicit, for latency",
    ],
)
def test_when_a_whole_gpu_may_become_a_pack(demand: Demand, policy: Policy, packed: bool) -> None:
    found = room(demand, whole_node("n", product=H100), policy)
    assert bool(packs(found)) == packed
    alone = [c for c in found.candidates if isinstance(c.share, Exclusive)]
    assert bool(alone) == (demand.mode is not Mode.MPS_PACK)


def test_auto_leaves_a_gpu_whole_where_a_second_replica_does_not_pay() -> None:
    found = room(a_demand(replicas=2), whole_node("n", product=A10))
    assert packs(found) == []
    assert [type(c.share) for c in found.candidates] == [Exclusive]


def test_packs_are_made_of_whole_gpus_only() -> None:
    (problem,) = room(explicit(replicas=2), mps_node("n")).rejections
    assert (problem.reason, problem.message) == (
        Reason.NO_MATCHING_GPU,
        "node n offers MpsShare 1/4; spec.sharing.mode asks for MPSPack",
    )


@pytest.mark.parametrize(("asked", "said"), [(4, "by prediction 2 pay on this GPU"), (2, "")])
def test_a_stated_number_of_engines_that_does_not_pay_is_said(asked: int, said: str) -> None:
    demand = a_demand(replicas=4, mode=Mode.MPS_PACK, max_per_gpu=asked)
    result = plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=(whole_node("a", product=H100),)), PACKS)
    (used,) = result.deployments[0].fits
    assert [reason for reason in used.fit.reasons if "maxPerGPU asks" in reason] == (
        [f"spec.sharing.maxPerGPU asks for a pack of {asked}; {said}."] if said else []
    )
