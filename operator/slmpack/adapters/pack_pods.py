"""Pods of packs and the EndpointSlices of their engines, as the store keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slmpack.adapters.resources import PODS
from slmpack.adapters.store import KindStore, key_of
from slmpack.adapters.views import controller_uid
from slmpack.domain.snapshot import Key, PodView
from slmpack.ports import Supervisor
from slmpack.render.names import NAME_LABEL, slice_name
from slmpack.render.pack import CONTROL
from slmpack.render.pack_children import MANAGED_BY, SLICE_MANAGER, PackPod

__all__ = ["SLICES", "SliceRecord", "bare_pack", "read_slice", "read_supervisor"]

SLICES = f"{NAME_LABEL},{MANAGED_BY}={SLICE_MANAGER}"
"""Selects ours: Kubernetes' own slices of our Services carry the Services' labels, so ours too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRecord:
    """Whose slice it is, and whether its engine is an endpoint, as the supervisor writes it."""

    pod_uid: str
    ready: bool = False


def read_supervisor(raw: Mapping[str, Any]) -> Supervisor | None:
    """Of a pod that runs, has an address, and belongs to an SLMDeployment; None for all others."""
    owner = controller_uid(raw, of_ours=True)
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    if not owner or status.get("phase") != "Running" or not status.get("podIP"):
        return None
    port = _control_port(spec)
    if port is None:
        return None
    conditions = status.get("conditions") or ()
    return Supervisor(
        key=key_of(raw),
        uid=str(raw["metadata"].get("uid") or ""),
        owner_uid=owner,
        address=str(status["podIP"]),
        port=port,
        account=str(spec.get("serviceAccountName") or "default"),
        restarts=sum(int(container.get("restartCount") or 0) for container in status.get("containerStatuses") or ()),
        ready=any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions),
    )


def read_slice(raw: Mapping[str, Any]) -> SliceRecord | None:
    """A slice of ours; None for Kubernetes' own."""
    meta = raw.get("metadata") or {}
    if (meta.get("labels") or {}).get(MANAGED_BY) != SLICE_MANAGER:
        return None
    owners = (owner for owner in meta.get("ownerReferences") or () if owner.get("kind") == PODS.kind)
    conditions = (endpoint.get("conditions") or {} for endpoint in raw.get("endpoints") or ())
    return SliceRecord(
        pod_uid=next((str(owner.get("uid") or "") for owner in owners), ""),
        ready=any(condition.get("ready") for condition in conditions),
    )


def bare_pack(pod: PodView, supervisor: Supervisor, slices: KindStore[SliceRecord]) -> PackPod | None:
    """The pack, if it lacks a slice of its own and is to live."""
    record = pod.record
    if record is None or record.pack is None or pod.deleting:
        return None
    names = (slice_name(pod.key.name, engine=engine) for engine in range(record.pack.engines))
    found = [slices.get(Key(pod.key.namespace, name)) for name in names]
    if all(one is not None and one.pod_uid == pod.uid for one in found):
        return None
    return PackPod(
        key=pod.key,
        uid=pod.uid,
        ip=supervisor.address,
        deployment=record.deployment.name,
        engines=record.pack.engines,
        account=supervisor.account,
    )


def _control_port(spec: Mapping[str, Any]) -> int | None:
    ports = (port for container in spec.get("containers") or () for port in container.get("ports") or ())
    found = next((port.get("containerPort") for port in ports if port.get("name") == CONTROL), None)
    return found if isinstance(found, int) and 0 < found < 65_536 else None
