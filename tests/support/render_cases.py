"""Named inputs of the renderer: one for each kind of share, an old engine, a claim, and every knob of the API at once.

Packs are apart: their pods have another container.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from slmpack.adapters.tables import load_engine_table
from slmpack.domain.engine import EngineVersion
from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.footprint import Footprint
from slmpack.domain.pack import PackRecord
from slmpack.domain.plan import CreatePod, Placement
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import (
    DraClaim,
    Exclusive,
    MigSlice,
    Mode,
    MpsPack,
    MpsShare,
    Share,
    describe_share,
    starts_alone,
)
from slmpack.domain.snapshot import Demand, DeploymentView, Key, ModelUnknown, NodePins, NodeTerm, ReplicaRecord
from slmpack.domain.spec_hash import spec_hash
from slmpack.render.names import pod_name
from slmpack.render.pack_children import PackPod
from slmpack.render.pod import render_pod

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CASES",
    "DRA",
    "ENGINES",
    "EXCLUSIVE",
    "KNOBS",
    "MIG",
    "MPS",
    "PACK",
    "PACKS",
    "PACK_KNOBS",
    "PACK_POD",
    "SPEC",
    "SUPERVISOR",
    "TOKEN_HASH",
    "a_create",
    "a_demand",
    "a_deployment",
    "a_pack",
    "a_record",
    "for_a_node_to_come",
    "render",
]

GIB = 1024**3
PACK_POD = PackPod(
    key=Key(namespace="team-a", name="chat-0"),
    uid="5a6a1d7e-6f0b-4f0e-8a53-2e1f5e0c9d10",
    ip="10.1.2.3",
    deployment="chat",
    engines=3,
    account="chat-pack",
)
EXCLUSIVE = Exclusive(resource="nvidia.com/gpu", memory_bytes=22 * GIB)
MIG = MigSlice(resource="nvidia.com/mig-1g.10gb", profile="1g.10gb", memory_bytes=9 * GIB)
MPS = MpsShare(
    resource="nvidia.com/gpu.shared",
    replicas=4,
    gpu_memory_bytes=79 * GIB,
    limit_bytes=20389 * 1024**2,
    active_thread_percentage=25,
)
PACK = MpsPack(resource="nvidia.com/gpu", gpu_memory_bytes=79 * GIB, limits_bytes=(24 * GIB, 20 * GIB, 12 * GIB))
DRA = DraClaim(
    resource="mig.nvidia.com/1g.10gb", device_class="mig.nvidia.com", profile="1g.10gb", memory_bytes=9 * GIB
)

SUPERVISOR = "registry.local/slmpack:0.1.0"
TOKEN_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

ENGINES = load_engine_table()

SPEC: dict[str, Any] = {"model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"}, "replicas": 2}

KNOBS: dict[str, Any] = {
    "model": {
        "source": "hf://meta-llama/Llama-3.2-3B-Instruct",
        "revision": "0cb88a4f764b7a12671c53f0838cd831a0843b95",
        "tokenSecret": {"name": "hf", "key": "token"},
        "cache": {"hostPath": {"path": "/var/cache/huggingface"}},
    },
    "engine": {"image": "registry.local/vllm:v0.33.0", "maxModelLen": 4096},
    "sharing": {
        "mode": "MPS",
        "tolerations": [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoExecute", "tolerationSeconds": 30},
        ],
    },
    "replicas": 3,
    "service": {
        "type": "LoadBalancer",
        "port": 80,
        "labels": {"team": "search"},
        "annotations": {"example.com/scheme": "internal"},
    },
    "pod": {
        "labels": {"team": "search"},
        "annotations": {"example.com/owner": "search"},
        "resources": {
            "requests": {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "20Gi"},
            "limits": {"memory": "16Gi"},
        },
        "env": [
            {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"},
            {"name": "VLLM_NO_USAGE_STATS", "value": "0"},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "envFrom": [{"configMapRef": {"name": "engine-settings"}}],
        "volumes": [{"name": "templates", "configMap": {"name": "chat-templates"}}],
        "volumeMounts": [{"name": "templates", "mountPath": "/templates", "readOnly": True}],
        "serviceAccountName": "chat",
        "priorityClassName": "system-cluster-critical",
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"topology.kubernetes.io/zone": "a"},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"},
            {
                "maxSkew": 2,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"team": "search"}},
            },
        ],
        "terminationGracePeriodSeconds": 120,
    },
}


def a_demand(template: Mapping[str, Any] = SPEC, **changes: Any) -> Demand:
    """What an SLMDeployment asks for, as the API boundary would translate the template."""
    demand = Demand(
        replicas=1,
        spec_hash=spec_hash(template),
        model_source=template["model"]["source"],
        model=ModelUnknown(reason=Reason.MODEL_PENDING, message="render does not read it"),
        engine_version=EngineVersion(0, 33),
        engine_image="vllm/vllm-openai:v0.33.0",
        engine_args=(),
        max_model_len=None,
        startup_budget=timedelta(minutes=10),
        mode=Mode.AUTO,
        max_per_gpu=None,
        gpu_products=frozenset(),
        tolerations=(),
        node_selector={},
        cpu_millicores=1500,
        memory_bytes=6 * GIB,
        priority=0,
        template=template,
    )
    return replace(demand, **changes)


def a_deployment(name: str = "chat", demand: Demand | None = None) -> DeploymentView:
    return DeploymentView(
        key=Key(namespace="team-a", name=name),
        uid="0f2c5a0e-8d3b-4d57-9c1b-6f2a3f0d9a11",
        generation=1,
        created=datetime(2026, 11, 1, tzinfo=UTC),
        deleting=False,
        demand=demand or a_demand(),
    )


def a_record(share: Share = EXCLUSIVE, **changes: Any) -> ReplicaRecord:
    record = ReplicaRecord(
        deployment=Key(namespace="team-a", name="chat"),
        owner_uid="0f2c5a0e-8d3b-4d57-9c1b-6f2a3f0d9a11",
        ordinal=0,
        spec_hash="0123456789ab",
        render_version="1",
        node="gpu-1",
        resource=share.resource,
        share=describe_share(share),
        starts_alone=starts_alone(share),
        footprint=Footprint(
            weights_bytes=3_118_000_000,
            kv_bytes_per_token=28_672,
            activation_bytes=560_000_000,
            non_torch_bytes=60_000_000,
            cuda_graph_bytes=500_000_000,
            cuda_graphs_inside_budget=True,
            context_bytes=650_000_000,
            margin_bytes=360_000_000,
            basis="modelled",
        ),
        max_model_len=8192,
        max_num_seqs=128,
        attempt=1,
        replaces="",
        pack=PackRecord(engines=len(share.limits_bytes), running=(0,)) if isinstance(share, MpsPack) else None,
    )
    return replace(record, **changes)


def a_create(
    share: Share = EXCLUSIVE,
    *,
    name: str = "chat",
    ordinal: int = 0,
    kv_bytes: int | None = None,
    template: Mapping[str, Any] = SPEC,
    **changes: Any,
) -> CreatePod:
    demand = a_demand(template, **changes)
    return CreatePod(
        deployment=a_deployment(name, demand),
        demand=demand,
        name=pod_name(name, ordinal=ordinal),
        placement=Placement(node="gpu-1", share=share),
        settings=EngineSettings(
            gpu_memory_utilization=0.248 if kv_bytes else 0.92,
            kv_cache_memory_bytes=kv_bytes,
            max_model_len=8192,
            max_num_seqs=128,
            max_num_batched_tokens=2048,
        ),
        record=a_record(
            share, ordinal=ordinal, spec_hash=demand.spec_hash, deployment=Key(namespace="team-a", name=name)
        ),
    )


def for_a_node_to_come(create: CreatePod, *, labels: Mapping[str, str], terms: tuple[NodeTerm, ...] = ()) -> CreatePod:
    """The same for no node (whenFull: Pending)."""
    pins = NodePins(labels=tuple(sorted(labels.items())))
    return replace(
        create,
        placement=replace(create.placement, node="", pins=pins, terms=terms),
        record=replace(create.record, node="", pins=pins),
    )


def a_pack(*, running: tuple[int, ...] = (0, 1, 2), share: MpsPack = PACK, **changes: Any) -> CreatePod:
    create = a_create(share, kv_bytes=9 * GIB, **changes)
    pack = PackRecord(engines=len(share.limits_bytes), running=running)
    return replace(create, record=replace(create.record, pack=pack))


def render(create: CreatePod, *, supervisor_image: str | None = SUPERVISOR) -> dict[str, Any]:
    """The pod of any case."""
    return render_pod(create, engines=ENGINES, supervisor_image=supervisor_image, token_hash=TOKEN_HASH)


PVC: dict[str, Any] = {"model": {"source": "pvc://models/qwen/1.5b", "config": {"model_type": "qwen2"}}}
CLAIM_CACHE: dict[str, Any] = {
    "model": {
        "source": "hf://Qwen/Qwen2.5-1.5B-Instruct",
        "cache": {"persistentVolumeClaim": {"claimName": "hf-cache"}},
    }
}

CASES: dict[str, CreatePod] = {
    "pod-exclusive": a_create(),
    "pod-mig-slice": a_create(MIG, ordinal=1),
    "pod-mps-share": a_create(MPS, kv_bytes=9 * GIB),
    "pod-dra-claim": a_create(DRA),
    "pod-for-a-node-to-come": for_a_node_to_come(a_create(), labels={"nvidia.com/gpu.product": "NVIDIA-L4"}),
    "pod-for-a-share-to-come": for_a_node_to_come(
        a_create(MPS, kv_bytes=9 * GIB, template={**SPEC, "pod": {"nodeSelector": {"disk": "ssd"}}}),
        labels={
            "nvidia.com/gpu.product": "NVIDIA-L4",
            "nvidia.com/gpu.replicas": "4",
            "nvidia.com/gpu.sharing-strategy": "mps",
        },
        terms=(
            NodeTerm(key="pool", operator="In", values=("slm",)),
            NodeTerm(key="zone", operator="In", values=("a", "b")),
            NodeTerm(key="spot", operator="DoesNotExist"),
        ),
    ),
    "pod-old-engine": a_create(
        MPS, kv_bytes=9 * GIB, engine_version=EngineVersion(0, 11), engine_image="vllm/vllm-openai:v0.11.0"
    ),
    "pod-claim-of-model": a_create(template=PVC),
    "pod-claim-of-cache": a_create(template=CLAIM_CACHE),
    "pod-every-knob": a_create(
        MPS,
        kv_bytes=9 * GIB,
        template=KNOBS,
        engine_image="registry.local/vllm:v0.33.0",
        engine_args=(
            ("--enable-prefix-caching", None),
            ("--hf-overrides", '{"a":"$(HOME)"}'),
            ("--max-num-seqs", "999"),
            ("--served-model-name", "llama"),
        ),
        startup_budget=timedelta(seconds=901),
    ),
}

PACK_KNOBS: dict[str, Any] = {**KNOBS, "sharing": {**KNOBS["sharing"], "mode": "MPSPack"}}

PACKS: dict[str, CreatePod] = {
    "pack": a_pack(running=(0, 2)),
    "pack-claim-of-model": a_pack(template=PVC),
    "pack-every-knob": a_pack(
        template=PACK_KNOBS,
        engine_image="registry.local/vllm:v0.33.0",
        engine_args=(
            ("--hf-overrides", '{"a":"$(HOME)"}'),
            ("--max-num-seqs", "999"),
            ("--served-model-name", "llama"),
        ),
        startup_budget=timedelta(seconds=901),
    ),
    "pack-long-name": a_pack(name="a" * 50, ordinal=10_000),
    "pack-old-engine": a_pack(engine_version=EngineVersion(0, 11), engine_image="vllm/vllm-openai:v0.11.0"),
    "pack-with-the-program-in-its-image": a_pack(engine_image=SUPERVISOR),
}
