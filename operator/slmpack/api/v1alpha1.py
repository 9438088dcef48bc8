"""`slmpack.dev/v1alpha1`: the one source of the SLMDeployment's schema, rules, defaults and manual.

The attribute docstrings are what `kubectl explain` prints; the generator adds "Default: ..." from the model's defaults.
Only additive changes are allowed within v1alpha1, and a field exists only where something acts on it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, Field, StrictInt, StrictStr

from slmpack.api.base import WHOLE, ApiModel, DnsName, FreeObject, Items, UserAnnotations, UserLabels
from slmpack.api.load_spec import BoundsSpec, ProfileRef, WorkloadSpec
from slmpack.api.pod_env import KeySelector
from slmpack.api.pod_spec import PodSpec, Toleration
from slmpack.api.rules import ListSet, Rule, Shown, keys_matching, matching, not_reserved, present
from slmpack.api.scaling_spec import ScalingBlock
from slmpack.api.status import SLMDeploymentStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "CacheSpec",
    "EngineSpec",
    "ModelSpec",
    "ObjectMeta",
    "SLMDeployment",
    "SLMDeploymentSpec",
    "ServiceSpec",
    "SharingSpec",
]

GROUP = "slmpack.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "SLMDeployment"
PLURAL = "slmdeployments"

HF_SOURCE = r"hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
PVC_SOURCE = r"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/([^/.][^/]*|[.][^/.][^/]*))*/?"
NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_MAX = 50
SET_BY_SLMPACK = frozenset(
    {
        "config",
        "data-parallel-size",
        "gpu-memory-utilization",
        "host",
        "kv-cache-memory-bytes",
        "max-model-len",
        "model",
        "pipeline-parallel-size",
        "port",
        "revision",
        "tensor-parallel-size",
        "uds",
    }
)
"""The spellings that a schema rule can refuse; `domain.engine` refuses every other way to write these and more."""


class ClaimSource(ApiModel):
    """A PersistentVolumeClaim in the namespace."""

    claim_name: DnsName
    """Name of the claim; several replicas write to it, so it needs ReadWriteMany where they run on several nodes.
    Example: `hf-cache`."""


class HostPathSource(ApiModel):
    """A directory of the node."""

    path: Annotated[
        StrictStr,
        Field(max_length=512),
        matching(r"^/[^:]*$", "'{value}' must be an absolute path without ':', for instance /var/cache/huggingface"),
    ]
    """Absolute path; it is made where it does not exist. Example: `/var/cache/huggingface`."""


class CacheSpec(ApiModel):
    """Where downloaded models are kept between starts: exactly one of the two."""

    persistent_volume_claim: ClaimSource | None = None
    """A claim, shared by all replicas. Default: none."""
    host_path: HostPathSource | None = None
    """A directory of each node, shared by the replicas on it. Default: none."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.persistentVolumeClaim) != has(self.hostPath)",
            check=lambda it: len(present(it, "persistent_volume_claim", "host_path")) == 1,
            message="give exactly one of persistentVolumeClaim and hostPath",
        ),
    )


def _only_for_hf(camel: str, snake: str, instead: str) -> Rule:
    return Rule(
        cel=f"!has(self.{camel}) || self.source.startsWith('hf://')",
        check=lambda it: getattr(it, snake) is None or it.source.startswith("hf://"),
        message=f"{camel} is for hf:// sources, got source '{{value}}'; {instead}",
        field=camel,
        shown=Shown(cel="self.source", read=lambda it: it.source),
    )


