"""How many replicas are wanted: situations, one a row, and what must hold in any."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from slmpack.domain.gpu import DenseTflops
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Pacing, ScaleDecision, ScaleState, ScalingSpec
from slmpack.domain.sharing import Mode, WhenFull
from slmpack.domain.snapshot import ModelUnknown, Policy
from slmpack.domain.workload import Bounds, Objective
from tests.support.builders import H100, NOW, POLICY, a_demand, a_deployment, mig_node, mps_node, whole_node
from tests.support.scaling import Scaled, a_load, scaled

FOUR = scaled()
"""Four H100 in four MPS shares each, of which two pay on a GPU."""
LONG_AGO = NOW - timedelta(hours=2)


def figure(decision: ScaleDecision, name: str) -> float:
    return next(it.value for it in decision.figures if it.name == name)


def capacity(world: Scaled, replicas: int) -> float:
    """Requests a second that so many replicas carry, by the decision's own words."""
    return figure(world.running(replicas).under(1.0).decide(), "capacity")


def test_a_load_that_is_carried_changes_nothing() -> None:
    decision = FOUR.running(2).under(30.0).decide()
    assert (decision.desired, decision.reason, decision.known) == (2, Reason.STEADY, True)
    assert decision.message == "30 requests/s arrive, 30 are to be carried; 2 replicas carry 55"


@pytest.mark.parametrize(("part", "wanted"), [(0.99, 2), (1.01, 4), (1.99, 4), (2.01, 6)])
def test_as_many_gpus_as_carry_the_load_and_as_many_replicas_as_pay_there(part: float, wanted: int) -> None:
    """Two pay on a GPU: the third opens one, which costs nothing more with the fourth."""
    world = FOUR.running(2)
    decision = world.under(part * capacity(FOUR, 2)).decide()
    assert decision.desired == wanted
    assert decision.reason is (Reason.STEADY if wanted == 2 else Reason.LOAD_ROSE)


def test_a_doubling_of_the_load_is_answered_at_once() -> None:
    world = FOUR.running(2).under(0.9 * capacity(FOUR, 2))
    before = world.decide()
    after = world.under(1.8 * capacity(FOUR, 2)).decide()
    assert (before.desired, after.desired) == (2, 4)
    assert capacity(FOUR, after.desired) >= 1.8 * capacity(FOUR, 2)
    assert after.state == replace(before.state, desired=4, changed=NOW, went_up=True)


def test_replicas_that_start_count_as_capacity() -> None:
    world = FOUR.running(4, ready=2).under(0.95 * capacity(FOUR, 4))
    assert world.decide().desired == 4


def test_what_waits_is_to_be_gone_when_a_replica_could_be_there() -> None:
    world = FOUR.running(2)
    assert world.under(50.0, waiting=2.0).decide().desired == 2  # between two iterations
    decision = world.under(50.0, waiting=900.0).decide()
    assert decision.desired == 4
    assert "898 wait" in decision.message


def test_with_slow_starts_room_is_kept_for_the_peak_that_recurs() -> None:
    high = 1.5 * capacity(FOUR, 2)
    slow = FOUR.running(2).under(20.0, arrivals_high_s=high)
    assert slow.with_state(2, start_s=120.0, busy=NOW).decide().desired == 4
    quick = replace(
        slow, pods=tuple(replace(p, created=NOW, ready_since=NOW + timedelta(seconds=2)) for p in slow.pods)
    )
    assert quick.decide().desired == 2


def test_fewer_only_where_a_gpu_comes_free_and_the_peaks_are_carried_too() -> None:
    world = FOUR.running(4)
    room = capacity(FOUR, 2)
    free = world.under(0.5 * room).decide()
    assert (free.reason, free.desired) == (Reason.HELD, 4)
    assert free.state.lower_since == NOW
    assert world.under(0.5 * room, arrivals_peak_s=1.5 * room).decide().state.lower_since is None
    assert world.under(0.5 * room, arrivals_high_s=1.5 * room).decide().state.lower_since is None
    later = world.under(0.5 * room).after(300, free).decide()
    assert (later.reason, later.desired) == (Reason.LOAD_FELL, 2)
    assert (later.state.changed, later.state.went_up, later.state.lower_since) == (
        NOW + timedelta(seconds=300),
        False,
        None,
    )


