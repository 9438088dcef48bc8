"""`slmpack estimate -o json`: one object, its keys in a fixed order. `docs/estimate-json.md` explains every key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slmpack.cli.estimate import Estimate
from slmpack.cli.figures import MS, exact, figure
from slmpack.domain.choice import Choice
from slmpack.domain.performance import Unpredictable
from slmpack.domain.prediction import GpuPrediction, Sharing
from slmpack.domain.prospect import Part
from slmpack.domain.workload import Workload

__all__ = ["engine_flags", "estimate_to_json", "rows_to_json"]

Json = dict[str, Any]


def estimate_to_json(estimate: Estimate) -> Json:
    """The estimate as plain values. Memory is of one replica, at the batch that it should run."""
    part = estimate.decision.part
    return {
        **_subject(estimate),
        **_memory(part),
        "engine_flags": engine_flags(estimate),
        "fits": part.fits,
        "warnings": list(estimate.warnings),
        **_decision(estimate),
    }


def rows_to_json(estimates: Sequence[Estimate]) -> Json:
    """One row for each GPU."""
    return {"gpus": [_row(estimate) for estimate in estimates]}


def engine_flags(estimate: Estimate) -> Json:
    """What the engine is started with, by flag; null where a flag stands alone."""
    asked, part = estimate.asked, estimate.decision.part
    flags: Json = {"--gpu-memory-utilization": part.room.gpu_memory_utilization}
    if part.cut.site.sharing in {Sharing.MPS, Sharing.TIMESLICE} and part.fits:
        # engines that share a device see each other's memory: what is left is not theirs to measure
        flags["--kv-cache-memory-bytes"] = part.room.kv_cache_bytes
    flags["--max-model-len"] = estimate.ask.engine.max_model_len
    flags["--max-num-seqs"] = part.sequences
    flags["--max-num-batched-tokens"] = estimate.ask.engine.batched_tokens(part.sequences)
    given = {"--dtype": asked.dtype, "--quantization": asked.quantization, "--kv-cache-dtype": asked.kv_cache_dtype}
    flags |= {flag: value for flag, value in given.items() if value is not None}
    return flags | ({"--enforce-eager": None} if asked.enforce_eager else {})


def _subject(estimate: Estimate) -> Json:
    site = estimate.decision.part.cut.site
    return {
        "model": estimate.subject.name,
        "architecture": estimate.ask.engine.model.architecture,
        "gpu": site.gpu.id,
        "sharing": site.sharing.value,
        "mig_profile": site.mig_profile.name if site.mig_profile else None,
        "sm_percent": site.sm_percent,
        "engine_version": str(estimate.subject.version),
        "engine_validated": estimate.ask.engine.runtime.validated,
        "max_model_len": estimate.ask.engine.max_model_len,
    }


def _memory(part: Part) -> Json:
    footprint, room = part.footprint, part.room
    between = footprint.non_kv
    return {
        "weights_bytes": footprint.weights_bytes,
        "kv_bytes_per_token": footprint.kv_bytes_per_token,
        "activation_peak_bytes": footprint.activation_bytes,
        "non_torch_bytes": footprint.non_torch_bytes,
        "cuda_graph_bytes": footprint.cuda_graph_bytes,
        "cuda_graphs_inside_budget": footprint.cuda_graphs_inside_budget,
        "margin_bytes": footprint.margin_bytes,
        "context_bytes": footprint.context_bytes,
        "requested_bytes": room.requested_bytes,
        "outside_budget_bytes": footprint.outside_bytes,
        "kv_cache_bytes": room.kv_cache_bytes,
        "kv_cache_tokens": room.kv_cache_tokens,
        "needed_bytes": part.needed_bytes,
        "share_limit_bytes": part.cut.limit_bytes,
        "share_limit_held": part.cut.enforcement,
        "interval": {"low": round(between.low), "expected": round(between.expected), "high": round(between.high)},
        "basis": footprint.basis,
    }


def _decision(estimate: Estimate) -> Json:
    choice = estimate.decision.choice
    if not isinstance(choice, Choice):
        return {
            "workload": _workload(estimate.ask.workload, assumed=estimate.assumed),
            "knee": None,
            "replicas_per_gpu": None,
            "binding": None,
            "carries_load": None,
            "reasons": [estimate.why_nothing],
            "runner_up": None,
            "prediction": None,
        }
    return {
        "workload": _workload(choice.workload, assumed=estimate.assumed),
        "knee": {
            "batch": choice.knee.batch,
            "binding": choice.knee.binding.value,
            "explanation": choice.knee.explanation,
            "throughput_tok_s": round(choice.knee.throughput_tok_s, 1),
            "itl_ms": round(choice.knee.itl_s * MS, 3),
        },
        "replicas_per_gpu": choice.replicas_per_gpu,
        "binding": choice.binding,
        "carries_load": choice.carries,
        "reasons": list(choice.reasons),
        "runner_up": {
            "replicas_per_gpu": choice.runner_up.replicas_per_gpu,
            "max_num_seqs": choice.runner_up.max_num_seqs,
            "throughput_tok_s": round(choice.runner_up.throughput_tok_s, 1),
            "reason": choice.runner_up.reason,
        },
        "prediction": _prediction(choice.prediction),
    }


def _workload(workload: Workload, *, assumed: bool) -> Json:
    return {
        "in_flight": workload.in_flight,
        "request_rate": workload.request_rate,
        "input_tokens": workload.input_tokens,
        "output_tokens": workload.output_tokens,
        "prefix_hit_rate": workload.prefix_hit_rate,
        "basis": "assumed" if assumed else "given",
    }


def _prediction(prediction: GpuPrediction) -> Json:
    """Under the workload; the replicas are equal, so that one stands for all."""
    one = prediction.tenants[0]
    return {
        "throughput_tok_s": figure(prediction.throughput_tok_s),
        "itl_ms": figure(one.itl_s, scale=MS),
        "itl_p99_ms": figure(one.itl_p99_s, scale=MS),
        "ttft_ms": figure(one.ttft_s, scale=MS),
        "power_w": figure(prediction.power_w),
        "energy_j_per_token": figure(prediction.energy_j_per_token),
        "effective_batch": figure(exact(one.effective_batch)),
        "preemption": figure(one.preemption),
    }


def _row(estimate: Estimate) -> Json:
    part, choice = estimate.decision.part, estimate.decision.choice
    known = choice if isinstance(choice, Choice) else None
    return {
        "gpu": part.cut.site.gpu.id,
        "fits": part.fits,
        "sharing": part.cut.site.sharing.value,
        "mig_profile": part.cut.site.mig_profile.name if part.cut.site.mig_profile else None,
        "share_limit_bytes": part.cut.limit_bytes,
        "kv_cache_tokens": part.room.kv_cache_tokens,
        "knee": known.knee.batch if known else None,
        "replicas_per_gpu": known.replicas_per_gpu if known else None,
        "throughput_tok_s": figure(known.prediction.throughput_tok_s) if known else None,
        "energy_j_per_token": figure(known.prediction.energy_j_per_token) if known else None,
        "reason": choice.reason if isinstance(choice, Unpredictable) else part.room.shortfall,
    }
