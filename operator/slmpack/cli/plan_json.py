"""`slmpack plan -o json`: one object, its keys in a fixed order. `docs/plan-json.md` explains every key."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from slmpack.cli.answer import Answer, answers
from slmpack.domain.fit import Fit
from slmpack.domain.footprint import Footprint
from slmpack.domain.interval import Interval
from slmpack.domain.performance import Unpredictable
from slmpack.domain.plan import Block, ClusterPlan, GpuBar
from slmpack.domain.snapshot import Key

__all__ = ["plan_to_json"]

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
        "per_gpu": plan.per_gpu,
        "decision": None if plan.fit is None else decision_to_json(plan.fit),
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


def decision_to_json(fit: Fit) -> Json | None:
    """What pays on one GPU; None while the model is unknown."""
    choice = fit.choice
    if choice is None:
        return None
    if isinstance(choice, Unpredictable):
        return {"replicas_per_gpu": None, "reasons": list(fit.reasons)}
    gpu = choice.prediction
    return {
        "replicas_per_gpu": choice.replicas_per_gpu,
        "max_num_seqs": choice.max_num_seqs,
        "limited_by": choice.binding,
        "in_flight": choice.workload.in_flight,
        "assumed": choice.assumed,
        "throughput_tok_s": interval_to_json(gpu.throughput_tok_s),
        "itl_ms": interval_to_json(gpu.tenants[0].itl_s.scaled(1000)),
        "ttft_ms": interval_to_json(gpu.tenants[0].ttft_s.scaled(1000)),
        "power_w": interval_to_json(gpu.power_w),
        "energy_j_per_token": interval_to_json(gpu.energy_j_per_token),
        "reasons": list(fit.reasons),
        "runner_up": choice.runner_up.reason,
    }


def interval_to_json(of: Interval) -> Json:
    """The expected value with its interval."""
    return {"value": of.expected, "low": of.low, "high": of.high, "basis": of.basis.value}


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
