from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmpack.adapters.performance_table import load_performance_table
from slmpack.adapters.tables import load_gpu_catalogue
from slmpack.domain.calibration import Calibration
from slmpack.domain.choice import Choice, ChoicePolicy, Curves, Option, Question, choose
from slmpack.domain.interval import Basis
from slmpack.domain.knee import Binding, KneePolicy
from slmpack.domain.paying import PayPolicy, Verdict
from slmpack.domain.performance import Unpredictable
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Sharing, Site
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


QUESTION = Question(
    model=OPT,
    options=mps_options(),
    workload=Workload(in_flight=512, input_tokens=128, output_tokens=256),
    bounds=Bounds(),
    objective=Objective.THROUGHPUT,
    replicas=1,
    constants=sure(V0),
    cpu_cores=2,
    most_num_seqs=512,
    max_num_batched_tokens=2048,
    enforce_eager=False,
    kv_element_bytes=2,
)


def chosen(question: Question, policy: ChoicePolicy = POLICY) -> Choice:
    found = choose(question, policy=policy)
    assert isinstance(found, Choice)
    return found


def refused(question: Question, policy: ChoicePolicy = POLICY) -> str:
    found = choose(question, policy=policy)
    assert isinstance(found, Unpredictable)
    return found.reason


def under(load: float | None = None, *, rate: float | None = None, hits: float = 0.0) -> Workload:
    return replace(QUESTION.workload, in_flight=load, request_rate=rate, prefix_hit_rate=hits)


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
    choice = chosen(replace(QUESTION, workload=under(1)))
    assert (choice.replicas_per_gpu, choice.binding, choice.carries) == (1, "Load", True)
    assert choice.reasons[0] == "The load is 1 request in flight of 128 input and 256 output tokens."
    assert choice.reasons[1] == choice.knee.explanation
    assert choice.reasons[2:] == tuple(step.text for step in choice.steps)


def test_an_unsure_model_adds_no_replica() -> None:
    unsure = chosen(replace(QUESTION, constants=sure(V0, difference=0.9)))
    assert unsure.replicas_per_gpu == 1
    assert [step.verdict for step in unsure.steps] == [Verdict.UNCERTAIN]


def test_mig_instances_do_not_meet_and_their_gain_is_surer() -> None:
    gpu = GPUS["a100-sxm4-40gb"]
    profile = next(profile for profile in gpu.mig_profiles if profile.name == "2g.10gb")
    site = Site(gpu=gpu, sharing=Sharing.MIG, mig_profile=profile)
    options = tuple(Option(replicas=k, site=site, kv_cache_tokens=60_000) for k in (1, 2, 3))
    choice = chosen(replace(QUESTION, model=QWEN, options=options, constants=sure(V1, difference=0.9)))
    assert choice.replicas_per_gpu == 3
    assert [step.verdict for step in choice.steps] == [Verdict.PAYS, Verdict.PAYS]
    assert choice.runner_up.replicas_per_gpu == 2
    assert choice.runner_up.reason == choice.steps[-1].text
    assert choice.runner_up.throughput_tok_s < choice.prediction.throughput_tok_s.expected


def test_nobody_said_how_much_load_there_is() -> None:
    choice = chosen(replace(QUESTION, workload=under(), options=mps_options(most=1), replicas=3))
    assert choice.assumed
    assert choice.workload.in_flight == 3 * choice.knee.batch
    assert choice.reasons[0] == (
        f"Nobody said how much load there is: assumed 3 x the knee of one replica, {3 * choice.knee.batch} "
        "requests in flight of 128 input and 256 output tokens."
    )
    assert not choice.carries
    assert choice.binding == choice.knee.binding.value
    assert choice.reasons[-1] == "The load is more than this GPU runs at a time within the bounds: the rest waits."


def test_a_request_rate_becomes_requests_in_flight() -> None:
    slow, fast = (chosen(replace(QUESTION, workload=under(rate=rate))) for rate in (2, 12))
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
    choice = chosen(replace(QUESTION, workload=under(rate=1000)))
    assert not choice.carries
    assert choice.replicas_per_gpu > 1
    assert choice.workload.in_flight == choice.replicas_per_gpu * choice.max_num_seqs


