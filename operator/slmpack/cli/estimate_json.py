"""`slmpack estimate -o json`: one object, its keys in a fixed order. `docs/estimate-json.md` explains every key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from slmpack.cli.estimated import Estimate
from slmpack.cli.figures import MS, exact, figure, workload_figures
from slmpack.domain.choice import BoundsNotKept, Choice
from slmpack.domain.interval import Interval
from slmpack.domain.part import Part
from slmpack.domain.prediction import GpuPrediction

__all__ = ["answered", "engine_flags", "estimate_to_json", "grows", "rows_to_json"]

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
    asked, settings = estimate.asked, estimate.decision.part.settings
    flags: Json = {"--gpu-memory-utilization": settings.gpu_memory_utilization}
    if settings.kv_cache_memory_bytes is not None:
        flags["--kv-cache-memory-bytes"] = settings.kv_cache_memory_bytes
    flags["--max-model-len"] = settings.max_model_len
    flags["--max-num-seqs"] = settings.max_num_seqs
    flags["--max-num-batched-tokens"] = settings.max_num_batched_tokens
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
        "needed_bytes": room.needed_bytes,
        "share_limit_bytes": part.cut.limit_bytes,
        "share_limit_held": part.cut.enforcement,
        "interval": {"low": round(between.low), "expected": round(between.expected), "high": round(between.high)},
        "basis": footprint.basis,
    }


def _decision(estimate: Estimate) -> Json:
    choice = estimate.decision.choice
    if not isinstance(choice, Choice):
        return {
            "workload": workload_figures(estimate.ask.load(1), assumed=estimate.assumed),
            "knee": None,
            "replicas_per_gpu": None,
            "binding": None,
            "carries_load": None,
            "bounds_not_kept": _not_kept(choice) if isinstance(choice, BoundsNotKept) else None,
            "reasons": [estimate.why_nothing],
            "runner_up": None,
            "prediction": None,
        }
    return {
        "workload": workload_figures(
            replace(choice.workload, in_flight=None) if grows(choice) else choice.workload, assumed=estimate.assumed
        ),
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
        "bounds_not_kept": None,
        "reasons": list(choice.reasons),
        "runner_up": {
            "replicas_per_gpu": choice.runner_up.replicas_per_gpu,
            "max_num_seqs": choice.runner_up.max_num_seqs,
            "throughput_tok_s": round(choice.runner_up.throughput_tok_s, 1),
            "reason": choice.runner_up.reason,
        },
        "prediction": _prediction(choice.prediction, grows=grows(choice)),
    }


def grows(choice: Choice) -> bool:
    """Whether the queue grows without end: requests come faster than they are answered."""
    return choice.workload.request_rate is not None and not choice.carries


def answered(choice: Choice) -> Interval:
    """Requests a second of the GPU."""
    return choice.prediction.throughput_tok_s.scaled(1 / choice.workload.output_tokens)


def _not_kept(found: BoundsNotKept) -> Json:
    return {
        "bound": found.bound,
        "limit_ms": round(found.limit_s * MS, 3),
        "at_one_sequence_ms": round(found.alone_s * MS, 3),
    }


def _prediction(prediction: GpuPrediction, *, grows: bool) -> Json:
    """Under the workload; the replicas are equal, so that one stands for all."""
    one = prediction.tenants[0]
    return {
        "throughput_tok_s": figure(prediction.throughput_tok_s),
        "itl_ms": figure(one.itl_s, scale=MS),
        "itl_p99_ms": figure(one.itl_p99_s, scale=MS),
        "ttft_ms": None if grows else figure(one.ttft_s, scale=MS),  # such a queue has no mean wait
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
        "carries_load": known.carries if known else None,
        "requests_per_s": figure(answered(known)) if known else None,
        "reason": None if known else estimate.why_nothing,
    }
