"""`slmpack plan -o json`: one object, its keys in a fixed order. `docs/plan-json.md` explains every key."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from slmpack.cli.figures import MS, figure
from slmpack.domain.answer import Answer, answers
from slmpack.domain.choice import Choice
from slmpack.domain.footprint import Footprint
from slmpack.domain.plan import Block, ClusterPlan, GpuBar, UsedFit
from slmpack.domain.scale_decision import Figure, ScaleDecision
from slmpack.domain.snapshot import Key
from slmpack.render.engine_args import plan_flags

__all__ = ["figures_to_json", "plan_to_json", "scale_to_json"]

Json = dict[str, Any]


def plan_to_json(plan: ClusterPlan, *, asked: Collection[Key]) -> Json:
    """The plan as plain values."""
    return {
        "deployments": [_deployment(answer) for answer in answers(plan, asked=asked)],
        "gpus": [_gpu(bar) for bar in plan.bars],
    }


def _deployment(answer: Answer) -> Json:
    plan = answer.plan
    return {
        "namespace": plan.deployment.key.namespace,
        "name": plan.deployment.key.name,
        "accepted": answer.accepted,
        "footprint": None if plan.footprint is None else _footprint(plan.footprint, kv_tokens=plan.kv_tokens),
        "needed_bytes": plan.needed_bytes if plan.footprint is not None else None,
        "kv_tokens": plan.kv_tokens if plan.footprint is not None else None,
        "max_model_len": plan.max_model_len,
        "replicas": {"wanted": answer.wanted, "placed": answer.placed, "unplaced": answer.unplaced},
        "scale": None if plan.scale is None else scale_to_json(plan.scale),
        "waiting_for_node": list(plan.pending),
        "per_gpu": plan.per_gpu,
        "decisions": [_decision(used) for used in plan.fits],
        "reasons": [
            {"reason": problem.reason.value, "message": message, "count": count}
            for problem, message, count in answer.reasons
        ],
    }


def _footprint(footprint: Footprint, *, kv_tokens: int) -> Json:
    return {
        "weights_bytes": footprint.weights_bytes,
        "kv_cache_bytes": footprint.kv_bytes(kv_tokens),
        "kv_bytes_per_token": footprint.kv_bytes_per_token,
        "activation_bytes": footprint.activation_bytes,
        "non_torch_bytes": footprint.non_torch_bytes,
        "cuda_graph_bytes": footprint.cuda_graph_bytes,
        "cuda_graphs_inside_budget": footprint.cuda_graphs_inside_budget,
        "margin_bytes": footprint.margin_bytes,
        "context_bytes": footprint.context_bytes,
        "basis": footprint.basis,
    }


def scale_to_json(scale: ScaleDecision) -> Json:
    """How many replicas are wanted by what is measured, and why."""
    return {
        "desired": scale.desired,
        "current": scale.current,
        "wished": scale.wished,
        "known": scale.known,
        "reason": scale.reason.value,
        "message": scale.message,
        "limited_by": None if scale.refused is None else scale.refused.value,
        "power_w": None if scale.power_w is None else figure(scale.power_w),
        "figures": figures_to_json(scale.figures),
    }


def figures_to_json(figures: Iterable[Figure]) -> list[Json]:
    """The numbers that led to a decision."""
    return [{"name": it.name, "value": it.value, "unit": it.unit, "basis": it.basis} for it in figures]


def _decision(used: UsedFit) -> Json:
    """What pays on one GPU of a kind in use."""
    fit = used.fit
    found: Json = {
        "product": used.product or None,
        "share": used.share,
        "engine_flags": plan_flags(fit.settings),
        "carries_load": fit.carries,
        "replicas_per_gpu": None,
        "reasons": list(fit.reasons),
    }
    if not isinstance(fit.choice, Choice):
        return found
    choice, gpu = fit.choice, fit.choice.prediction
    return found | {
        "replicas_per_gpu": choice.replicas_per_gpu,
        "max_num_seqs": choice.max_num_seqs,
        "limited_by": choice.binding,
        "in_flight": choice.workload.in_flight,
        "assumed": choice.assumed,
        "throughput_tok_s": figure(gpu.throughput_tok_s),
        "itl_ms": figure(gpu.tenants[0].itl_s, scale=MS),
        "ttft_ms": figure(gpu.tenants[0].ttft_s, scale=MS),
        "power_w": figure(gpu.power_w),
        "energy_j_per_token": figure(gpu.energy_j_per_token),
        "runner_up": choice.runner_up.reason,
    }


def _gpu(bar: GpuBar) -> Json:
    return {
        "node": bar.node,
        "resource": bar.resource or None,
        "index": bar.index,
        "index_basis": bar.index_basis,
        "product": bar.product or None,
        "usable_bytes": bar.usable_bytes,
        "used_bytes": sum(block.used_bytes for block in bar.blocks),
        "note": bar.note,
        "blocks": [_block(block) for block in bar.blocks],
    }


def _block(block: Block) -> Json:
    return {
        "replica": block.label,
        "deployment": None if block.deployment is None else str(block.deployment),
        "share": block.share or None,
        "bytes": block.used_bytes,
        "state": block.state,
    }
