"""A replica's pod: one vLLM engine, bound to the node and the share that the plan chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from slmpack.domain.engine import EngineTable
from slmpack.domain.packing import GPU_TOLERATION
from slmpack.domain.plan import CreatePod
from slmpack.domain.sharing import starts_alone
from slmpack.domain.snapshot import Demand
from slmpack.render.engine_args import engine_command, waits_for_requests
from slmpack.render.gpu import gpu_env, gpu_limits, node_affinity
from slmpack.render.lifecycle import DEFAULT_GRACE_SECONDS, Drain, drain_within, pre_stop, probes
from slmpack.render.names import common_labels, owner_reference, selector_labels
from slmpack.render.record import record_annotations
from slmpack.render.template import items, mapping
from slmpack.render.volumes import CACHE_ENV, volume_mounts, volumes

__all__ = ["CONTAINER", "PORT", "render_pod"]

CONTAINER = "engine"
PORT = 8000


def render_pod(create: CreatePod, *, engines: EngineTable) -> dict[str, Any]:
    """The pod's manifest. The same input gives the same manifest, and none of it names a GPU (D5b)."""
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
        "spec": _spec(create, engines=engines),
    }


def _spec(create: CreatePod, *, engines: EngineTable) -> dict[str, Any]:
    demand, placement = create.demand, create.placement
    pod = mapping(demand.template, "pod")
    grace = pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
    drain = drain_within(grace, waits=waits_for_requests(engines, version=demand.engine_version))
    spec: dict[str, Any] = {
        # An engine that must start alone is started again by the planner, when no other is starting (D4).
        "restartPolicy": "Never" if starts_alone(placement.share) else "Always",
        "terminationGracePeriodSeconds": grace,
        "affinity": node_affinity(placement.node),
        "tolerations": _tolerations(demand),
        "automountServiceAccountToken": False,
        # Links to a Service named vllm would set VLLM_PORT, which vLLM reads.
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(create, drain=drain)],
        "volumes": volumes(demand.template, source=demand.model_source, share=placement.share),
    }
    for key in ("serviceAccountName", "priorityClassName", "imagePullSecrets", "nodeSelector"):
        if pod.get(key):
            spec[key] = pod[key]
    if spread := items(pod, "topologySpreadConstraints"):
        spec["topologySpreadConstraints"] = [_spread(one, name=create.deployment.key.name) for one in spread]
    return spec


def _container(create: CreatePod, *, drain: Drain) -> dict[str, Any]:
    demand, share = create.demand, create.placement.share
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": demand.engine_image,
        **engine_command(create, port=PORT, shutdown_timeout=drain.shutdown_timeout_seconds),
        "env": _env(create),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(demand, gpu=gpu_limits(share)),
        "volumeMounts": volume_mounts(demand.template, source=demand.model_source, share=share),
        **probes(demand.startup_budget),
        **pre_stop(drain),
        # Root is the user of vLLM's images, and files of other owners are readable as far as their mode allows.
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        # The last lines of the log become the reason in status when an engine fails (D10).
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if env_from := items(demand.template, "pod", "envFrom"):
        container["envFrom"] = env_from
    return container


def _env(create: CreatePod) -> list[dict[str, Any]]:
    """Variables by name: defaults, which the user's replace, then what bounds the engine, which nothing replaces."""
    template = create.demand.template
    found: dict[str, dict[str, Any]] = {
        name: {"name": name, "value": value} for name, value in {**CACHE_ENV, "VLLM_NO_USAGE_STATS": "1"}.items()
    }
    if secret := mapping(template, "model", "tokenSecret"):
        found["HF_TOKEN"] = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}}
    for variable in items(template, "pod", "env"):
        found[variable["name"]] = variable
    for name, value in gpu_env(create.placement.share).items():
        found[name] = {"name": name, "value": value}
    return list(found.values())


def _resources(demand: Demand, *, gpu: Mapping[str, str]) -> dict[str, Any]:
    """What the planner counted, the user's other wishes, and the GPU; requests repeat it, as the API server would."""
    counted = {"cpu": f"{demand.cpu_millicores}m", "memory": str(demand.memory_bytes)}
    wanted = mapping(demand.template, "pod", "resources")
    return {
        "requests": {**mapping(wanted, "requests"), **counted, **gpu},
        "limits": {**mapping(wanted, "limits"), **gpu},
    }


def _tolerations(demand: Demand) -> list[dict[str, Any]]:
    """The GPU taint that the planner tolerates for everyone, and the user's as they wrote them."""
    usual = {key: value for key, value in asdict(GPU_TOLERATION).items() if value}
    wanted = items(demand.template, "sharing", "tolerations")
    return [usual, *(one for one in wanted if one != usual)]


def _spread(constraint: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """The constraint, counting this deployment's replicas where the user names no others."""
    return {"labelSelector": {"matchLabels": selector_labels(name)}, **constraint}
