"""What a replica needs, row by row, for whoever shows it: the terminal and the page say the same."""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.footprint import explain
from slmpack.domain.plan import DeploymentPlan
from slmpack.domain.quantity import format_bytes
from slmpack.domain.snapshot import Demand, ModelUnknown

__all__ = ["MemoryRow", "engine_words", "memory_rows", "weights_warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """A term of the estimate."""

    name: str
    size: int
    """Bytes."""
    note: str
    """What it is."""


def memory_rows(plan: DeploymentPlan) -> tuple[MemoryRow, ...]:
    """Device memory of one replica term by term, last what is needed in all; empty where it is unknown."""
    footprint = plan.footprint
    if footprint is None:
        return ()
    *engine, _ = explain(footprint)
    tokens = f"{plan.kv_tokens:,} tokens of {format_bytes(footprint.kv_bytes_per_token)} (exact)"
    return (
        *(MemoryRow(name=name, size=size, note=note) for name, size, note in engine),
        MemoryRow(name="KV cache", size=footprint.kv_bytes(plan.kv_tokens), note=tokens),
        MemoryRow(name="needed", size=plan.needed_bytes, note=_needed(plan)),
    )


def _needed(plan: DeploymentPlan) -> str:
    """A share holds it with the batch that pays there; one that holds less may do, with a smaller batch."""
    if plan.fit is None:
        return "the least that a share must hold"
    batch = f"with {plan.fit.need.max_num_seqs} sequences"
    if plan.least_bytes == plan.needed_bytes:
        return batch
    return f"{batch}; a share must hold {format_bytes(plan.least_bytes)} at least"


def engine_words(plan: DeploymentPlan, *, source: str | None) -> str:
    """The model and its engine; `source`: the model's, as the user wrote it. Empty where they are unknown."""
    demand = plan.deployment.demand
    if plan.footprint is None or not isinstance(demand, Demand):
        return ""
    return f"{source or demand.model_source} on vLLM {demand.engine_version}, {plan.max_model_len:,} tokens at most"


def weights_warning(plan: DeploymentPlan) -> str:
    """What is odd about the model's weights; empty where nothing is."""
    demand = plan.deployment.demand
    if plan.footprint is None or not isinstance(demand, Demand) or isinstance(demand.model, ModelUnknown):
        return ""
    return demand.model.weights_note or ""
