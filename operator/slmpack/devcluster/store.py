"""The in-memory object store behind the embedded API server, and the fake behind the controller's ports in unit tests.

It keeps what clients rely on: uid, resourceVersion (it grows with every change), generation, optimistic concurrency,
watches that resume from a resourceVersion or end with 410, graceful deletion, finalizers, owner references.
A write that changes nothing is no write. Stored objects are never edited in place: a new dict replaces the old one, so
history and watchers may hold on to them. Not here, on purpose: CEL, pruning, paging, apply conflicts, RBAC, DRA.
"""

from __future__ import annotations

import itertools
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from slmpack.devcluster.errors import StatusError, already_exists, conflict, invalid, not_found
from slmpack.devcluster.events import to_core_event, to_new_event
from slmpack.devcluster.patches import apply_merge, clone, json_patch, merge_patch, owned_fields, strategic_merge
from slmpack.devcluster.resources import Json, Registry, Resource, Target
from slmpack.devcluster.scale import scale_of, with_scale
from slmpack.devcluster.strategy import absent_status, deletion_grace, prepare_create, prepare_update
from slmpack.devcluster.watches import Change, Patch, Watch, selection

__all__ = ["Store", "Validate", "timestamp"]

Validate = Callable[[Json], list[str]]
_CRDS = "customresourcedefinitions.apiextensions.k8s.io"
_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as metadata carries it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All objects of one cluster. `validate` judges custom objects; a non-empty answer is a 422."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        validate: Validate = lambda _: [],
        crds: Iterable[Json] = (),
        history: int = 5000,
    ) -> None:
        self.registry = Registry()
        self.clock = clock
        self.on_change: list[Callable[[Change], None]] = []
        self._validate = validate
        self._objects: dict[str, dict[tuple[str, str], Json]] = {}
        self._history: deque[Change] = deque(maxlen=history)
        self._watches: list[Watch] = []
        self._versions = itertools.count(1)
        self._version = 0
        self._dropped = 0
        self._unsettled: deque[Change] = deque()
        self._settling = False
        for name in _NAMESPACES:
            self.create(self.registry.parse("/api/v1/namespaces"), {"metadata": {"name": name}})
        for crd in crds:
            self.create(self.registry.parse("/apis/apiextensions.k8s.io/v1/customresourcedefinitions"), crd)

    # ---- reads

    @property
    def version(self) -> str:
        """The resourceVersion of the latest change."""
        return str(self._version)

    def get(self, target: Target) -> Json:
        """The stored object (never edit it), or its scale; 404 if absent."""
        obj = self._peek(target)
        if target.subresource == "scale":
            return scale_of(target.resource, obj)
        return to_new_event(obj) if target.resource.group == "events.k8s.io" else obj

    def items(self, target: Target, *, labels: str | None = None, fields: str | None = None) -> list[Json]:
        """Stored objects of a collection, by namespace and name."""
        matches = selection(target, labels, fields)
        found = [obj for _, obj in sorted(self._of(target.resource).items()) if matches(obj)]
        return [to_new_event(obj) for obj in found] if target.resource.group == "events.k8s.io" else found

    def watch(
        self, target: Target, *, since: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> Watch:
        """Changes after resourceVersion `since`; without one, first every present object as ADDED. 410 if too old."""
        watch = Watch(target, selection(target, labels, fields), self._watches.remove)
        if since in {None, "", "0"}:
            for obj in self.items(target, labels=labels, fields=fields):
                watch.put("ADDED", obj)
        else:
            if int(since or 0) < self._dropped:
                raise StatusError(410, "Expired", f"too old resource version: {since} ({self._dropped})")
            for change in self._history:
                if change.version > int(since or 0):
                    watch.offer(change)
        self._watches.append(watch)
        return watch

    def forget_history(self) -> None:
        """Answer 410 to every resume from before now, and end the open watches."""
        self._history.clear()
        self._dropped = self._version
        self.close_watches()

    def close_watches(self) -> None:
        """End every open watch."""
        for watch in self._watches:
            watch.close()

    # ---- writes

    def create(self, target: Target, body: Json) -> Json:
        """POST: 409 if the name is taken, 404 without its namespace, 422 if it is not valid."""
        resource = target.resource
        if resource.kind == "SelfSubjectAccessReview":
            return body | {"status": {"allowed": True}}
        if target.name is not None:
            return self._create_subresource(target, body)
        obj: Json = clone(to_core_event(body) if resource.group == "events.k8s.io" else body)
        meta = obj.setdefault("metadata", {})
        name = meta.get("name") or (meta["generateName"] + uuid.uuid4().hex[:5] if meta.get("generateName") else None)
        if name is None:
            raise invalid(resource.kind, "", ["metadata.name: Required value: name or generateName is required"])
        namespace = self._check_namespace(target, meta)
        if (namespace, name) in self._of(resource):
            raise already_exists(resource.key, name)
        obj |= {"apiVersion": "v1" if resource.key == "events" else resource.api_version, "kind": resource.kind}
        meta |= {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": timestamp(self.clock())}
        if namespace:
            meta["namespace"] = namespace
        for server_owned in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"):
            meta.pop(server_owned, None)
        prepare_create(resource, obj)
        if "spec" in obj:
            meta["generation"] = 1
        self._check_custom(resource, obj)
        return self._commit("ADDED", resource, obj, None)

    def replace(self, target: Target, body: Json) -> Json:
        """PUT: 409 if the body carries a resourceVersion or uid that is not the stored one."""
        old = self._peek(target)
        if target.subresource == "scale":
            return self._scaled(target, old, body)
        return self._update(target, old, clone(body))

    def patch(self, target: Target, patch: Patch) -> Json:
        """PATCH in any of the four media types; apply creates what is not there."""
        if patch.content_type == "application/apply-patch+yaml":
            return self._apply(target, patch)
        old = self._peek(target)
        before = scale_of(target.resource, old, absent=0) if target.subresource == "scale" else old
        if isinstance(patch.body, list):
            new = json_patch(before, patch.body)
        elif patch.content_type == "application/strategic-merge-patch+json":
            new = strategic_merge(before, patch.body)
        else:
            new = merge_patch(before, patch.body)
        return (
            self._scaled(target, old, new) if target.subresource == "scale" else self._update(target, old, clone(new))
        )

    def delete(
        self, target: Target, *, uid: str | None = None, version: str | None = None, grace: int | None = None
    ) -> Json:
        """DELETE: 409 on a failed precondition; a running pod is only marked, its kubelet ends it with grace 0."""
        obj = self._peek(target)
        meta = obj["metadata"]
        for what, asked, stored in (("UID", uid, meta["uid"]), ("ResourceVersion", version, meta["resourceVersion"])):
            if asked is not None and asked != stored:
                why = f"Precondition failed: {what} in precondition: {asked}, {what} in object meta: {stored}"
                raise conflict(target.resource.key, meta["name"], why)
        seconds = deletion_grace(target.resource, obj, grace)
        if seconds == 0 and not meta.get("finalizers"):
            return self._remove(target.resource, obj)
        if "deletionTimestamp" in meta and seconds >= meta.get("deletionGracePeriodSeconds", 0):
            return obj
        end = timestamp(self.clock() + timedelta(seconds=seconds))
        marks = {"deletionTimestamp": end, "deletionGracePeriodSeconds": seconds}
        return self._commit("MODIFIED", target.resource, obj | {"metadata": meta | marks}, obj)

    # ---- inside

    def _of(self, resource: Resource) -> dict[tuple[str, str], Json]:
        return self._objects.setdefault(resource.key, {})

    def _peek(self, target: Target) -> Json:
        obj = self._of(target.resource).get((target.namespace or "", target.name or ""))
        if obj is None:
            raise not_found(target.resource.key, target.name or "")
        return obj

    def _check_namespace(self, target: Target, meta: Json) -> str:
        if not target.resource.namespaced:
            return ""
        namespace = target.namespace or meta.get("namespace") or "default"
        if meta.get("namespace", namespace) != namespace:
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise StatusError(400, "BadRequest", text)
        found = self._objects.get("namespaces", {}).get(("", namespace))
        if found is None:
            raise not_found("namespaces", namespace)
        if "deletionTimestamp" in found["metadata"]:
            raise StatusError(
                403,
                "Forbidden",
                f"unable to create new content in namespace {namespace} because it is being terminated",
            )
        return str(namespace)

    def _check_custom(self, resource: Resource, obj: Json) -> None:
        problems = self._validate(obj) if resource.version_spec is not None else []
        if problems:
            raise invalid(resource.kind, obj["metadata"]["name"], problems)

    def _create_subresource(self, target: Target, body: Json) -> Json:
        if target.subresource == "eviction":
            options = body.get("deleteOptions") or {}
            self.delete(target, grace=options.get("gracePeriodSeconds"))
        elif target.subresource == "binding":
            pod = self._peek(target)
            spec = pod["spec"] | {"nodeName": body["target"]["name"]}
            self._commit("MODIFIED", target.resource, pod | {"spec": spec}, pod)
        else:
            raise StatusError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def _scaled(self, target: Target, old: Json, scale: Json) -> Json:
        changed = self._update(Target(resource=target.resource), old, with_scale(target.resource, old, scale))
        return scale_of(target.resource, changed)

    def _update(self, target: Target, old: Json, new: Json) -> Json:
        resource, meta = target.resource, new.setdefault("metadata", {})
        for name, label in (("uid", "uid"), ("resourceVersion", "the object has been modified")):
            if meta.get(name, old["metadata"][name]) != old["metadata"][name]:
                why = f"{label}; please apply your changes to the latest version and try again"
                raise conflict(resource.key, old["metadata"]["name"], why)
        kept = (
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "generation",
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        )
        for name in kept:
            meta.pop(name, None)
            if name in old["metadata"]:
                meta[name] = old["metadata"][name]
        if target.subresource == "status":
            metadata = old["metadata"] | {key: meta[key] for key in ("managedFields",) if key in meta}
            new = old | {"metadata": metadata, "status": new.get("status", absent_status(resource))}
        else:
            new |= {"apiVersion": old["apiVersion"], "kind": old["kind"]}
            prepare_update(resource, old, new)
            self._check_custom(resource, new)
        if _content(new) == _content(old):
            return old
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        ends_now = new["metadata"].get("deletionGracePeriodSeconds", 1) == 0
        if ends_now and not new["metadata"].get("finalizers"):
            return self._remove(resource, new)
        return self._commit("MODIFIED", resource, new, old)

    def _apply(self, target: Target, patch: Patch) -> Json:
        if not isinstance(patch.body, dict):
            raise StatusError(400, "BadRequest", "an apply patch is an object")
        old = self._of(target.resource).get((target.namespace or "", target.name or ""))
        part = {
            key: value for key, value in patch.body.items() if key not in {"apiVersion", "kind", "metadata", "status"}
        }
        meta = patch.body.get("metadata") or {}
        if target.subresource == "status":
            part = {"status": patch.body.get("status") or {}}
        else:
            part["metadata"] = {
                key: meta[key] for key in ("labels", "annotations", "ownerReferences", "finalizers") if key in meta
            }
        entry = {"manager": patch.field_manager, "operation": "Apply", "apiVersion": target.resource.api_version}
        if target.subresource:
            entry["subresource"] = target.subresource
        fields = entry | {"time": timestamp(self.clock()), "fieldsType": "FieldsV1", "fieldsV1": owned_fields(part)}
        if old is None:
            if target.subresource:
                raise not_found(target.resource.key, target.name or "")
            created = clone(patch.body) | {"metadata": clone(meta) | {"name": target.name, "managedFields": [fields]}}
            return self.create(Target(resource=target.resource, namespace=target.namespace), created)
        if meta.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise conflict(
                target.resource.key, target.name or "", "uid mismatch: the provided object specified another uid"
            )
        managed = old["metadata"].get("managedFields", [])
        mine = [item for item in managed if all(item.get(key) == value for key, value in entry.items())]
        others = [item for item in managed if item not in mine]
        before = mine[0]["fieldsV1"] if mine else {}
        new = apply_merge(old, part, before=before, others=[item["fieldsV1"] for item in others])
        new["metadata"] = new["metadata"] | {"managedFields": [*others, fields]}
        new["metadata"]["resourceVersion"] = meta.get("resourceVersion", old["metadata"]["resourceVersion"])
        return self._update(target, old, clone(new))

    def _remove(self, resource: Resource, obj: Json) -> Json:
        del self._of(resource)[obj["metadata"].get("namespace", ""), obj["metadata"]["name"]]
        for served in self.registry.remove_crd(obj) if resource.key == _CRDS else ():
            for stored in list(self._of(served).values()):
                self._remove(served, stored)
        return self._commit("DELETED", resource, obj, obj)

    def _commit(self, kind: str, resource: Resource, obj: Json, old: Json | None) -> Json:
        self._version = next(self._versions)
        obj = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self._version)}}
        if resource.key == _CRDS and kind != "DELETED":
            self.registry.add_crd(obj)
        if kind != "DELETED":
            self._of(resource)[obj["metadata"].get("namespace", ""), obj["metadata"]["name"]] = obj
        change = Change(version=self._version, kind=kind, resource=resource, obj=obj, old=old)
        if len(self._history) == self._history.maxlen:
            self._dropped = self._history[0].version
        self._history.append(change)
        for watch in self._watches:
            watch.offer(change)
        self._unsettled.append(change)
        self._settle()
        return obj

    def _settle(self) -> None:
        """Let garbage collection and `on_change` react, one change after the other, their own writes included."""
        if self._settling:
            return
        self._settling = True
        try:
            while self._unsettled:
                change = self._unsettled.popleft()
                self._collect(change)
                for react in self.on_change:
                    react(change)
        finally:
            self._settling = False

    def _everything(self) -> Iterator[tuple[Resource, Json]]:
        stored = {item.key: item for item in self.registry if item.group != "events.k8s.io"}
        for key, resource in stored.items():
            for obj in list(self._objects.get(key, {}).values()):
                yield resource, obj

    def _collect(self, change: Change) -> None:
        """Owner-reference and namespace garbage collection, in the background way of `kubectl delete`."""
        if change.kind == "DELETED":
            uid, name = change.obj["metadata"]["uid"], change.obj["metadata"]["name"]
            emptied = name if change.resource.key == "namespaces" else None
            living = {obj["metadata"]["uid"] for _, obj in self._everything()}
            for resource, obj in self._everything():
                owners = [owner["uid"] for owner in obj["metadata"].get("ownerReferences", [])]
                orphaned = uid in owners and not living.intersection(owners)
                if orphaned or (emptied and obj["metadata"].get("namespace") == emptied):
                    self._collect_one(resource, obj)

    def _collect_one(self, resource: Resource, obj: Json) -> None:
        meta = obj["metadata"]
        target = Target(resource=resource, namespace=meta.get("namespace"), name=meta["name"])
        if (meta.get("namespace", ""), meta["name"]) in self._of(resource):
            self.delete(target, uid=meta["uid"])


def _content(obj: Json) -> Json:
    """An object without what a write always touches: a write that changes no more than that is none."""
    metadata = obj["metadata"]
    managed = [
        {key: value for key, value in item.items() if key != "time"} for item in metadata.get("managedFields", [])
    ]
    return obj | {"metadata": metadata | {"managedFields": managed, "resourceVersion": None}}
