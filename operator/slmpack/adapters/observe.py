"""The planner's snapshot: our own LIST of each kind, kept up to date by events and by our own writes (D1).

A LIST is due at the start, every five minutes, at once after an API error or a surprise, and when the number of objects
in the cluster is not the number we hold: a watch that lapsed (410) never tells of what was deleted meanwhile.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from slmpack.adapters.dra_stores import DraStores
from slmpack.adapters.engine_pods import read_address, to_watched
from slmpack.adapters.feeds import Feed, Lister
from slmpack.adapters.node_views import node_view, unread_node
from slmpack.adapters.pack_pods import SLICES, SliceRecord, bare_pack, read_slice, read_supervisor
from slmpack.adapters.records import (
    DeploymentRecord,
    PriorityRecord,
    ProfileRecord,
    ServiceRecord,
    read_deployment,
    read_priority,
    read_profiles,
    read_service,
)
from slmpack.adapters.resources import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    SERVICES,
    SLM_DEPLOYMENTS,
    Resource,
)
from slmpack.adapters.selector import EVERYTHING, Selector
from slmpack.adapters.store import KindStore, key_of
from slmpack.adapters.views import Bystander, bystander, pod_view
from slmpack.api.translate import Known, translate
from slmpack.api.v1alpha1 import SLMDeployment
from slmpack.domain.engine import EngineTable
from slmpack.domain.internal import internal_problem
from slmpack.domain.model import ModelProfile, UnknownLayout, parse_model_config
from slmpack.domain.profile import Profile
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import (
    Demand,
    DeploymentView,
    Key,
    ModelUnknown,
    NodeView,
    PodView,
    Rejected,
    Snapshot,
)
from slmpack.ports import Clock, Loads, ModelSource, PackReports, Supervisor
from slmpack.render.names import NAME_LABEL, PROFILE_LABEL
from slmpack.render.pack_children import PackPod

__all__ = ["Lister", "Observer", "Scope"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What this operator looks after."""

    namespace: str | None = None
    """None: all."""
    nodes: Selector = EVERYTHING
    packs: bool = False
    """Whether the EndpointSlices of packs are looked after."""


