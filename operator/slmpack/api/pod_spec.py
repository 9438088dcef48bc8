"""`spec.pod` and its parts: the knobs of core/v1 that a replica's pod passes on, with what would break it refused."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt, StrictStr

from slmpack.api.base import (
    WHOLE,
    ApiModel,
    DnsName,
    Items,
    LabelMap,
    LabelValue,
    QualifiedName,
    Quantity,
    UserAnnotations,
    UserLabels,
)
from slmpack.api.pod_env import EnvFromSource, EnvVar
from slmpack.api.pod_volumes import Volume, VolumeMount
from slmpack.api.rules import ListMap, Rule, Shown

__all__ = ["PodSpec", "Resources", "Toleration", "TopologySpreadConstraint"]

ONLY_RESOURCES = ("cpu", "memory", "ephemeral-storage")


class LabelSelectorRequirement(ApiModel):
    """One expression of a label selector."""

    key: QualifiedName
    """The label's key. Example: `app`."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label's value relates to `values`."""
    values: Annotated[Items[LabelValue], Field(max_length=32)] = ()
    """Values for In and NotIn; empty for Exists and DoesNotExist. Default: none. Example: `[gold]`."""


class LabelSelector(ApiModel):
    """A label selector, as in core/v1."""

    match_labels: LabelMap = Field(default_factory=dict)
    """Labels that must be equal. Default: none. Example: `{app: chat}`."""
    match_expressions: Annotated[Items[LabelSelectorRequirement], Field(max_length=16)] = ()
    """Expressions that must all hold. Default: none. Example: `[{key: tier, operator: In, values: [gold]}]`."""


class Toleration(ApiModel):
    """A taint that replicas tolerate, as in core/v1."""

    key: Annotated[StrictStr, Field(max_length=317)] = ""
    """The taint's key; empty, with operator Exists, matches every taint. Default: empty. Example: `nvidia.com/gpu`."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists ignores the taint's value; Equal compares it."""
    value: LabelValue = ""
    """The taint's value, with operator Equal. Default: empty. Example: `present`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Default: every effect. Example: `NoSchedule`."""
    toleration_seconds: Annotated[StrictInt, WHOLE] | None = None
    """Seconds that a replica stays on a node with a NoExecute taint. Default: for ever. Example: `300`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.operator) && self.operator == 'Exists') || !has(self.value) || self.value == ''",
            check=lambda it: it.operator != "Exists" or not it.value,
            message="operator Exists takes no value, got '{value}'; remove it or use operator Equal",
            field="value",
            shown=Shown(cel="self.value", read=lambda it: it.value),
        ),
        Rule(
            cel="(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
            check=lambda it: bool(it.key) or it.operator == "Exists",
            message="an empty key needs operator Exists, which then tolerates every taint; name the taint's key",
            field="key",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            check=lambda it: it.toleration_seconds is None or it.effect == "NoExecute",
            message="tolerationSeconds needs effect NoExecute; remove it or set the effect",
            field="tolerationSeconds",
        ),
    )


class TopologySpreadConstraint(ApiModel):
    """How evenly replicas spread over a topology, as in core/v1."""

    max_skew: Annotated[StrictInt, Field(ge=1), WHOLE]
    """How many more replicas one domain may have than another. Example: `1`."""
    topology_key: QualifiedName
    """The node label that names a domain. Example: `topology.kubernetes.io/zone`."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """What to do where the skew would be exceeded."""
    label_selector: LabelSelector | None = None
    """Pods that count. Default: the replicas of this SLMDeployment."""
    match_label_keys: Annotated[Items[QualifiedName], Field(max_length=16)] = ()
    """Pod labels whose values are added to the selector. Default: none."""
    min_domains: Annotated[StrictInt, Field(ge=1), WHOLE] | None = None
    """Domains that must exist at least, with DoNotSchedule. Default: `1`."""
    node_affinity_policy: Literal["Honor", "Ignore"] = "Honor"
    """Whether nodes that the affinity excludes count."""
    node_taints_policy: Literal["Honor", "Ignore"] = "Ignore"
    """Whether nodes with taints that are not tolerated count."""


ResourceList = Annotated[
    dict[StrictStr, Quantity],
    Field(max_length=8),
    Rule(
        cel="self.all(k, k in ['cpu', 'memory', 'ephemeral-storage'])",
        check=lambda found: all(key in ONLY_RESOURCES for key in found),
        message="only cpu, memory and ephemeral-storage can be asked for here; the GPU share follows from spec.sharing",
        shown=Shown(read=lambda found: ", ".join(sorted(key for key in found if key not in ONLY_RESOURCES))),
    ),
]


class Resources(ApiModel):
    """CPU, memory and ephemeral storage of one replica; its part of a GPU follows from the model."""

    requests: ResourceList = Field(default_factory=dict)
    """What the scheduler reserves, by cpu, memory and ephemeral-storage.
    Default: the limits, else 1.5 cores and 4Gi.
    Example: `{cpu: "2", memory: 8Gi}`."""
    limits: ResourceList = Field(default_factory=dict)
    """What a replica may use at most, by cpu, memory and ephemeral-storage. Default: no limit.
    Example: `{memory: 16Gi}`."""


class ObjectName(ApiModel):
    """An object in the pod's namespace."""

    name: DnsName
    """Its name. Example: `registry`."""