def test_a_rise_in_between_begins_the_wait_anew() -> None:
    world, room = FOUR.running(4), capacity(FOUR, 2)
    first = world.under(0.5 * room).decide()
    risen = world.under(1.5 * room).after(200, first).decide()
    assert (risen.desired, risen.state.lower_since) == (4, None)
    again = world.under(0.5 * room).after(400, risen).decide()
    assert (again.desired, again.state.lower_since) == (4, NOW + timedelta(seconds=400))


def test_on_one_gpu_one_ends_only_where_the_rest_has_room_to_spare() -> None:
    """Room for one and a half times the demand, and the last peak; with care, as no latency is measured."""
    world, room = FOUR.running(2), capacity(FOUR, 1) / 1.5 / 1.1
    kept = world.under(1.01 * room).decide()
    assert (kept.desired, kept.wished, kept.reason) == (2, 1, Reason.STEADY)
    assert world.under(0.6 * room).decide().reason is Reason.HELD
    assert world.under(0.6 * room, arrivals_peak_s=1.01 * room).decide().reason is Reason.STEADY
    assert FOUR.running(1).under(1.09 * room).decide().desired == 1


def test_for_energy_replicas_end_that_only_cost_joules_and_none_is_added_for_nothing() -> None:
    world = scaled(objective=Objective.ENERGY)
    decision = world.running(2).under(0.1).decide()
    assert (decision.reason, decision.state.lower_since) == (Reason.HELD, NOW)
    assert world.running(2).under(0.1).after(300, decision).decide().desired == 1
    assert world.running(2).under(1.3 * capacity(world, 2)).decide().desired == 3


def test_for_latency_a_further_replica_opens_a_gpu() -> None:
    world = scaled(objective=Objective.LATENCY)
    assert world.running(1).under(1.5 * capacity(world, 1)).decide().desired == 2


@pytest.mark.parametrize(
    ("least", "most", "desired", "reason"),
    [(3, 8, 3, Reason.AT_MIN), (1, 1, 1, Reason.AT_MAX), (2, 8, 2, Reason.STEADY)],
)
def test_a_bound_that_the_user_moves_is_obeyed_at_once(least: int, most: int, desired: int, reason: Reason) -> None:
    world = scaled(least=least, most=most)
    held = replace(FOUR.running(2), view=replace(world.view, scale=ScaleState(desired=2)))
    decision = held.under(10.0).decide()
    assert (decision.desired, decision.reason) == (desired, reason)
    assert decision.state.desired == desired


def test_the_most_is_kept_and_said() -> None:
    world = scaled(most=3)
    decision = world.running(2).under(1000.0).decide()
    assert (decision.desired, decision.refused) == (3, Reason.AT_MAX)
    assert decision.wished > 16
    at_most = world.running(3).under(1000.0).decide()
    assert (at_most.desired, at_most.reason, at_most.refused) == (3, Reason.AT_MAX, Reason.AT_MAX)


def test_no_more_than_pay_where_every_gpu_has_them() -> None:
    world = scaled(mps_node("n"))
    decision = world.running(2).under(1000.0).decide()
    assert (decision.desired, decision.reason, decision.refused) == (2, Reason.DOES_NOT_PAY, Reason.DOES_NOT_PAY)
    assert "would not pay, and no other GPU is free" in decision.message
    assert world.running(1).under(1000.0).decide().desired == 2
    pending = replace(world.demand, when_full=WhenFull.PENDING)
    waiting = replace(world.running(2), view=replace(world.running(2).view, demand=pending))
    assert waiting.under(1000.0).decide().desired == 16


