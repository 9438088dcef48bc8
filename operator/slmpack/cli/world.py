"""The planner's snapshot from files, from a cluster, or from the GPU catalogue: read by the operator's own observer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from typing_extensions import override

from slmpack.adapters.clock import SystemClock
from slmpack.adapters.hub import BundledFirst, HubModels
from slmpack.adapters.measuring import ROUND, MetricsSettings, make_loads
from slmpack.adapters.observe import Lister, Observer, Scope
from slmpack.adapters.policy import load_policy
from slmpack.adapters.resources import (
    CONFIG_MAPS,
    DEVICE_CLASSES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    SLM_DEPLOYMENTS,
)
from slmpack.adapters.tables import bundled_config, load_gpu_catalogue
from slmpack.cli.hub_config import AsSeenFromHere
from slmpack.cli.loads_file import read_loads
from slmpack.cli.manifests import BadFileError, Manifest, Manifests
from slmpack.cli.preview import preview
from slmpack.config import hub_settings
from slmpack.domain.gpu import GpuModel
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import Demand, Key, ModelUnknown, Policy, Snapshot
from slmpack.ports import Loads, NotFound
from slmpack.render.names import PROFILE_LABEL

__all__ = ["Bundled", "Question", "World", "measuring", "observe_world", "unreadable"]

Json = dict[str, Any]

FILE_SOURCE = "file://"
_OF_THE_CLUSTER = frozenset({"Node", "PriorityClass", "ResourceSlice", "DeviceClass"})
WHAT_IF_CPU, WHAT_IF_MEMORY = "256", "2Ti"
"""Plenty: on a what-if node only the GPU binds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a user asks of `plan`."""

    manifests: Manifests
    cluster: bool
    kubeconfig: str | None
    context: str | None = None
    """The kubeconfig's; None: its current one."""
    model_seconds: float
    """How long to wait for model configs from the Hub."""
    bundled_models: bool = False
    """With a cluster: what its operator was told. Without one, the configs that ship are always used."""
    supervisor_image: str | None = None
    """What the operator was told; None: no packs."""
    loads: str | None = None
    """A file that says what is measured; None: none does."""
    metrics: MetricsSettings | None = None
    """With a cluster: measure now; None: nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The snapshot to plan on."""

    snapshot: Snapshot
    policy: Policy
    asked: frozenset[Key]
    """The SLMDeployments of the files; all of the cluster's where no file holds one."""
    what_if: bool
    """Whether the nodes are made up from the catalogue."""
    sources: Mapping[Key, str]
    """The `file://` sources, as the user wrote them."""
    warnings: tuple[str, ...]
    """Objects of the cluster that could not be read."""


async def observe_world(question: Question) -> World:
    """Read everything that the plan needs. Raises BadFileError, and PortError where the cluster cannot be read."""
    manifests = question.manifests
    wanted, nodes = manifests.of("SLMDeployment"), manifests.of("Node")
    if question.cluster and (nodes or manifests.of("Pod")):
        place = (*nodes, *manifests.of("Pod"))[0].place
        raise BadFileError(f"{place}: nodes and pods come from the cluster with --cluster; leave one of the two out")
    if not wanted and not question.cluster:
        raise BadFileError(
            "no SLMDeployment is given; add one with -f (plan also takes those of a cluster, with --cluster)"
        )
    files = _FileLister(manifests)
    if not question.cluster:
        return await _world(files, question, what_if=not nodes)
    from slmpack.adapters.kube import KubeClient  # takes half a second: files need none of it

    async with await KubeClient.connect(question.kubeconfig, context=question.context) as client:
        overlay = _Overlay(client, files)
        world = await _world(overlay, question, what_if=False)
        return replace(world, warnings=(*world.warnings, *overlay.notes))


async def _world(lister: Lister, question: Question, *, what_if: bool) -> World:
    policy = replace(load_policy(), supervisor_image=question.supervisor_image)
    arrived = asyncio.Event()
    async with HubModels(hub_settings(), wake=arrived.set) as hub, measuring(question.metrics) as (loads, measured):
        bundled = question.bundled_models or not question.cluster
        known = BundledFirst(hub) if bundled else hub
        models = AsSeenFromHere(known, bundled=bundled, seconds=question.model_seconds)
        clock = SystemClock()
        observer = Observer(lister, scope=Scope(), models=models, engines=policy.engines, clock=clock, loads=loads)
        with unreadable() as warnings:
            await observer.refresh()
            await measured()
            snapshot = await _with_models(observer.snapshot, arrived, seconds=question.model_seconds)
    if warnings and not question.cluster:
        raise BadFileError(warnings[0])
    notes: tuple[str, ...] = ()
    if question.loads is not None:
        found = preview(snapshot, read_loads(question.loads, now=snapshot.now), policy)
        snapshot, notes = found.snapshot, found.notes
    given = question.manifests.of("SLMDeployment")
    asked = frozenset(_key(m) for m in given) or frozenset(view.key for view in snapshot.deployments)
    return World(
        snapshot=snapshot,
        policy=policy,
        asked=asked,
        what_if=what_if,
        sources={_key(m): source for m in given if (source := _file_source(m)) is not None},
        warnings=(*warnings, *notes),
    )


