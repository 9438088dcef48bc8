"""What a deployment is asked to serve, what it must hold, and what is wanted most."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["DEFAULT_INPUT_TOKENS", "DEFAULT_OUTPUT_TOKENS", "Bounds", "Objective", "Workload"]

DEFAULT_INPUT_TOKENS = 512
DEFAULT_OUTPUT_TOKENS = 256
"""Tokens of a request where the user says nothing (architecture D7)."""


class Objective(Enum):
    """`spec.objective`: what decides among choices that all keep the bounds."""

    THROUGHPUT = "Throughput"
    LATENCY = "Latency"
    ENERGY = "Energy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests that one GPU would face. At most one of `in_flight` and `request_rate` is given."""

    in_flight: float | None = None
    """Requests in flight at a time; None: assumed, replicas * knee (D7)."""
    request_rate: float | None = None
    """Requests a second, open loop."""
    input_tokens: int = DEFAULT_INPUT_TOKENS
    output_tokens: int = DEFAULT_OUTPUT_TOKENS
    prefix_hit_rate: float = 0.0
    """Part of the input tokens, 0 to 1, that one replica serving everything finds in its prefix cache."""

    @property
    def assumed(self) -> bool:
        """Whether nobody said how much load there is."""
        return self.in_flight is None and self.request_rate is None

    @property
    def live_tokens(self) -> float:
        """Mean KV cache tokens of a request in decode: its input and half of its output."""
        return self.input_tokens + self.output_tokens / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Latency that must be kept, in seconds; None: no absolute bound."""

    ttft_s: float | None = None
    itl_s: float | None = None