def test_without_a_free_gpu_the_load_is_still_wished_for() -> None:
    """Nothing is free: the replicas are reported as unplaced, or a node autoscaler sees them."""
    world = scaled(whole_node("n", product="NVIDIA-L4"), mode=Mode.EXCLUSIVE, most=5)
    decision = world.running(1).under(2.5 * capacity(world, 1)).decide()
    assert decision.desired == 3
    assert world.running(1).with_state(3).under(0.1).decide().state.lower_since == NOW


UP = Pacing(stabilisation=timedelta(seconds=60), most_step=1)
DOWN = Pacing(stabilisation=timedelta(seconds=120), most_step=1)


def test_windows_and_steps() -> None:
    world = scaled(spec=ScalingSpec(least=1, most=16, up=UP, down=DOWN))
    rising = world.running(2).under(1000.0)
    first = rising.decide()
    assert (first.desired, first.reason, first.state.higher_since) == (2, Reason.HELD, NOW)
    assert "wait for 60 s" in first.message
    second = rising.after(60, first).decide()
    assert (second.desired, second.state.higher_since) == (3, None)
    falling = world.running(6).under(0.1)
    lower = falling.decide()
    assert (lower.desired, lower.state.lower_since) == (6, NOW)
    assert falling.after(120, lower).decide().desired == 5


def bounded(ttft_s: float | None = 1.0, itl_s: float | None = 0.05) -> Scaled:
    return scaled(spec=ScalingSpec(least=1, most=16, ttft_s=ttft_s, itl_s=itl_s))


@pytest.mark.parametrize(
    ("measured", "word"),
    [
        ({"kv_usage": 0.95}, "KV cache is at 95%"),
        ({"ttft_s": 2.5}, "TTFT p95 is 2.50 s, over 1 s"),
        ({"itl_s": 0.06, "generation_tok_s": 1.0}, "ITL is 60.0 ms, over 50 ms"),
    ],
)
def test_an_alarm_adds_one_under_a_load_that_may_be_its_cause(measured: dict[str, float], word: str) -> None:
    world = bounded().running(2)
    room = capacity(bounded(), 2)
    decision = world.under(0.9 * room, **measured).decide()
    assert (decision.desired, decision.reason) == (3, Reason.LOAD_ROSE)
    assert word in decision.message
    assert world.under(0.3 * room, **measured).decide().desired == 2, "little load is not the cause"
    starting = bounded().running(4, ready=3).under(1.8 * room, **measured)
    assert starting.decide().desired == 4, "one is on its way"
    fresh = world.with_state(2, changed=NOW - timedelta(seconds=30), busy=NOW).under(0.9 * room, **measured)
    assert fresh.decide().desired == 2, "the last change does not show yet"
    most = world.with_state(2, busy=NOW)
    full = replace(most, view=replace(most.view, demand=replace(most.demand, scaling=ScalingSpec(least=1, most=2))))
    if "kv_usage" in measured:
        assert full.under(0.9 * room, **measured).decide().refused is Reason.AT_MAX


def test_bounds_of_the_spec_stand_for_those_of_scaling() -> None:
    tight = replace(FOUR.view, demand=replace(FOUR.demand, bounds=Bounds(itl_s=0.007)))
    assert capacity(replace(FOUR, view=tight), 2) < 0.9 * capacity(FOUR, 2)


def test_a_model_that_is_not_known_yet_holds_the_number() -> None:
    unknown = ModelUnknown(reason=Reason.MODEL_PENDING, message="asking")
    world = FOUR.running(3)
    held = replace(world, view=replace(world.view, demand=replace(world.demand, model=unknown)))
    decision = held.under(500.0).decide()
    assert (decision.desired, decision.reason) == (3, Reason.HELD)
    assert "cannot be predicted: the model" in decision.message, "the need is known from what runs"
    new = replace(held, pods=(), load=a_load(0.0, reporting=1)).with_state(1, busy=NOW).decide()
    assert (new.desired, new.reason) == (1, Reason.HELD)
    assert "not known yet" in new.message


