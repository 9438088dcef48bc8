"""What we know of resource.k8s.io/v1, where it is served: slices, classes and claims, put into the nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from slmpack.adapters.dra_views import (
    ClaimView,
    SliceView,
    claim_view,
    class_view,
    devices_of,
    dra_problem,
    slice_view,
    with_devices,
)
from slmpack.adapters.feeds import Feed
from slmpack.adapters.node_views import other_node_view
from slmpack.adapters.resources import DEVICE_CLASSES, RESOURCE_CLAIMS, RESOURCE_SLICES, Resource
from slmpack.adapters.store import KindStore
from slmpack.domain.dra import MIG_CLASS
from slmpack.domain.reasons import Problem
from slmpack.domain.snapshot import Key, NodeView, PodView

__all__ = ["DraStores"]

_INSTEAD = "or choose another spec.sharing.mode"


class DraStores:
    """The kinds of dynamic resource allocation, and nodes that only their slices make known as GPU nodes."""

    def __init__(self, *, chosen: Callable[[NodeView | None], NodeView | None]) -> None:
        self._slices: KindStore[SliceView] = KindStore(slice_view)
        self._claims: KindStore[ClaimView] = KindStore(claim_view)
        self._classes: KindStore[str] = KindStore(class_view)
        self.other_nodes: KindStore[NodeView] = KindStore(lambda raw: chosen(other_node_view(raw)))
        """Nodes without NVIDIA's labels and resources: where no GPU feature discovery runs, slices tell of GPUs."""
        self.feeds: dict[Resource, Feed] = {
            RESOURCE_SLICES: Feed(path=RESOURCE_SLICES.path(), store=self._slices, optional=True),
            DEVICE_CLASSES: Feed(path=DEVICE_CLASSES.path(), store=self._classes, optional=True),
            RESOURCE_CLAIMS: Feed(path=RESOURCE_CLAIMS.path(), store=self._claims, optional=True),
        }

    def see_node(self, kind: str | None, raw: Mapping[str, Any]) -> bool:
        """Take in an event of any node; True if it is one that has slices and nothing else of NVIDIA's."""
        changed = self.other_nodes.drop(raw) if kind == "DELETED" else self.other_nodes.put(raw)
        return changed and (raw.get("metadata") or {}).get("name") in self._names

    def bare_nodes(self) -> tuple[NodeView, ...]:
        """Nodes that only their slices make known as GPU nodes."""
        found = (self.other_nodes.get(Key("", name)) for name in sorted(self._names))
        return tuple(node for node in found if node is not None)

    def put_into(
        self, nodes: Iterable[NodeView], pods: Sequence[PodView]
    ) -> tuple[tuple[NodeView, ...], Problem | None]:
        """The nodes with their devices, and why no claim can bring one in this cluster, if so."""
        slices, broken = self._readable_slices(), self._broken()
        devices = devices_of(slices)
        claims = tuple(self._claims.values())
        return with_devices(nodes, devices, claims, pods, broken=broken), dra_problem(slices, devices, broken=broken)

    def _readable_slices(self) -> tuple[SliceView, ...]:
        return () if self.feeds[RESOURCE_SLICES].absent else tuple(self._slices.values())

    @property
    def _names(self) -> set[str]:
        return {one.node for one in self._readable_slices() if one.node is not None}

    def _broken(self) -> str:
        """What keeps claims from working in the whole cluster, and what would help; empty if nothing does."""
        absent = next(((resource, feed.absent) for resource, feed in self.feeds.items() if feed.absent), None)
        if absent is not None:
            resource, why = absent
            return (
                f"spec.sharing.mode DRA needs {resource.plural} of {resource.api_version}, and {why}: use an API "
                f"server that serves it (Kubernetes 1.34 and later do) and let the operator read it, {_INSTEAD}"
            )
        if not any(self._classes.values()):
            return (
                f"there is no DeviceClass {MIG_CLASS}: install the NVIDIA DRA driver with its GPU part on, {_INSTEAD}"
            )
        return ""
