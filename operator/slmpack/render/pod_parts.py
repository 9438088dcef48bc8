"""What every kind of replica's pod has in common: its metadata, where it may run, and its container's surroundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from slmpack.domain.packing import GPU_TOLERATION
from slmpack.domain.plan import CreatePod, Placement
from slmpack.domain.quantity import parse_bytes, parse_millicores
from slmpack.domain.sharing import replicas_in, starts_alone
from slmpack.domain.snapshot import Demand
from slmpack.render.claims import container_claims, pod_claims
from slmpack.render.gpu import gpu_env, gpu_limits, node_affinity, term_affinity
from slmpack.render.lifecycle import DEFAULT_GRACE_SECONDS
from slmpack.render.names import common_labels, owner_reference, selector_labels
from slmpack.render.record import record_annotations
from slmpack.render.template import items, mapping
from slmpack.render.volumes import CACHE_ENV, volume_mounts, volumes

__all__ = ["Body", "grace_seconds", "pod_manifest"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What kinds of pods differ in."""

    container: str
    """Name of the one container."""
    command: Json
    """Its `command`, and `args` where it has some."""
    ports: Sequence[Json]
    watch: Json
    """Its probes and hooks."""
    env: Mapping[str, Json] = field(default_factory=dict)
    """Further variables by name, which nothing of the user's replaces."""
    mounts: Sequence[Json] = ()
    volumes: Sequence[Json] = ()
    init_containers: Sequence[Json] = ()
    account: str = ""
    """The service account where the user names none; empty: the namespace's `default`."""


def pod_manifest(create: CreatePod, body: Body) -> Json:
    """The pod. The same input gives the same manifest, and none of it names a GPU (D5b)."""
    template = create.demand.template
    name = create.deployment.key.name
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": create.name,
            "namespace": create.deployment.key.namespace,
            "labels": {**mapping(template, "pod", "labels"), **common_labels(name)},
            "annotations": {**mapping(template, "pod", "annotations"), **record_annotations(create.record)},
            "ownerReferences": [owner_reference(create.deployment)],
        },
        "spec": _spec(create, body),
    }


def grace_seconds(demand: Demand) -> int:
    """The pod's termination grace period."""
    wanted: int = mapping(demand.template, "pod").get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
    return wanted


def _spec(create: CreatePod, body: Body) -> Json:
    demand, placement = create.demand, create.placement
    pod = mapping(demand.template, "pod")
    spec: Json = {
        # An engine that must start alone is started again by the planner, when no other is starting (D4).
        "restartPolicy": "Never" if starts_alone(placement.share) else "Always",
        "terminationGracePeriodSeconds": grace_seconds(demand),
        **_affinity(placement),
        "tolerations": _tolerations(demand),
        "automountServiceAccountToken": False,
        # Links to a Service named vllm would set VLLM_PORT, which vLLM reads.
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        **({"initContainers": list(body.init_containers)} if body.init_containers else {}),
        "containers": [_container(create, body)],
        "volumes": [*volumes(demand.template, source=demand.model_source, share=placement.share), *body.volumes],
    }
    if claims := pod_claims(create):
        spec["resourceClaims"] = claims
    if body.account:
        spec["serviceAccountName"] = body.account
    for key in ("serviceAccountName", "priorityClassName", "imagePullSecrets", "nodeSelector"):
        if pod.get(key):
            spec[key] = pod[key]
    if placement.pins is not None:
        stated = {term.key: term.values[0] for term in placement.terms if term.is_label}
        spec["nodeSelector"] = {**mapping(pod, "nodeSelector"), **stated, **dict(placement.pins.labels)}
    if spread := items(pod, "topologySpreadConstraints"):
        spec["topologySpreadConstraints"] = [_spread(one, name=create.deployment.key.name) for one in spread]
    return spec


def _affinity(placement: Placement) -> Json:
    """To the node that the plan chose; where it is yet to come, to what of --node-selector no node selector can say."""
    if placement.pins is None:
        return {"affinity": node_affinity(placement.node)}
    terms = tuple(term for term in placement.terms if not term.is_label)
    return {"affinity": term_affinity(terms)} if terms else {}


def _container(create: CreatePod, body: Body) -> Json:
    demand, share = create.demand, create.placement.share
    container: Json = {
        "name": body.container,
        "image": demand.engine_image,
        **body.command,
        "env": _env(create, body),
        "ports": list(body.ports),
        "resources": _resources(create),
        "volumeMounts": [*volume_mounts(demand.template, source=demand.model_source, share=share), *body.mounts],
        **body.watch,
        # Root is the user of vLLM's images, and files of other owners are readable as far as their mode allows.
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        # The last lines of the log become the reason in status when an engine fails (D10).
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if env_from := items(demand.template, "pod", "envFrom"):
        container["envFrom"] = env_from
    return container


def _env(create: CreatePod, body: Body) -> list[Json]:
    """Variables by name: defaults, which the user's replace, then what bounds the engine, which nothing replaces."""
    template = create.demand.template
    found: dict[str, Json] = {
        name: {"name": name, "value": value} for name, value in {**CACHE_ENV, "VLLM_NO_USAGE_STATS": "1"}.items()
    }
    if secret := mapping(template, "model", "tokenSecret"):
        found["HF_TOKEN"] = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}}
    for variable in items(template, "pod", "env"):
        found[variable["name"]] = variable
    for name, value in gpu_env(create.placement.share).items():
        found[name] = {"name": name, "value": value}
    return list({**found, **body.env}.values())


def _resources(create: CreatePod) -> Json:
    """What the planner counted, the user's other wishes, and the GPU; requests repeat it, as the API server would.

    All but the GPU is stated for one replica, and a pack has several.
    """
    demand, share = create.demand, create.placement.share
    count, gpu = replicas_in(share), gpu_limits(share)
    counted = {"cpu": f"{demand.cpu_millicores * count}m", "memory": str(demand.memory_bytes * count)}
    wanted = mapping(demand.template, "pod", "resources")
    limits = {**_times(mapping(wanted, "limits"), count), **gpu}
    claims = container_claims(create)
    return {
        "requests": {**_times(mapping(wanted, "requests"), count), **counted, **gpu},
        **({"limits": limits} if limits else {}),
        **({"claims": claims} if claims else {}),
    }


def _times(quantities: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Each quantity `count` times; of one replica as the user wrote it."""
    if count == 1:
        return dict(quantities)
    return {
        name: f"{parse_millicores(amount) * count}m" if name == "cpu" else str(parse_bytes(amount) * count)
        for name, amount in quantities.items()
    }


def _tolerations(demand: Demand) -> list[Json]:
    """The GPU taint that the planner tolerates for everyone, and the user's as they wrote them."""
    usual = {key: value for key, value in asdict(GPU_TOLERATION).items() if value}
    wanted = items(demand.template, "sharing", "tolerations")
    return [usual, *(one for one in wanted if one != usual)]


def _spread(constraint: Mapping[str, Any], *, name: str) -> Json:
    """The constraint, counting this deployment's replicas where the user names no others."""
    return {"labelSelector": {"matchLabels": selector_labels(name)}, **constraint}
