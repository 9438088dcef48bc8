"""Sweeps: settings, the search, the worst decile, and what each step saves; and a small one played."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slmpack.cli.manifests import read_manifests
from slmpack.cli.world import Question, observe_world
from slmpack.simulate import sweep
from slmpack.simulate.ground import ground_for
from slmpack.simulate.oracle import OracleRule
from slmpack.simulate.placement import PlacementName
from slmpack.simulate.policies.fixed import FixedRule
from slmpack.simulate.results import Figures
from slmpack.simulate.rows import ORACLE, TARGET, Bar, Row, Setting, bar_beside, cheapest, split, worst
from slmpack.simulate.scenario import Scenario
from slmpack.simulate.sweep import Stage, best_oracle, run_settings, settings_of
from slmpack.simulate.trace import Trace

SCENARIOS = Path(__file__).parents[3] / "benchmarks" / "scenarios"


def _figures(slo: float = 1.0, gpu_hours: float = 1.0, **more: float) -> Figures:
    return Figures(
        slo_attainment=slo,
        worst_tenant_slo=more.get("tenant", slo),
        ttft_p50_ms=1.0,
        ttft_p99_ms=1.0,
        itl_p50_ms=1.0,
        itl_p99_ms=1.0,
        gpu_hours=gpu_hours,
        slot_hours=1.0,
        energy_kwh=1.0,
        j_per_token=more.get("joules", gpu_hours),
        scale_events=0,
        reversals=0,
        cold_starts=0,
        rejected=0,
    )


def _row(
    slo: float,
    gpu_hours: float,
    *,
    policy: str = "hpa",
    placement: PlacementName = "kubernetes",
    start: str = "cold",
    **more: float,
) -> Row:
    setting = Setting(policy=policy, point="", rule=None, placement=placement, start=start)
    return Row(setting=setting, seeds=(0,), figures=(_figures(slo, gpu_hours, **more),))


def test_the_worst_decile_is_the_worst_of_few_and_the_tenth_of_many() -> None:
    assert worst([0.9, 0.7, 0.8], high=True) == 0.7
    assert worst([1.0, 3.0, 2.0], high=False) == 3.0
    twenty = [float(number) for number in range(20)]
    assert worst(twenty, high=True) == 1.0
    assert worst(twenty, high=False) == 18.0


def test_of_seeds_to_come_the_worst_decile_is_bounded_by_those_played() -> None:
    assert worst([0.9, 0.7], high=True, of=5) == 0.7
    # Of twenty the second worst counts: of one alone nothing is known, of three it is at most their second worst.
    assert worst([0.9], high=True, of=20) == float("inf")
    assert worst([9.0], high=False, of=20) == float("-inf")
    assert worst([0.9, 0.7, 0.8], high=True, of=20) == 0.8


def test_a_bar_is_the_target_or_less_where_ours_keeps_less() -> None:
    assert bar_beside(_row(0.999, 1.0, tenant=0.99)) == TARGET
    assert bar_beside(_row(0.99, 1.0, tenant=0.98)) == Bar(slo=0.99, worst_tenant=0.98)


def test_a_row_counts_its_worst_seed_for_latency_and_cost_alike() -> None:
    row = replace(_row(0.99, 2.0), figures=(_figures(0.99, 2.0, joules=5.0), _figures(0.95, 1.5, joules=9.0)))

    assert (row.slo, row.worst_tenant, row.gpu_hours, row.j_per_token) == (0.95, 0.95, 2.0, 9.0)


def test_the_cheapest_that_keeps_the_bar() -> None:
    bar = Bar(slo=0.95, worst_tenant=0.9)
    rows = [_row(0.94, 1.0), _row(0.96, 2.0, tenant=0.8), _row(0.96, 3.0), _row(0.99, 4.0, joules=1.0)]

    assert cheapest(rows, bar) is rows[2]
    assert cheapest(rows, bar, by=lambda row: row.j_per_token) is rows[3]
    assert cheapest(rows[:2], bar) is None


def test_the_gain_is_split_into_placement_policy_and_wake_up() -> None:
    rows = [
        _row(1.0, 4.0),
        _row(1.0, 3.0, placement="slmpack"),
        _row(1.0, 2.0, policy="slmpack", placement="slmpack"),
        _row(1.0, 1.0, policy="slmpack", placement="slmpack", start="wake"),
        _row(1.0, 0.1, policy="oracle", placement="slmpack"),
        _row(1.0, 0.1, start="wake"),
    ]
    parts = split(rows, Bar(slo=0.99))

    assert parts.placement == pytest.approx(0.25)
    assert parts.policy == pytest.approx(1 / 3)
    assert parts.wake_up == pytest.approx(0.5)
    assert split(rows[:1], Bar(slo=0.99)).placement is None


def test_settings_cross_points_with_placements_and_starts() -> None:
    both: tuple[PlacementName, ...] = ("kubernetes", "slmpack")

    assert len(settings_of(["hpa"], placements=both, starts=["cold", "wake"])) == 9 * 2 * 2
    assert [one.point for one in settings_of(["slmpack"], placements=both, starts=["cold"])] == [""]
    oracle = settings_of(["oracle"], placements=both, starts=["cold"])
    assert {one.placement for one in oracle} == {"slmpack"}
    assert len({one.point for one in oracle}) == len(oracle) >= 6


@pytest.mark.parametrize("policy", ["fixed", "hpa", "keda", "kpa", "kubeai", "aibrix", "wva", "dynamo"])
def test_every_peer_is_swept_over_six_points_or_more(policy: str) -> None:
    points = settings_of([policy], placements=["kubernetes"], starts=["cold"])

    assert len({one.point for one in points}) == len(points) >= 6


def _stage(seeds: tuple[int, ...]) -> Stage:
    """Ten minutes of one request every two seconds."""
    manifests = read_manifests([str(SCENARIOS / "conversation.yaml"), str(SCENARIOS / "nodes-mps.yaml")])
    asked = Question(manifests=manifests, cluster=False, kubeconfig=None, model_seconds=0.0)
    world = asyncio.run(observe_world(asked))
    count = 300
    trace = Trace(
        arrival_s=np.arange(count, dtype=np.float64) * 2.0,
        input_tokens=np.full(count, 500),
        output_tokens=np.full(count, 50),
        tenant=np.zeros(count, dtype=np.int64),
        tenants=("",),
    )
    trace, ground = ground_for(trace, world.snapshot.deployments, world.snapshot.nodes, world.policy)
    return Stage(scenario=Scenario(name="", warm_up_s=100.0), ground=ground, trace_of=lambda _: trace, seeds=seeds)


def _fixed(count: int) -> Setting:
    return Setting(
        policy="fixed", point=f"N={count}", rule=FixedRule(replicas=count), placement="kubernetes", start="cold"
    )


def test_what_cannot_be_the_cheapest_is_not_played_again() -> None:
    parts: list[float] = []
    rows = run_settings([_fixed(1), _fixed(2)], _stage((0, 1)), progress=parts.append)

    # One GPU or two, and both keep the target: the second is not played with another seed.
    assert [row.seeds for row in rows] == [(0, 1), (0,)]
    assert rows[0].gpu_hours == pytest.approx(498 / 3600, rel=1e-3)
    assert rows[1].gpu_hours == pytest.approx(2 * rows[0].gpu_hours)
    assert rows[0].slo == 1.0
    assert parts[-1] == 1.0
    assert parts == sorted(parts)


_Played = dict[tuple[str, str], Sequence[tuple[float, float]]]
"""By policy and point: part in time, and GPU hours, by seed."""


def _raced(played: _Played, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The seeds that each is played with, of 1 and 2 and 3."""

    def play(asked: tuple[Setting, int]) -> Figures:
        setting, seed = asked
        return _figures(*played[setting.policy, setting.point][seed])

    monkeypatch.setattr(sweep, "_play", play)
    ours: PlacementName = "slmpack"
    settings = [
        Setting(policy=name, point=point, rule=None, placement="kubernetes" if name == "hpa" else ours, start="cold")
        for name, point in played
    ]
    return [row.seeds for row in run_settings(settings, _stage((0, 1, 2)))]


