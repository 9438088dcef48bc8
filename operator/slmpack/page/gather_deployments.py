"""From one SLMDeployment's part of the plan to what the page says of it: the sentences that the terminal says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from slmpack.domain.answer import Answer
from slmpack.domain.choice import Choice
from slmpack.domain.conditions import judge
from slmpack.domain.explanation import Explanation
from slmpack.domain.interval import Interval, describe_interval
from slmpack.domain.knee_curve import knee_curve
from slmpack.domain.memory_limit import replica_name
from slmpack.domain.need_words import engine_words, memory_rows, weights_warning
from slmpack.domain.plan import DeploymentPlan, UsedFit
from slmpack.domain.plan_words import NOT_CARRIED, gib, offers_of, predicted_for
from slmpack.domain.quantity import format_bytes
from slmpack.domain.scale_decision import Figure
from slmpack.domain.scale_words import figure_rows, scale_line
from slmpack.domain.snapshot import Demand, Key
from slmpack.page import values
from slmpack.page.fits import least_amounts
from slmpack.render.engine_args import flags_line

__all__ = ["gather_deployment"]


def gather_deployment(
    answer: Answer, *, number: int, alone: bool, now: datetime, sources: Mapping[Key, str]
) -> values.Deployment:
    """What is said of one SLMDeployment, the `number`th of the page; `alone`: all are in one namespace."""
    plan = answer.plan
    view = plan.deployment
    verdict = judge(plan, outcomes=(), now=now)
    source = sources.get(view.key)
    said = Explanation(
        answer=answer,
        view=view,
        source=source,
        ready=verdict.ready,
        reason=verdict.reason,
        message=verdict.message,
        decided=plan.scale,
    )
    return values.Deployment(
        name=view.key.name if alone else str(view.key),
        full=str(view.key),
        anchor=f"d{number}",
        colour=number,
        answer=answer,
        ready=verdict.ready,
        reason=verdict.reason.value,
        message=verdict.message,
        what=engine_words(plan, source=source),
        memory=tuple(values.Fact(name=row.name, value=gib(row.size), note=row.note) for row in memory_rows(plan)),
        amounts=() if plan.footprint is None else least_amounts(plan.footprint, plan.kv_tokens),
        warning=weights_warning(plan),
        offers=tuple(offers_of(answer)),
        pays=tuple(map(_pays, plan.fits)),
        scaling=_scaling(plan),
        replicas=_replicas(plan),
        changes=said.changes,
    )


def _pays(used: UsedFit) -> values.Pays:
    fit = used.fit
    choice = fit.choice if isinstance(fit.choice, Choice) else None
    return values.Pays(
        title=f"{used.product}, {used.share}",
        caption="" if choice is None else predicted_for(choice),
        figures=() if choice is None else tuple(_figures(choice)),
        warning=NOT_CARRIED if fit.carries is False else "",
        reasons=tuple(reason for reason in fit.reasons if reason != fit.refusal),
        no_more=fit.refusal,
        curve=knee_curve(fit),
        flags=flags_line(fit.settings),
    )


def _figures(choice: Choice) -> list[values.Fact]:
    gpu, first = choice.prediction, choice.prediction.tenants[0]

    def row(name: str, of: Interval, unit: str) -> values.Fact:
        return values.Fact(name=name, value=describe_interval(of, unit=unit), note=of.basis.value)

    return [
        row("output of the GPU", gpu.throughput_tok_s, "tokens/s"),
        row("inter-token latency", first.itl_s.scaled(1000), "ms"),
        row("time to first token", first.ttft_s.scaled(1000), "ms"),
        row("power of the GPU", gpu.power_w, "W"),
        row("energy", gpu.energy_j_per_token, "J/token"),
    ]


def _scaling(plan: DeploymentPlan) -> values.Scaling | None:
    demand, scale = plan.deployment.demand, plan.scale
    if scale is None or not isinstance(demand, Demand) or demand.scaling is None:
        return None
    return values.Scaling(
        line=scale_line(scale, demand.scaling),
        figures=_facts(scale.figures),
        power="" if scale.power_w is None else describe_interval(scale.power_w, unit="W"),
        ceiling_w=scale.ceiling_w,
    )


def _facts(figures: tuple[Figure, ...]) -> tuple[values.Fact, ...]:
    return tuple(values.Fact(name=name, value=value, note=basis) for name, value, basis in figure_rows(figures))


def _replicas(plan: DeploymentPlan) -> tuple[values.Replica, ...]:
    """Those that are there, those that start now, those that start later."""
    there = [
        values.Replica(
            name=replica_name(state),
            node=state.node or "no node yet",
            share=state.share,
            words="Ready" if state.problem is None else f"{state.problem.reason.value}: {state.problem.message}",
            memory="" if state.device_bytes is None else f"{format_bytes(state.device_bytes)} measured",
        )
        for state in plan.states
    ]
    made = [
        values.Replica(
            name=create.name,
            node=create.placement.where,
            share=create.record.share,
            words="starts now",
            memory="",
        )
        for create in plan.creates
    ]
    later = [
        values.Replica(
            name="(next)",
            node=placement.where,
            share="",
            words=f"{problem.reason.value}: {problem.message}",
            memory="",
        )
        for placement, problem in plan.waiting
    ]
    return (*there, *made, *later)
