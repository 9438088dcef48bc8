"""ResourceSlices and ResourceClaims as the observer's snapshot shows them; shapes as the driver publishes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from slmpack.adapters.dra_views import claim_view, slice_view
from slmpack.adapters.observe import Observer, Scope
from slmpack.adapters.resources import DEVICE_CLASSES, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES, Resource
from slmpack.adapters.selector import parse_selector
from slmpack.adapters.tables import load_engine_table
from slmpack.devcluster.nodes import H100, whole_node
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import ModelUnknown, NodeView
from slmpack.ports import Forbidden, NotFound, PortError
from slmpack.render.record import record_annotations
from tests.support.builders import a_deployment, a_snapshot, creates, plan
from tests.support.builders import whole_node as a_whole_node
from tests.support.dra import dra_node, mig_class, mig_device, resource_slice
from tests.support.fake_clock import FakeClock

TEN = "mig.nvidia.com/1g.10gb"
CREATED = "2026-01-01T00:00:00Z"


class Lister:
    def __init__(self) -> None:
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.refused: dict[str, PortError] = {}
        self.lists: list[str] = []

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[dict[str, Any]], str]:
        self.lists.append(path)
        if path in self.refused:
            raise self.refused[path]
        return self.items.get(path, []), "100"

    async def count(self, path: str) -> int:
        if path in self.refused:
            raise self.refused[path]
        return len(self.items.get(path, []))


class Models:
    @staticmethod
    def lookup(*, source: str, revision: str | None) -> ModelUnknown:
        return ModelUnknown(reason=Reason.MODEL_PENDING, message=f"{source} {revision}")


class World:
    """A node that only its slices make known, with the driver's class."""

    def __init__(self, *, scope: Scope | None = None) -> None:
        self.lister, self.clock, self._version = Lister(), FakeClock(), 0
        self.observer = Observer(
            self.lister, scope=scope or Scope(), models=Models(), engines=load_engine_table(), clock=self.clock
        )
        self.add(NODES, dra_node("n"))
        self.add(DEVICE_CLASSES, mig_class())

    def add(self, resource: Resource, raw: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        meta = {"uid": f"uid-{raw['metadata']['name']}", **raw["metadata"], "creationTimestamp": CREATED}
        made = {**raw, "metadata": {**meta, "resourceVersion": str(self._version)}}
        self.lister.items.setdefault(resource.path(), []).append(made)
        return made

    def publish(self, *devices: dict[str, Any], **more: Any) -> None:
        self.add(RESOURCE_SLICES, resource_slice("n", devices, **more))

    def claim(self, name: str, *devices: str, pod: str = "", **result: Any) -> None:
        owners = [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod, "controller": True}] if pod else []
        results = [{"driver": "gpu.nvidia.com", "pool": "n", "device": it, "request": "r", **result} for it in devices]
        meta = {"name": name, "namespace": "other", "ownerReferences": owners}
        self.add(RESOURCE_CLAIMS, {"metadata": meta, "status": {"allocation": {"devices": {"results": results}}}})

    def pod(self, uid: str, *, phase: str = "Running", resource: str = TEN) -> None:
        (made,) = creates(plan(a_snapshot(deployments=(a_deployment(namespace="ns"),), nodes=(a_whole_node("n"),))))
        owner = {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "uid": "o", "controller": True}
        annotations = {**record_annotations(made.record), "slmpack.dev/resource": resource}
        meta: dict[str, Any] = {"name": uid, "namespace": "ns", "uid": uid, "labels": {"slmpack.dev/name": "qwen"}}
        spec = {"nodeName": "n", "containers": [{}]}
        meta |= {"annotations": annotations, "ownerReferences": [owner]}
        self.add(PODS, {"metadata": meta, "spec": spec, "status": {"phase": phase}})

    async def node(self) -> NodeView:
        await self.observer.refresh()
        (node,) = self.observer.snapshot().nodes
        return node

    async def counts(self) -> tuple[int, int]:
        """Devices of 1g.10gb that can be had or are held, and those that others hold."""
        node = await self.node()
        return node.allocatable.get(TEN, 0), node.used_by_others.get(TEN, 0)


