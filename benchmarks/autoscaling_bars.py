"""The bars of the autoscaling benchmark, each with its verdict, and the table for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slmpack.simulate.rows import ORACLE, TARGET, Bar, Row, bar_beside, cheapest, split
from slmpack.simulate.run import OURS

__all__ = [
    "STEP_HEAD",
    "TARGET",
    "Compared",
    "Verdict",
    "compare",
    "seed_lines",
    "step_line",
    "table_lines",
    "verdicts",
]

LESS, OF_ORACLE, RECOVERED = 0.10, 1.10, 0.70
"""At least 10 % less than the best baseline, at most 1.10 x the oracle, at least 70 % of the gap."""
EQUAL = 1.005
"""Half a percent more is as much."""

STEP_HEAD = (
    "| trace | GPU hours saved by our placement | then by our decisions | then by fast starts |",
    "|---|---|---|---|",
)

Cost = Callable[[Row], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One scenario with one kind of start. A row is None where none keeps the bar."""

    scenario: str
    kind: str
    start: str
    ours: Row
    baseline: Row | None
    """The cheapest baseline of either placement, at least as good as ours or as the target."""
    kubernetes: Row | None
    """The cheapest of those placed by Kubernetes."""
    thrifty: Row | None
    """The baseline with the least J/token."""
    oracle: Row | None
    oracle_j: Row | None
    """The oracle with the least J/token."""
    attainable: bool
    """Whether any oracle keeps the target."""
    bar: Bar
    """What baselines and the oracle had to keep: the target, or less where ours keeps less."""
    fluid: float
    """GPU hours: an estimate from below."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar of one scenario."""

    name: str
    passed: bool | None
    """None: it asks nothing here."""
    why: str


def compare(rows: Sequence[Row], *, scenario: str, kind: str, start: str, fluid: float) -> Compared:
    """The rows that are compared; those of other starts are left out."""
    here = [row for row in rows if row.setting.start == start]
    ours = next(row for row in here if row.setting.policy == OURS)
    bar = bar_beside(ours)
    whole = [row for row in here if len(row.seeds) == len(ours.seeds)]  # the others cannot be the cheapest
    oracles = [row for row in whole if row.setting.policy == ORACLE]
    played = [row for row in whole if row.setting.policy not in {OURS, ORACLE}]
    return Compared(
        scenario=scenario,
        kind=kind,
        start=start,
        ours=ours,
        baseline=cheapest(played, bar),
        kubernetes=cheapest([row for row in played if row.setting.placement == "kubernetes"], bar),
        thrifty=cheapest(played, bar, by=_joules),
        oracle=cheapest(oracles, bar),
        oracle_j=cheapest(oracles, bar, by=_joules),
        attainable=any(TARGET.kept_by(row) for row in oracles),
        bar=bar,
        fluid=fluid,
    )


def verdicts(it: Compared) -> tuple[Verdict, ...]:
    """Every bar of the issue."""
    found = [
        _never_worse("GPU hours, not above the best baseline", it.ours, it.baseline, _hours),
        _never_worse("J/token, not above the best baseline", it.ours, it.thrifty, _joules),
        _less("10 % fewer GPU hours", it.ours, it.baseline, it.oracle, _hours),
        _less("10 % fewer J/token", it.ours, it.thrifty, it.oracle_j, _joules),
        _slo(it),
    ]
    if it.kind == "conversation":
        found.append(_near_oracle(it))
    if it.kind == "bursty":
        found.append(_gap(it))
    return tuple(found)


def table_lines(all_of_them: Sequence[Compared]) -> list[str]:
    """Markdown."""
    lines = [
        "| trace, starts | policy | in time, % | worst tenant, % | GPU h | J/token | reversals |",
        "|---|---|---|---|---|---|---|",
    ]
    for it in all_of_them:
        rows = (
            ("best baseline, Kubernetes' placement", it.kubernetes),
            ("best baseline, either placement", it.baseline),
            ("**slmpack**", it.ours),
            ("oracle", it.oracle),
        )
        lines.extend(_line(f"{it.scenario}, {it.start}", name, row) for name, row in rows)
        lines.append(f"| {it.scenario}, {it.start} | fluid bound (not attainable) | - | - | {it.fluid:.2f} | - | - |")
    return lines