class Observer:
    """The typed store of everything the planner reads."""

    def __init__(  # noqa: PLR0913 - where each kind of news comes from
        self,
        client: Lister,
        *,
        scope: Scope,
        models: ModelSource,
        engines: EngineTable,
        clock: Clock,
        packs: PackReports | None = None,
        loads: Loads | None = None,
    ) -> None:
        self._client = client
        self._reports = packs
        self._loads = loads
        self._models = models
        self._engines = engines
        self._clock = clock
        self._deployments: KindStore[DeploymentRecord] = KindStore(read_deployment)
        self._pods: KindStore[PodView] = KindStore(pod_view)
        self._bystanders: KindStore[Bystander] = KindStore(bystander)
        self._nodes: KindStore[NodeView] = KindStore(lambda raw: _chosen(node_view(raw), scope.nodes))
        self._unread: KindStore[str] = KindStore(lambda raw: unread_node(raw, of=scope.nodes))
        self._services: KindStore[ServiceRecord] = KindStore(read_service)
        self._priorities: KindStore[PriorityRecord] = KindStore(read_priority)
        self._profiles: KindStore[ProfileRecord] = KindStore(read_profiles)
        self._supervisors: KindStore[Supervisor] = KindStore(read_supervisor)
        self._addresses: KindStore[str] = KindStore(read_address)
        self._of_replicas: tuple[KindStore[Any], ...] = (self._supervisors, self._addresses)
        self._slices: KindStore[SliceRecord] = KindStore(read_slice)
        self._dra = DraStores(chosen=lambda node: _chosen(node, scope.nodes))
        self._feeds = self._feeds_of(scope)
        self._demands: dict[str, tuple[object, Demand | Rejected]] = {}
        self._bugs: dict[str, Rejected] = {}

    def _feeds_of(self, scope: Scope) -> dict[Resource, Feed]:
        mine = scope.namespace
        feeds = {
            NODES: Feed(path=NODES.path(), store=self._nodes, beside=(self._dra.other_nodes, self._unread)),
            PRIORITY_CLASSES: Feed(path=PRIORITY_CLASSES.path(), store=self._priorities),
            SLM_DEPLOYMENTS: Feed(path=SLM_DEPLOYMENTS.path(namespace=mine), store=self._deployments),
            SERVICES: Feed(path=SERVICES.path(namespace=mine), store=self._services, label=NAME_LABEL),
            CONFIG_MAPS: Feed(path=CONFIG_MAPS.path(namespace=mine), store=self._profiles, label=PROFILE_LABEL),
            PODS: Feed(path=PODS.path(), store=self._pods, beside=(self._bystanders, *self._of_replicas)),
            **self._dra.feeds,
        }
        if scope.packs:
            path = ENDPOINT_SLICES.path(namespace=mine)
            feeds[ENDPOINT_SLICES] = Feed(path=path, store=self._slices, label=SLICES)
        return feeds

    @property
    def complete(self) -> bool:
        """Whether every kind has been listed: no plan may be made before."""
        return all(feed.complete for feed in self._feeds.values())

    async def refresh(self) -> None:
        """LIST whatever is due; have packs asked, loads measured. Raises PortError; what was not listed stays due."""
        for feed in self._feeds.values():
            await feed.refresh(self._client, self._clock)
        if self._reports is not None:
            published = Counter(it.pod_uid for it in self._slices.values() if it.ready)
            await self._reports.refresh(replace(it, published=published[it.uid]) for _, it in self._packs())
        if self._loads is not None:
            self._loads.watch(to_watched(self._deployments.values(), self._with_reports(), self._addresses.get))

    def handle(self, resource: Resource, kind: str | None, raw: Mapping[str, Any]) -> bool:
        """Take in an event of a watch; True if the planner should look. `kind` is None for what a watch starts with."""
        feed = self._feeds[resource]
        freed = resource == PODS and (self._see_bystander(kind, raw) | self._see_replica(kind, raw))
        freed |= resource == NODES and (self._dra.see_node(kind, raw) | self._see_unread(kind, raw))
        if kind == "DELETED":
            return feed.store.drop(raw) or freed
        changed = feed.store.put(raw)
        if kind is None and feed.store.listed:
            feed.uncounted = changed = True
        return changed or freed

    def _see_bystander(self, kind: str | None, raw: Mapping[str, Any]) -> bool:
        """Keep count of pods without a view; True if one left room on a GPU node."""
        before = self._bystanders.get(key_of(raw))
        changed = self._bystanders.drop(raw) if kind == "DELETED" else self._bystanders.put(raw)
        gone = before is not None and changed and self._bystanders.get(key_of(raw)) is None
        return gone and before is not None and self._nodes.get(Key("", before.node)) is not None

    def _see_replica(self, kind: str | None, raw: Mapping[str, Any]) -> bool:
        """Note where a replica and a pack's supervisor are; True if that changed."""
        changed = [it.drop(raw) if kind == "DELETED" else it.put(raw) for it in self._of_replicas]
        return any(changed)

    def _see_unread(self, kind: str | None, raw: Mapping[str, Any]) -> bool:
        """Note a node that cannot be read, or can be again; True if that changed."""
        return self._unread.drop(raw) if kind == "DELETED" else self._unread.put(raw)

    def put(self, resource: Resource, raw: Mapping[str, Any]) -> None:
        """Take in the answer to our own write."""
        if resource in self._feeds:
            self._feeds[resource].store.put(raw)

    def forget_pod(self, key: Key, *, uid: str) -> None:
        """Our own DELETE of a pod was accepted."""
        self._pods.mark(key, uid=uid, change=lambda pod: replace(pod, deleting=True))

    def suspect(self, resource: Resource | None = None) -> None:
        """LIST a kind (or all of them) before the next plan: an API error or a surprise says that we are behind."""
        for of, feed in self._feeds.items():
            feed.suspect |= resource is None or of == resource

    def service(self, key: Key) -> ServiceRecord | None:
        """A Service with our label."""
        return self._services.get(key)

    @property
    def pod_uids(self) -> set[str]:
        """Of all pods that concern us."""
        return {pod.uid for pod in self._pods.values()}

    @property
    def deployment_uids(self) -> set[str]:
        """Of all SLMDeployments."""
        return {record.uid for record in self._deployments.values()}

    def status_of(self, key: Key) -> Mapping[str, Any]:
        """An SLMDeployment's status as the API server has it."""
        record = self._deployments.get(key)
        return record.status if record else {}

    def snapshot(self) -> Snapshot:
        """The world as we know it now."""
        records = list(self._deployments.values())
        alive = {record.uid for record in records}
        self._demands = {uid: demand for uid, demand in self._demands.items() if uid in alive}
        self._bugs = {uid: rejected for uid, rejected in self._bugs.items() if uid in alive}
        pods = self._with_reports()
        nodes, dra = self._dra.put_into(self._with_bystanders(), pods)
        return Snapshot(
            now=self._clock.now(),
            deployments=tuple(self._view(record) for record in records),
            nodes=nodes,
            pods=pods,
            names=frozenset(self._pods.unseen()),
            dra=dra,
            unread=tuple(sorted(self._unread.values())),
            loads={} if self._loads is None else self._loads.samples(),
            gpus=() if self._loads is None else self._loads.gpus(),
            blind=None if self._loads is None else self._loads.blind(),
        )

    def bare_packs(self) -> tuple[PackPod, ...]:
        """Packs that run and lack a slice for an engine."""
        if ENDPOINT_SLICES not in self._feeds:
            return ()
        return tuple(found for pod, it in self._packs() if (found := bare_pack(pod, it, self._slices)) is not None)

    def _packs(self) -> list[tuple[PodView, Supervisor]]:
        """Packs that run, of SLMDeployments that we look after."""
        packs = (pod for pod in self._pods.values() if pod.record is not None and pod.record.pack is not None)
        found = [(pod, self._supervisors.get(pod.key)) for pod in packs]
        owners = self.deployment_uids
        return [(pod, it) for pod, it in found if it is not None and it.uid == pod.uid and it.owner_uid in owners]

    def _with_reports(self) -> tuple[PodView, ...]:
        source = self._reports
        if source is None:
            return tuple(self._pods.values())
        reports = {pod.uid: source.report(pod.uid) for pod, _ in self._packs()}
        return tuple(replace(pod, pack=reports[pod.uid]) if pod.uid in reports else pod for pod in self._pods.values())

    def _with_bystanders(self) -> tuple[NodeView, ...]:
        used: dict[str, dict[str, int]] = {}
        for pod in self._bystanders.values():
            total = used.setdefault(pod.node, {"cpu": 0, "memory": 0, "pods": 0})
            total["cpu"] += pod.cpu
            total["memory"] += pod.memory
            total["pods"] += 1
        nodes = (*self._nodes.values(), *self._dra.bare_nodes())
        return tuple(replace(node, used_by_others=used.get(node.name, {})) for node in nodes)

    def _view(self, record: DeploymentRecord) -> DeploymentView:
        return DeploymentView(
            key=record.key,
            uid=record.uid,
            generation=record.generation,
            created=record.created,
            deleting=record.deleting,
            demand=self._demand(record),
            conditions=record.conditions,
            scale=record.scale,
            scale_note=record.scale_note,
        )

    def _demand(self, record: DeploymentRecord) -> Demand | Rejected:
        """A bug that one spec or model meets rejects that one; the log has its trace once."""
        if not isinstance(record.parsed, SLMDeployment):
            return Rejected(problems=record.parsed)
        try:
            demand = self._translated(record.uid, record.parsed)
        except Exception as error:  # one SLMDeployment's bug must not stop the others
            problem = internal_problem(error, during="reading the spec and the model's config.json")
            rejected = Rejected(problems=(problem,))
            if self._bugs.get(record.uid) != rejected:
                logger.exception("%s: %s", record.key, problem.message)
            self._bugs[record.uid] = rejected
            return rejected
        self._bugs.pop(record.uid, None)
        return demand

    def _translated(self, uid: str, deployment: SLMDeployment) -> Demand | Rejected:
        """Translated once for each change of the spec, the model or the priority."""
        config = self._config(deployment)
        priority = self._priority(deployment)
        profile = self._profile(deployment)
        known = self._demands.get(uid)
        made_from = (deployment, config, priority, profile)
        if known is not None and known[0] == made_from:
            return known[1]
        model = config if isinstance(config, ModelUnknown) else _model(deployment, config)
        facts = Known(model=model, priority=priority, profile=profile)
        demand = translate(deployment, known=facts, engines=self._engines)
        self._demands[uid] = (made_from, demand)
        return demand

    def _config(self, deployment: SLMDeployment) -> Mapping[str, object] | ModelUnknown:
        model = deployment.spec.model
        if model.config is not None:
            return model.config
        return self._models.lookup(source=model.source, revision=model.revision)

    def _profile(self, deployment: SLMDeployment) -> Profile | Problem | None:
        """The profile that the spec refers to, or why there is none: that is said, and the plan does without."""
        ref = deployment.spec.profile_ref
        if ref is None:
            return None
        record = self._profiles.get(Key(deployment.metadata.namespace, ref.name))
        if record is not None and ref.key in record.profiles:
            return record.profiles[ref.key]
        message = (
            f"spec.profileRef: there is no ConfigMap {ref.name} with the label {PROFILE_LABEL} in this namespace"
            if record is None
            else f"spec.profileRef.key: ConfigMap {ref.name} has no key {ref.key}; "
            f"its keys are {', '.join(sorted(record.profiles)) or 'none'}"
        )
        return Problem(reason=Reason.PROFILE_UNUSABLE, field="spec.profileRef", message=message)

    def _priority(self, deployment: SLMDeployment) -> int:
        """A class that does not exist counts as 0: the API server will refuse the pod, and say so."""
        name = deployment.spec.pod.priority_class_name
        if name is not None:
            found = self._priorities.get(Key("", name))
            return found.value if found else 0
        return next((priority.value for priority in self._priorities.values() if priority.is_default), 0)


def _model(deployment: SLMDeployment, config: Mapping[str, object]) -> ModelProfile | ModelUnknown:
    args = deployment.spec.engine.args
    found = parse_model_config(config, dtype_override=args.get("dtype"), quantization_override=args.get("quantization"))
    if isinstance(found, UnknownLayout):
        return ModelUnknown(reason=Reason.UNKNOWN_LAYOUT, message=found.message)
    return found


def _chosen(node: NodeView | None, selector: Selector) -> NodeView | None:
    return node if node is not None and selector.matches(node.labels) else None
