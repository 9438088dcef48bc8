"""The status of an SLMDeployment: written by the operator only, at the end of a cycle, and read back leniently."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from slmpack.api.base import ApiModel, Items
from slmpack.api.rules import ListMap

__all__ = [
    "DECISIONS_MAX",
    "FIGURES_MAX",
    "NOTHING_SAID",
    "PLACEMENTS_MAX",
    "REASONS_MAX",
    "UNPLACED_MAX",
    "ConditionStatus",
    "DecisionStatus",
    "FigureStatus",
    "FootprintStatus",
    "PlacementStatus",
    "SLMDeploymentStatus",
    "ScalingStatus",
    "UnplacedStatus",
]

PLACEMENTS_MAX = 256
"""Placements that status lists at most; the counts beside it always cover all of them."""
UNPLACED_MAX = 16
REASONS_MAX = 16
DECISIONS_MAX = 8
FIGURES_MAX = 32

Short = Annotated[str, Field(max_length=253)]
Message = Annotated[str, Field(max_length=32768)]
Reason = Annotated[str, Field(max_length=1024)]


NOTHING_SAID = {"observedGeneration": -1}
"""What the API server shows of an object that the operator has not seen yet: the schema default of status (api.crd)."""


class StatusModel(ApiModel):
    """A part of status; what a newer operator wrote is ignored."""

    model_config = ConfigDict(extra="ignore")


class ConditionStatus(StatusModel):
    """metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Reconciling, Stalled, Accepted, Fits, Scaled, MemoryLimitEnforced, or with spec.scaling ScalingActive or
    ScalingLimited."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """metadata.generation that it was found for."""
    last_transition_time: AwareDatetime
    """When `status` last changed."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, as one CamelCase word for machines."""
    message: Message
    """Why, in a sentence for people."""


class FootprintStatus(StatusModel):
    """Device memory that one replica needs, in bytes, and how it is known."""

    weights_bytes: int | None = None
    """The model's weights."""
    kv_bytes_per_token: int | None = None
    """KV cache of one token."""
    kv_bytes: int | None = None
    """KV cache that the plan counts on."""
    activation_bytes: int | None = None
    """Peak of the activations."""
    non_torch_bytes: int | None = None
    """Memory outside PyTorch's allocator."""
    cuda_graph_bytes: int | None = None
    """Captured CUDA graphs."""
    context_bytes: int | None = None
    """The CUDA context, which lies outside vLLM's own budget."""
    margin_bytes: int | None = None
    """Kept free against what the estimate does not know."""
    total_bytes: int | None = None
    """All of it."""
    basis: Short = ""
    """measured, calibrated, modelled or assumed."""
    warning: Reason | None = None
    """Where the config and the checkpoint's metadata disagree on the weights by more than 3 %."""


class DecisionStatus(StatusModel):
    """What pays on one GPU of a kind in use. Figures are predictions: expected (low to high)."""

    gpu: Short = ""
    """The GPU product."""
    share: Short = ""
    """The replicas' part of it."""
    carries_load: bool | None = None
    """Whether the GPU's part of the load runs within the bounds, by prediction."""
    replicas_per_gpu: Annotated[int | None, Field(alias="replicasPerGPU")] = None
    """Replicas that pay on one GPU."""
    max_num_seqs: int | None = None
    """Sequences that each runs at a time: the knee of throughput against latency."""
    limited_by: Short | None = None
    """What stops a larger batch: KvCache, MaxNumSeqs, ItlBound, TtftBound, ItlFactor, Epsilon, Doubling, GridEnd or
    Load."""
    in_flight: Short | None = None
    """Requests in flight on the GPU that it was decided for; "assumed" where the spec does not say."""
    throughput: Short | None = None
    """Output tokens a second of the GPU."""
    itl: Short | None = None
    """Mean inter-token latency."""
    ttft: Short | None = None
    """Mean time to first token, queueing included."""
    power: Short | None = None
    """Watts of the GPU."""
    energy_per_token: Short | None = None
    """Joules an output token."""
    basis: Short | None = None
    """modelled, or calibrated by the profile of spec.profileRef."""
    reasons: Annotated[Items[Reason], Field(max_length=REASONS_MAX)] = ()
    """Why, in sentences with the numbers."""
    runner_up: Reason | None = None
    """The alternative that came closest, and why it lost."""


class PlacementStatus(StatusModel):
    """Where one replica is."""

    pod: Short
    """Name of its pod."""
    engine: int | None = None
    """Which engine of a pack it is."""
    node: Short = ""
    """Its node; which GPU of the node it got is the kubelet's choice."""
    resource: Short = ""
    """The extended resource that it asks for, for instance nvidia.com/mig-1g.10gb."""
    share: Short = ""
    """Its part of a GPU, for instance "MigSlice 1g.10gb"."""
    ready: bool = False
    """Whether it is Ready."""
    device_memory: Short | None = None
    """GPU memory that it holds, measured through NVML by the pack's supervisor; absent where nobody measured it."""
    reason: Short = ""
    """Why it is not Ready."""


class UnplacedStatus(StatusModel):
    """Replicas without a place, for one reason."""

    count: int
    """How many."""
    reason: Short
    """Why, as one CamelCase word for machines."""
    message: Message = ""
    """Why, with the binding constraint and the nearest thing that would fit."""