@asynccontextmanager
async def measuring(
    settings: MetricsSettings | None,
) -> AsyncIterator[tuple[Loads | None, Callable[[], Awaitable[None]]]]:
    """What measures, where that is asked for, and a wait for its first round."""
    came = asyncio.Event()

    async def first_round() -> None:
        if settings is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(came.wait(), timeout=(ROUND + 1) * settings.timeout.total_seconds())

    if settings is None:
        yield None, first_round
        return
    async with make_loads(settings, wake=came.set, clock=SystemClock()) as loads:
        yield loads, first_round


class _Collected(logging.Handler):
    """What the adapters log about objects that they cannot read."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.messages: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        why = record.exc_info[1] if record.exc_info else None
        self.messages.append(record.getMessage() + (f": {why}" if why else ""))


@contextmanager
def unreadable() -> Iterator[list[str]]:
    """Collects the lines about unreadable objects; what the Hub answers is a reason in the plan already."""
    readers = [logging.getLogger(f"slmpack.adapters.{name}") for name in ("views", "node_views", "dra_views")]
    hub, collected, silent = logging.getLogger("slmpack.adapters.hub"), _Collected(), logging.NullHandler()
    hub.addHandler(silent)
    for reader in readers:
        reader.addHandler(collected)
    try:
        yield collected.messages
    finally:
        for reader in readers:
            reader.removeHandler(collected)
        hub.removeHandler(silent)


async def _with_models(look: Callable[[], Snapshot], arrived: asyncio.Event, *, seconds: float) -> Snapshot:
    """The snapshot once no model config is on its way any more, or after so many seconds as it is then."""
    deadline = time.monotonic() + seconds
    while True:
        arrived.clear()
        snapshot = look()
        left = deadline - time.monotonic()
        if left <= 0 or not any(_is_pending(view.demand) for view in snapshot.deployments):
            return snapshot
        try:
            await asyncio.wait_for(arrived.wait(), timeout=min(left, 0.25))
        except TimeoutError:
            continue


def _is_pending(demand: object) -> bool:
    model = demand.model if isinstance(demand, Demand) else None
    return isinstance(model, ModelUnknown) and model.reason is Reason.MODEL_PENDING


class Bundled:
    """Configs that ship with slmpack, and no others."""

    @staticmethod
    def lookup(*, source: str, revision: str | None) -> Mapping[str, object] | ModelUnknown:
        """The config, or that it is not bundled."""
        del revision
        message = f"config.json of {source} does not ship with slmpack"
        return bundled_config(source.removeprefix("hf://")) or ModelUnknown(
            reason=Reason.MODEL_UNAVAILABLE, message=message
        )


class _FileLister:
    """The files as an API server would list them."""

    def __init__(self, manifests: Manifests) -> None:
        now = SystemClock().now().isoformat()
        nodes = [_node(manifest.body) for manifest in manifests.of("Node")]
        self.deployments = [_deployment(manifest) for manifest in manifests.of("SLMDeployment")]
        self._items: dict[str, list[Json]] = {
            SLM_DEPLOYMENTS.path(): [_completed(body, now) for body in self.deployments],
            NODES.path(): [_completed(body, now) for body in nodes or _what_if_nodes()],
            PODS.path(): [_completed(manifest.body, now) for manifest in manifests.of("Pod")],
            **{
                kind.path(): [_completed(manifest.body, now) for manifest in manifests.of(kind.kind)]
                for kind in (PRIORITY_CLASSES, RESOURCE_SLICES, DEVICE_CLASSES, RESOURCE_CLAIMS)
            },
            CONFIG_MAPS.path(): [
                _completed(m.body, now) for m in manifests.of("ConfigMap") if PROFILE_LABEL in _labels(m)
            ],
        }

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[Json], str]:
        """A whole collection; Services have no part in a plan."""
        del params
        return self._items.get(path, []), "0"

    async def count(self, path: str) -> int:
        """How many objects a collection holds."""
        return len(self._items.get(path, []))


class _Reads(Protocol):
    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[Json], str]: ...

    async def count(self, path: str) -> int: ...


class _Overlay:
    """A cluster as it would be with the files' SLMDeployments and profiles applied."""

    def __init__(self, cluster: _Reads, files: _FileLister) -> None:
        self._cluster, self._files = cluster, files
        self.notes: tuple[str, ...] = ()
        """What the plan leaves out of account."""

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> tuple[list[Json], str]:
        """What the cluster holds, and the files' objects in place of theirs."""
        try:
            items, version = await self._cluster.list(path, params)
        except NotFound:
            if path != SLM_DEPLOYMENTS.path():
                raise
            items, version = [], "0"
            self.notes = ("the cluster has no CRD of SLMDeployments yet: planned as if it had, and none were there",)
        if path not in {SLM_DEPLOYMENTS.path(), CONFIG_MAPS.path()}:
            return items, version
        wanted, _ = await self._files.list(path)
        present = {_identity(item): item for item in items}
        for body in wanted:
            there = present.get(_identity(body), {}).get("metadata", {})
            kept = {key: there[key] for key in ("uid", "creationTimestamp", "generation") if key in there}
            present[_identity(body)] = {**body, "metadata": {**body["metadata"], **kept}}
        return list(present.values()), version

    async def count(self, path: str) -> int:
        """How many objects a collection holds."""
        return await self._cluster.count(path)


