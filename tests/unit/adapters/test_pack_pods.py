"""Which pods are packs to be asked, and which of them lack a slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from slmpack.adapters.observe import Observer, Scope
from slmpack.adapters.pack_pods import SLICES, read_slice, read_supervisor
from slmpack.adapters.resources import ENDPOINT_SLICES, PODS, SLM_DEPLOYMENTS
from slmpack.adapters.tables import load_engine_table
from slmpack.domain.pack import PackReport
from slmpack.domain.snapshot import Key, ModelUnknown, PodView
from slmpack.ports import Supervisor
from tests.support.fake_clock import FakeClock

CREATED = "2026-01-01T00:00:00Z"
REPORT = PackReport(running=(0,), ending=False, engines=())


class Lister:
    def __init__(self) -> None:
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.params: dict[str, Mapping[str, str] | None] = {}

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[dict[str, Any]], str]:
        self.params[path] = params
        return self.items.get(path, []), "100"

    async def count(self, path: str) -> int:
        return len(self.items.get(path, []))


class Models:
    def lookup(self, *, source: str, revision: str | None) -> Mapping[str, object] | ModelUnknown:
        return {}


class Reports:
    asked: tuple[Supervisor, ...] = ()

    async def refresh(self, there: Iterable[Supervisor]) -> None:
        self.asked = tuple(there)

    def report(self, uid: str) -> PackReport | None:
        return REPORT


def _pod(name: str = "m-0", *, uid: str = "pod", owner: str = "owner", **more: Any) -> dict[str, Any]:
    reference = {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "uid": owner, "controller": True}
    annotations = {
        "slmpack.dev/ordinal": "0",
        "slmpack.dev/spec-hash": "h",
        "slmpack.dev/node": "n",
        "slmpack.dev/resource": "nvidia.com/gpu",
        "slmpack.dev/starts-alone": "false",
        "slmpack.dev/engines": "2",
        "slmpack.dev/running": "0",
    }
    meta = {
        "name": name,
        "namespace": "ns",
        "uid": uid,
        "resourceVersion": "10",
        "creationTimestamp": CREATED,
        "labels": {"slmpack.dev/name": "m"},
        "annotations": annotations,
        "ownerReferences": [reference],
        **more,
    }
    ports = [{"name": "engine-0", "containerPort": 8000}, {"name": "control", "containerPort": 8090}]
    status = {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"restartCount": 2}],
    }
    spec = {"containers": [{"name": "pack", "ports": ports}], "serviceAccountName": "m-pack"}
    return {"metadata": meta, "spec": spec, "status": status}


def _slice(name: str, *, uid: str = "pod", manager: str = "slmpack.dev") -> dict[str, Any]:
    labels = {"slmpack.dev/name": "m", "endpointslice.kubernetes.io/managed-by": manager}
    owners = [{"kind": "Pod", "uid": uid, "controller": True}]
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "resourceVersion": "10",
            "labels": labels,
            "ownerReferences": owners,
        }
    }


class World:
    def __init__(self, *, packs: bool = True) -> None:
        self.lister, self.reports = Lister(), Reports()
        self.observer = Observer(
            self.lister,
            scope=Scope(packs=packs),
            models=Models(),
            engines=load_engine_table(),
            clock=FakeClock(),
            packs=self.reports,
        )
        meta = {"name": "m", "namespace": "ns", "uid": "owner", "creationTimestamp": CREATED, "resourceVersion": "1"}
        self.lister.items[SLM_DEPLOYMENTS.path()] = [{"metadata": meta, "spec": {}}]

    async def see(self, *pods: dict[str, Any], slices: Iterable[dict[str, Any]] = ()) -> tuple[PodView, ...]:
        self.lister.items[PODS.path()] = list(pods)
        self.lister.items[ENDPOINT_SLICES.path()] = list(slices)
        await self.observer.refresh()
        return self.observer.snapshot().pods


async def test_a_running_pack_is_asked_and_its_report_is_in_its_view() -> None:
    world = World()
    (pod,) = await world.see(_pod())
    assert world.reports.asked == (
        Supervisor(
            key=Key("ns", "m-0"),
            uid="pod",
            owner_uid="owner",
            address="10.0.0.7",
            port=8090,
            account="m-pack",
            restarts=2,
            ready=True,
        ),
    )
    assert pod.pack is REPORT


async def test_a_pack_of_somebody_elses_deployment_is_not_asked() -> None:
    world = World()
    (pod,) = await world.see(_pod(owner="another"))
    assert (world.reports.asked, pod.pack, world.observer.bare_packs()) == ((), None, ())


async def test_a_pods_address_is_not_taken_for_its_successors() -> None:
    world = World()
    await world.see(_pod())
    fresh = _pod(uid="successor", resourceVersion="200")
    fresh["status"] = {"phase": "Pending"}
    world.observer.put(PODS, fresh)
    await world.observer.refresh()
    assert (world.reports.asked, world.observer.bare_packs()) == ((), ())


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("status", {}),
        ("status", {"phase": "Running"}),
        ("status", {"phase": "Pending", "podIP": "10.0.0.7"}),
        ("status", {"phase": "Failed", "podIP": "10.0.0.7"}),
        ("spec", {"containers": [{"name": "engine", "ports": None}]}),
        ("spec", {"containers": [{"ports": [{"name": "http", "containerPort": 8000}]}]}),
        ("spec", {"containers": [{"ports": [{"name": "control", "containerPort": 0}]}]}),
        ("spec", {"containers": [{"ports": [{"name": "control", "containerPort": "8090"}]}]}),
        ("metadata", {"name": "m-0", "namespace": "ns"}),
    ],
)
def test_what_has_no_supervisor_to_ask_has_none(part: str, value: dict[str, Any]) -> None:
    assert read_supervisor(_pod()) is not None
    assert read_supervisor({**_pod(), part: value}) is None


async def test_a_pack_is_bare_until_it_has_a_slice_for_each_engine() -> None:
    world = World()
    await world.see(_pod(), slices=[_slice("m-0-e0")])
    (bare,) = world.observer.bare_packs()
    assert (bare.key, bare.uid, bare.ip, bare.deployment, bare.engines, bare.account) == (
        Key("ns", "m-0"), "pod", "10.0.0.7", "m", 2, "m-pack",
    )  # fmt: skip
    assert world.lister.params[ENDPOINT_SLICES.path()] == {"labelSelector": SLICES}
    assert world.observer.handle(ENDPOINT_SLICES, "ADDED", _slice("m-0-e1") | _version(_slice("m-0-e1"), "200"))
    assert world.observer.bare_packs() == ()


async def test_a_slice_that_an_earlier_pod_has_left_is_not_its_own() -> None:
    world = World()
    await world.see(_pod(), slices=[_slice("m-0-e0"), _slice("m-0-e1", uid="earlier")])
    assert len(world.observer.bare_packs()) == 1
    world = World()
    await world.see(_pod(), slices=[_slice("m-0-e0"), _slice("m-0-e1")])
    assert world.observer.bare_packs() == ()


async def test_a_pack_that_ends_lacks_nothing() -> None:
    world = World()
    await world.see(_pod(deletionTimestamp=CREATED))
    assert len(world.reports.asked) == 1
    assert world.observer.bare_packs() == ()


async def test_without_packs_no_slice_is_listed_and_none_is_missed() -> None:
    world = World(packs=False)
    await world.see(_pod())
    assert ENDPOINT_SLICES.path() not in world.lister.params
    assert world.observer.bare_packs() == ()


async def test_an_engine_that_became_an_endpoint_or_left_makes_its_pack_another_to_ask() -> None:
    """What asks a supervisor at once is that its Supervisor has changed."""
    world = World()
    ready = _slice("m-0-e0") | {"endpoints": [{"addresses": ["10.0.0.7"], "conditions": {"ready": True}}]}
    leaving = _slice("m-0-e1") | {"endpoints": [{"addresses": ["10.0.0.7"], "conditions": {"ready": False}}]}
    await world.see(_pod(), slices=[ready, leaving])
    assert [it.published for it in world.reports.asked] == [1]
    came = leaving | _version(leaving, "200") | {"endpoints": ready["endpoints"]}
    assert world.observer.handle(ENDPOINT_SLICES, "MODIFIED", came)
    await world.observer.refresh()
    assert [it.published for it in world.reports.asked] == [2]
    left = leaving | _version(leaving, "300") | {"endpoints": None}
    assert world.observer.handle(ENDPOINT_SLICES, "MODIFIED", left)
    await world.observer.refresh()
    assert [it.published for it in world.reports.asked] == [1]


def test_only_slices_of_ours_are_seen() -> None:
    assert read_slice(_slice("m-0-e0", manager="endpointslice-controller.k8s.io")) is None
    assert read_slice({"metadata": {"name": "x"}}) is None
    found = read_slice(_slice("m-0-e0"))
    assert found is not None
    assert found.pod_uid == "pod"


def _version(raw: dict[str, Any], version: str) -> dict[str, Any]:
    return {"metadata": raw["metadata"] | {"resourceVersion": version}}
