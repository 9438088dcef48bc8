"""An SLMDeployment's status from its plan and verdict: plain JSON within the lengths that the CRD allows."""

from __future__ import annotations

from typing import Any

from slmpack.api.status import (
    DECISIONS_MAX,
    FIGURES_MAX,
    PLACEMENTS_MAX,
    REASONS_MAX,
    UNPLACED_MAX,
    ConditionStatus,
    DecisionStatus,
    FigureStatus,
    FootprintStatus,
    PlacementStatus,
    ScalingStatus,
    SLMDeploymentStatus,
    UnplacedStatus,
)
from slmpack.domain.choice import Choice
from slmpack.domain.conditions import Verdict
from slmpack.domain.interval import describe_interval
from slmpack.domain.plan import ClusterPlan, DeploymentPlan, UsedFit
from slmpack.domain.quantity import format_bytes
from slmpack.domain.scale_news import Told
from slmpack.domain.snapshot import Key, ModelUnknown, Rejected
from slmpack.render.names import selector_string

__all__ = ["clip", "products_of", "status_of"]

SHORT = 253
REASON = 1024
MESSAGE = 32768
"""Characters, as the CRD allows them (api.status)."""


def status_of(part: DeploymentPlan, verdict: Verdict, *, product: str | None) -> dict[str, Any]:
    """The status as JSON; what is unknown is left out."""
    wanted = verdict.desired
    status = SLMDeploymentStatus(
        observed_generation=part.deployment.generation,
        ready=f"{verdict.ready}/{wanted}" if wanted is not None else f"{verdict.ready}/?",
        replicas=verdict.replicas,
        ready_replicas=verdict.ready,
        desired_replicas=wanted,
        updated_replicas=verdict.updated,
        outdated_replicas=verdict.outdated,
        selector=selector_string(part.deployment.key.name),
        per_gpu=part.per_gpu or None,
        share=clip(verdict.share, SHORT) or None,
        gpu=product,
        reason=verdict.reason.value,
        max_model_len=part.max_model_len,
        footprint=_footprint(part),
        decisions=tuple(filter(None, map(_decision, part.fits[:DECISIONS_MAX]))),
        scaling=None if verdict.scaling is None else _scaling(verdict.scaling),
        repack=clip(part.repack, SHORT) or None,
        placements=_placements(part),
        unplaced=tuple(
            UnplacedStatus(
                count=entry.count,
                reason=entry.problem.reason.value,
                message=clip(entry.problem.message, MESSAGE),
            )
            for entry in part.unplaced[:UNPLACED_MAX]
        ),
        conditions=tuple(
            ConditionStatus(
                type=condition.type,
                status=_ternary(condition.status),
                observed_generation=condition.observed_generation,
                last_transition_time=condition.last_transition.replace(microsecond=0),
                reason=condition.reason,
                message=clip(condition.message, MESSAGE),
            )
            for condition in verdict.conditions
        ),
    )
    found: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in found.items() if value not in ([], {})}


def _decision(used: UsedFit) -> DecisionStatus | None:
    """What pays on a GPU in use, or why nothing can be said of it."""
    fit = used.fit
    where = {"gpu": clip(used.product, SHORT), "share": used.share}
    if fit.choice is None:
        return None
    if not isinstance(fit.choice, Choice):
        return DecisionStatus(**where, reasons=tuple(clip(reason, REASON) for reason in fit.reasons[:REASONS_MAX]))
    choice, gpu = fit.choice, fit.choice.prediction
    one = gpu.tenants[0]
    return DecisionStatus(
        **where,
        carries_load=choice.carries,
        replicas_per_gpu=choice.replicas_per_gpu,
        max_num_seqs=choice.max_num_seqs,
        limited_by=choice.binding,
        in_flight=f"{choice.workload.in_flight:,.0f}{' assumed' if choice.assumed else ''}",
        throughput=describe_interval(gpu.throughput_tok_s, unit="tokens/s"),
        itl=describe_interval(one.itl_s.scaled(1000), unit="ms"),
        ttft=describe_interval(one.ttft_s.scaled(1000), unit="ms"),
        power=describe_interval(gpu.power_w, unit="W"),
        energy_per_token=describe_interval(gpu.energy_j_per_token, unit="J"),
        basis=gpu.throughput_tok_s.basis.value,
        reasons=tuple(clip(reason, REASON) for reason in fit.reasons[:REASONS_MAX]),
        runner_up=clip(choice.runner_up.reason, REASON),
    )