def _labels(manifest: Manifest) -> Mapping[str, object]:
    labels = manifest.body["metadata"].get("labels")
    return labels if isinstance(labels, dict) else {}


def _identity(body: Json) -> tuple[str, str]:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _completed(body: Json, now: str) -> Json:
    """The object with what the API server would have set."""
    meta = {key: value for key, value in body["metadata"].items() if value is not None}
    namespace = meta.get("namespace") or ("" if body.get("kind") in _OF_THE_CLUSTER else "default")
    uid = meta.get("uid") or f"file:{body.get('kind')}/{namespace}/{meta['name']}"
    created = meta.get("creationTimestamp") or now
    # versions of another cluster, or of none, say nothing about the order of these files
    filled = {"namespace": namespace, "uid": uid, "creationTimestamp": created, "resourceVersion": "0"}
    return {**body, "metadata": {**meta, **filled}}


def _node(body: Json) -> Json:
    """A node without conditions, as people write them, counts as Ready."""
    status = body.get("status") or {}
    return {**body, "status": {"conditions": [{"type": "Ready", "status": "True"}], **status}}


def _deployment(manifest: Manifest) -> Json:
    """The body with a `file://` model source read: the command line alone may use one."""
    source = _file_source(manifest)
    if source is None:
        return manifest.body
    spec = manifest.body["spec"]
    config = spec["model"].get("config") or _read_config(manifest, source.removeprefix(FILE_SOURCE))
    local = {**spec["model"], "source": "pvc://local/model", "config": config}
    return {**manifest.body, "spec": {**spec, "model": local}}


def _file_source(manifest: Manifest) -> str | None:
    spec = manifest.body.get("spec")
    model = spec.get("model") if isinstance(spec, dict) else None
    source = model.get("source") if isinstance(model, dict) else None
    return source if isinstance(source, str) and source.startswith(FILE_SOURCE) else None


def _key(manifest: Manifest) -> Key:
    return Key(manifest.namespace, manifest.name)


def _read_config(manifest: Manifest, text: str) -> object:
    path = manifest.folder / text
    path = path / "config.json" if path.is_dir() else path
    where = f"{manifest.place}: spec.model.source {FILE_SOURCE}{text}"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFileError(f"{where}: {path} cannot be read: {error.strerror}; name a model's config.json") from error
    except ValueError as error:
        raise BadFileError(f"{where}: {path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise BadFileError(f"{where}: {path} is not a JSON object; name a model's config.json")
    return config


def _what_if_nodes() -> list[Json]:
    return [_what_if_node(gpu) for gpu in load_gpu_catalogue().models if gpu.memory_total_mib]


def _what_if_node(gpu: GpuModel) -> Json:
    """One empty node with one whole GPU of this product."""
    labels = {
        "nvidia.com/gpu.product": gpu.product_labels[0],
        "nvidia.com/gpu.memory": str(gpu.memory_total_mib),
        "nvidia.com/gpu.count": "1",
    }
    allocatable = {"cpu": WHAT_IF_CPU, "memory": WHAT_IF_MEMORY, "pods": "110", "nvidia.com/gpu": "1"}
    return {
        "kind": "Node",
        "metadata": {"name": f"what-if-{gpu.id}", "labels": labels},
        "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]},
    }
