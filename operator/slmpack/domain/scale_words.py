"""A scale decision in words, for `plan` and `explain`."""

from __future__ import annotations

from collections.abc import Iterable

from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Figure, FigureName, ScaleDecision, ScalingSpec
from slmpack.domain.wording import number_of

__all__ = ["figure_rows", "scale_line", "what_would_change"]

_HINTS = {
    Reason.AT_MAX: "more replicas: raise spec.scaling.max",
    Reason.POWER_CEILING: "more replicas: raise spec.scaling.maxWattsPerGPU, add a GPU, or free one",
    Reason.DOES_NOT_PAY: "more replicas: add a GPU, or overrule the prediction with spec.sharing.maxPerGPU",
    Reason.AT_MIN: "fewer replicas: lower spec.scaling.min",
    Reason.METRICS_UNKNOWN: "any other number: what is unknown has to be measured (docs/metrics.md)",
}


def scale_line(decision: ScaleDecision, scaling: ScalingSpec) -> str:
    """One line with the number, its bounds, the reason and the numbers behind it."""
    bounds = f"of {scaling.least} to {scaling.most}"
    return f"scaling: {number_of(decision.desired)} wanted {bounds}, {decision.reason.value}: {decision.message}"


def figure_rows(figures: Iterable[Figure]) -> list[tuple[str, str, str]]:
    """Name, value with its unit, basis."""
    return [(it.name, f"{_value(it.value)} {it.unit}".strip(), it.basis) for it in figures]


def _value(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def what_would_change(
    desired: int,
    scaling: ScalingSpec,
    *,
    figures: Iterable[Figure],
    reasons: Iterable[Reason],
) -> tuple[str, ...]:
    """What would make it another number, in sentences."""
    given = tuple(dict.fromkeys(reasons))
    known = {it.name: it.value for it in figures if Reason.METRICS_UNKNOWN not in given}
    lines = [_HINTS[reason] for reason in given if reason in _HINTS]
    demand, capacity = known.get(FigureName.DEMAND), known.get(FigureName.CAPACITY)
    keep = known.get(FigureName.DEMAND_TO_KEEP)
    if demand is not None and capacity is not None and demand <= capacity and 0 < desired < scaling.most:
        lines.append(f"more replicas: demand over about {_value(capacity)} requests/s; it is {_value(demand)}")
    if keep is not None and desired > max(1, scaling.least):
        window = scaling.down.stabilisation.total_seconds()
        lines.append(
            f"fewer replicas: {number_of(desired - 1)} would have to carry {_value(keep)} requests/s for {window:.0f} s"
        )
    if scaling.least == 0:
        idle = scaling.idle.total_seconds()
        woken = (
            "one replica: a request that a gateway holds" if desired == 0 else f"none: {idle:.0f} s without a request"
        )
        lines.append(woken)
    return tuple(lines)
