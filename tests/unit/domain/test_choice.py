from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmpack.adapters.performance_table import load_performance_table
from slmpack.adapters.tables import load_engine_table, load_gpu_catalogue
from slmpack.domain.calibration import Calibration
from slmpack.domain.choice import Ask, BoundsNotKept, Choice, ChoicePolicy, Option, Question, choose
from slmpack.domain.engine_version import EngineVersion
from slmpack.domain.interval import Basis
from slmpack.domain.knee import Binding, KneePolicy
from slmpack.domain.paying import PayPolicy, Verdict
from slmpack.domain.performance import Unpredictable
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Sharing, Site
from slmpack.domain.serving import Engine
from slmpack.domain.workload import Bounds, Objective, Workload
from tests.support.models import a_model_profile

POLICY = ChoicePolicy()
OPT = a_model_profile("facebook/opt-1.3b")
QWEN = a_model_profile("Qwen/Qwen2.5-0.5B-Instruct")
GPUS = {gpu.id: gpu for gpu in load_gpu_catalogue().models}
V0, V1, ASYNC = (load_performance_table().generation(name) for name in ("V0", "V1", "V1 async"))


def sure(constants: EngineConstants, difference: float = 0.0) -> EngineConstants:
    """The same engine with another spread of a gain, so that a test does not hang on a fit."""
    return replace(constants, sharing=replace(constants.sharing, difference=difference))