class FigureStatus(StatusModel):
    """A number that led to a decision."""

    name: Short
    """What it is, for instance demand, capacity or waiting."""
    value: float
    """How much, to three digits."""
    unit: Short = ""
    """requests/s, tokens/s, s, W or replicas; empty for a part of one."""
    basis: Short = ""
    """measured, calibrated, modelled or assumed."""


class ScalingStatus(StatusModel):
    """How many replicas are wanted by what is measured, and what the next decision has to know of this one.

    Words and figures are told anew when the decision changes, else at most once a minute.
    """

    desired: Annotated[int, Field(ge=0)]
    """Replicas wanted now."""
    wished: Annotated[int, Field(ge=0)] = 0
    """Replicas that the load alone asks for; another number than desired where a bound, the pace, power or something
    unknown holds it."""
    known: bool = False
    """Whether everything that the decision needs was measured; if not, the number is held."""
    reason: Short = ""
    """Why, as one CamelCase word for machines."""
    message: Reason = ""
    """Why, in a sentence with the numbers."""
    limited_by: Short | None = None
    """Why more replicas, though wished, are not wanted: AtMax, PowerCeiling or DoesNotPay."""
    power: Short | None = None
    """Watts of the hottest GPU with these replicas at their load; an estimate."""
    decided_at: AwareDatetime | None = None
    """When these words and figures were found."""
    last_scale_time: AwareDatetime | None = None
    """When desired last changed."""
    last_direction: Literal["Up", "Down"] | None = None
    """Which way it changed then."""
    lower_since: AwareDatetime | None = None
    """Since when fewer replicas would do, without a break."""
    higher_since: AwareDatetime | None = None
    """Since when more were wished, without a break; only where behaviour.scaleUp waits for that."""
    hold_seconds: Annotated[float, Field(ge=0)] | None = None
    """Patience learned from ends that were soon taken back: fewer replicas must do for a part of so many seconds before
    any ends, the smaller the faster a replica starts."""
    last_request_time: AwareDatetime | None = None
    """When a request was last seen; kept up to date with min 0, to within a tenth of scaleToZeroAfterSeconds."""
    start_seconds: Annotated[float, Field(ge=0)] | None = None
    """Median of the measured starts of a replica."""
    correction: Annotated[float, Field(ge=0)] | None = None
    """How many times slower than modelled the replicas are, as learned from latencies and late requests."""
    corrected_at: AwareDatetime | None = None
    """When that last changed."""
    corrected_of: Short | None = None
    """The hash of the spec that it was learned of; another spec starts anew."""
    figures: Annotated[Items[FigureStatus], Field(max_length=FIGURES_MAX)] = ()
    """The numbers that led to the decision."""


class SLMDeploymentStatus(StatusModel):
    """What the operator found and did."""

    observed_generation: int | None = None
    """metadata.generation that this status was made for; -1 where the operator has not seen the object yet."""
    ready: Short | None = None
    """Ready and wanted replicas, for instance "2/3"."""
    replicas: int | None = None
    """Pods that exist and have not ended; what the scale subresource reports."""
    ready_replicas: int | None = None
    """Pods that are Ready."""
    desired_replicas: int | None = None
    """Replicas wanted now."""
    updated_replicas: int | None = None
    """Pods made from the present spec."""
    outdated_replicas: int | None = None
    """Pods made by an older version of the operator; they keep running."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for the scale subresource."""
    per_gpu: Annotated[int | None, Field(alias="perGPU")] = None
    """Replicas of this model that fit and pay on one GPU of the kind in use."""
    share: Short | None = None
    """The replicas' part of a GPU, for instance "MigSlice 1g.10gb"."""
    gpu: Short | None = None
    """The GPU product in use."""
    reason: Short | None = None
    """Why not everything is Ready, as one CamelCase word."""
    max_model_len: int | None = None
    """Tokens per request in use."""
    footprint: FootprintStatus | None = None
    """Device memory that one replica needs."""
    decisions: Annotated[Items[DecisionStatus], Field(max_length=DECISIONS_MAX)] = ()
    """What pays on one GPU of each kind in use, and why; without one, of the best that suits."""
    scaling: ScalingStatus | None = None
    """How many replicas are wanted by what is measured; only with spec.scaling."""
    repack: Short | None = None
    """GPUs that would come free if some of these replicas were moved, estimated; nothing moves them by itself. Absent
    where none would, and in clusters with more than 64 GPU pods, where only `slmpack plan --repack` looks."""
    placements: Annotated[Items[PlacementStatus], Field(max_length=PLACEMENTS_MAX)] = ()
    """Where the replicas are, at most 256 of them."""
    unplaced: Annotated[Items[UnplacedStatus], Field(max_length=UNPLACED_MAX)] = ()
    """Why replicas have no place."""
    conditions: Annotated[Items[ConditionStatus], Field(max_length=16), ListMap(("type",))] = ()
    """Conditions: Ready sums up; Accepted, Fits, Scaled and MemoryLimitEnforced say why; Reconciling and Stalled are
    for tools; ScalingActive and ScalingLimited are as a HorizontalPodAutoscaler's."""
