"""Watts of a GPU in the picture."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.bar_watts import bar_watts, fit_of, fits_of
from slmpack.domain.calibration import Calibration
from slmpack.domain.choice import Choice
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.plan import Block, ClusterPlan, GpuBar
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Key, ModelUnknown, NodeView
from tests.support.builders import (
    H100,
    POLICY,
    a_demand,
    a_deployment,
    a_pod,
    a_snapshot,
    creates,
    mig_node,
    mps_node,
    plan,
    whole_node,
)

GPU = POLICY.gpus.by_product(H100)


def planned(*nodes: NodeView, replicas: int, mode: Mode = Mode.MPS) -> ClusterPlan:
    view = a_deployment("qwen", a_demand(replicas=replicas, mode=mode))
    return plan(a_snapshot(deployments=(view,), nodes=nodes))


def watts(of: ClusterPlan, bar: GpuBar | None = None) -> Interval | None:
    return bar_watts(fits_of(of.deployments), bar or of.bars[0], GPU)


def test_a_full_gpu_draws_what_was_decided_with() -> None:
    full = planned(mps_node("n"), replicas=3)
    choice = full.deployments[0].fits[0].fit.choice
    assert isinstance(choice, Choice)
    assert choice.replicas_per_gpu == len(full.bars[0].blocks)
    assert watts(full) == choice.prediction.power_w


def test_fewer_engines_draw_less_and_none_the_idle_of_the_product() -> None:
    full = planned(mps_node("n"), replicas=3)
    fewer = replace(full.bars[0], blocks=full.bars[0].blocks[:1])
    idle = replace(full.bars[0], blocks=())
    drawn = [watts(full, bar) for bar in (full.bars[0], fewer, idle)]
    assert all(one is not None for one in drawn)
    assert [one.expected for one in drawn if one] == sorted((one.expected for one in drawn if one), reverse=True)
    assert GPU is not None
    assert GPU.idle_w is not None
    low, high = GPU.idle_w
    assert drawn[-1] == Interval(low=low, expected=(low + high) / 2, high=high, basis=Basis.ASSUMED)
    unknown = replace(GPU, idle_w=None)
    assert bar_watts({}, idle, unknown) is None


def test_an_engine_that_does_not_run_draws_nothing() -> None:
    full = planned(mps_node("n"), replicas=3)
    first, second, *_ = full.bars[0].blocks
    alone = watts(full, replace(full.bars[0], blocks=(first,)))
    assert watts(full, replace(full.bars[0], blocks=(first, replace(second, state="idle")))) == alone


def test_two_kinds_of_engines_are_predicted_together() -> None:
    views = tuple(a_deployment(name, a_demand(replicas=1, mode=Mode.MPS)) for name in ("one", "two"))
    both = plan(a_snapshot(deployments=views, nodes=(mps_node("n"),)))
    alone = watts(both, replace(both.bars[0], blocks=both.bars[0].blocks[:1]))
    together = watts(both)
    assert alone is not None
    assert together is not None
    assert together.expected > alone.expected


def test_a_profile_corrects_only_a_gpu_of_its_own() -> None:
    demand = a_demand(replicas=2, mode=Mode.MPS)
    found = plan(a_snapshot(deployments=(a_deployment("qwen", demand),), nodes=(mps_node("n"),)))
    (used,) = found.deployments[0].fits
    assert used.fit.ask is not None
    bar = found.bars[0]
    plain = watts(found, bar)
    calibrated = replace(used.fit, ask=replace(used.fit.ask, calibration=Calibration(step_s=0.0, factor=3.0, points=1)))
    key = found.deployments[0].deployment.key
    alike = {(key, used.product, used.share): calibrated}
    assert bar_watts(alike, bar, GPU) != plain
    twin = Key(key.namespace, "twin")
    mixed = {**alike, (twin, used.product, used.share): used.fit}
    blocks = (bar.blocks[0], replace(bar.blocks[1], deployment=twin))
    assert bar_watts(mixed, replace(bar, blocks=blocks), GPU) == plain


@pytest.mark.parametrize("product", [None, GPU])
def test_nobody_can_tell_of_a_slice_or_of_a_gpu_that_is_unknown(product: object) -> None:
    slices = planned(mig_node("n"), replicas=1, mode=Mode.MIG)
    whole = planned(whole_node("n", product=H100), replicas=1, mode=Mode.EXCLUSIVE)
    bar = whole.bars[0] if product is None else slices.bars[0]
    assert bar_watts(fits_of(whole.deployments), bar, product) is None  # type: ignore[arg-type]


def test_nobody_can_tell_beside_a_stranger() -> None:
    full = planned(mps_node("n"), replicas=2)
    stranger = Block(label="other/s", deployment=None, share="", used_bytes=1, state="foreign")
    assert fit_of(fits_of(full.deployments), stranger, H100) is None
    assert watts(full, replace(full.bars[0], blocks=(full.bars[0].blocks[0], stranger))) is None


def test_nobody_can_tell_of_an_unknown_model() -> None:
    view = a_deployment("qwen", a_demand(replicas=1, mode=Mode.MPS))
    world = a_snapshot(deployments=(view,), nodes=(mps_node("n"),))
    pods = tuple(a_pod(create, ready=True) for create in creates(plan(world)))
    unknown = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="not there")
    later = a_deployment("qwen", a_demand(replicas=1, mode=Mode.MPS, model=unknown))
    assert watts(plan(replace(world, deployments=(later,), pods=pods))) is None