ONE, TWO = mig_device("1g.10gb", start=0), mig_device("1g.10gb", start=1)
ONE_NAME, TWO_NAME = ONE["name"], TWO["name"]


async def test_a_device_is_read_as_the_driver_publishes_it() -> None:
    world = World()
    world.publish(ONE, mig_device("2g.20gb", gpu=1, start=2))
    node = await world.node()
    first, second = node.devices
    assert (first.name, first.profile, first.memory_bytes) == ("gpu-0-mig-1g10gb-19-0", "1g.10gb", 9984 * MIB)
    assert (first.multiprocessors, first.product, first.problem) == (16, H100, "")
    assert (second.profile, second.parent) == ("2g.20gb", "GPU-00000001-0000-0000-0000-000000000000")
    assert (node.allocatable[TEN], node.allocatable["mig.nvidia.com/2g.20gb"]) == (1, 1)
    assert world.observer.snapshot().dra is None


async def test_whole_gpus_other_drivers_and_slices_for_many_nodes_are_not_read() -> None:
    world = World()
    whole = {"name": "gpu-0", "attributes": {"type": {"string": "gpu"}}, "capacity": {"memory": {"value": "80Gi"}}}
    world.publish(whole)
    other = resource_slice("n", [ONE], name="other")
    other["spec"]["driver"] = "gpu.example.com"
    world.add(RESOURCE_SLICES, other)
    everywhere = resource_slice("n", [ONE], name="everywhere")
    del everywhere["spec"]["nodeName"]
    everywhere["spec"]["allNodes"] = True
    world.add(RESOURCE_SLICES, everywhere)
    node = await world.node()
    assert node.devices == ()
    dra = world.observer.snapshot().dra
    assert dra is not None
    assert dra.reason is Reason.DRA_UNAVAILABLE
    assert "1 slices are for several nodes" in dra.message


async def test_attributes_may_carry_the_drivers_domain_and_a_profile_may_be_missing() -> None:
    world = World()
    attributes = {f"gpu.nvidia.com/{name}": value for name, value in ONE["attributes"].items() if name != "profile"}
    capacity = {"gpu.nvidia.com/memory": {"value": "9984Mi"}}
    world.publish({"name": "a", "attributes": attributes, "capacity": capacity})
    (device,) = (await world.node()).devices
    assert (device.profile, device.memory_bytes, device.multiprocessors) == ("9984Mi", 9984 * MIB, None)
    assert device.product == H100


async def test_a_profile_that_no_driver_writes_does_not_reach_our_claims() -> None:
    world = World()
    attributes = {**ONE["attributes"], "profile": {"string": "1g.10gb' || true || '"}}
    world.publish({"name": "a", "attributes": attributes, "capacity": ONE["capacity"]})
    (device,) = (await world.node()).devices
    assert device.profile == "9984Mi"


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"taints": [{"key": "x", "effect": "NoSchedule"}]}, "tainted it x:NoSchedule"),
        ({"taints": [{"key": "x", "effect": "NoExecute"}]}, "tainted it x:NoExecute"),
        ({"taints": [{"key": "x", "effect": "None"}]}, ""),
        ({"consumesCounters": [{"counterSet": "gpu-0-counter-set", "counters": {}}]}, "DynamicMIG"),
        ({"allowMultipleAllocations": True}, "several claims may share it"),
    ],
)
async def test_what_is_not_a_devices_own_is_not_offered(more: dict[str, Any], problem: str) -> None:
    world = World()
    world.publish(mig_device("1g.10gb", more=more))
    node = await world.node()
    assert problem in node.devices[0].problem
    assert bool(node.devices[0].problem) == bool(problem)
    assert node.allocatable.get(TEN, 0) == (0 if problem else 1)