def _scaling(told: Told) -> ScalingStatus:
    state, note = told.state, told.note
    return ScalingStatus(
        desired=state.desired,
        wished=note.wished,
        known=note.known,
        reason=note.reason.value,
        message=clip(note.message, REASON),
        limited_by=None if note.refused is None else note.refused.value,
        power=clip(note.power, SHORT) or None,
        decided_at=note.at,
        last_scale_time=state.changed,
        last_direction=None if state.changed is None else "Up" if state.went_up else "Down",
        lower_since=state.lower_since,
        higher_since=state.higher_since,
        hold_seconds=state.hold_s,
        last_request_time=state.busy,
        start_seconds=state.start_s,
        correction=state.correction,
        corrected_at=state.corrected,
        corrected_of=state.corrected_of,
        figures=tuple(
            FigureStatus(name=clip(it.name, SHORT), value=it.value, unit=clip(it.unit, SHORT), basis=it.basis)
            for it in note.figures[:FIGURES_MAX]
        ),
    )


def products_of(plan: ClusterPlan) -> dict[Key, str]:
    """The GPU products that each deployment's replicas are on."""
    found: dict[Key, set[str]] = {}
    for bar in plan.bars:
        for block in bar.blocks:
            if block.deployment is not None and block.state not in {"planned", "waiting"}:
                found.setdefault(block.deployment, set()).add(bar.product)
    return {key: clip(", ".join(sorted(products)), SHORT) for key, products in found.items()}


def _ternary(text: str) -> Any:  # noqa: ANN401 - validated by the model
    return text


def _footprint(part: DeploymentPlan) -> FootprintStatus | None:
    of = part.footprint
    if of is None:
        return None
    return FootprintStatus(
        weights_bytes=of.weights_bytes,
        kv_bytes_per_token=of.kv_bytes_per_token,
        kv_bytes=of.kv_bytes(part.kv_tokens),
        activation_bytes=of.activation_bytes,
        non_torch_bytes=of.non_torch_bytes,
        cuda_graph_bytes=of.cuda_graph_bytes,
        context_bytes=of.context_bytes,
        margin_bytes=of.margin_bytes,
        total_bytes=of.total_bytes(part.kv_tokens),
        basis=of.basis,
        warning=_weights_note(part),
    )


def _weights_note(part: DeploymentPlan) -> str | None:
    demand = part.deployment.demand
    if isinstance(demand, Rejected) or isinstance(demand.model, ModelUnknown):
        return None
    return clip(demand.model.weights_note, REASON) if demand.model.weights_note else None


def _placements(part: DeploymentPlan) -> tuple[PlacementStatus, ...]:
    counted = sorted((state for state in part.states if state.counts), key=lambda state: (state.pod, state.engine or 0))
    return tuple(
        PlacementStatus(
            pod=clip(state.pod.name, SHORT),
            engine=state.engine,
            node=clip(state.node, SHORT),
            resource=clip(state.resource, SHORT),
            share=clip(state.share, SHORT),
            ready=state.ready,
            device_memory=None if state.device_bytes is None else f"{format_bytes(state.device_bytes)} measured",
            reason=state.problem.reason.value if state.problem else "",
        )
        for state in counted[:PLACEMENTS_MAX]
    )


def clip(text: str, most: int) -> str:
    """At most so many characters. Half a surrogate pair, which JSON may hold and UTF-8 may not, becomes "?"."""
    text = text.encode(errors="replace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"