def test_the_search_goes_on_until_the_cheapest_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = _raced(
        {
            ("slmpack", ""): [(0.999, 2.0)] * 3,
            ("keda", "dearer later"): [(0.999, 1.0), (0.999, 3.0), (0.999, 1.0)],
            ("keda", "late later"): [(0.999, 1.5), (0.98, 1.5), (0.999, 1.5)],
            ("keda", "cheapest"): [(0.999, 2.0), (0.999, 2.1), (0.999, 2.2)],
            ("keda", "dearer"): [(0.999, 2.3)] * 3,
            ("keda", "late"): [(0.99, 0.1)] * 3,
            ("hpa", "placed by Kubernetes"): [(0.999, 9.0)] * 3,
            ("oracle", ""): [(0.999, 0.5)] * 3,
        },
        monkeypatch,
    )

    assert seeds == [(0, 1, 2), (0, 1), (0, 1), (0, 1, 2), (0,), (0,), (0, 1, 2), (0, 1, 2)]


def test_where_ours_keeps_less_so_may_the_others_and_an_oracle_is_sought_that_keeps_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = _raced(
        {
            ("slmpack", ""): [(0.97, 2.0)] * 3,
            ("keda", "late"): [(0.965, 1.0)] * 3,
            ("keda", "as late"): [(0.975, 1.5)] * 3,
            ("oracle", "as late"): [(0.98, 0.5)] * 3,
            ("oracle", "in time"): [(0.999, 0.6)] * 3,
            ("oracle", "dear"): [(0.999, 0.7)] * 3,
        },
        monkeypatch,
    )

    assert seeds == [(0, 1, 2), (0,), (0, 1, 2), (0, 1, 2), (0, 1, 2), (0,)]