async def test_only_the_newest_generation_of_a_pool_counts() -> None:
    world = World()
    world.publish(ONE, TWO, generation=1)
    world.publish(TWO, generation=2)
    assert await world.counts() == (1, 0)
    assert [device.name for device in (await world.node()).devices] == [TWO_NAME]


async def test_half_a_generation_is_known_and_offers_nothing() -> None:
    world = World()
    world.publish(ONE, TWO, generation=1)
    world.publish(ONE, generation=2, of=2, name="first")
    node = await world.node()
    assert "1 of 2 slices of generation 2" in node.devices[0].problem
    assert node.allocatable.get(TEN, 0) == 0
    made = world.add(RESOURCE_SLICES, resource_slice("n", [TWO], generation=2, of=2, name="second"))
    made["metadata"]["resourceVersion"] = "200"
    assert world.observer.handle(RESOURCE_SLICES, "ADDED", made)
    assert await world.counts() == (2, 0)


async def test_a_strangers_claim_holds_a_device_and_an_administrators_does_not() -> None:
    world = World()
    world.publish(ONE, TWO)
    world.claim("theirs", ONE_NAME)
    world.claim("admin", TWO_NAME, adminAccess=True)
    world.claim("elsewhere", TWO_NAME, driver="gpu.example.com")
    world.claim("gone", "gpu-9-mig-1g10gb-19-0")
    assert await world.counts() == (2, 1)


async def test_a_replicas_device_is_charged_once_while_its_pod_lives_and_to_the_claim_afterwards() -> None:
    world = World()
    world.publish(ONE, TWO)
    world.pod("mine")
    world.claim("mine", ONE_NAME, pod="mine")
    assert await world.counts() == (2, 0)
    (pod,) = world.observer.snapshot().pods
    assert pod.requests[TEN] == 1
    gone = World()
    gone.publish(ONE, TWO)
    gone.claim("mine", ONE_NAME, pod="mine")
    assert await gone.counts() == (2, 1)
    finished = World()
    finished.publish(ONE, TWO)
    finished.pod("mine", phase="Failed")
    finished.claim("mine", ONE_NAME, pod="mine")
    assert await finished.counts() == (2, 1)


async def test_a_replica_that_holds_more_or_other_devices_than_planned_is_charged_for_them() -> None:
    world = World()
    world.publish(ONE, TWO)
    world.pod("mine")
    world.claim("mine", ONE_NAME, pod="mine")
    world.claim("more", TWO_NAME, pod="mine")
    assert await world.counts() == (2, 1)
    other = World()
    other.publish(ONE)
    other.pod("mine", resource="mig.nvidia.com/2g.20gb")
    other.claim("mine", ONE_NAME, pod="mine")
    assert await other.counts() == (1, 1)


async def test_a_device_in_use_counts_although_it_offers_nothing_more() -> None:
    """Else the replica on it would be charged to a healthy one."""
    world = World()
    world.publish(mig_device("1g.10gb", more={"taints": [{"key": "x", "effect": "NoSchedule"}]}), TWO)
    world.pod("mine")
    world.claim("mine", ONE_NAME, pod="mine")
    assert await world.counts() == (2, 0)


async def test_without_the_api_there_is_a_reason_and_it_is_asked_again_later() -> None:
    world = World()
    world.lister.refused = {resource.path(): NotFound("404") for resource in (RESOURCE_SLICES, RESOURCE_CLAIMS)}
    world.lister.refused[DEVICE_CLASSES.path()] = NotFound("404")
    await world.observer.refresh()
    assert world.observer.complete
    dra = world.observer.snapshot().dra
    assert dra is not None
    assert "resource.k8s.io/v1" in dra.message
    assert world.observer.snapshot().nodes == ()
    before = len(world.lister.lists)
    world.clock.advance(60)
    await world.observer.refresh()
    assert len(world.lister.lists) == before, "what is not served is not counted either"
    world.lister.refused = {}
    world.publish(ONE)
    world.clock.advance(300)
    assert await world.counts() == (1, 0)
    assert world.observer.snapshot().dra is None