class ModelSpec(ApiModel):
    """Which model to serve, and where its files come from."""

    source: Annotated[
        StrictStr,
        Field(max_length=512),
        matching(
            f"^({HF_SOURCE}|{PVC_SOURCE})$",
            "'{value}' is no model source; write hf://ORGANISATION/NAME or pvc://CLAIM/PATH",
        ),
    ]
    """`hf://ORGANISATION/NAME` for a model of the Hugging Face Hub, or `pvc://CLAIM/PATH` for a folder in a
    PersistentVolumeClaim of the namespace (then `config` is needed). Example: `hf://Qwen/Qwen2.5-1.5B-Instruct`."""
    revision: (
        Annotated[
            StrictStr,
            Field(max_length=128),
            matching(
                r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", "'{value}' is no revision; write a branch, a tag or a commit's hash"
            ),
        ]
        | None
    ) = None
    """Branch, tag or commit on the Hub; a commit's hash pins the model. Only with hf://. Default: `main`.
    Example: `989aa7980e4cf806f80c7fef2b1adb7bc71aa306`."""
    config: FreeObject | None = None
    """The model's config.json as an object, read instead of fetching it; required with pvc://.
    Default: fetched from the Hub. Example: `{model_type: qwen2, hidden_size: 1536, ...}`."""
    token_secret: KeySelector | None = None
    """Key of a Secret in the namespace with a Hub token, given to the engine as HF_TOKEN; the operator does not read
    it. Only with hf://. Default: none. Example: `{name: hf, key: token}`."""
    cache: CacheSpec | None = None
    """Volume for downloaded models, so that the next start need not download. Only with hf://.
    Default: none, each start downloads. Example: `{hostPath: {path: /var/cache/huggingface}}`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.source.startsWith('pvc://') || has(self.config)",
            check=lambda it: not it.source.startswith("pvc://") or it.config is not None,
            message="source '{value}' needs config: the operator cannot read the claim; put the model's config.json"
            " there as an object",
            field="config",
            shown=Shown(cel="self.source", read=lambda it: it.source),
        ),
        _only_for_hf("revision", "revision", "remove it"),
        _only_for_hf("tokenSecret", "token_secret", "remove it"),
        _only_for_hf("cache", "cache", "remove it: the claim already holds the model"),
    )


class EngineSpec(ApiModel):
    """The vLLM engine that each replica runs."""

    image: Annotated[
        StrictStr,
        Field(max_length=512),
        matching(
            r"^[A-Za-z0-9][!-~]*$", "'{value}' is no image reference; write for instance vllm/vllm-openai:v0.33.0"
        ),
    ] = "vllm/vllm-openai:v0.33.0"
    """Image of the engine. Its tag says the vLLM version, 0.11 to 0.33. Example: `registry.local/vllm:v0.30.0`."""
    version: (
        Annotated[
            StrictStr,
            Field(max_length=32),
            matching(
                r"^v?[0-9]+[.][0-9]+([.][0-9]+)?([.+-][0-9A-Za-z.+-]+)?$",
                "'{value}' is no vLLM version; write for instance '0.33.0', in quotes",
            ),
        ]
        | None
    ) = None
    """vLLM's version in the image, needed where the tag is no version (such as `latest` or a digest).
    Default: the image's tag. Example: `"0.33.0"`."""
    max_model_len: Annotated[StrictInt, Field(ge=1, le=16_777_216), WHOLE] | None = None
    """Tokens that a request may have, prompt and answer together; never shortened by the operator.
    Default: the smaller of the model's own and 8192; status.maxModelLen says it. Example: `4096`."""
    startup_timeout_seconds: Annotated[StrictInt, Field(ge=1, le=86_400), WHOLE] = 600
    """Seconds from a replica's creation until it must be Ready; past them it is ended with a reason and tried again.
    Downloading the model counts. Example: `1800`."""
    args: Annotated[
        dict[StrictStr, Annotated[StrictStr, Field(max_length=4096)]],
        Field(max_length=64),
        keys_matching(
            r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            "each key must be a flag's name without leading dashes, for instance enable-prefix-caching",
        ),
        not_reserved(
            SET_BY_SLMPACK,
            prefix="",
            message=f"{', '.join(sorted(SET_BY_SLMPACK))} are set by slmpack; use spec.engine.maxModelLen and its like",
        ),
    ] = Field(default_factory=dict)
    """Further flags of `vllm serve`: name without dashes to value, in quotes; "true" or "false" where it takes none.
    Flags that slmpack sets, or does not know for the engine's version, are refused. Default: none.
    Example: `{enable-prefix-caching: "true", kv-cache-dtype: fp8}`."""


