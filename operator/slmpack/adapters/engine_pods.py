"""Pods with engines, as those who measure them need to know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from slmpack.adapters.records import DeploymentRecord
from slmpack.adapters.views import controller_uid
from slmpack.api.v1alpha1 import SLMDeployment
from slmpack.domain.snapshot import Key, PodView
from slmpack.ports import EnginePod, Watched
from slmpack.render.engine_args import PORT
from slmpack.render.pack import engine_port

__all__ = ["read_address", "to_watched"]


def read_address(raw: Mapping[str, Any]) -> str | None:
    """The IP of a replica's pod; None for others' pods, and as long as it has none."""
    return str((raw.get("status") or {}).get("podIP") or "") or None if controller_uid(raw, of_ours=True) else None


def to_watched(
    deployments: Iterable[DeploymentRecord], pods: Iterable[PodView], address_of: Callable[[Key], str | None]
) -> Watched:
    """What is to be measured: SLMDeployments that can be read, their pods, and whoever uses a GPU."""
    specs = {it.key: it.parsed.spec for it in deployments if isinstance(it.parsed, SLMDeployment) and not it.deleting}
    there = [pod for pod in pods if not pod.finished]
    return Watched(
        deployments=frozenset(specs),
        scaled=frozenset(key for key, spec in specs.items() if spec.scaling is not None),
        pods=tuple(found for pod in there if (found := _engine_pod(pod, address_of(pod.key))) is not None),
        gpu_users=frozenset(pod.key for pod in there),
    )


def _engine_pod(pod: PodView, address: str | None) -> EnginePod | None:
    record = pod.record
    if record is None:
        return None
    pack = record.pack
    return EnginePod(
        key=pod.key,
        uid=pod.uid,
        deployment=record.deployment,
        address=address or "",
        ports=(PORT,) if pack is None else tuple(engine_port(engine) for engine in pack.running),
        engines=1 if pack is None else pack.engines,
        # One that is ending leaves Prometheus' targets any moment: it is not missed.
        ready=0 if pod.deleting else pod.ready_replicas,
        ready_since=pod.ready_since,
    )