def test_the_best_oracle_keeps_the_bar_most_cheaply_or_keeps_most(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [OracleRule(load=load, window_s=3.0) for load in (0.3, 0.5, 0.7, 0.9)]
    found = dict(zip(rules, [(0.999, 4.0), (0.996, 2.0), (0.99, 1.0), (0.97, 0.5)], strict=True))

    def play(asked: tuple[Setting, int]) -> Figures:
        rule = asked[0].rule
        assert isinstance(rule, OracleRule)
        return _figures(*found[rule])

    monkeypatch.setattr(sweep, "_play", play)
    stage = _stage((0, 1))

    assert best_oracle(stage, Bar(slo=0.995), start="cold", rules=rules) is rules[1]
    assert best_oracle(stage, Bar(slo=0.9999), start="cold", rules=rules) is rules[0]


def test_what_was_played_is_not_played_again() -> None:
    told: dict[tuple[str, int], Figures] = {}
    stage = _stage((0, 1))

    def remember(setting: Setting, seed: int, figures: Figures) -> None:
        told[setting.point, seed] = figures

    first = run_settings([_fixed(1), _fixed(2)], stage, remember=remember)
    known = {key: replace(figures, gpu_hours=10 * figures.gpu_hours) for key, figures in told.items()}
    again = run_settings([_fixed(1), _fixed(2)], stage, recall=lambda setting, seed: known.get((setting.point, seed)))

    assert set(told) == {("N=1", 0), ("N=2", 0), ("N=1", 1)}
    assert [row.seeds for row in again] == [row.seeds for row in first]
    assert [row.gpu_hours for row in again] == [10 * row.gpu_hours for row in first]


def test_forked_workers_come_to_the_same() -> None:
    settings = [_fixed(1), *settings_of(["slmpack", "oracle"], placements=["slmpack"], starts=["wake"])[:2]]
    alone = run_settings(settings, _stage((0, 1)), search=False)

    assert [row.seeds for row in alone] == [(0, 1)] * 3
    assert run_settings(settings, _stage((0, 1)), search=False, workers=2) == alone


def test_the_oracle_of_a_light_load_needs_one_replica() -> None:
    (row, *_) = run_settings(settings_of(["oracle"], placements=["slmpack"], starts=["cold"])[4:5], _stage((0,)))

    assert row.figures[0].cold_starts == 0
    assert row.slo == 1.0
    assert row.setting.policy == ORACLE