async def test_what_may_not_be_read_is_a_reason_too() -> None:
    world = World()
    world.publish(ONE)
    world.lister.refused = {RESOURCE_CLAIMS.path(): Forbidden("no rights", status=403)}
    node = await world.node()
    assert "no rights" in node.devices[0].problem
    assert node.allocatable.get(TEN, 0) == 0


async def test_without_the_class_devices_are_known_and_cannot_be_had() -> None:
    world = World()
    world.publish(ONE)
    world.lister.items[DEVICE_CLASSES.path()] = []
    world.add(DEVICE_CLASSES, mig_class() | {"metadata": {"name": "gpu.nvidia.com"}})
    node = await world.node()
    assert "no DeviceClass mig.nvidia.com" in node.devices[0].problem
    dra = world.observer.snapshot().dra
    assert dra is not None
    assert "no DeviceClass mig.nvidia.com" in dra.message


async def test_events_of_a_node_that_only_slices_make_known_wake_the_planner() -> None:
    world = World()
    await world.observer.refresh()
    bare = {**dra_node("n"), "spec": {"unschedulable": True}}
    bare["metadata"] |= {"uid": "uid-n", "resourceVersion": "200", "creationTimestamp": CREATED}
    assert not world.observer.handle(NODES, "MODIFIED", bare), "a node without devices is no business of ours"
    made = world.add(RESOURCE_SLICES, resource_slice("n", [ONE]))
    assert world.observer.handle(
        RESOURCE_SLICES, "ADDED", {**made, "metadata": {**made["metadata"], "resourceVersion": "201"}}
    )
    bare["metadata"]["resourceVersion"] = "202"
    assert world.observer.handle(NODES, "MODIFIED", {**bare, "spec": {}})
    assert [node.name for node in world.observer.snapshot().nodes] == ["n"]
    assert world.observer.handle(NODES, "DELETED", {**bare, "metadata": {**bare["metadata"], "resourceVersion": "203"}})
    assert world.observer.snapshot().nodes == ()


async def test_a_node_that_is_another_operators_stays_so_with_devices() -> None:
    world = World(scope=Scope(nodes=parse_selector("pool=ours")))
    world.publish(ONE)
    await world.observer.refresh()
    assert world.observer.snapshot().nodes == ()


async def test_a_node_with_labels_keeps_them_beside_its_devices() -> None:
    world = World()
    world.lister.items[NODES.path()] = []
    world.add(NODES, whole_node("n", product=H100))
    world.publish(ONE)
    node = await world.node()
    assert node.labels["nvidia.com/gpu.product"] == H100
    assert [device.name for device in node.devices] == [ONE_NAME]


@pytest.mark.parametrize("spec", [{"driver": "gpu.nvidia.com"}, {"driver": "gpu.nvidia.com", "pool": {}}])
def test_a_broken_slice_is_no_view(spec: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert slice_view({"metadata": {"name": "s"}, "spec": spec}) is None
    assert "unreadable ResourceSlice s" in caplog.text


def test_a_capacity_that_is_no_quantity_breaks_its_slice() -> None:
    assert slice_view(resource_slice("n", [{**ONE, "capacity": {"memory": {"value": "much"}}}])) is None


@pytest.mark.parametrize("status", [None, {}, {"allocation": None}, {"allocation": {"devices": {}}}])
def test_a_claim_without_devices_is_no_view(status: dict[str, Any] | None) -> None:
    assert claim_view({"metadata": {"name": "c", "namespace": "ns"}, "status": status}) is None


def test_a_broken_claim_is_no_view(caplog: pytest.LogCaptureFixture) -> None:
    raw = {"metadata": {"name": "c", "namespace": "ns"}, "status": {"allocation": {"devices": {"results": [{}]}}}}
    assert claim_view(raw) is None
    assert "unreadable ResourceClaim ns/c" in caplog.text
