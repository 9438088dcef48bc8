"""The benchmark's verdicts, on rows that are written down here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.autoscaling import PlayedBefore, plan_of, thinned
from benchmarks.autoscaling_bars import Compared, compare, seed_lines, step_line, table_lines, verdicts
from slmpack.simulate.placement import PlacementName
from slmpack.simulate.results import Figures
from slmpack.simulate.rows import TARGET, Row, Setting
from slmpack.simulate.sweep import settings_of


def row(
    policy: str,
    hours: float,
    joules: float,
    *,
    slo: float = 0.999,
    tenant: float = 0.99,
    place: PlacementName = "slmpack",
) -> Row:
    figures = Figures(
        slo_attainment=slo,
        worst_tenant_slo=tenant,
        ttft_p50_ms=1.0,
        ttft_p99_ms=1.0,
        itl_p50_ms=1.0,
        itl_p99_ms=1.0,
        gpu_hours=hours,
        slot_hours=1.0,
        energy_kwh=1.0,
        j_per_token=joules,
        scale_events=0,
        reversals=2,
        cold_starts=0,
        rejected=0,
    )
    setting = Setting(policy=policy, point="x", rule=None, placement=place, start="cold")
    return Row(setting=setting, seeds=(1,), figures=(figures,))


def judged(*rows: Row, kind: str = "bursty") -> dict[str, bool | None]:
    it = compare(rows, scenario="test", kind=kind, start="cold", fluid=0.5)
    return {verdict.name: verdict.passed for verdict in verdicts(it)}


HOURS = "GPU hours, not above the best baseline"
FEWER, FEWER_J = "10 % fewer GPU hours", "10 % fewer J/token"
SLO = "99.5 % in time, worst tenant 98.5 %"
GAP = "70 % of the gap to the oracle, cold starts"
NEAR = "at most 1.1 x the oracle's GPU hours"


def test_all_is_well() -> None:
    found = judged(row("slmpack", 1.2, 1.2), row("hpa", 2.0, 2.0, place="kubernetes"), row("oracle", 1.0, 1.0))
    assert found[HOURS] is True
    assert found[FEWER] is True
    assert found[FEWER_J] is True
    assert found[SLO] is True
    assert found[GAP] is True


@pytest.mark.parametrize(("hours", "passed"), [(2.0, True), (2.1, False)])
def test_not_above_the_best_baseline_of_either_placement(hours: float, passed: bool) -> None:
    found = judged(row("slmpack", hours, 1.0), row("hpa", 3.0, 2.0, place="kubernetes"), row("kpa", 2.0, 2.0))
    assert found[HOURS] is passed


def test_ten_percent_are_asked_only_where_the_oracle_has_them() -> None:
    assert judged(row("slmpack", 2.0, 2.0), row("hpa", 2.0, 2.0), row("oracle", 1.9, 1.9))[FEWER] is None
    assert judged(row("slmpack", 1.9, 2.0), row("hpa", 2.0, 2.0), row("oracle", 1.7, 1.9))[FEWER] is False


def test_a_baseline_that_keeps_less_is_no_match() -> None:
    found = judged(row("slmpack", 2.0, 2.0), row("hpa", 1.0, 1.0, slo=0.98), row("oracle", 1.5, 1.5))
    assert found[HOURS] is True
    assert found[GAP] is None


def test_where_ours_keeps_less_it_is_compared_with_what_keeps_as_much() -> None:
    found = judged(row("slmpack", 2.0, 2.0, slo=0.97), row("hpa", 1.0, 1.0, slo=0.98), row("oracle", 1.5, 1.5))
    assert found[HOURS] is False
    assert found[SLO] is False


def test_what_a_dearer_oracle_keeps_is_asked() -> None:
    oracles = row("oracle", 0.5, 0.5, slo=0.98), row("oracle", 3.0, 3.0)
    assert judged(row("slmpack", 2.0, 2.0, slo=0.97), *oracles)[SLO] is False


def test_what_the_oracle_misses_is_not_asked() -> None:
    assert judged(row("slmpack", 2.0, 2.0, slo=0.97), row("oracle", 1.5, 1.5, slo=0.98))[SLO] is None


@pytest.mark.parametrize(("hours", "passed"), [(1.3, True), (1.31, False)])
def test_seventy_percent_of_the_gap(hours: float, passed: bool) -> None:
    assert judged(row("slmpack", hours, 1.0), row("hpa", 2.0, 2.0), row("oracle", 1.0, 1.0))[GAP] is passed


@pytest.mark.parametrize(("hours", "passed"), [(1.1, True), (1.2, False)])
def test_near_the_oracle_on_conversations(hours: float, passed: bool) -> None:
    found = judged(row("slmpack", hours, 1.0), row("hpa", 2.0, 2.0), row("oracle", 1.0, 1.0), kind="conversation")
    assert found[NEAR] is passed
    assert GAP not in found


def test_the_table_says_where_nothing_keeps_the_bar() -> None:
    it: Compared = compare(
        [row("slmpack", 1.0, 1.0), row("hpa", 2.0, 2.0, slo=0.5)], scenario="test", kind="day", start="cold", fluid=0.5
    )
    lines = table_lines([it])
    assert sum("none keeps the bar" in line for line in lines) == 3
    assert any("**slmpack**" in line and "1.00" in line for line in lines)


def test_what_was_played_is_not_played_again(tmp_path: Path) -> None:
    words = ["--scenario", "code", "--quick", "--cache", str(tmp_path)]
    one, other = row("slmpack", 1.0, 1.0), row("hpa", 2.0, 2.0, place="kubernetes")
    first = PlayedBefore(plan_of(words), "code")
    assert first.recall(one.setting, 1) is None
    first.remember(one.setting, 1, one.figures[0])
    first.remember(other.setting, 1, other.figures[0])
    later = PlayedBefore(plan_of(words), "code")
    assert later.recall(one.setting, 1) == one.figures[0]
    assert later.recall(one.setting, 2) is None
    again = PlayedBefore(plan_of([*words, "--again", "slmpack"]), "code")
    assert again.recall(one.setting, 1) is None
    assert again.recall(other.setting, 1) == other.figures[0]


def test_the_quick_run_takes_every_third_point_of_a_cut() -> None:
    plan = plan_of(["--quick", "--scenario", "code", "--start", "cold", "--policy", "hpa"])
    assert (plan.seeds, plan.policies, plan.starts) == ((1,), ("slmpack", "oracle", "hpa"), ("cold",))
    whole = settings_of(plan.policies, placements=("kubernetes", "slmpack"), starts=plan.starts)
    thin = thinned(whole)
    assert {one.policy for one in thin} == {"slmpack", "oracle", "hpa"}
    assert len(whole) / 4 < len(thin) < len(whole) / 2


def test_a_full_run_takes_all_there_is() -> None:
    plan = plan_of([])
    assert len(plan.scenarios) == 6
    assert plan.seeds == (1, 2, 3, 4, 5)
    assert plan.starts == ("cold", "wake")
    assert {"hpa", "keda", "kpa", "kubeai", "aibrix", "wva", "dynamo", "fixed"} < set(plan.policies)


def test_alone_it_says_each_seed_and_compares_nothing() -> None:
    assert plan_of(["--alone", "--seeds", "3"]).policies == ("slmpack",)
    ours = row("slmpack", 1.2, 0.5, slo=0.9951)
    twice = Row(setting=ours.setting, seeds=(1, 2), figures=(ours.figures[0], row("slmpack", 2.0, 0.6).figures[0]))
    (*_, line) = seed_lines([compare([twice], scenario="test", kind="bursty", start="cold", fluid=0.5)])
    assert line == "| test, cold | 1.20, 2.00 | 99.51, 99.90 | 0.500, 0.600 |"


def test_what_each_step_saves_counts_whole_rows_only() -> None:
    rows = [
        row("hpa", 4.0, 1.0, place="kubernetes"),
        row("hpa", 3.0, 1.0),
        row("slmpack", 2.25, 1.0),
    ]
    rows = [replace(each, seeds=(1, 2), figures=each.figures * 2) for each in rows]
    rows.append(row("kpa", 1.0, 1.0))  # one seed: not known to the end

    assert step_line("test", rows, TARGET) == "| test | 25 % | 25 % | - |"