def seed_lines(all_of_them: Sequence[Compared]) -> list[str]:
    """Markdown of ours alone, a column's figures in the order of the seeds."""
    lines = ["| trace, starts | GPU h | in time, % | J/token |", "|---|---|---|---|"]
    for it in all_of_them:
        one = it.ours.figures
        hours, slo = (f"{each.gpu_hours:.2f}" for each in one), (f"{each.slo_attainment * 100:.2f}" for each in one)
        joules = (f"{each.j_per_token:.3f}" for each in one)
        lines.append(f"| {it.scenario}, {it.start} | {', '.join(hours)} | {', '.join(slo)} | {', '.join(joules)} |")
    return lines


def step_line(scenario: str, rows: Sequence[Row], bar: Bar) -> str:
    """Markdown: what each step saves, from the best baseline as Kubernetes places it to ours; cold starts at first."""
    seeds = max(len(row.seeds) for row in rows)
    parts = split([row for row in rows if len(row.seeds) == seeds], bar)
    saved = (parts.placement, parts.policy, parts.wake_up)
    return f"| {scenario} | {' | '.join('-' if part is None else f'{part * 100:.0f} %' for part in saved)} |"


def _line(where: str, name: str, row: Row | None) -> str:
    if row is None:
        return f"| {where} | {name} | none keeps the bar | - | - | - | - |"
    setting = row.setting
    said = "" if setting.policy == ORACLE else f"{setting.policy} "
    point = "" if setting.policy == OURS else f": {said}{setting.point}".rstrip()
    point += " (ours)" if setting.placement == "slmpack" and setting.policy not in {OURS, ORACLE} else ""
    reversals = max(one.reversals for one in row.figures)
    return (
        f"| {where} | {name}{point} | {row.slo * 100:.2f} | {row.worst_tenant * 100:.2f} | {row.gpu_hours:.2f} |"
        f" {row.j_per_token:.3f} | {reversals} |"
    )


def _hours(row: Row) -> float:
    return row.gpu_hours


def _joules(row: Row) -> float:
    return row.j_per_token


def _never_worse(name: str, ours: Row, baseline: Row | None, cost: Cost) -> Verdict:
    if baseline is None:
        return Verdict(name, True, "no baseline keeps as much")
    part = cost(ours) / cost(baseline)
    return Verdict(name, part <= EQUAL, f"{cost(ours):.3f} against {cost(baseline):.3f} ({(part - 1) * 100:+.0f} %)")


def _less(name: str, ours: Row, baseline: Row | None, oracle: Row | None, cost: Cost) -> Verdict:
    if baseline is None or oracle is None:
        return Verdict(name, None, "no baseline or no oracle keeps as much")
    possible = 1 - cost(oracle) / cost(baseline)
    if possible < LESS:
        return Verdict(name, None, f"the oracle is only {possible * 100:.0f} % below the best baseline")
    saved = 1 - cost(ours) / cost(baseline)
    return Verdict(name, saved >= LESS, f"{saved * 100:.0f} % fewer; the oracle {possible * 100:.0f} %")


def _slo(it: Compared) -> Verdict:
    name = f"{TARGET.slo * 100:g} % in time, worst tenant {TARGET.worst_tenant * 100:g} %"
    text = f"{it.ours.slo * 100:.2f} %, worst tenant {it.ours.worst_tenant * 100:.2f} %"
    if TARGET.kept_by(it.ours):
        return Verdict(name, True, text)
    return Verdict(
        name, False if it.attainable else None, text + ("" if it.attainable else "; the oracle misses it, too")
    )


def _near_oracle(it: Compared) -> Verdict:
    name = f"at most {OF_ORACLE:g} x the oracle's GPU hours"
    if it.oracle is None:
        return Verdict(name, None, "no oracle keeps as much")
    part = it.ours.gpu_hours / it.oracle.gpu_hours
    return Verdict(name, part <= OF_ORACLE, f"{part:.2f} x")


def _gap(it: Compared) -> Verdict:
    name = f"{RECOVERED * 100:.0f} % of the gap to the oracle, {it.start} starts"
    if it.baseline is None or it.oracle is None:
        return Verdict(name, None, "no baseline or no oracle keeps as much")
    gap = it.baseline.gpu_hours - it.oracle.gpu_hours
    if gap <= 0:
        return Verdict(name, None, "no gap: the best baseline is as cheap as the oracle")
    part = (it.baseline.gpu_hours - it.ours.gpu_hours) / gap
    return Verdict(name, part >= RECOVERED, f"{part * 100:.0f} % of {gap:.2f} GPU hours")
