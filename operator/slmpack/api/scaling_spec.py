"""`spec.scaling`: how many replicas there may be, how fast that changes, and what must be kept meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field, StrictFloat, StrictInt

from slmpack.api.base import WHOLE, ApiModel
from slmpack.api.load_spec import Latency, seconds
from slmpack.api.rules import Rule, Shown
from slmpack.domain.scale_decision import Pacing, ScalingSpec

__all__ = ["BehaviourSpec", "ScaleDownSpec", "ScaleUpSpec", "ScalingBlock", "SloSpec", "to_scaling"]

MOST_REPLICAS = 10_000

Window = Annotated[StrictInt, Field(ge=0, le=3600), WHOLE]
Step = Annotated[StrictInt, Field(ge=1, le=MOST_REPLICAS), WHOLE]


class ScaleUpSpec(ApiModel):
    """How fast replicas are added."""

    stabilization_window_seconds: Window = 0
    """The lowest number that was wished within so many seconds counts. Example: `60`."""
    max_step: Step | None = None
    """At most so many replicas are added by one decision. Default: any number. Example: `2`."""


class ScaleDownSpec(ApiModel):
    """How fast replicas end."""

    stabilization_window_seconds: Window = 300
    """Fewer replicas must do for so many seconds, without a break, before one ends. Example: `900`."""
    max_step: Step | None = None
    """At most so many replicas end by one decision. Default: any number. Example: `1`."""


class BehaviourSpec(ApiModel):
    """How fast the number of replicas changes."""

    scale_up: ScaleUpSpec = ScaleUpSpec()
    """How fast replicas are added. Default: at once."""
    scale_down: ScaleDownSpec = ScaleDownSpec()
    """How fast replicas end. Default: after 300 seconds."""


class SloSpec(ApiModel):
    """Measured latencies above which more replicas are wished; a promise of nothing."""

    ttft: Latency | None = None
    """95th percentile of the time to first token, at most. Default: spec.bounds.ttft, if given. Example: `1s`."""
    itl: Latency | None = None
    """95th percentile of the inter-token latency, at most. Default: spec.bounds.itl, if given. Example: `40ms`."""


class ScalingBlock(ApiModel):
    """How many replicas there are, decided by what is measured."""

    min: Annotated[StrictInt, Field(ge=0, le=MOST_REPLICAS), WHOLE] = 1
    """Replicas at least. With 0, the last one ends when no request has come for scaleToZeroAfterSeconds.
    Example: `2`."""
    max: Annotated[StrictInt, Field(ge=1, le=MOST_REPLICAS), WHOLE]
    """Replicas at most. Required. Example: `8`."""
    behaviour: BehaviourSpec = BehaviourSpec()
    """How fast the number changes. Default: up at once, down after 300 seconds."""
    max_watts_per_gpu: Annotated[
        Annotated[StrictFloat, Field(ge=1, le=100_000)] | None, Field(alias="maxWattsPerGPU")
    ] = None
    """No replica is added to a GPU that would then draw more, by prediction at load (its upper end) or by measurement.
    It is no power limit: the GPU itself is not told, and what runs is not slowed. Default: none. Example: `450`."""
    scale_to_zero_after_seconds: Annotated[StrictInt, Field(ge=1, le=604_800), WHOLE] | None = None
    """Seconds without a request after which the last replica ends. Only with min 0. Default: 600, and then the last
    one stays where its node's only GPU is on for others anyway, and shares are free. Example: `1800`."""
    slo: SloSpec = SloSpec()
    """Measured latencies above which more replicas are wished. Default: spec.bounds."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.min) || self.min <= self.max",
            check=lambda it: it.min <= it.max,
            message="min must be at most max; raise max, or lower min",
            field="min",
            shown=Shown(read=lambda it: f"{it.min}, max {it.max}"),
        ),
        Rule(
            cel="!has(self.scaleToZeroAfterSeconds) || (has(self.min) && self.min == 0)",
            check=lambda it: it.scale_to_zero_after_seconds is None or it.min == 0,
            message="scaleToZeroAfterSeconds is for min 0; set min to 0, or remove it",
            field="scaleToZeroAfterSeconds",
            shown=Shown(read=lambda it: it.scale_to_zero_after_seconds),
        ),
    )


def to_scaling(block: ScalingBlock) -> ScalingSpec:
    """The block as the scaler reads it; an SLO that is not given stays None, and spec.bounds stands for it."""
    up, down, slo = block.behaviour.scale_up, block.behaviour.scale_down, block.slo
    spec = ScalingSpec(
        least=block.min,
        most=block.max,
        up=Pacing(stabilisation=timedelta(seconds=up.stabilization_window_seconds), most_step=up.max_step),
        down=Pacing(stabilisation=timedelta(seconds=down.stabilization_window_seconds), most_step=down.max_step),
        max_watts_per_gpu=block.max_watts_per_gpu,
        ttft_s=None if slo.ttft is None else seconds(slo.ttft),
        itl_s=None if slo.itl is None else seconds(slo.itl),
    )
    if block.scale_to_zero_after_seconds is None:
        return spec
    return replace(spec, idle=timedelta(seconds=block.scale_to_zero_after_seconds), idle_asked=True)