def test_the_runner_up_of_a_lone_replica_is_the_next_batch() -> None:
    alone = replace(QUESTION, options=mps_options(most=1))
    choice = chosen(alone)
    assert choice.runner_up.max_num_seqs > choice.max_num_seqs
    assert choice.runner_up.reason == choice.knee.explanation
    assert choice.runner_up.throughput_tok_s > 0
    short = chosen(replace(alone, options=mps_options(most=1, pool=20 * 256)))
    assert short.knee.binding is Binding.KV_CACHE
    assert (short.runner_up.max_num_seqs, short.runner_up.throughput_tok_s) == (24, 0.0)
    least = chosen(alone, ChoicePolicy(knee=KneePolicy(grid=(1, 2, 4))))
    assert least.knee.binding is Binding.GRID_END
    assert (least.max_num_seqs, least.runner_up.max_num_seqs) == (4, 2)
    assert least.runner_up.reason.startswith("A batch of 2 gives ")


def test_replicas_that_would_miss_the_bounds_are_not_added() -> None:
    solo = chosen(replace(QUESTION, workload=under(1)))
    bound = solo.prediction.tenants[0].itl_s.expected * 1.01
    slow = replace(V0, sharing=replace(sure(V0).sharing, busy_part=1.0, sequence_busy_part=1.0))
    choice = chosen(replace(QUESTION, constants=slow, bounds=Bounds(itl_s=bound)))
    assert choice.replicas_per_gpu == 1
    assert choice.knee.binding is Binding.ITL_BOUND
    assert choice.steps[0].operating is None
    assert (choice.runner_up.max_num_seqs, choice.runner_up.throughput_tok_s) == (1, 0.0)


def test_a_batch_that_the_user_fixed_runs_and_only_absolute_bounds_limit_it() -> None:
    fixed = replace(QUESTION, fixed=True, most_num_seqs=400, options=mps_options(most=1))
    choice = chosen(fixed)
    assert choice.max_num_seqs == 400
    assert choice.knee.batch < 400
    assert not choice.carries
    assert choice.workload.in_flight == 512
    assert chosen(replace(fixed, workload=under(300))).carries
    bounded = chosen(replace(fixed, workload=under(300), bounds=Bounds(itl_s=0.01)))
    assert not bounded.carries


def test_a_batch_beyond_the_grid_is_taken_where_the_user_fixed_it() -> None:
    choice = chosen(replace(QUESTION, fixed=True, most_num_seqs=3000, workload=under(5000)))
    assert (choice.max_num_seqs, choice.max_num_batched_tokens) == (3000, 3000)


def test_the_prefix_hits_of_smaller_caches_are_fewer() -> None:
    hitting = replace(QUESTION, workload=under(512, hits=0.8))
    choice = chosen(hitting)
    part = 0.8 / choice.replicas_per_gpu
    assert choice.reasons[-1] == (
        f"Each of {choice.replicas_per_gpu} replicas has a smaller KV cache than one alone: "
        f"its prefix hits are modelled as {part:.2f} instead of 0.80."
    )
    equal = tuple(replace(option, kv_cache_tokens=100_000) for option in QUESTION.options)
    assert not any("prefix" in reason for reason in chosen(replace(hitting, options=equal)).reasons)
    long_prompts = replace(hitting.workload, input_tokens=2048)
    lossy, lossless = (
        choose(replace(hitting, workload=long_prompts, options=options), policy=POLICY)
        for options in (mps_options(most=2, pool=800_000), equal[:2])
    )
    assert isinstance(lossy, Choice)
    assert isinstance(lossless, Choice)
    assert lossy.steps[0].gain.expected < lossless.steps[0].gain.expected


def test_latency_takes_no_larger_batch_than_the_load_needs() -> None:
    latency = replace(QUESTION, objective=Objective.LATENCY, options=mps_options(most=1))
    assert chosen(replace(latency, workload=under(20))).max_num_seqs == 24
    assert chosen(replace(latency, workload=under(400))).max_num_seqs == chosen(latency).knee.batch
    by_rate = chosen(replace(latency, workload=under(rate=4)))
    assert by_rate.workload.in_flight is not None
    assert by_rate.max_num_seqs >= by_rate.workload.in_flight + 2 * sqrt(by_rate.workload.in_flight)


