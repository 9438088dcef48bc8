"""What the observer has measured of all that it sees, and that the answers come into the snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from slmpack.adapters.observe import Observer, Scope
from slmpack.adapters.resources import PODS, SLM_DEPLOYMENTS
from slmpack.adapters.tables import load_engine_table
from slmpack.domain.load import GpuReading, LoadSample
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import Key, ModelUnknown
from slmpack.ports import EnginePod, Watched
from tests.support.fake_clock import FakeClock

CHAT = Key("ns", "m")
CREATED = "2026-01-01T00:00:00Z"
MODEL = {"model": {"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"}}
ALONE = {"ordinal": "0", "spec-hash": "h", "node": "n", "resource": "nvidia.com/gpu", "starts-alone": "false"}
PACK = {**ALONE, "engines": "4", "running": "0,2"}


class Lister:
    def __init__(self) -> None:
        self.items: dict[str, list[dict[str, Any]]] = {}

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[dict[str, Any]], str]:
        return self.items.get(path, []), "100"

    async def count(self, path: str) -> int:
        return len(self.items.get(path, []))


class Models:
    def lookup(self, *, source: str, revision: str | None) -> Mapping[str, object] | ModelUnknown:
        return ModelUnknown(reason=Reason.MODEL_PENDING, message="later")


class Loads:
    """Remembers what it is to watch."""

    sample = LoadSample(at=FakeClock().now(), reporting=1)
    gpu = GpuReading(node="n", uuid="GPU-a", at=FakeClock().now())
    problem = Problem(reason=Reason.METRICS_UNKNOWN, message="it is down")
    watched = Watched()

    def watch(self, watched: Watched) -> None:
        self.watched = watched

    def samples(self) -> Mapping[Key, LoadSample]:
        return {CHAT: self.sample}

    def gpus(self) -> tuple[GpuReading, ...]:
        return (self.gpu,)

    def blind(self) -> Problem | None:
        return self.problem


def _slm(name: str, spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    about = {
        "name": name,
        "namespace": "ns",
        "uid": f"uid-{name}",
        "creationTimestamp": CREATED,
        "resourceVersion": "1",
    }
    return {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "metadata": {**about, **meta}, "spec": spec}


def _pod(
    name: str, annotations: Mapping[str, str] | None = ALONE, *, ip: str = "10.0.0.7", **more: Any
) -> dict[str, Any]:
    """One of m's, or with None as annotations a stranger's."""
    owner = {
        "apiVersion": "slmpack.dev/v1alpha1",
        "kind": "SLMDeployment",
        "uid": "uid-m",
        "name": "m",
        "controller": True,
    }
    meta: dict[str, Any] = {
        "name": name,
        "namespace": "ns",
        "uid": name,
        "resourceVersion": "10",
        "creationTimestamp": CREATED,
    }
    if annotations is not None:
        meta |= {
            "labels": {"slmpack.dev/name": "m"},
            "annotations": {f"slmpack.dev/{key}": value for key, value in annotations.items()},
            "ownerReferences": [owner],
        }
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:05:00Z"}
    status = {"phase": "Running", "conditions": [ready], **({"podIP": ip} if ip else {})}
    container = {"name": "engine", "resources": {"requests": {"nvidia.com/gpu": "1"}}}
    return {"metadata": {**meta, **more}, "spec": {"containers": [container]}, "status": status}


class World:
    def __init__(self) -> None:
        self.lister, self.loads = Lister(), Loads()
        self.observer = Observer(
            self.lister, scope=Scope(), models=Models(), engines=load_engine_table(), clock=FakeClock(), loads=self.loads
        )  # fmt: skip
        self.lister.items[SLM_DEPLOYMENTS.path()] = [_slm("m", {**MODEL, "scaling": {"min": 0, "max": 4}})]

    async def watched(self, *pods: dict[str, Any]) -> Watched:
        self.lister.items[PODS.path()] = list(pods)
        await self.observer.refresh()
        return self.loads.watched


def _seen(name: str, **more: Any) -> EnginePod:
    facts: dict[str, Any] = {
        "key": Key("ns", name), "uid": name, "deployment": CHAT, "address": "10.0.0.7", "ports": (8000,), "engines": 1, "ready": 1,
        "ready_since": datetime(2026, 1, 1, 0, 5, tzinfo=UTC),
    }  # fmt: skip
    return EnginePod(**{**facts, **more})


async def test_a_replica() -> None:
    assert (await World().watched(_pod("m-0"))).pods == (_seen("m-0"),)


async def test_a_packs_engines_each_have_a_port() -> None:
    (found,) = (await World().watched(_pod("m-0", PACK))).pods
    assert found == _seen("m-0", ports=(8000, 8002), engines=4, ready=1)


async def test_one_without_an_address_and_one_that_ends() -> None:
    world = World()
    found = await world.watched(_pod("m-0", ip=""), _pod("m-1", deletionTimestamp=CREATED))
    assert found.pods == (_seen("m-0", address=""), _seen("m-1", ready=0))


async def test_an_address_that_comes_later_is_noted_and_told() -> None:
    world = World()
    await world.watched(_pod("m-0", ip=""))
    later = _pod("m-0", resourceVersion="200")
    assert world.observer.handle(PODS, "MODIFIED", later)
    await world.observer.refresh()
    assert world.loads.watched.pods == (_seen("m-0"),)
    world.observer.handle(PODS, "DELETED", _pod("m-0", resourceVersion="300"))
    world.lister.items[PODS.path()] = []
    assert (await world.watched()).pods == ()


async def test_strangers_are_no_replicas_but_use_gpus() -> None:
    world = World()
    failed = _pod("m-9")
    failed["status"]["phase"] = "Failed"
    found = await world.watched(_pod("m-0"), _pod("train-0", None), failed)
    assert [pod.key.name for pod in found.pods] == ["m-0"]
    assert found.gpu_users == {Key("ns", "m-0"), Key("ns", "train-0")}


async def test_all_that_can_be_read_are_measured_and_those_with_scaling_known() -> None:
    world = World()
    world.lister.items[SLM_DEPLOYMENTS.path()] += [
        _slm("fixed", {**MODEL, "replicas": 2}),
        _slm("wrong", {"model": {}}),
        _slm("ending", MODEL, deletionTimestamp=CREATED, finalizers=["x"]),
    ]
    found = await world.watched()
    assert found.deployments == {CHAT, Key("ns", "fixed")}
    assert found.scaled == {CHAT}


async def test_the_answers_are_in_the_snapshot() -> None:
    world = World()
    await world.watched()
    snapshot = world.observer.snapshot()
    assert snapshot.loads == {CHAT: world.loads.sample}
    assert snapshot.gpus == (world.loads.gpu,)
    assert snapshot.blind == world.loads.problem


@pytest.mark.parametrize("attribute", ["loads", "gpus", "blind"])
async def test_without_loads_there_is_nothing(attribute: str) -> None:
    observer = Observer(Lister(), scope=Scope(), models=Models(), engines=load_engine_table(), clock=FakeClock())
    await observer.refresh()
    assert not getattr(observer.snapshot(), attribute)
