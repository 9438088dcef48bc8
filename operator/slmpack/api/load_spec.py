"""The part of the spec that says what is asked of the replicas: workload, bounds and where a profile is kept."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StrictFloat, StrictInt, StrictStr

from slmpack.api.base import WHOLE, ApiModel, DnsName
from slmpack.api.rules import Rule, matching, present
from slmpack.domain.workload import DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS

__all__ = ["BoundsSpec", "Latency", "ProfileRef", "WorkloadSpec", "seconds"]

MOST_TOKENS = 16_777_216

Latency = Annotated[
    StrictStr,
    Field(max_length=16),
    matching(
        r"^([1-9][0-9]{0,6}(\.[0-9]{1,3})?|0?\.[0-9]{0,2}[1-9])(ms|s)$",
        "'{value}' is no latency; write for instance '50ms' or '1.5s', more than zero",
    ),
]


def seconds(latency: str) -> float:
    """A latency of the API in seconds."""
    return float(latency[:-2]) / 1000 if latency.endswith("ms") else float(latency[:-1])


class WorkloadSpec(ApiModel):
    """What the SLMDeployment serves; the plan chooses batch and replicas per GPU for it."""

    in_flight: Annotated[StrictInt, Field(ge=1, le=1_000_000), WHOLE] | None = None
    """Requests in flight at a time, over all replicas. Not with requestRate.
    Default: assumed, replicas times the knee; status says so. Example: `200`."""
    request_rate: Annotated[StrictFloat, Field(ge=0.001, le=1_000_000)] | None = None
    """Requests a second, over all replicas. Not with inFlight. Default: none. Example: `12.5`."""
    input_tokens: Annotated[StrictInt, Field(ge=1, le=MOST_TOKENS), WHOLE] = DEFAULT_INPUT_TOKENS
    """Mean tokens of a prompt. Example: `2048`."""
    output_tokens: Annotated[StrictInt, Field(ge=1, le=MOST_TOKENS), WHOLE] = DEFAULT_OUTPUT_TOKENS
    """Mean tokens of an answer. Example: `128`."""
    prefix_hit_rate: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.0
    """Part of the prompts' tokens, 0 to 1, that one replica serving everything would find in its prefix cache; several
    replicas find less. Default: 0. Example: `0.4`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.inFlight) || !has(self.requestRate)",
            check=lambda it: len(present(it, "in_flight", "request_rate")) < 2,
            message="give inFlight or requestRate, not both",
        ),
    )


class BoundsSpec(ApiModel):
    """Latencies that the plan keeps by prediction; they are not enforced at run time."""

    ttft: Latency | None = None
    """Mean time to first token, queueing included, at most. Default: no bound. Example: `1s`."""
    itl: Latency | None = None
    """Mean inter-token latency, at most. Default: no bound but that of the knee. Example: `40ms`."""


class ProfileRef(ApiModel):
    """A ConfigMap in the namespace with a profile that `slmpack profile` wrote."""

    name: DnsName
    """Name of the ConfigMap. Example: `qwen-on-l4`."""
    key: Annotated[
        StrictStr,
        Field(max_length=253),
        matching(r"^[-._a-zA-Z0-9]+$", "'{value}' is no key of a ConfigMap: use letters, digits, '-', '_' and '.'"),
    ] = "profile.yaml"
    """Key in the ConfigMap. Example: `h100.yaml`."""
