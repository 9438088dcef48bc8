"""What to run on one GPU that somebody asks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from slmpack.domain.choice import Ask, BoundsNotKept, Choice
from slmpack.domain.cut import CannotCut, Cut
from slmpack.domain.decide import MOST_REPLICAS, Decision, _is_better, decide, operated, ways_of
from slmpack.domain.engine_version import EngineVersion
from slmpack.domain.performance import Unpredictable
from slmpack.domain.prediction import Sharing
from slmpack.domain.serving import Engine
from slmpack.domain.workload import Bounds, Objective, Workload
from tests.support.builders import POLICY, a_model
from tests.unit.domain.test_cut import a_gpu
from tests.unit.domain.test_part import a_cut, an_engine

CONSTANTS = POLICY.performance.constants_for(EngineVersion(0, 33))
SMALL = a_model("Qwen/Qwen2.5-0.5B-Instruct")
GIVEN = Workload(in_flight=256.0)


def an_ask(
    workload: Workload | None = None,
    *,
    engine: Engine | None = None,
    objective: Objective = Objective.THROUGHPUT,
    spread_over: int | None = None,
    replicas: int | None = None,
) -> Ask:
    return Ask(
        engine=engine or an_engine(SMALL),
        constants=CONSTANTS,
        workload=workload or Workload(),
        bounds=Bounds(),
        objective=objective,
        spread_over=spread_over,
        replicas=replicas,
    )


def decided(ask: Ask, rows: Sequence[Sequence[Cut]]) -> Decision:
    return decide(ask, rows, policy=POLICY)


def ways(gpu: str, sharing: Sharing | None = None, **more: int | str) -> tuple[tuple[Cut, ...], ...]:
    found = ways_of(a_gpu(gpu), sharing, **more)  # type: ignore[arg-type]
    assert not isinstance(found, CannotCut), found.message
    return found


def shape(rows: Sequence[Sequence[Cut]]) -> list[tuple[str, str | None, list[int]]]:
    return [
        (
            row[-1].site.sharing.value,
            row[-1].site.mig_profile.name if row[-1].site.mig_profile else None,
            [cut.replicas for cut in row],
        )
        for row in rows
    ]


def test_every_way_that_bounds_memory_is_open_unless_one_is_named() -> None:
    eight = list(range(1, MOST_REPLICAS + 1))
    assert shape(ways("l4")) == [("mps", None, eight)]
    assert ways("l4")[0][0].site.sharing is Sharing.NONE, "one replica has the whole GPU"
    assert shape(ways("a100-sxm4-40gb")) == [
        ("mps", None, eight),
        ("mig", "1g.5gb", [1, 2, 3, 4, 5, 6, 7]),
        ("mig", "1g.10gb", [1, 2, 3, 4]),
        ("mig", "2g.10gb", [1, 2, 3]),
        ("mig", "3g.20gb", [1, 2]),
    ]
    assert shape(ways("l4", Sharing.NONE)) == [("none", None, [1])]
    assert shape(ways("l4", Sharing.MPS, sm_percent=30)) == [("mps", None, eight)]
    assert {cut.site.sm_percent for cut in ways("l4", Sharing.MPS, sm_percent=30)[0]} == {30}
    assert shape(ways("l4", Sharing.TIMESLICE)) == [("timeslice", None, eight)]
    assert shape(ways("a100-sxm4-40gb", Sharing.MIG, mig_profile="7g.40gb")) == [("mig", "7g.40gb", [1])]
    assert ("mig", "7g.40gb", [1]) in shape(ways("a100-sxm4-40gb", Sharing.MIG)), "if MIG is named"


def test_a_gpu_that_is_set_up_for_so_many_may_carry_fewer() -> None:
    (row,) = ways("l4", Sharing.MPS, replicas=3)
    assert [cut.replicas for cut in row] == [1, 2, 3]
    assert len({cut.share for cut in row}) == 1
    rows = ways("a100-sxm4-40gb", replicas=3)
    assert shape(rows)[0] == ("mps", None, [1, 2, 3])
    assert ("mig", "3g.20gb", [1, 2]) not in shape(rows), "it holds two"
    assert shape(ways("l4", replicas=1)) == [("none", None, [1])]


@pytest.mark.parametrize(
    ("gpu", "sharing", "more", "field"),
    [
        ("l4", Sharing.MIG, {}, "sharing"),
        ("l4", Sharing.NONE, {"replicas": 2}, "replicas"),
        ("l4", None, {"replicas": 99}, "replicas"),
        ("a100-sxm4-40gb", Sharing.MIG, {"mig_profile": "9g.1gb"}, "mig_profile"),
    ],
)
def test_where_no_way_is_left_the_reason_is_given(
    gpu: str, sharing: Sharing | None, more: dict[str, int | str], field: str
) -> None:
    found = ways_of(a_gpu(gpu), sharing, **more)  # type: ignore[arg-type]
    assert isinstance(found, CannotCut)
    assert found.field == field


@pytest.mark.parametrize("gpu", ["l4", "a100-sxm4-40gb", "h100-sxm5-80gb", "l40s"])
def test_replicas_pay_for_the_load_that_they_bring(gpu: str) -> None:
    """D7: N = replicas x knee of one, and the step to them gains 5 % at least."""
    decision = decided(an_ask(), ways(gpu)[:1])
    choice = decision.choice
    assert isinstance(choice, Choice)
    assert choice.assumed
    assert choice.workload.in_flight == choice.replicas_per_gpu * choice.knee.batch
    assert choice.carries
    assert decision.part.cut.replicas == choice.replicas_per_gpu
    assert decision.part.sequences == choice.max_num_seqs
    assert decision.part.fits


@pytest.mark.parametrize("gpu", ["a100-sxm4-80gb", "h100-sxm5-80gb", "b200-180gb"])
@pytest.mark.parametrize("replicas", [None, 2, 3])
def test_a_row_that_wins_is_answered_under_its_own_load(gpu: str, replicas: int | None) -> None:
    """The rows are compared under one load; what is told of the winner is its own, and that it is assumed."""
    rows = ways(gpu) if replicas is None else ways(gpu, replicas=replicas)
    decision = decided(an_ask(replicas=replicas), rows)
    choice = decision.choice
    assert isinstance(choice, Choice)
    assert choice.assumed
    assert choice.carries
    assert choice.workload.in_flight == choice.replicas_per_gpu * choice.knee.batch
    assert choice.reasons[0].startswith(f"Nobody said how much load there is: assumed {choice.replicas_per_gpu} x ")
    if decision.part.cut.site.sharing is Sharing.MIG:
        assert decision.part.sequences == choice.max_num_seqs


@pytest.mark.parametrize(("given", "runs"), [(None, 8), (24, 24)])
def test_a_bound_that_no_way_to_share_keeps(given: int | None, runs: int) -> None:
    """The memory is that of the least batch: what comes nearest."""
    ask = replace(an_ask(GIVEN, engine=an_engine(SMALL, max_num_seqs=given)), bounds=Bounds(itl_s=0.0001))
    decision = decided(ask, ways("a100-sxm4-40gb"))
    assert isinstance(decision.choice, BoundsNotKept)
    assert decision.choice.bound == "itl"
    assert decision.part.fits
    assert decision.part.sequences == runs


def test_the_batch_that_the_operator_would_run_is_known_for_any_number_of_replicas() -> None:
    ask = an_ask(GIVEN)
    one, two = (operated(ask, a_cut(Sharing.MPS, count, gpu="h100-sxm5-80gb"), policy=POLICY) for count in (1, 2))
    assert one.max_num_seqs == one.most_num_seqs
    assert two.max_num_seqs is not None
    assert one.max_num_seqs is not None
    assert two.max_num_seqs < one.max_num_seqs, "two may be no slower than one alone by more than the rule says"
    assert operated(ask, a_cut(Sharing.MPS, 20), policy=POLICY) == ask.engine, "it does not fit"
    unknown = replace(a_cut(), site=replace(a_cut().site, gpu=replace(a_gpu("l4"), bandwidth_gb_s=None)))
    assert operated(ask, unknown, policy=POLICY).max_num_seqs == POLICY.unpredicted_num_seqs


def test_a_load_by_replica_grows_with_the_replicas() -> None:
    choice = decided(an_ask(Workload(in_flight=24.0 * 8), spread_over=8), ways("h100-sxm5-80gb")[:1]).choice
    assert isinstance(choice, Choice)
    assert choice.workload.in_flight == 24.0 * choice.replicas_per_gpu


def test_a_given_number_brings_its_load_even_if_fewer_pay() -> None:
    found = decided(an_ask(replicas=4), ways("l4", Sharing.MPS, replicas=4))
    assert isinstance(found.choice, Choice)
    assert found.choice.replicas_per_gpu < 4
    assert found.choice.workload.in_flight is not None
    one = decided(an_ask(replicas=1), ways("l4", Sharing.MPS, replicas=4)).choice
    assert isinstance(one, Choice)
    assert found.choice.workload.in_flight == 4 * (one.workload.in_flight or 0)
    assert found.part.cut.share == ways("l4", Sharing.MPS, replicas=4)[0][0].share


def test_a_given_load_is_kept() -> None:
    choice = decided(an_ask(GIVEN), ways("h100-sxm5-80gb")).choice
    assert isinstance(choice, Choice)
    assert choice.workload == GIVEN
    assert not choice.assumed


def test_a_batch_of_the_user_runs() -> None:
    decision = decided(an_ask(GIVEN, engine=an_engine(SMALL, max_num_seqs=24)), ways("l4"))
    assert decision.part.sequences == 24


def test_nothing_fits_or_nothing_can_be_said() -> None:
    crowd = decided(an_ask(), [(a_cut(Sharing.MPS, 20),)])
    assert crowd.choice is None
    assert not crowd.part.fits
    unknown = replace(a_cut(), site=replace(a_cut().site, gpu=replace(a_gpu("l4"), bandwidth_gb_s=None)))
    silent = decided(an_ask(), [(unknown,), (unknown,)])
    assert isinstance(silent.choice, Unpredictable)
    assert silent.part.fits


def test_a_row_that_fits_beats_one_that_does_not_and_one_that_answers_a_silent_one() -> None:
    crowd, alone = (a_cut(Sharing.MPS, 20),), (a_cut(),)
    assert decided(an_ask(), [crowd, alone]).part.cut == alone[0]
    assert decided(an_ask(), [alone, crowd]).part.cut == alone[0]
    unknown = replace(a_cut(), site=replace(a_cut().site, gpu=replace(a_gpu("l4"), bandwidth_gb_s=None)))
    assert decided(an_ask(), [crowd, (unknown,)]).part.cut == unknown
    assert decided(an_ask(), [(unknown,), alone]).part.cut == alone[0]


@pytest.mark.parametrize("objective", list(Objective))
def test_another_row_must_be_better_by_more_than_the_model_may_err(objective: Objective) -> None:
    """Two GPUs as two rows: the faster one wins from either place, its twin does not."""
    slow, fast = (a_cut(gpu="l4"),), (a_cut(gpu="h100-sxm5-80gb"),)
    workload = Workload(in_flight=8.0) if objective is not Objective.ENERGY else GIVEN
    ask = replace(an_ask(workload, objective=objective), bounds=Bounds(itl_s=1.0))
    best = decided(ask, [slow, fast]).part.cut
    assert best == decided(ask, [fast, slow]).part.cut
    assert best == (slow[0] if objective is Objective.ENERGY else fast[0])
    twin = (replace(slow[0], replicas=1, site=replace(slow[0].site, sharing=Sharing.MPS)),)
    assert decided(ask, [slow, twin]).part.cut == slow[0]


def test_a_row_that_carries_the_load_beats_one_that_does_not() -> None:
    small = (a_cut(Sharing.MIG, 1, gpu="a100-sxm4-40gb", profile="1g.5gb"),)
    whole = (a_cut(gpu="a100-sxm4-40gb"),)
    ask = an_ask(Workload(in_flight=64.0))
    for rows in ([small, whole], [whole, small]):
        decision = decided(ask, rows)
        assert isinstance(decision.choice, Choice)
        assert decision.choice.carries
        assert decision.part.cut == whole[0]


def test_carrying_the_load_counts_before_speed() -> None:
    ask = an_ask(Workload(in_flight=8.0))
    slow, fast = (decided(ask, [(a_cut(gpu=gpu),)]) for gpu in ("l4", "h100-sxm5-80gb"))
    assert isinstance(fast.choice, Choice)
    late = replace(fast, choice=replace(fast.choice, carries=False))
    assert _is_better(fast, slow, ask, POLICY)
    assert not _is_better(late, slow, ask, POLICY)
    assert _is_better(slow, late, ask, POLICY)


def test_slices_hold_the_latency_of_the_whole_gpu() -> None:
    """Else a slice, slow by itself, would be allowed twice its own slowness."""
    rows = ways("a100-sxm4-40gb")
    ask = an_ask(Workload(in_flight=256.0))
    chosen = decided(ask, rows).choice
    alone = decided(ask, [rows[0][:1]]).choice
    assert isinstance(chosen, Choice)
    assert isinstance(alone, Choice)
    assert chosen.knee.itl_s <= 1.01 * max(alone.knee.itl_s, 2 * _itl_at_32(rows[0][0]))


def _itl_at_32(cut: Cut) -> float:
    found = decided(an_ask(Workload(in_flight=32.0), engine=an_engine(SMALL, max_num_seqs=32)), [(cut,)]).choice
    assert isinstance(found, Choice)
    return found.prediction.tenants[0].itl_s.expected


def test_what_nobody_can_predict_runs_a_modest_batch_unless_one_is_given() -> None:
    unknown = replace(a_cut(), site=replace(a_cut().site, gpu=replace(a_gpu("l4"), bandwidth_gb_s=None)))
    ours, given = (decided(an_ask(engine=an_engine(SMALL, max_num_seqs=n)), [(unknown,)]) for n in (None, 300))
    assert (ours.part.sequences, given.part.sequences) == (POLICY.unpredicted_num_seqs, 300)


def test_a_share_must_hold_the_least_batch_at_its_mean_length() -> None:
    """As in the plan: an engine would start with room for one longest request, but serve hardly anybody."""
    long = Workload(in_flight=8.0, input_tokens=3000, output_tokens=1000)
    row = (a_cut(Sharing.MPS, 9),)
    assert decided(an_ask(GIVEN), [row]).part.fits
    crowded = decided(an_ask(long), [row])
    assert (crowded.part.fits, crowded.part.room.kv_tokens) == (False, 8 * 3500)
    few = decided(an_ask(long, engine=an_engine(SMALL, max_num_seqs=2)), [row])
    assert (few.part.fits, few.part.room.kv_tokens) == (True, 2 * 3500)