def test_latency_packs_where_that_lowers_the_itl() -> None:
    choice = chosen(replace(QUESTION, objective=Objective.LATENCY, workload=under(100)))
    alone = chosen(replace(QUESTION, objective=Objective.LATENCY, workload=under(100), options=mps_options(most=1)))
    assert choice.replicas_per_gpu > 1
    assert choice.prediction.tenants[0].itl_s.expected < alone.prediction.tenants[0].itl_s.expected / 1.05
    assert "ITL" in choice.steps[0].text


def test_energy_counts_joules() -> None:
    choice = chosen(replace(QUESTION, objective=Objective.ENERGY))
    assert "J a token" in choice.steps[0].text
    alone = chosen(replace(QUESTION, objective=Objective.ENERGY, options=mps_options(most=1)))
    assert choice.prediction.energy_j_per_token.expected <= alone.prediction.energy_j_per_token.expected


def test_curves_serve_other_loads_of_the_same_question_only() -> None:
    curves = Curves(QUESTION, POLICY)
    for load in (20, 700):
        loaded = replace(QUESTION, workload=under(load), replicas=3)
        assert curves.hold_for(loaded, POLICY)
        assert choose(loaded, policy=POLICY, curves=curves) == choose(loaded, policy=POLICY)
    longer = replace(QUESTION, workload=replace(QUESTION.workload, output_tokens=512))
    strict = ChoicePolicy(knee=KneePolicy(itl_factor=1.5))
    assert not curves.hold_for(longer, POLICY)
    assert not curves.hold_for(QUESTION, strict)
    assert choose(longer, policy=POLICY, curves=curves) == choose(longer, policy=POLICY)


def test_a_calibration_moves_the_figures_and_their_basis() -> None:
    slower = Calibration(step_s=0.0, factor=2.0, points=2)
    plain, calibrated = chosen(QUESTION), chosen(replace(QUESTION, calibration=slower))
    assert calibrated.prediction.throughput_tok_s.expected < 0.7 * plain.prediction.throughput_tok_s.expected
    assert (plain.steps[0].gain.basis, calibrated.steps[0].gain.basis) == (Basis.MODELLED, Basis.CALIBRATED)


def test_what_cannot_be_said() -> None:
    short = replace(QUESTION, options=mps_options(pool=100))
    assert refused(short) == (
        "Not even one sequence at a time: the KV cache holds 0.4 requests of this length, fewer than 1."
    )
    unknown = replace(GPUS["h100-sxm5-80gb"], bandwidth_gb_s=None)
    options = (Option(replicas=1, site=Site(gpu=unknown, sharing=Sharing.NONE), kv_cache_tokens=400_000),)
    assert "memory_bandwidth_gb_s is unknown" in refused(replace(QUESTION, options=options))
    strict = ChoicePolicy(knee=KneePolicy(itl_factor=0.1))
    assert refused(QUESTION, strict).startswith("No batch keeps the ITL under ")


def test_a_model_without_a_kv_cache_is_never_short_of_it() -> None:
    stateless = replace(QWEN, cache=())
    options = (Option(replicas=1, site=Site(gpu=GPUS["l4"], sharing=Sharing.NONE), kv_cache_tokens=0),)
    assert chosen(replace(QUESTION, model=stateless, options=options)).knee.binding is not Binding.KV_CACHE


@pytest.mark.parametrize("objective", list(Objective))
def test_a_step_that_must_gain_more_adds_fewer_replicas(objective: Objective) -> None:
    question = replace(QUESTION, objective=objective)
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
        chosen(replace(QUESTION, workload=under(load), options=mps_options(gpu))) for load in sorted((first, second))
    )
    assert many.prediction.throughput_tok_s.expected >= 0.9 * few.prediction.throughput_tok_s.expected


@settings(max_examples=30)
@given(
    first=st.floats(min_value=0.004, max_value=0.2),
    second=st.floats(min_value=0.004, max_value=0.2),
    constants=st.sampled_from([V0, V1, ASYNC]),
)
def test_a_tighter_bound_never_raises_the_knee_of_one(first: float, second: float, constants: EngineConstants) -> None:
    question = replace(QUESTION, options=mps_options(most=1), constants=constants)

    def knee(bound: float) -> int:
        found = choose(replace(question, bounds=Bounds(itl_s=bound)), policy=POLICY)
        return found.knee.batch if isinstance(found, Choice) else 0

    assert knee(min(first, second)) <= knee(max(first, second))