class SharingSpec(ApiModel):
    """How replicas share GPUs, and which GPUs they may use."""

    mode: Literal["Auto", "Exclusive", "MIG", "MPS", "MPSPack", "DRA"] = "Auto"
    """How a replica's part of a GPU is bounded. Auto: the smallest sufficient of the others that the cluster offers.
    Exclusive: a whole GPU. MIG: a MIG slice that the device plugin advertises. MPS: a share of a GPU on a node whose
    device plugin shares by MPS. MPSPack: a whole GPU for one pod that runs several replicas, each under an MPS limit
    of its own. DRA: a MIG slice that a ResourceClaim asks for. Example: `MIG`."""
    max_per_gpu: Annotated[Annotated[StrictInt, Field(ge=1, le=48), WHOLE] | None, Field(alias="maxPerGPU")] = None
    """At most so many replicas of this SLMDeployment a GPU, 1 to 48 (the clients of an MPS device plugin). On a node
    with several GPUs it holds on average: so many times its GPUs, as the kubelet picks the GPU.
    It overrules what the plan finds to pay, and an MPSPack is made for so many, of which `replicas` run.
    Default: as many as fit and pay. Example: `4`."""
    sm_percent: Annotated[Annotated[StrictInt, Field(ge=1, le=100), WHOLE] | None, Field(alias="smPercent")] = None
    """At most this percentage of the GPU's multiprocessors for each engine of an MPSPack (MPS' active thread
    percentage), so that one engine cannot keep the others from computing. It is a ceiling, no reservation, and
    mostly costs throughput. Only with mode MPSPack. Default: no ceiling. Example: `50`."""
    when_full: Literal["Report", "Pending"] = "Report"
    """What becomes of a replica that has no room. Report: status says why, and no pod is made. Pending: its pod is made
    without a node, so that a node autoscaler (Karpenter, Cluster Autoscaler) sees the demand. A change restarts
    nothing. Example: `Pending`."""
    gpu_products: Annotated[
        Items[
            Annotated[
                StrictStr,
                Field(max_length=63),
                matching(
                    r"^[A-Za-z0-9]([A-Za-z0-9_. -]*[A-Za-z0-9])?$",
                    "'{value}' is no GPU product; write what the node label nvidia.com/gpu.product says",
                ),
                Rule(
                    cel="!self.endsWith('-SHARED')",
                    check=lambda product: not product.endswith("-SHARED"),
                    message="'{value}' ends in -SHARED, which says how a node shares its GPUs; leave -SHARED out",
                    shown=Shown(cel="self", read=str),
                ),
            ]
        ],
        Field(max_length=32),
        ListSet(),
    ] = ()
    """GPUs that may be used, as the node label nvidia.com/gpu.product says them, without -SHARED.
    Default: any known GPU. Example: `[NVIDIA-L4, NVIDIA-H100-80GB-HBM3]`."""
    tolerations: Annotated[Items[Toleration], Field(max_length=32)] = ()
    """Taints of GPU nodes that the replicas tolerate, as in core/v1. Default: none.
    Example: `[{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.maxPerGPU) || self.maxPerGPU == 1 || !has(self.mode) || self.mode != 'Exclusive'",
            check=lambda it: it.mode != "Exclusive" or it.max_per_gpu in {None, 1},
            message="mode Exclusive puts one replica on a GPU; remove maxPerGPU or use another mode",
            field="maxPerGPU",
            shown=Shown(read=lambda it: it.max_per_gpu),
        ),
        Rule(
            cel="!has(self.smPercent) || (has(self.mode) && self.mode == 'MPSPack')",
            check=lambda it: it.sm_percent is None or it.mode == "MPSPack",
            message="a ceiling on multiprocessors needs mode MPSPack; set the mode, or remove smPercent",
            field="smPercent",
            shown=Shown(read=lambda it: it.sm_percent),
        ),
    )


class ServiceSpec(ApiModel):
    """The Service in front of the replicas; it has the SLMDeployment's name."""

    port: Annotated[StrictInt, Field(ge=1, le=65_535), WHOLE] = 8000
    """Port of the Service; the OpenAI API answers there. Example: `80`."""
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service. Example: `LoadBalancer`."""
    labels: UserLabels = Field(default_factory=dict)
    """Labels added to the Service; slmpack.dev/* and the app.kubernetes.io/* labels that slmpack sets are refused.
    Default: none. Example: `{team: search}`."""
    annotations: UserAnnotations = Field(default_factory=dict)
    """Annotations added to the Service; slmpack.dev/* is refused. Default: none.
    Example: `{service.beta.kubernetes.io/aws-load-balancer-type: nlb}`."""


class SLMDeploymentSpec(ApiModel):
    """What the user wants. The operator never writes it."""

    model: ModelSpec
    """Which model to serve. Required."""
    engine: EngineSpec = EngineSpec()
    """The vLLM engine that each replica runs. Default: `vllm/vllm-openai:v0.33.0` with flags chosen by the plan."""
    sharing: SharingSpec = SharingSpec()
    """How replicas share GPUs, and which GPUs they may use. Default: mode Auto on any known GPU."""
    replicas: Annotated[StrictInt, Field(ge=0, le=10_000)] | None = None
    """Replicas wanted. `kubectl scale` and a HorizontalPodAutoscaler write it; without it GET /scale is an error, so
    give it where one of them is used. Not with scaling. Default: 1, without scaling. Example: `3`."""
    scaling: ScalingBlock | None = None
    """Lets slmpack say how many replicas there are, by what is measured: requests, latencies, KV cache, watts. Not with
    replicas. Default: none, replicas says it. Example: `{min: 1, max: 8}`."""
    workload: WorkloadSpec = WorkloadSpec()
    """What the replicas serve. A change applies to replicas made later; it restarts nothing.
    Default: replicas times the knee in flight, 512 tokens in, 256 out, assumed and labelled so."""
    objective: Literal["Throughput", "Latency", "Energy"] = "Throughput"
    """What decides among plans that keep the bounds, by prediction: most tokens a second, lowest latency, or fewest
    joules a token. A change restarts nothing. Example: `Energy`."""
    bounds: BoundsSpec = BoundsSpec()
    """Latencies that the plan keeps by prediction. A change restarts nothing. Default: none."""
    profile_ref: ProfileRef | None = None
    """A measured profile of this model, made by `slmpack profile`; it calibrates the predictions for its GPU.
    Default: none, predictions are modelled. Example: `{name: qwen-on-l4}`."""
    service: ServiceSpec = ServiceSpec()
    """The Service in front of the replicas. Default: ClusterIP on port 8000."""
    pod: PodSpec = PodSpec()
    """What the replicas' pods pass on to Kubernetes: metadata, resources, environment, volumes and scheduling.
    Default: nothing."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.replicas) || !has(self.scaling)",
            check=lambda it: len(present(it, "replicas", "scaling")) < 2,
            message="give replicas (a fixed number; also for a HorizontalPodAutoscaler) or scaling, not both",
            field="scaling",
        ),
        Rule(
            cel="!has(self.model.tokenSecret) || !has(self.pod) || !has(self.pod.env)"
            " || !self.pod.env.exists(e, e.name == 'HF_TOKEN')",
            check=lambda it: it.model.token_secret is None or all(env.name != "HF_TOKEN" for env in it.pod.env),
            message="HF_TOKEN is set from model.tokenSecret; remove it from pod.env, or remove model.tokenSecret",
            field="pod.env",
        ),
    )


class ObjectMeta(ApiModel):
    """The part of an object's metadata that the operator reads."""

    model_config = ConfigDict(extra="ignore")

    name: StrictStr
    namespace: StrictStr = ""
    uid: StrictStr = ""
    generation: StrictInt = 0
    creation_timestamp: AwareDatetime | None = None
    deletion_timestamp: AwareDatetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class SLMDeployment(ApiModel):
    """A small language model, served by as many replicas as wanted, packed on shared GPUs with bounded memory each."""

    api_version: Literal["slmpack.dev/v1alpha1"]
    kind: Literal["SLMDeployment"]
    metadata: ObjectMeta
    spec: SLMDeploymentSpec
    """What the user wants."""
    status: SLMDeploymentStatus = SLMDeploymentStatus()
    """What the operator found and did. Only the operator writes it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"size(self.metadata.name) <= {NAME_MAX} && self.metadata.name.matches('{NAME}')",
            check=lambda it: _is_name(it.metadata.name),
            message=f"name '{{value}}' must be an RFC 1035 label of at most {NAME_MAX} characters: lower-case letters,"
            " digits and '-', a letter first and no '-' last, because the names of pods and Services begin with it",
            field="metadata.name",
            shown=Shown(cel="self.metadata.name", read=lambda it: it.metadata.name),
        ),
    )


def _is_name(name: str) -> bool:
    return len(name) <= NAME_MAX and matching(NAME, "").check(name)