def test_nothing_is_predicted_for_a_gpu_that_is_gone() -> None:
    world = FOUR.running(2).under(500.0)
    decision = replace(world, nodes=()).decide()
    assert (decision.desired, decision.reason) == (2, Reason.HELD)
    assert "cannot be predicted" in decision.message


def test_without_a_gpu_that_suits_a_request_still_wakes_one() -> None:
    """Where nothing can be judged by, a node autoscaler may have to see the demand."""
    world = scaled(whole_node("n"), mode=Mode.MIG)
    knock = replace(world, load=a_load(0.0, reporting=0, gateway_waiting=5.0))
    spec = replace(knock.demand, scaling=ScalingSpec(least=0, most=4))
    asleep = replace(knock.view, scale=ScaleState(desired=0), demand=spec)
    decision = replace(knock, view=asleep).decide()
    assert (decision.desired, decision.reason) == (1, Reason.WOKEN)


def test_a_first_decision_keeps_what_runs_and_begins_with_one() -> None:
    assert replace(FOUR, view=replace(FOUR.view, scale=None)).decide().desired == 1
    world = FOUR.running(4)
    assert replace(world, view=replace(world.view, scale=None)).decide().desired == 4


def neighbours() -> Scaled:
    """One GPU in seven slices; somebody else has an SLMDeployment here, too."""
    world = scaled(mig_node("m", product="NVIDIA-H100-80GB-HBM3", slices={"1g.10gb": 7}), mode=Mode.MIG)
    return replace(world, others=(a_deployment("other", a_demand(spec_hash="spec-o")),))


def test_one_share_is_left_to_others_and_all_are_given_back_where_none_is_free() -> None:
    world = neighbours()
    alone = replace(world, others=())
    each = capacity(alone, 1)
    assert alone.running(2).under(4.2 * each).decide().desired == 7
    assert world.running(2).under(4.2 * each).decide().desired == 6
    full = world.running(7).under(0.1)
    decision = full.decide()
    assert decision.reason is Reason.HELD
    assert full.after(300, decision).decide().desired == 1
    assert alone.running(7).under(3.0 * each).decide().reason is Reason.STEADY
    assert full.under(3.0 * each).decide().reason is Reason.HELD


def test_an_end_that_was_filled_up_again_was_no_mistake() -> None:
    """It saved watts, and its place on the open GPU is taken again: no reason to hold a GPU for six hours next time."""
    alone = replace(neighbours(), others=())
    each = capacity(alone, 1)
    ended = alone.running(4).with_state(4, start_s=45.0, busy=NOW, changed=NOW - timedelta(minutes=5))
    filled = ended.under(3.0 * each).decide()
    assert (filled.desired, filled.wished, filled.state.hold_s) == (5, 3, None)
    needed = ended.under(4.2 * each).decide()
    assert (needed.desired, needed.wished, needed.state.hold_s) == (7, 5, POLICY.scale.hold_s)


def test_what_the_fewer_have_to_carry_is_told() -> None:
    alone = replace(neighbours(), others=())
    gpu, watts = FOUR.running(4).under(30.0).decide(), alone.running(7).under(10.0).decide()
    assert "2 replicas would carry 33 requests/s, if that lasts 300 s more" in gpu.message
    assert "would carry 16.5 requests/s, if that lasts" in watts.message, "1.1 times the room for 1.5 times the demand"