def _mounts_are_volumes(pod: PodSpec) -> bool:
    names = {volume.name for volume in pod.volumes}
    return all(mount.name in names for mount in pod.volume_mounts)


def _unknown_mounts(pod: PodSpec) -> str:
    names = {volume.name for volume in pod.volumes}
    return ", ".join(mount.name for mount in pod.volume_mounts if mount.name not in names)


class PodSpec(ApiModel):
    """What a replica's pod passes on to Kubernetes; a change here replaces the replicas one at a time."""

    labels: UserLabels = Field(default_factory=dict)
    """Labels added to each pod; slmpack.dev/* and the app.kubernetes.io/* labels that slmpack sets are refused.
    Default: none. Example: `{team: search}`."""
    annotations: UserAnnotations = Field(default_factory=dict)
    """Annotations added to each pod; slmpack.dev/* is refused. Default: none.
    Example: `{example.com/owner: search}`."""
    resources: Resources = Resources()
    """CPU, memory and ephemeral storage of one replica. nvidia.com/* is refused: the GPU follows from the model.
    Default: requests of 1.5 cores and 4Gi, no limits."""
    env: Annotated[Items[EnvVar], Field(max_length=64), ListMap(("name",))] = ()
    """Variables of the engine; CUDA_*, NVIDIA_* and the VLLM_* that move memory, ports or processes belong to slmpack.
    Default: none.
    Example: `[{name: VLLM_LOGGING_LEVEL, value: DEBUG}]`."""
    env_from: Annotated[Items[EnvFromSource], Field(max_length=16)] = ()
    """ConfigMaps and Secrets whose keys become variables. Default: none.
    Example: `[{configMapRef: {name: engine-settings}}]`."""
    volumes: Annotated[Items[Volume], Field(max_length=16), ListMap(("name",))] = ()
    """Volumes of the pod. Default: none. Example: `[{name: templates, configMap: {name: chat-templates}}]`."""
    volume_mounts: Annotated[Items[VolumeMount], Field(max_length=16), ListMap(("mountPath",))] = ()
    """Where the engine sees the volumes; not /dev/shm. Default: none.
    Example: `[{name: templates, mountPath: /templates}]`."""
    service_account_name: DnsName | None = None
    """The ServiceAccount of the pods. Default: the namespace's `default`. Example: `chat`."""
    priority_class_name: DnsName | None = None
    """The PriorityClass of the pods; higher ones get room first. Default: the cluster's. Example: `serving-high`."""
    image_pull_secrets: Annotated[Items[ObjectName], Field(max_length=16), ListMap(("name",))] = ()
    """Secrets for the image's registry. Default: none. Example: `[{name: registry}]`."""
    node_selector: LabelMap = Field(default_factory=dict)
    """Labels that a node must have. Default: none. Example: `{topology.kubernetes.io/zone: a}`."""
    topology_spread_constraints: Annotated[
        Items[TopologySpreadConstraint], Field(max_length=8), ListMap(("topologyKey", "whenUnsatisfiable"))
    ] = ()
    """How replicas spread over zones or nodes. Default: none.
    Example: `[{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}]`."""
    termination_grace_period_seconds: Annotated[StrictInt, Field(ge=1, le=3600), WHOLE] = 60
    """Seconds that a replica has to finish its requests before it is killed. Example: `120`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.volumeMounts) || self.volumeMounts.all(m,"
            " has(self.volumes) && self.volumes.exists(v, v.name == m.name))",
            check=_mounts_are_volumes,
            message="each volumeMounts name must be one of spec.pod.volumes; add the volume or correct the name",
            field="volumeMounts",
            shown=Shown(read=_unknown_mounts),
        ),
    )