def mps_options(gpu: str = "h100-sxm5-80gb", *, most: int = 4, pool: int = 400_000) -> tuple[Option, ...]:
    """The pool is divided."""
    whole = Option(replicas=1, site=Site(gpu=GPUS[gpu], sharing=Sharing.NONE), kv_cache_tokens=pool)
    site = Site(gpu=GPUS[gpu], sharing=Sharing.MPS)
    return (whole, *(Option(replicas=k, site=site, kv_cache_tokens=pool // k) for k in range(2, most + 1)))


ENGINE = Engine(
    model=OPT,
    runtime=load_engine_table().runtime_for(EngineVersion(0, 33)),
    max_model_len=2048,
    max_num_seqs=None,
    least_num_seqs=8,
    most_num_seqs=512,
    max_num_batched_tokens=2048,
    kv_element_bytes=2,
    enforce_eager=False,
    cpu_cores=2,
)
QUESTION = Question(
    ask=Ask(
        engine=ENGINE,
        constants=sure(V0),
        workload=Workload(in_flight=512, input_tokens=128, output_tokens=256),
        bounds=Bounds(),
        objective=Objective.THROUGHPUT,
    ),
    options=mps_options(),
    most_num_seqs=512,
)


def but(question: Question, options: tuple[Option, ...] | None = None, **changes: object) -> Question:
    """The question with other options, and an ask with these changes."""
    ask = replace(question.ask, **changes)  # type: ignore[arg-type]
    return replace(question, ask=ask, options=options or question.options)


def fixed(batch: int, question: Question = QUESTION) -> Question:
    """The question of a user who gave the batch."""
    engine = replace(ENGINE, max_num_seqs=batch, most_num_seqs=batch)
    return replace(but(question, engine=engine), most_num_seqs=batch)


def chosen(question: Question, policy: ChoicePolicy = POLICY) -> Choice:
    found = choose(question, policy=policy)
    assert isinstance(found, Choice)
    return found


def refused(question: Question, policy: ChoicePolicy = POLICY) -> str:
    found = choose(question, policy=policy)
    assert isinstance(found, Unpredictable)
    return found.reason


def under(load: float | None = None, *, rate: float | None = None, hits: float = 0.0) -> Workload:
    return replace(QUESTION.ask.workload, in_flight=load, request_rate=rate, prefix_hit_rate=hits)


def test_a_small_model_on_a_large_gpu_under_load_is_packed() -> None:
    choice = chosen(QUESTION)
    assert choice.replicas_per_gpu > 1
    assert choice.max_num_seqs == choice.knee.batch
    assert choice.max_num_batched_tokens == 2048
    assert len(choice.prediction.tenants) == choice.replicas_per_gpu
    assert choice.runner_up.replicas_per_gpu == choice.replicas_per_gpu + 1
    assert choice.steps[-1].verdict is Verdict.DOES_NOT_PAY
    assert choice.runner_up.reason == choice.steps[-1].text
    assert 0 < choice.runner_up.throughput_tok_s < 1.05 * choice.prediction.throughput_tok_s.expected


def test_what_runs_is_what_was_judged() -> None:
    choice = chosen(QUESTION)
    last = choice.steps[choice.replicas_per_gpu - 2]
    assert last.operating is not None
    assert choice.prediction.throughput_tok_s.expected == pytest.approx(last.operating.goodput_tok_s, rel=0.02)


def test_one_request_in_flight_needs_one_replica() -> None:
    choice = chosen(but(QUESTION, workload=under(1)))
    assert (choice.replicas_per_gpu, choice.binding, choice.carries) == (1, "Load", True)
    assert choice.reasons[0] == "The load is 1 request in flight of 128 input and 256 output tokens."
    assert choice.reasons[1] == choice.knee.explanation
    assert choice.reasons[2:] == tuple(step.text for step in choice.steps)


def test_an_unsure_model_adds_no_replica() -> None:
    unsure = chosen(but(QUESTION, constants=sure(V0, difference=0.9)))
    assert unsure.replicas_per_gpu == 1
    assert [step.verdict for step in unsure.steps] == [Verdict.UNCERTAIN]


def test_mig_instances_do_not_meet_and_their_gain_is_surer() -> None:
    gpu = GPUS["a100-sxm4-40gb"]
    profile = next(profile for profile in gpu.mig_profiles if profile.name == "2g.10gb")
    site = Site(gpu=gpu, sharing=Sharing.MIG, mig_profile=profile)
    options = tuple(Option(replicas=k, site=site, kv_cache_tokens=60_000) for k in (1, 2, 3))
    choice = chosen(
        but(QUESTION, engine=replace(ENGINE, model=QWEN), options=options, constants=sure(V1, difference=0.9))
    )
    assert choice.replicas_per_gpu == 3
    assert [step.verdict for step in choice.steps] == [Verdict.PAYS, Verdict.PAYS]
    assert choice.runner_up.replicas_per_gpu == 2
    assert choice.steps[-1].operating is not None
    most, less = choice.steps[-1].operating.goodput_tok_s, choice.runner_up.throughput_tok_s
    assert choice.runner_up.reason == f"2 replicas give {less:,.0f} instead of {most:,.0f} output tokens/s."
    two = chosen(but(QUESTION, workload=under(1000), options=mps_options(most=2)))
    assert two.runner_up.reason.startswith("1 replica gives ")
    assert choice.runner_up.throughput_tok_s < choice.prediction.throughput_tok_s.expected


def test_nobody_said_how_much_load_there_is() -> None:
    choice = chosen(but(QUESTION, workload=under(), options=mps_options(most=1), replicas=3))
    assert choice.assumed
    assert choice.workload.in_flight == 3 * choice.knee.batch
    assert choice.reasons[0] == (
        f"Nobody said how much load there is: assumed 3 x the knee of one replica, {3 * choice.knee.batch} "
        "requests in flight of 128 input and 256 output tokens."
    )
    assert not choice.carries
    assert choice.binding == choice.knee.binding.value
    assert choice.reasons[-1] == (
        "The load is more than this GPU runs at a time within the bounds: "
        f"about {choice.knee.batch} of {3 * choice.knee.batch} run at a time, the rest waits."
    )


def test_a_request_rate_becomes_requests_in_flight() -> None:
    slow, fast = (chosen(but(QUESTION, workload=under(rate=rate))) for rate in (2, 12))
    assert slow.replicas_per_gpu == fast.replicas_per_gpu == 1
    for choice, rate in ((slow, 2), (fast, 12)):
        served = choice.prediction.throughput_tok_s.expected / 256
        assert served == pytest.approx(rate, rel=0.03)
        assert choice.carries
        tenant = choice.prediction.tenants[0]
        stay = tenant.ttft_s.expected + 255 * tenant.itl_s.expected
        assert choice.workload.in_flight == pytest.approx(rate * stay, rel=0.03)
    assert slow.reasons[0].startswith("The load is 2 requests/s of 128 input and 256 output tokens, about ")


def test_a_request_rate_that_no_number_of_replicas_serves() -> None:
    choice = chosen(but(QUESTION, workload=under(rate=1000)))
    assert not choice.carries
    assert choice.replicas_per_gpu > 1
    assert choice.workload.in_flight == choice.replicas_per_gpu * choice.max_num_seqs
    assert choice.reasons[0] == "The load is 1,000 requests/s of 128 input and 256 output tokens."
    answered = choice.prediction.throughput_tok_s.expected / 256
    assert choice.reasons[-1] == (
        "The load is more than this GPU runs at a time within the bounds: "
        f"about {answered:.3g} of 1,000 requests/s are answered, the rest waits."
    )


@pytest.mark.parametrize("rate", range(20, 200, 4))
def test_a_load_is_carried_or_not_and_no_reason_says_otherwise(rate: int) -> None:
    choice = chosen(but(QUESTION, workload=under(rate=rate)))
    carried = any(" the whole load within the bounds: another does not pay." in reason for reason in choice.reasons)
    beyond = any("more than this GPU runs" in reason for reason in choice.reasons)
    assert not (carried and beyond)
    assert beyond != choice.carries
    assert (" in flight" in choice.reasons[0]) == choice.carries


@pytest.mark.parametrize("workload", [under(5e-324), under(rate=5e-324)])
def test_next_to_no_load_is_one(workload: Workload) -> None:
    choice = chosen(but(QUESTION, workload=workload))
    assert choice.carries
    assert choice.replicas_per_gpu == 1
    assert choice.prediction.throughput_tok_s.expected > 0


def test_a_rate_has_three_digits() -> None:
    choice = chosen(but(QUESTION, workload=under(rate=20 / 3)))
    assert choice.reasons[0].startswith("The load is 6.67 requests/s of ")


@pytest.mark.parametrize("most", [1, 3])
def test_where_a_bound_decides_as_many_run_as_keep_it(most: int) -> None:
    """Not only those of the last step of the grid: fewer replicas are judged at a batch between two steps, too."""
    found = chosen(but(QUESTION, workload=under(300), options=mps_options(most=most)))
    bound = found.prediction.tenants[0].itl_s.expected * 0.85
    choice = chosen(but(QUESTION, workload=under(300), options=mps_options(most=most), bounds=Bounds(itl_s=bound)))
    assert choice.knee.binding is Binding.ITL_BOUND
    grid = POLICY.knee.grid
    assert choice.knee.batch < choice.max_num_seqs < grid[grid.index(choice.knee.batch) + 1]
    assert f"Between the two, {choice.max_num_seqs} keep the bounds: as many may run." in choice.reasons
    assert choice.prediction.tenants[0].itl_s.expected == pytest.approx(bound, rel=0.03)
    for step in choice.steps[: choice.replicas_per_gpu - 1]:
        assert step.operating is not None
    judged = choice.steps[choice.replicas_per_gpu - 2].operating if choice.replicas_per_gpu > 1 else None
    if judged is not None:
        assert choice.prediction.throughput_tok_s.expected == pytest.approx(judged.goodput_tok_s, rel=0.02)


@pytest.mark.parametrize(("bound", "limit"), [("itl", 0.001), ("ttft", 0.001)])
def test_a_bound_that_no_batch_keeps_is_told_with_what_could_be(bound: str, limit: float) -> None:
    bounds = Bounds(itl_s=limit) if bound == "itl" else Bounds(ttft_s=limit)
    found = choose(but(QUESTION, bounds=bounds), policy=POLICY)
    assert isinstance(found, BoundsNotKept)
    one = chosen(but(QUESTION, workload=under(1))).prediction.tenants[0]
    alone = one.itl_s.expected if bound == "itl" else one.ttft_s.expected
    assert (found.bound, found.limit_s) == (bound, limit)
    assert found.alone_s == pytest.approx(alone, rel=0.05)
    name = bound.upper()
    assert found.reason == (
        f"No batch keeps the {name} under 1.0 ms: at one sequence at a time it is {found.alone_s * 1000:.1f} ms."
    )


def test_parts_of_a_gpu_may_be_held_to_the_latency_of_the_whole() -> None:
    free = chosen(QUESTION)
    held = chosen(but(QUESTION, reference_itl_s=free.knee.itl_s * 0.45))
    assert held.knee.binding is Binding.ITL_FACTOR
    assert held.knee.itl_s <= 0.9 * free.knee.itl_s
    assert held.max_num_seqs == held.knee.batch, "the grid decides where nobody gave a bound"
    none = but(QUESTION, reference_itl_s=1e-6)
    assert "of one replica alone at 32" in refused(none)


def test_the_load_of_another_way_to_share_may_be_assumed() -> None:
    choice = chosen(but(QUESTION, workload=under(), assumed_in_flight=200.0))
    assert choice.assumed
    assert choice.workload.in_flight == 200
    assert choice.reasons[0] == (
        "Nobody said how much load there is: assumed that of the whole GPU, 200 requests in flight "
        "of 128 input and 256 output tokens."
    )


def test_one_token_budget_is_that_of_the_whole_curve() -> None:
    """Of an engine whose batch somebody gave: else its curve would be that of engines with smaller steps."""
    assert {replace(ENGINE, max_num_seqs=3000).batched_tokens(batch) for batch in (1, 32, 3000)} == {3000}
    assert [ENGINE.batched_tokens(batch) for batch in (1, 2048, 2049)] == [2048, 2048, 2049]


def test_the_runner_up_of_a_lone_replica_is_the_next_batch() -> None:
    alone = but(QUESTION, options=mps_options(most=1))
    choice = chosen(alone)
    assert choice.runner_up.max_num_seqs > choice.max_num_seqs
    assert choice.runner_up.reason == choice.knee.explanation
    assert choice.runner_up.throughput_tok_s > 0
    short = chosen(but(alone, options=mps_options(most=1, pool=20 * 256)))
    assert short.knee.binding is Binding.KV_CACHE
    assert (short.runner_up.max_num_seqs, short.runner_up.throughput_tok_s) == (24, 0.0)
    least = chosen(alone, ChoicePolicy(knee=KneePolicy(grid=(1, 2, 4))))
    assert least.knee.binding is Binding.GRID_END
    assert (least.max_num_seqs, least.runner_up.max_num_seqs) == (4, 2)
    assert least.runner_up.reason.startswith("A batch of 2 gives ")


def test_replicas_that_would_miss_the_bounds_are_not_added() -> None:
    solo = chosen(but(QUESTION, workload=under(1)))
    bound = solo.prediction.tenants[0].itl_s.expected * 1.01
    slow = replace(V0, sharing=replace(sure(V0).sharing, busy_part=1.0, sequence_busy_part=1.0))
    choice = chosen(but(QUESTION, constants=slow, bounds=Bounds(itl_s=bound)))
    assert choice.replicas_per_gpu == 1
    assert choice.knee.binding is Binding.ITL_BOUND
    assert choice.steps[0].operating is None
    assert (choice.runner_up.max_num_seqs, choice.runner_up.throughput_tok_s) == (1, 0.0)


def test_a_batch_that_the_user_fixed_runs_and_only_absolute_bounds_limit_it() -> None:
    alone = fixed(400, but(QUESTION, mps_options(most=1)))
    choice = chosen(alone)
    assert choice.max_num_seqs == 400
    assert choice.knee.batch < 400
    assert not choice.carries
    assert choice.workload.in_flight == 512
    assert chosen(but(alone, workload=under(300))).carries
    bounded = chosen(but(alone, workload=under(300), bounds=Bounds(itl_s=0.01)))
    assert not bounded.carries


def test_a_batch_beyond_the_grid_is_taken_where_the_user_fixed_it() -> None:
    choice = chosen(fixed(3000, but(QUESTION, workload=under(5000))))
    assert (choice.max_num_seqs, choice.max_num_batched_tokens) == (3000, 3000)


def test_the_prefix_hits_of_smaller_caches_are_fewer() -> None:
    hitting = but(QUESTION, workload=under(512, hits=0.8))
    choice = chosen(hitting)
    part = 0.8 / choice.replicas_per_gpu
    assert choice.reasons[-1] == (
        f"Each of {choice.replicas_per_gpu} replicas has a smaller KV cache than one alone: "
        f"its prefix hits are modelled as {part:.2f} instead of 0.80."
    )
    equal = tuple(replace(option, kv_cache_tokens=100_000) for option in QUESTION.options)
    assert not any("prefix" in reason for reason in chosen(but(hitting, options=equal)).reasons)
    long_prompts = replace(hitting.ask.workload, input_tokens=2048)
    lossy, lossless = (
        choose(but(hitting, workload=long_prompts, options=options), policy=POLICY)
        for options in (mps_options(most=2, pool=800_000), equal[:2])
    )
    assert isinstance(lossy, Choice)
    assert isinstance(lossless, Choice)
    assert lossy.steps[0].gain.expected < lossless.steps[0].gain.expected


def test_latency_takes_no_larger_batch_than_the_load_needs() -> None:
    latency = but(QUESTION, objective=Objective.LATENCY, options=mps_options(most=1))
    assert chosen(but(latency, workload=under(20))).max_num_seqs == 24
    assert chosen(but(latency, workload=under(400))).max_num_seqs == chosen(latency).knee.batch
    by_rate = chosen(but(latency, workload=under(rate=4)))
    assert by_rate.workload.in_flight is not None
    assert by_rate.max_num_seqs >= by_rate.workload.in_flight + 2 * sqrt(by_rate.workload.in_flight)


def test_latency_packs_where_that_lowers_the_itl() -> None:
    choice = chosen(but(QUESTION, objective=Objective.LATENCY, workload=under(100)))
    alone = chosen(but(QUESTION, objective=Objective.LATENCY, workload=under(100), options=mps_options(most=1)))
    assert choice.replicas_per_gpu > 1
    assert choice.prediction.tenants[0].itl_s.expected < alone.prediction.tenants[0].itl_s.expected / 1.05
    assert "ITL" in choice.steps[0].text


def test_energy_counts_joules() -> None:
    choice = chosen(but(QUESTION, objective=Objective.ENERGY))
    assert "J a token" in choice.steps[0].text
    alone = chosen(but(QUESTION, objective=Objective.ENERGY, options=mps_options(most=1)))
    assert choice.prediction.energy_j_per_token.expected <= alone.prediction.energy_j_per_token.expected


def test_a_calibration_moves_the_figures_and_their_basis() -> None:
    slower = Calibration(step_s=0.0, factor=2.0, points=2)
    plain, calibrated = chosen(QUESTION), chosen(but(QUESTION, calibration=slower))
    assert calibrated.prediction.throughput_tok_s.expected < 0.7 * plain.prediction.throughput_tok_s.expected
    assert (plain.steps[0].gain.basis, calibrated.steps[0].gain.basis) == (Basis.MODELLED, Basis.CALIBRATED)


def test_what_cannot_be_said() -> None:
    short = but(QUESTION, options=mps_options(pool=100))
    assert refused(short) == (
        "Not even one sequence at a time: the KV cache holds 0.4 requests of this length, fewer than 1."
    )
    unknown = replace(GPUS["h100-sxm5-80gb"], bandwidth_gb_s=None)
    options = (Option(replicas=1, site=Site(gpu=unknown, sharing=Sharing.NONE), kv_cache_tokens=400_000),)
    assert "memory_bandwidth_gb_s is unknown" in refused(but(QUESTION, options=options))
    strict = ChoicePolicy(knee=KneePolicy(itl_factor=0.1))
    assert refused(QUESTION, strict).startswith("No batch keeps the ITL rule of the knee, at most ")


def test_a_model_without_a_kv_cache_is_never_short_of_it() -> None:
    stateless = replace(QWEN, cache=())
    options = (Option(replicas=1, site=Site(gpu=GPUS["l4"], sharing=Sharing.NONE), kv_cache_tokens=0),)
    assert (
        chosen(but(QUESTION, engine=replace(ENGINE, model=stateless), options=options)).knee.binding
        is not Binding.KV_CACHE
    )


@pytest.mark.parametrize("objective", list(Objective))
def test_a_step_that_must_gain_more_adds_fewer_replicas(objective: Objective) -> None:
    question = but(QUESTION, objective=objective)
    easy, hard = (chosen(question, ChoicePolicy(pays=PayPolicy(step_gain=gain))) for gain in (1.01, 1.8))
    assert hard.replicas_per_gpu <= easy.replicas_per_gpu


@settings(max_examples=30)
@given(
    first=st.floats(min_value=0.5, max_value=2000),
    second=st.floats(min_value=0.5, max_value=2000),
    gpu=st.sampled_from(["l4", "a100-sxm4-80gb", "h100-sxm5-80gb", "b200-180gb"]),
)
def test_more_load_never_lowers_what_the_gpu_gives(first: float, second: float, gpu: str) -> None:
    few, many = (
        chosen(but(QUESTION, workload=under(load), options=mps_options(gpu))) for load in sorted((first, second))
    )
    assert many.prediction.throughput_tok_s.expected >= 0.9 * few.prediction.throughput_tok_s.expected


@settings(max_examples=30)
@given(
    first=st.floats(min_value=0.004, max_value=0.2),
    second=st.floats(min_value=0.004, max_value=0.2),
    constants=st.sampled_from([V0, V1, ASYNC]),
)
def test_a_tighter_bound_never_raises_the_knee_of_one(first: float, second: float, constants: EngineConstants) -> None:
    question = but(QUESTION, options=mps_options(most=1), constants=constants)

    def knee(bound: float) -> int:
        found = choose(but(question, bounds=Bounds(itl_s=bound)), policy=POLICY)
        return found.knee.batch if isinstance(found, Choice) else 0

    assert knee(min(first, second)) <= knee(max(first, second))


def test_a_load_that_is_spread_is_carried_in_part() -> None:
    ask = but(QUESTION, workload=under(600), spread_over=3).ask
    assert [ask.load(replicas).in_flight for replicas in (1, 2, 3, 4)] == [200, 400, 600, 600]
    assert [ask.load(replicas).request_rate for replicas in (1, 2)] == [None, None]
    by_rate = replace(ask, workload=under(rate=9.0))
    assert [by_rate.load(replicas).request_rate for replicas in (1, 2, 3)] == [3, 6, 9]
    assert replace(ask, spread_over=None).load(1) == ask.workload
    grows = [
        but(QUESTION, workload=load, spread_over=n).ask.load_grows for load in (under(6), under()) for n in (None, 2)
    ]
    assert grows == [False, True, True, True]
    assert not but(QUESTION, workload=under(), replicas=2).ask.load_grows


@pytest.mark.parametrize(("load", "spread_over"), [(None, None), (40.0, 4)])
def test_where_more_replicas_bring_more_load_the_largest_that_pays_for_its_own_runs(
    load: float | None, spread_over: int | None
) -> None:
    grown = but(QUESTION, workload=under(load), spread_over=spread_over)
    choice = chosen(grown)
    alone = chosen(but(grown, mps_options(most=1), replicas=1)).knee.batch
    count = choice.replicas_per_gpu
    for number in range(count, 5):
        stated = grown.ask.load(number)
        faced = under(stated.in_flight or number * alone)
        found = chosen(but(grown, mps_options(most=number), workload=faced, spread_over=None))
        assert (found.replicas_per_gpu == number) == (number == count)
        if number == count:
            assert (found.knee, found.max_num_seqs) == (choice.knee, choice.max_num_seqs)
            mine, theirs = (one.prediction.throughput_tok_s.expected for one in (choice, found))
            assert mine == pytest.approx(theirs, rel=0.01)
            assert choice.carries or load is not None
        elif number == count + 1:
            assert choice.no_more == choice.runner_up.reason == found.steps[-1].text
            assert choice.refusal == f"Under the load of {number} replicas: {choice.no_more}"
            assert choice.refusal in choice.reasons
            assert choice.runner_up.replicas_per_gpu == number
    assert count < 4