def test_starts_are_measured_remembered_or_assumed() -> None:
    def start(world: Scaled) -> tuple[float, str, float | None]:
        decision = world.under(1.0).decide()
        found = next(it for it in decision.figures if it.name == "start")
        return found.value, found.basis, decision.state.start_s

    world = FOUR.running(3)
    assert start(world) == (60.0, "assumed", None)
    took = (40.4, 44.2, 300.0)
    pods = tuple(
        replace(pod, ready_since=pod.created + timedelta(seconds=each))
        for pod, each in zip(world.pods, took, strict=True)
    )
    measured = replace(world, pods=pods)
    assert start(measured) == (44.0, "measured", 44.0)
    assert start(replace(measured, pods=tuple(replace(pod, restarts=1) for pod in pods))) == (60.0, "assumed", None)
    assert start(world.with_state(3, start_s=33.0)) == (33.0, "measured", 33.0)


def bare(*products: str) -> Policy:
    """The policy, where nobody knows how fast these products compute."""
    models = tuple(
        replace(gpu, dense_tflops=DenseTflops()) if set(products) & set(gpu.product_labels) else gpu
        for gpu in POLICY.gpus.models
    )
    return replace(POLICY, gpus=replace(POLICY.gpus, models=models))


def test_a_gpu_of_which_too_little_is_known_predicts_nothing_and_is_not_wished_for() -> None:
    world = scaled(policy=bare(H100)).running(2).under(500.0, itl_s=0.02, generation_tok_s=10_000.0)
    decision = world.decide()
    assert (decision.desired, decision.reason) == (2, Reason.HELD)
    assert "cannot be predicted" in decision.message
    mixed = scaled(whole_node("a"), whole_node("b", product=H100), mode=Mode.EXCLUSIVE, policy=bare(H100))
    further = mixed.running(1).under(500.0).decide()
    assert (further.desired, further.reason) == (1, Reason.HELD)
    assert "further replica" in further.message


def test_after_a_rise_nothing_ends_for_a_while() -> None:
    """Ten minutes with a start of 45 s, although fewer would have done for longer than the window."""
    state = {"changed": NOW - timedelta(seconds=500), "went_up": True, "lower_since": NOW - timedelta(seconds=400)}
    world = FOUR.running(4).with_state(4, start_s=45.0, busy=NOW, **state).under(0.1)
    held = world.decide()
    assert (held.desired, held.reason) == (4, Reason.HELD)
    assert held.state.lower_since == NOW - timedelta(seconds=400)
    assert world.after(145, held).decide().desired == 1
    hasty = ScalingSpec(least=1, most=16, down=Pacing(stabilisation=timedelta(0)))
    own = replace(world, view=replace(world.view, demand=replace(world.demand, scaling=hasty)))
    assert own.decide().desired == 1, "the user wants no wait"


def test_after_a_mistake_a_load_that_surely_fell_need_not_wait() -> None:
    """Two replicas carry what is to be kept, 1.1 times the load; only the second load also 1.4 times that."""
    state = {"changed": NOW - timedelta(hours=1), "went_up": True, "hold_s": 115_200.0, "start_s": 45.0, "busy": NOW}
    world = FOUR.running(4).with_state(4, lower_since=NOW - timedelta(minutes=20), **state)
    room = capacity(FOUR, 2)
    chance, fallen = world.under(0.6 * room).decide(), world.under(0.3 * room).decide()
    assert (chance.desired, chance.reason) == (4, Reason.HELD)
    assert (fallen.desired, fallen.reason) == (2, Reason.LOAD_FELL)
    assert fallen.state.hold_s == 115_200.0, "nothing was learned from that"
    young = world.with_state(4, lower_since=NOW - timedelta(seconds=200), **state).under(0.3 * room).decide()
    assert young.desired == 4, "the window of the user is kept all the same"
    hasty = {**state, "changed": NOW - timedelta(seconds=500)}
    settling = world.with_state(4, lower_since=NOW - timedelta(seconds=400), **hasty).under(0.3 * room).decide()
    assert settling.desired == 4, "and so is the time after a rise"


