"""A replica on a share: the batch that it runs, the replicas that pay, and what is said where nothing can be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from slmpack.domain.board import Candidate
from slmpack.domain.choice import Ask, Choice
from slmpack.domain.conditions import judge
from slmpack.domain.decide import decide, ways_of
from slmpack.domain.fit import Fit
from slmpack.domain.gpu import GpuModel
from slmpack.domain.interval import Basis
from slmpack.domain.inventory import read_nodes
from slmpack.domain.model import ModelProfile, parse_model_config
from slmpack.domain.packing import candidates_for
from slmpack.domain.performance import Unpredictable
from slmpack.domain.prediction import Sharing
from slmpack.domain.profile import Profile, ProfilePoint
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.serving import Engine
from slmpack.domain.sizing import engine_of, size_replica
from slmpack.domain.snapshot import Demand, ModelUnknown, NodeView, Policy
from slmpack.domain.workload import Bounds, Objective, Workload
from tests.support.builders import (
    H100,
    POLICY,
    a_demand,
    a_deployment,
    a_model,
    a_need,
    a_pod,
    a_snapshot,
    creates,
    mig_node,
    mps_node,
    plan,
    whole_node,
)

HF_CONFIGS = Path(__file__).parents[2] / "data/hf_configs"
UNKNOWN = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="the model source does not answer")


def candidate(demand: Demand, node: NodeView, policy: Policy = POLICY) -> Candidate:
    need = size_replica(demand, policy, ())
    assert not isinstance(need, Problem)
    room = candidates_for(demand, need, read_nodes((node,), policy.gpus), policy)
    assert room.candidates, room.rejections
    return room.candidates[0]


def choice_of(fit: Fit) -> Choice:
    assert isinstance(fit.choice, Choice)
    return fit.choice


def test_the_knee_is_the_batch_that_the_engine_is_told() -> None:
    fit = candidate(a_demand(), whole_node("n")).fit
    knee = choice_of(fit).knee.batch
    assert fit.settings.max_num_seqs == fit.need.max_num_seqs == knee
    assert 8 < knee < 512
    assert fit.need.kv_tokens == max(8192, knee * 640)


def test_a_users_batch_is_run_as_it_is() -> None:
    fit = candidate(a_demand(engine_args=(("--max-num-seqs", "24"),)), whole_node("n")).fit
    assert fit.settings.max_num_seqs == 24


def test_a_small_share_holds_a_smaller_batch_and_says_so() -> None:
    long = replace(a_demand(), workload=Workload(input_tokens=6000, output_tokens=1000))
    small, large = (candidate(long, mig_node("n", slices={profile: 1})).fit for profile in ("1g.10gb", "4g.20gb"))
    assert small.settings.max_num_seqs < large.settings.max_num_seqs
    assert not small.sufficient
    assert large.sufficient


def test_few_requests_are_served_best_by_one_replica_and_many_by_more() -> None:
    small = a_demand(model=a_model("Qwen/Qwen2.5-0.5B-Instruct"), replicas=4)
    few = candidate(replace(small, workload=Workload(in_flight=4)), mps_node("n"))
    many = candidate(replace(small, workload=Workload(in_flight=4000)), mps_node("n"))
    assert choice_of(few.fit).replicas_per_gpu <= choice_of(many.fit).replicas_per_gpu
    assert few.fit.pays == 1
    assert few.cap is not None
    assert few.cap.problem.reason is Reason.DOES_NOT_PAY
    assert few.fit.no_more.rstrip(".") in few.cap.problem.message
    assert few.fit.reasons == (*few.fit.notes, *choice_of(few.fit).reasons)
    assert [note.split()[0] for note in few.fit.notes] == ["Figures", "Each"]
    assert few.fit.refusal in few.fit.reasons
    assert few.fit.refusal.endswith(few.fit.no_more)


def test_replicas_beyond_what_pays_are_unplaced_until_the_user_states_a_number() -> None:
    demand = replace(a_demand(replicas=4), workload=Workload(in_flight=4))
    nodes = (mps_node("n"),)
    done = plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=nodes))
    (entry,) = done.deployments
    assert [(u.count, u.problem.reason) for u in entry.unplaced] == [(3, Reason.DOES_NOT_PAY)]
    assert entry.per_gpu == 1
    assert entry.never
    stated = replace(demand, max_per_gpu=3)
    done = plan(a_snapshot(deployments=(a_deployment(demand=stated),), nodes=nodes))
    (entry,) = done.deployments
    assert [(u.count, u.problem.reason) for u in entry.unplaced] == [(1, Reason.MAX_PER_GPU)]


def test_what_runs_is_not_touched_when_it_no_longer_pays() -> None:
    stated = replace(a_demand(replicas=1), max_per_gpu=4)
    (one,) = creates(plan(a_snapshot(deployments=(a_deployment(demand=stated),), nodes=(mps_node("n"),))))
    demand = replace(a_demand(replicas=2), workload=Workload(in_flight=1))
    two = replace(one, name="qwen-1", record=replace(one.record, ordinal=1))
    pods = (a_pod(one, ready=True), a_pod(two, ready=True))
    done = plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=(mps_node("n"),), pods=pods))
    assert done.actions == ()


def test_bounds_and_objective_reach_the_decision() -> None:
    free = candidate(a_demand(), whole_node("n")).fit
    bound = candidate(replace(a_demand(), bounds=Bounds(itl_s=choice_of(free).knee.itl_s * 0.8)), whole_node("n")).fit
    assert bound.settings.max_num_seqs < free.settings.max_num_seqs
    quick = replace(a_demand(), objective=Objective.LATENCY, workload=Workload(in_flight=4))
    assert candidate(quick, whole_node("n")).fit.settings.max_num_seqs < free.settings.max_num_seqs


def test_an_unknown_model_has_no_decision_and_no_bound() -> None:
    (known,) = creates(plan(a_snapshot(deployments=(a_deployment(),), nodes=(mps_node("n"),))))
    demand = a_demand(model=UNKNOWN)
    need = size_replica(demand, POLICY, (known.record,))
    assert not isinstance(need, Problem)
    (found,) = candidates_for(demand, need, read_nodes((mps_node("n"),), POLICY.gpus), POLICY).candidates
    assert (found.fit.choice, found.fit.pays, found.cap, found.fit.reasons, found.fit.no_more) == (
        None,
        None,
        None,
        (),
        "",
    )
    assert (found.fit.sufficient, found.fit.each_tok_s, found.fit.carries) == (True, 0.0, None)


@pytest.mark.parametrize(
    "node", [mps_node("n", product=H100), mig_node("n", slices={"1g.10gb": 2})], ids=["mps", "mig"]
)
def test_what_nobody_can_predict_bounds_only_replicas_that_share(node: NodeView) -> None:
    blind = replace(POLICY, gpus=replace(POLICY.gpus, models=tuple(_blind(m) for m in POLICY.gpus.models)))
    found = candidate(a_demand(), node, blind)
    assert isinstance(found.fit.choice, Unpredictable)
    assert found.fit.settings.max_num_seqs == 128
    assert found.fit.reasons == (*found.fit.notes, found.fit.choice.reason)
    shares = node.name == "n" and any(name == "nvidia.com/gpu" for name in node.allocatable)
    assert (found.cap is not None) == shares
    if found.cap is not None:
        assert found.cap.replicas == 1
        assert found.fit.choice.reason in found.cap.problem.message


def _blind(model: GpuModel) -> GpuModel:
    return replace(model, bandwidth_gb_s=None)


def test_a_rollouts_extra_replica_need_not_pay() -> None:
    old = a_demand(spec_hash="spec-a")
    (one,) = creates(plan(a_snapshot(deployments=(a_deployment(demand=old),), nodes=(mps_node("n"),))))
    new = replace(a_demand(spec_hash="spec-b"), workload=Workload(in_flight=1))
    pods = (a_pod(one, ready=True),)
    done = plan(a_snapshot(deployments=(a_deployment(demand=new),), nodes=(mps_node("n"),), pods=pods))
    assert [create.record.spec_hash for create in creates(done)] == ["spec-b"]


def test_a_least_need_that_does_not_fit_has_no_fit() -> None:
    need = a_need()
    assert need.max_num_seqs == 8
    room = candidates_for(
        a_demand(model=a_model("Qwen/Qwen2.5-1.5B-Instruct"), max_model_len=32_000),
        replace(need, kv_tokens=10**8),
        read_nodes((whole_node("n"),), POLICY.gpus),
        POLICY,
    )
    assert [problem.reason for problem in room.rejections] == [Reason.INSUFFICIENT_GPU_MEMORY]


def a_profile(**changes: object) -> Profile:
    points = tuple(
        ProfilePoint(concurrency=size, throughput_tok_s=size / itl, itl_s=itl) for size, itl in ((1, 0.012), (64, 0.03))
    )
    profile = Profile(
        model="Qwen/Qwen2.5-1.5B-Instruct",
        gpu="l4",
        engine_version="0.33.0",
        sharing=Sharing.NONE,
        replicas=1,
        max_num_seqs=None,
        max_model_len=None,
        kv_cache_tokens=None,
        input_tokens=512,
        output_tokens=256,
        points=points,
    )
    return replace(profile, **changes)  # type: ignore[arg-type]


def test_a_profile_of_the_model_on_the_gpu_calibrates_the_decision() -> None:
    plain = choice_of(candidate(a_demand(), whole_node("n")).fit)
    fit = candidate(replace(a_demand(), profile=a_profile()), whole_node("n")).fit
    measured = choice_of(fit)
    assert fit.notes == ()
    assert plain.prediction.throughput_tok_s.basis is Basis.MODELLED
    assert measured.prediction.throughput_tok_s.basis is Basis.CALIBRATED
    assert measured.prediction.tenants[0].itl_s.expected > plain.prediction.tenants[0].itl_s.expected


@pytest.mark.parametrize(
    ("profile", "note"),
    [
        (a_profile(gpu="a10"), "gpu: the profile was measured on a10, not on NVIDIA-L4 or l4; measure it there"),
        (a_profile(gpu=None), "gpu: the profile does not say its GPU; add the catalogue id or the product label"),
        (a_profile(replicas=2), "sharing: the profile was measured beside other replicas"),
        (a_profile(sharing=Sharing.MPS), "sharing: the profile was measured beside other replicas"),
        (a_profile(model="facebook/opt-1.3b"), "model: the profile is of facebook/opt-1.3b, not of Qwen"),
        (Problem(reason=Reason.PROFILE_UNUSABLE, message="spec.profileRef: gone"), "gone: predictions are modelled."),
    ],
    ids=["another GPU", "no GPU", "two replicas", "shared", "another model", "unusable"],
)
def test_a_profile_that_says_nothing_here_is_told_and_not_used(profile: Profile | Problem, note: str) -> None:
    fit = candidate(replace(a_demand(), profile=profile), whole_node("n")).fit
    assert note in fit.reasons[0]
    assert choice_of(fit).prediction.throughput_tok_s.basis is Basis.MODELLED


def test_a_profile_of_a_model_in_a_claim_counts_whatever_its_path_was() -> None:
    demand = replace(a_demand(), model_source="pvc://models/qwen", profile=a_profile(model="/mnt/qwen"))
    assert candidate(demand, whole_node("n")).fit.notes == ()


def test_a_profile_helps_nothing_where_nothing_can_be_predicted() -> None:
    blind = replace(POLICY, gpus=replace(POLICY.gpus, models=tuple(_blind(m) for m in POLICY.gpus.models)))
    fit = candidate(replace(a_demand(), profile=a_profile()), whole_node("n"), blind).fit
    assert isinstance(fit.choice, Unpredictable)
    assert fit.notes == (fit.choice.reason,)


@pytest.mark.parametrize("node", [whole_node("n"), mps_node("n"), mig_node("n")], ids=["whole", "mps", "mig"])
def test_an_encoder_has_no_cache_and_no_prediction(node: NodeView) -> None:
    config = json.loads((HF_CONFIGS / "BAAI--bge-base-en-v1.5.json").read_text(encoding="utf-8"))
    model = parse_model_config(config)
    assert isinstance(model, ModelProfile)
    fit = candidate(a_demand(model=model), node).fit
    assert isinstance(fit.choice, Unpredictable)
    assert fit.settings.kv_cache_memory_bytes is None


@pytest.mark.parametrize("load", [Workload(), Workload(in_flight=400), Workload(request_rate=30)])
@pytest.mark.parametrize(("replicas", "whole"), [(4, mps_node("n")), (2, mig_node("n", slices={"3g.20gb": 2}))])
def test_the_plan_and_the_estimate_decide_alike(load: Workload, replicas: int, whole: NodeView) -> None:
    """For a GPU that is shared in the same way, under the same load."""
    demand = replace(a_demand(replicas=replicas), workload=load)
    fit = candidate(demand, whole).fit
    engine, gpu = engine_of(demand, POLICY), read_nodes((whole,), POLICY.gpus)[0].gpu
    assert isinstance(engine, Engine)
    assert gpu is not None
    ask = Ask(
        engine=engine,
        constants=POLICY.performance.constants_for(demand.engine_version),
        workload=load,
        bounds=Bounds(),
        objective=Objective.THROUGHPUT,
        spread_over=replicas,
    )
    if "3g.20gb" in str(whole.allocatable):
        rows = ways_of(gpu, Sharing.MIG, mig_profile="3g.20gb", replicas=replicas)
    else:
        rows = ways_of(gpu, Sharing.MPS, replicas=replicas, sm_percent=100 // replicas)
    assert isinstance(rows, tuple)
    found = decide(ask, rows, policy=POLICY)
    assert (found.choice, found.part.settings) == (fit.choice, fit.settings)


def test_an_offer_that_keeps_the_bounds_at_no_batch_does_not_suit() -> None:
    demand = replace(a_demand(), bounds=Bounds(itl_s=0.005))
    nodes = (whole_node("slow"), whole_node("fast", product=H100))
    (create,) = creates(plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=nodes)))
    assert create.placement.node == "fast"
    (entry,) = plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=nodes[:1])).deployments
    (unplaced,) = entry.unplaced
    assert (unplaced.problem.reason, unplaced.problem.field) == (Reason.BOUNDS_NOT_KEPT, "spec.bounds")
    assert unplaced.problem.message.startswith("Exclusive on node slow: No batch keeps the ITL under 5")
    assert entry.never


def test_a_load_that_is_not_carried_is_said_where_users_look() -> None:
    demand = replace(a_demand(), workload=Workload(request_rate=500.0))
    snapshot = a_snapshot(deployments=(a_deployment(demand=demand),), nodes=(whole_node("n"),))
    (entry,) = plan(snapshot).deployments
    assert entry.fits[0].fit.carries is False
    (fits,) = (c for c in judge(entry, outcomes=(), now=snapshot.now).conditions if c.type == "Fits")
    assert (fits.status, fits.reason) == ("True", "Fits")
    assert fits.message.endswith("by prediction the load is more than they answer on Exclusive on NVIDIA-L4")


def test_what_carries_its_load_is_preferred_to_what_is_smaller() -> None:
    demand = replace(a_demand(), workload=Workload(request_rate=12.0, input_tokens=1000, output_tokens=200))
    nodes = (mig_node("slices", slices={"1g.10gb": 4}), whole_node("whole", product=H100))
    assert [
        c.placement.node for c in creates(plan(a_snapshot(deployments=(a_deployment(demand=demand),), nodes=nodes)))
    ] == ["whole"]
    light = replace(demand, workload=replace(demand.workload, request_rate=0.5))
    assert [
        c.placement.node for c in creates(plan(a_snapshot(deployments=(a_deployment(demand=light),), nodes=nodes)))
    ] == ["slices"]
