"""Over random clusters, GPUs and deployments: never over-committed, always explained, stable."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from slmpack.domain.plan import ClusterPlan
from slmpack.domain.planner import plan_cluster
from slmpack.domain.quantity import GIB
from slmpack.domain.sharing import Mode, cuda_total_bytes, limit_bytes
from slmpack.domain.snapshot import DeploymentView, NodeView, Snapshot
from tests.support.builders import (
    A100_40,
    H100,
    L4,
    NOW,
    POLICY,
    a_demand,
    a_deployment,
    a_model,
    a_pod,
    a_snapshot,
    a_stranger,
    assert_within_limits,
    creates,
    deletes,
    mig_node,
    mps_node,
    whole_node,
)

MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct", "facebook/opt-1.3b")


@st.composite
def nodes(draw: st.DrawFn, *, roomy: bool = False) -> tuple[NodeView, ...]:
    found = []
    for number in range(draw(st.integers(0, 4))):
        cpu = 640_000 if roomy else draw(st.sampled_from([1_000, 4_000, 8_000, 64_000]))
        kind = draw(st.sampled_from(["whole", "mps", "mig"]))
        name = f"{kind}-{number}"
        match kind:
            case "whole":
                node = whole_node(
                    name, product=draw(st.sampled_from([L4, H100])), gpus=draw(st.integers(1, 3)), cpu=cpu
                )
            case "mps":
                node = mps_node(name, gpus=draw(st.integers(1, 2)), replicas=draw(st.sampled_from([2, 4, 10])), cpu=cpu)
            case _:
                slices = {"1g.5gb": draw(st.integers(0, 3)), "3g.20gb": draw(st.integers(0, 2))}
                node = mig_node(name, slices=slices, cpu=cpu)
        if not roomy:
            node = replace(node, unschedulable=draw(st.integers(0, 9)) == 0)
        found.append(node)
    return tuple(found)


@st.composite
def deployments(draw: st.DrawFn) -> tuple[DeploymentView, ...]:
    return tuple(
        a_deployment(
            f"slm-{number}",
            a_demand(
                replicas=draw(st.integers(0, 6)),
                mode=draw(st.sampled_from(list(Mode))),
                model=a_model(draw(st.sampled_from(MODELS))),
                max_per_gpu=draw(st.sampled_from([None, None, 1, 2])),
                gpu_products=draw(st.sampled_from([frozenset(), frozenset({L4}), frozenset({H100, A100_40})])),
                cpu=draw(st.sampled_from([1_000, 1_500])),
                memory=draw(st.sampled_from([4, 60])) * GIB,
                priority=draw(st.sampled_from([0, 0, 10])),
            ),
            created=NOW - timedelta(minutes=draw(st.integers(0, 3))),
        )
        for number in range(draw(st.integers(1, 4)))
    )


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    there = draw(nodes())
    strangers = tuple(
        a_stranger(f"s-{number}", node.name, count=1, cpu=draw(st.sampled_from([0, 2_000])))
        for number, node in enumerate(there)
        if node.allocatable.get("nvidia.com/gpu") and draw(st.booleans())
    )
    return a_snapshot(deployments=draw(deployments()), nodes=there, pods=strangers)


def apply(snapshot: Snapshot, plan: ClusterPlan, *, ready: bool = True) -> Snapshot:
    """The world after the plan was written and its pods became Ready."""
    gone = {delete.uid for delete in deletes(plan)}
    kept = tuple(pod for pod in snapshot.pods if pod.uid not in gone)
    return replace(
        snapshot, pods=(*kept, *(a_pod(create, ready=ready, created=snapshot.now) for create in creates(plan)))
    )


def settle(snapshot: Snapshot) -> Snapshot:
    """Plan and apply until nothing is left to do."""
    for _ in range(60):
        plan = plan_cluster(snapshot, POLICY)
        if not plan.actions:
            return snapshot
        snapshot = apply(snapshot, plan)
    raise AssertionError("the plan never comes to rest")


def placed_counts(snapshot: Snapshot) -> dict[str, int]:
    plan = plan_cluster(snapshot, POLICY)
    return {
        str(entry.deployment.key): len(entry.creates) + len(entry.waiting) + sum(state.counts for state in entry.states)
        for entry in plan.deployments
    }


@given(worlds())
@settings(max_examples=150)
def test_never_overcommits_and_explains_everything(world: Snapshot) -> None:
    done = settle(world)
    assert_within_limits(done)
    for entry in plan_cluster(done, POLICY).deployments:
        demand = entry.deployment.demand
        counted = sum(state.counts for state in entry.states)
        assert counted + sum(u.count for u in entry.unplaced) == demand.replicas
        assert all(u.problem.message for u in entry.unplaced)


@given(worlds())
@settings(max_examples=100)
def test_a_replica_never_gets_less_than_it_needs(world: Snapshot) -> None:
    plan = plan_cluster(world, POLICY)
    for entry in plan.deployments:
        for create in entry.creates:
            footprint, share = create.record.footprint, create.placement.share
            assert footprint is not None
            assert limit_bytes(share) >= entry.needed_bytes
            budget = create.settings.gpu_memory_utilization * cuda_total_bytes(share)
            assert budget + footprint.outside_bytes <= limit_bytes(share)
            kv = create.settings.kv_cache_memory_bytes
            if kv is not None:
                assert footprint.kv_bytes(entry.kv_tokens) <= kv <= budget - footprint.fixed_inside_bytes


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_input_order_does_not_matter(world: Snapshot, random: object) -> None:
    def shuffled(items: tuple[object, ...]) -> tuple[object, ...]:
        mixed = list(items)
        random.shuffle(mixed)  # type: ignore[attr-defined]
        return tuple(mixed)

    mixed = replace(
        world,
        nodes=shuffled(world.nodes),  # type: ignore[arg-type]
        pods=shuffled(world.pods),  # type: ignore[arg-type]
        deployments=shuffled(world.deployments),  # type: ignore[arg-type]
    )
    assert plan_cluster(mixed, POLICY) == plan_cluster(world, POLICY)


@given(worlds())
@settings(max_examples=80)
def test_planning_the_result_again_is_a_no_op(world: Snapshot) -> None:
    done = settle(world)
    assert plan_cluster(done, POLICY).actions == ()


@given(worlds(), nodes())
@settings(max_examples=80)
def test_a_new_node_unplaces_nothing_that_runs(world: Snapshot, more: tuple[NodeView, ...]) -> None:
    done = settle(world)
    new = tuple(replace(node, name=f"new-{node.name}") for node in more)
    grown = settle(replace(done, nodes=(*done.nodes, *new)))
    assert {pod.uid for pod in done.pods} <= {pod.uid for pod in grown.pods}


@given(deployments(), nodes(roomy=True), nodes(roomy=True))
@settings(max_examples=150)
def test_from_scratch_a_bigger_cluster_places_no_fewer(
    wanted: tuple[DeploymentView, ...], there: tuple[NodeView, ...], more: tuple[NodeView, ...]
) -> None:
    new = tuple(replace(node, name=f"new-{node.name}") for node in more)
    small = placed_counts(a_snapshot(deployments=wanted, nodes=there))
    large = placed_counts(a_snapshot(deployments=wanted, nodes=(*there, *new)))
    assert sum(large.values()) >= sum(small.values())
    assert all(large[key] >= count for key, count in small.items())


@given(worlds())
@settings(max_examples=60)
def test_starts_on_a_shared_node_never_overlap(world: Snapshot) -> None:
    for _ in range(6):
        plan = plan_cluster(world, POLICY)
        world = apply(world, plan, ready=False)
        starting: dict[str, int] = {}
        for pod in world.pods:
            if pod.record is not None and pod.record.starts_alone and not pod.ready:
                starting[pod.record.node] = starting.get(pod.record.node, 0) + 1
        assert all(count == 1 for count in starting.values())