def test_an_end_that_was_regretted_teaches_patience() -> None:
    ended = FOUR.running(2).with_state(2, start_s=45.0, busy=NOW, changed=NOW - timedelta(minutes=30), went_up=False)
    room = capacity(FOUR, 2)
    back = ended.under(1.5 * room).decide()
    assert (back.desired, back.state.went_up) == (4, True)
    learned = back.state.hold_s
    assert learned == 115_200.0
    wait = learned * (45 / 105) ** 2
    world = FOUR.running(4).with_state(4, changed=NOW - timedelta(hours=9), went_up=True, hold_s=learned, start_s=45.0)
    waits = world.with_state(4, lower_since=NOW - timedelta(seconds=wait - 1), busy=NOW).under(0.6 * room)
    assert waits.decide().desired == 4
    assert waits.after(2).decide().desired == 2
    assert waits.with_state(4, start_s=2.0).decide().desired == 2, "a mistake costs little with fast starts"
    late = ended.with_state(2, changed=NOW - timedelta(hours=7), hold_s=learned).under(1.5 * room).decide()
    assert late.state.hold_s == learned / 2, "an end that outlasted six hours was no mistake"
    more = ended.with_state(2, changed=NOW - timedelta(hours=7), went_up=True, hold_s=learned)
    assert more.under(1.5 * room).decide().state.hold_s == learned, "a rise after a rise says nothing of ends"
    forgotten = ended.with_state(2, changed=NOW - timedelta(hours=7), hold_s=4000.0).under(1.5 * room).decide()
    assert forgotten.state.hold_s is None


def test_lengths_are_those_of_the_last_minute_where_enough_requests_ended() -> None:
    def lengths(completions: float | None, prompt: float | None) -> tuple[float, float]:
        decision = FOUR.running(2).under(20.0, completions_s=completions, prompt_tok_s=prompt, generation_tok_s=1000.0)
        found = decision.decide()
        return figure(found, "inputTokens"), figure(found, "outputTokens")

    assert lengths(10.0, 1000.0) == pytest.approx((100, 100), rel=0.03)
    for few in (lengths(1.0, 1000.0), lengths(None, 1000.0), lengths(10.0, None)):
        assert few == pytest.approx((512, 256), rel=0.03)


def test_a_doubling_is_seen_in_the_last_half_minute() -> None:
    """One scrape after it the minute shows a quarter of it, and the half minute a half: the line between them goes on."""
    world = FOUR.running(2).with_state(2, start_s=45.0, busy=NOW)
    rate = 0.6 * capacity(FOUR, 2)
    decision = world.under(1.25 * rate, arrivals_now_s=1.5 * rate, arrivals_mean_s=rate, arrivals_high_s=rate).decide()
    assert decision.desired == 4
    assert figure(decision, "demand") >= 2.0 * rate
    assert capacity(FOUR, decision.desired) >= 2.0 * rate
    steep = world.under(
        0.3 * rate, arrivals_now_s=rate, arrivals_mean_s=0.3 * rate, arrivals_high_s=0.3 * rate
    ).decide()
    assert figure(steep, "demand") == pytest.approx(2.0 * rate), "a straight line knows no end"


def test_chance_is_no_rise() -> None:
    world = FOUR.running(2).with_state(2, start_s=45.0, busy=NOW)
    calm = {"arrivals_mean_s": 45.0, "arrivals_high_s": 45.0}
    wild = {"arrivals_mean_s": 45.0, "arrivals_high_s": 60.0}
    assert figure(world.under(45.0, arrivals_now_s=46.0, **calm).decide(), "demand") == 45.0
    assert figure(world.under(45.0, arrivals_now_s=50.0, **calm).decide(), "demand") == pytest.approx(60.28, abs=0.01)
    assert figure(world.under(45.0, arrivals_now_s=50.0, **wild).decide(), "demand") < 52.0
    young = world.under(45.0, arrivals_now_s=50.0, arrivals_mean_s=None, arrivals_high_s=None).decide()
    assert figure(young, "demand") == pytest.approx(60.28, abs=0.01)
