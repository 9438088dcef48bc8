"""When the observer lists, and what its snapshot says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from slmpack.adapters import observe, records
from slmpack.adapters.feeds import COUNT_SECONDS, RECOUNT_SECONDS, RELIST_SECONDS
from slmpack.adapters.observe import Observer, Scope
from slmpack.adapters.resources import (
    CONFIG_MAPS,
    DEVICE_CLASSES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    SERVICES,
    SLM_DEPLOYMENTS,
)
from slmpack.adapters.selector import parse_selector
from slmpack.adapters.tables import bundled_config, load_engine_table
from slmpack.devcluster.nodes import whole_node
from slmpack.domain.model import ModelProfile
from slmpack.domain.profile import Profile
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import Demand, ModelUnknown, Rejected
from slmpack.ports import Unavailable
from tests.support.fake_clock import FakeClock

CREATED = "2026-01-01T00:00:00Z"
DRA = (RESOURCE_SLICES, DEVICE_CLASSES, RESOURCE_CLAIMS)
KINDS = 9


class Lister:
    """Collections by path; counts what is asked."""

    def __init__(self) -> None:
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.version = 100
        self.lists: list[str] = []
        self.counts: list[str] = []
        self.broken: set[str] = set()

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[dict[str, Any]], str]:
        self.lists.append(path)
        if path in self.broken:
            raise Unavailable("down")
        return self.items.get(path, []), str(self.version)

    async def count(self, path: str) -> int:
        self.counts.append(path)
        return len(self.items.get(path, []))


class Models:
    config: Mapping[str, object] | ModelUnknown = bundled_config("Qwen/Qwen2.5-0.5B-Instruct") or {}

    def lookup(self, *, source: str, revision: str | None) -> Mapping[str, object] | ModelUnknown:
        return self.config


class World:
    def __init__(self, scope: Scope | None = None) -> None:
        self.clock, self.lister, self.models = FakeClock(), Lister(), Models()
        self.observer = Observer(
            self.lister,
            scope=scope or Scope(),
            models=self.models,
            engines=load_engine_table(),
            clock=self.clock,
        )

    def add(self, path: str, raw: dict[str, Any], version: int = 10) -> None:
        raw["metadata"] |= {"resourceVersion": str(version), "creationTimestamp": CREATED}
        raw["metadata"].setdefault("uid", f"uid-{raw['metadata']['name']}")
        self.lister.items.setdefault(path, []).append(raw)

    async def demand(self) -> Demand | Rejected:
        await self.observer.refresh()
        (view,) = self.observer.snapshot().deployments
        return view.demand


def _slm(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "slmpack.dev/v1alpha1",
        "kind": "SLMDeployment",
        "metadata": {"name": "m", "namespace": "ns", "generation": 1},
        "spec": {"model": {"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"}, **spec},
    }


def _pod(name: str) -> dict[str, Any]:
    container = {"resources": {"requests": {"nvidia.com/gpu": "1"}}}
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": {"containers": [container]}}


async def test_everything_is_listed_once_and_then_every_five_minutes() -> None:
    world = World()
    await world.observer.refresh()
    assert sorted(world.lister.lists) == sorted(
        resource.path() for resource in (CONFIG_MAPS, NODES, PODS, PRIORITY_CLASSES, SERVICES, SLM_DEPLOYMENTS, *DRA)
    )
    await world.observer.refresh()
    assert len(world.lister.lists) == KINDS
    world.clock.advance(RELIST_SECONDS)
    await world.observer.refresh()
    assert len(world.lister.lists) == 2 * KINDS


async def test_a_list_that_failed_stays_due() -> None:
    world = World()
    world.lister.broken = {PODS.path()}
    with pytest.raises(Unavailable):
        await world.observer.refresh()
    assert not world.observer.complete
    world.lister.broken = set()
    await world.observer.refresh()
    assert world.observer.complete


async def test_a_suspect_kind_is_listed_at_once() -> None:
    world = World()
    await world.observer.refresh()
    world.observer.suspect(PODS)
    await world.observer.refresh()
    assert world.lister.lists[KINDS:] == [PODS.path()]


async def test_counting_is_rare_and_a_count_that_stays_wrong_lists() -> None:
    world = World()
    world.add(PODS.path(), _pod("a"))
    await world.observer.refresh()
    world.clock.advance(COUNT_SECONDS)
    await world.observer.refresh()
    assert len(world.lister.counts) == KINDS - len([CONFIG_MAPS, SERVICES])
    assert len(world.lister.lists) == KINDS
    world.lister.items[PODS.path()].clear()
    world.lister.version += 1
    world.clock.advance(COUNT_SECONDS)
    await world.observer.refresh()
    assert len(world.lister.lists) == KINDS
    world.clock.advance(RECOUNT_SECONDS)
    await world.observer.refresh()
    assert world.observer.snapshot().pods == ()


async def test_a_watch_that_lags_behind_a_busy_cluster_is_not_listed_over() -> None:
    world = World()
    await world.observer.refresh()
    for number in range(10):
        world.add(PODS.path(), _pod(f"new-{number}"), version=101 + number)
        world.clock.advance(COUNT_SECONDS)
        await world.observer.refresh()
        world.observer.handle(PODS, "ADDED", world.lister.items[PODS.path()][-1])
        world.clock.advance(RECOUNT_SECONDS)
        await world.observer.refresh()
    assert world.lister.lists.count(PODS.path()) == 1


@pytest.mark.parametrize("what", ["translate", "parse_model_config"])
async def test_a_bug_that_one_meets_rejects_that_one_only(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, sound = World(), getattr(observe, what)

    def buggy(first: Any, **rest: Any) -> Any:
        name = first.metadata.name if what == "translate" else rest["dtype_override"]
        if name in {"bad", "half"}:
            raise RecursionError("too deep")
        return sound(first, **rest)

    monkeypatch.setattr(observe, what, buggy)
    bad = _slm(engine={"args": {"dtype": "half"}})
    bad["metadata"]["name"] = "bad"
    world.add(SLM_DEPLOYMENTS.path(), bad)
    world.add(SLM_DEPLOYMENTS.path(), _slm())
    await world.observer.refresh()
    for _ in range(3):
        demands = {view.key.name: view.demand for view in world.observer.snapshot().deployments}
    assert isinstance(demands["m"], Demand)
    assert isinstance(demands["bad"], Rejected)
    assert demands["bad"].problems[0].reason is Reason.INTERNAL
    assert "RecursionError: too deep" in demands["bad"].problems[0].message
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_spec_that_cannot_even_be_parsed_rejects_that_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(raw: Any) -> Any:
        raise KeyError(raw["metadata"]["name"])

    monkeypatch.setattr(records, "parse_slmdeployment", buggy)
    world = World()
    world.add(SLM_DEPLOYMENTS.path(), _slm())
    demand = await world.demand()
    assert isinstance(demand, Rejected)
    assert demand.problems[0].reason is Reason.INTERNAL


async def test_a_stale_list_changes_nothing_and_is_asked_for_again() -> None:
    world = World()
    world.add(PODS.path(), _pod("a"))
    await world.observer.refresh()
    world.lister.items[PODS.path()] = []
    world.lister.version -= 1
    world.clock.advance(RELIST_SECONDS)
    await world.observer.refresh()
    assert [pod.key.name for pod in world.observer.snapshot().pods] == ["a"]
    before = len(world.lister.lists)
    await world.observer.refresh()
    assert PODS.path() in world.lister.lists[before:]


async def test_only_what_is_read_wakes_the_planner() -> None:
    world = World()
    await world.observer.refresh()
    node = whole_node("n")
    node["metadata"] |= {"resourceVersion": "101", "creationTimestamp": CREATED, "uid": "n"}
    assert world.observer.handle(NODES, "ADDED", node)
    beat = {**node, "metadata": {**node["metadata"], "resourceVersion": "102"}}
    beat["status"] = {**node["status"], "images": ["many"]}
    assert not world.observer.handle(NODES, "MODIFIED", beat)
    cordoned = {**beat, "metadata": {**node["metadata"], "resourceVersion": "103"}, "spec": {"unschedulable": True}}
    assert world.observer.handle(NODES, "MODIFIED", cordoned)
    deleted = {**cordoned, "metadata": {**node["metadata"], "resourceVersion": "104"}}
    assert world.observer.handle(NODES, "DELETED", deleted)
    assert world.observer.snapshot().nodes == ()


async def test_our_own_status_wakes_nobody() -> None:
    world = World()
    world.add(SLM_DEPLOYMENTS.path(), _slm())
    await world.observer.refresh()
    written = _slm() | {"status": {"ready": "1/1"}}
    written["metadata"] |= {"resourceVersion": "101", "creationTimestamp": CREATED, "uid": "uid-m"}
    assert not world.observer.handle(SLM_DEPLOYMENTS, "MODIFIED", written)
    (view,) = world.observer.snapshot().deployments
    assert world.observer.status_of(view.key) == {"ready": "1/1"}


async def test_a_namespace_and_a_node_selector_narrow_the_view() -> None:
    world = World(Scope(namespace="ns", nodes=parse_selector("pool=a")))
    for name, pool in (("one", "a"), ("two", "b")):
        node = whole_node(name)
        node["metadata"]["labels"]["pool"] = pool
        world.add(NODES.path(), node)
    await world.observer.refresh()
    assert [node.name for node in world.observer.snapshot().nodes] == ["one"]
    assert SLM_DEPLOYMENTS.path(namespace="ns") in world.lister.lists
    assert PODS.path() in world.lister.lists


async def test_demands_know_model_and_priority() -> None:
    world = World()
    world.add(SLM_DEPLOYMENTS.path(), _slm(pod={"priorityClassName": "high"}))
    world.add(PRIORITY_CLASSES.path(), {"metadata": {"name": "high"}, "value": 7})
    world.add(PRIORITY_CLASSES.path(), {"metadata": {"name": "usual"}, "value": 3, "globalDefault": True})
    demand = await world.demand()
    assert isinstance(demand, Demand)
    assert isinstance(demand.model, ModelProfile)
    assert demand.priority == 7


async def test_without_a_class_the_clusters_default_counts() -> None:
    world = World()
    world.add(SLM_DEPLOYMENTS.path(), _slm())
    world.add(PRIORITY_CLASSES.path(), {"metadata": {"name": "usual"}, "value": 3, "globalDefault": True})
    demand = await world.demand()
    assert isinstance(demand, Demand)
    assert demand.priority == 3


async def test_an_inline_config_is_read_with_the_users_dtype() -> None:
    world = World()
    world.models.config = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="down")
    config = bundled_config("Qwen/Qwen2.5-0.5B-Instruct")
    spec = {"model": {"source": "pvc://claim/model", "config": config}, "engine": {"args": {"dtype": "float32"}}}
    world.add(SLM_DEPLOYMENTS.path(), _slm(**spec))
    demand = await world.demand()
    assert isinstance(demand, Demand)
    assert isinstance(demand.model, ModelProfile)
    assert demand.model.dtype == "float32"


async def test_an_unknown_layout_is_a_reason() -> None:
    world = World()
    world.models.config = {"architectures": ["MixtralForCausalLM"]}
    world.add(SLM_DEPLOYMENTS.path(), _slm())
    demand = await world.demand()
    assert isinstance(demand, Demand)
    assert isinstance(demand.model, ModelUnknown)
    assert demand.model.reason is Reason.UNKNOWN_LAYOUT


async def test_a_model_that_arrives_changes_the_demand_and_nothing_else_does() -> None:
    world = World()
    arrived, world.models.config = world.models.config, ModelUnknown(reason=Reason.MODEL_PENDING, message="wait")
    world.add(SLM_DEPLOYMENTS.path(), _slm())
    pending = await world.demand()
    assert isinstance(pending, Demand)
    assert isinstance(pending.model, ModelUnknown)
    world.models.config = arrived
    demand = await world.demand()
    assert isinstance(demand, Demand)
    assert isinstance(demand.model, ModelProfile)
    assert await world.demand() is demand


async def test_a_broken_spec_is_rejected_with_its_problems() -> None:
    world = World()
    world.add(SLM_DEPLOYMENTS.path(), _slm(replicas="many"))
    demand = await world.demand()
    assert isinstance(demand, Rejected)
    assert demand.problems[0].field == "spec.replicas"


async def test_pods_without_gpus_count_for_the_room_of_their_node_only() -> None:
    world = World()
    world.add(NODES.path(), whole_node("l4"))
    busy = {"nodeName": "l4", "containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}]}
    world.add(PODS.path(), {"metadata": {"name": "busy", "namespace": "x", "uid": "1"}, "spec": busy})
    ended = {
        "metadata": {"name": "ended", "namespace": "x", "uid": "2"},
        "spec": busy,
        "status": {"phase": "Succeeded"},
    }
    world.add(PODS.path(), ended)
    await world.observer.refresh()
    snapshot = world.observer.snapshot()
    assert snapshot.pods == ()
    assert snapshot.nodes[0].used_by_others == {"cpu": 2000, "memory": 1024**3, "pods": 1}


async def test_a_pod_without_a_gpu_that_leaves_a_gpu_node_wakes_the_planner() -> None:
    world = World()
    world.add(NODES.path(), whole_node("l4"))
    await world.observer.refresh()

    def event(name: str, node: str, version: int, **status: str) -> dict[str, Any]:
        meta = {"name": name, "namespace": "x", "uid": name, "resourceVersion": str(version)}
        return {"metadata": meta, "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": status}

    assert not world.observer.handle(PODS, "ADDED", event("a", "l4", 201))
    assert not world.observer.handle(PODS, "ADDED", event("b", "l4", 202))
    assert not world.observer.handle(PODS, "ADDED", event("c", "elsewhere", 203))
    assert world.observer.handle(PODS, "DELETED", event("a", "l4", 204))
    assert world.observer.handle(PODS, "MODIFIED", event("b", "l4", 205, phase="Succeeded"))
    assert not world.observer.handle(PODS, "DELETED", event("c", "elsewhere", 206))


PROFILE = """
apiVersion: slmpack.dev/v1alpha1
kind: Profile
model: Qwen/Qwen2.5-0.5B-Instruct
gpu: l4
input_tokens: 512
output_tokens: 256
points:
- {concurrency: 1, throughput_tok_s: 150, itl_s: 0.0065}
- {concurrency: 64, throughput_tok_s: 3000, itl_s: 0.021}
"""


def _profiles(**data: str) -> dict[str, Any]:
    return {"metadata": {"name": "measured", "namespace": "ns"}, "data": data}


async def test_a_profile_is_read_from_the_config_map_that_the_spec_names() -> None:
    world = World()
    world.add(SLM_DEPLOYMENTS.path(), _slm(profileRef={"name": "measured", "key": "l4"}))
    world.add(CONFIG_MAPS.path(), _profiles(l4=PROFILE))
    demand = await world.demand()
    assert isinstance(demand, Demand)
    assert isinstance(demand.profile, Profile)
    assert [point.concurrency for point in demand.profile.points] == [1, 64]
    changed = _profiles(l4=PROFILE.replace("64", "60"))
    changed["metadata"] |= {"uid": "uid-measured", "resourceVersion": "11"}
    assert world.observer.handle(CONFIG_MAPS, "MODIFIED", changed)
    demand = await world.demand()
    assert isinstance(demand, Demand)
    assert isinstance(demand.profile, Profile)
    assert [point.concurrency for point in demand.profile.points] == [1, 60]


@pytest.mark.parametrize(
    ("config_maps", "message"),
    [
        ((), "spec.profileRef: there is no ConfigMap measured with the label slmpack.dev/profile in this namespace"),
        (
            (_profiles(h100=PROFILE, a="b"),),
            "spec.profileRef.key: ConfigMap measured has no key l4; its keys are a, h100",
        ),
        ((_profiles(),), "spec.profileRef.key: ConfigMap measured has no key l4; its keys are none"),
        ((_profiles(l4="nothing"),), "spec.profileRef: l4: profile.yaml: must be an object"),
    ],
    ids=["no config map", "another key", "no key", "no profile"],
)
async def test_a_profile_that_cannot_be_used_is_said_and_stops_nothing(
    config_maps: tuple[dict[str, Any], ...], message: str
) -> None:
    world = World()
    world.add(SLM_DEPLOYMENTS.path(), _slm(profileRef={"name": "measured", "key": "l4"}))
    for raw in config_maps:
        world.add(CONFIG_MAPS.path(), {**raw, "metadata": dict(raw["metadata"])})
    demand = await world.demand()
    assert isinstance(demand, Demand)
    assert isinstance(demand.profile, Problem)
    assert (demand.profile.reason, demand.profile.field) == (Reason.PROFILE_UNUSABLE, "spec.profileRef")
    assert demand.profile.message.startswith(message)


async def test_a_node_that_cannot_be_read_is_in_the_snapshot_by_name_until_it_can() -> None:
    world = World(Scope(nodes=parse_selector("team=a")))
    for name, team in (("odd", "a"), ("theirs", "b")):
        node = whole_node(name)
        node["metadata"]["labels"] = {**node["metadata"]["labels"], "team": team}
        node["status"]["allocatable"]["nvidia.com/gpu"] = "1e9"
        world.add(NODES.path(), node)
    await world.observer.refresh()
    snapshot = world.observer.snapshot()
    assert snapshot.nodes == ()
    assert snapshot.unread == ("node odd: status.allocatable has 1000000000 nvidia.com/gpu; a node has at most 3072",)
    odd = copy.deepcopy(world.lister.items[NODES.path()][0])
    odd["metadata"]["resourceVersion"] = "101"
    odd["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    assert world.observer.handle(NODES, "MODIFIED", odd)
    mended = world.observer.snapshot()
    assert ([node.name for node in mended.nodes], mended.unread) == (["odd"], ())
    odd = copy.deepcopy(odd)
    odd["metadata"]["resourceVersion"] = "102"
    odd["status"]["allocatable"]["nvidia.com/gpu"] = "x"
    assert world.observer.handle(NODES, "MODIFIED", odd)
    assert world.observer.snapshot().unread
    assert world.observer.handle(NODES, "DELETED", {**odd, "metadata": {**odd["metadata"], "resourceVersion": "103"}})
    assert world.observer.snapshot().unread == ()
