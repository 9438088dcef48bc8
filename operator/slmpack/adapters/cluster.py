"""The writes of a cycle: each is done only where it is ours to do, and its answer goes into the store at once.

So the next cycle sees what this one wrote, whether or not the watch has told of it yet. A surprise (404, 409) or no
answer at all makes the kind suspect: it is listed anew before the next plan. Each is over, one way or the other, before
another operator can have the Lease (adapters.lease).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from slmpack.adapters.lease import WRITE_SECONDS
from slmpack.adapters.observe import Observer
from slmpack.adapters.resources import EVENTS, PODS, SLM_DEPLOYMENTS, Resource, resource_of
from slmpack.adapters.views import controller_uid
from slmpack.domain.snapshot import Key
from slmpack.ports import Conflict, Forbidden, Invalid, Manifest, NotFound, PortError, Unavailable
from slmpack.render.names import ENDED, MANAGER

__all__ = ["KubeCluster", "Writer"]

logger = logging.getLogger(__name__)

APPLIED = "slmpack.dev/applied"
"""Annotation: hash of the manifest that we applied, so that a field that we no longer set is noticed."""


class Writer(Protocol):
    """The writes, and the one read, that this needs; `KubeClient` is one."""

    async def get(self, path: str) -> dict[str, Any]:
        """One object."""
        ...

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST to a collection."""
        ...

    async def apply(self, path: str, body: dict[str, Any], *, field_manager: str, force: bool = True) -> dict[str, Any]:
        """Server-side apply."""
        ...

    async def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Merge patch."""
        ...

    async def delete(self, path: str, *, uid: str | None = None) -> None:
        """DELETE with a uid precondition."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A status as we wrote it, and as the API server has kept it; both without times."""

    wanted: Mapping[str, Any]
    kept: Mapping[str, Any]


class KubeCluster:
    """`ports.Cluster` on an API server."""

    def __init__(self, client: Writer, observer: Observer) -> None:
        self._client = client
        self._observer = observer
        self._ended: set[str] = set()
        self._sent: dict[str, _Sent] = {}
        self._bent: dict[str, tuple[str, str]] = {}
        """By path: hash and resourceVersion of what the API server keeps otherwise than we applied it."""

    async def create(self, manifest: Manifest) -> bool:
        """POST; a name that our own owner has taken already is what we wanted."""
        resource = resource_of(manifest["kind"])
        meta = manifest["metadata"]
        is_new = True
        async with self._watchful(resource):
            try:
                made = await self._client.create(resource.path(namespace=meta["namespace"]), dict(manifest))
            except Conflict:
                path = resource.path(namespace=meta["namespace"], name=meta["name"])
                made = await self._client.get(path)
                if controller_uid(made) != controller_uid(manifest):
                    self._observer.put(resource, made)
                    raise
                is_new = False
        self._observer.put(resource, made)
        return is_new

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply where the present object differs; what is kept otherwise is not applied again for that."""
        resource = resource_of(manifest["kind"])
        meta = manifest["metadata"]
        wanted = _stamped(manifest)
        path = resource.path(namespace=meta["namespace"], name=meta["name"])
        stamp = wanted["metadata"]["annotations"][APPLIED]
        present = self._observer.service(Key(meta["namespace"], meta["name"]))
        if present is not None and (
            _covers(present.manifest, _content(wanted)) or self._bent.get(path) == (stamp, present.version)
        ):
            return
        owner = controller_uid(manifest)
        async with self._watchful(resource):
            if present is None:
                await self._refuse_foreign(path, owner=owner)
            elif present.controller_uid != owner:
                raise Conflict(f"{manifest['kind']} {meta['name']!r} exists and is not ours", status=409)
            else:
                wanted = {**wanted, "metadata": {**wanted["metadata"], "uid": present.uid}}
            # Without force, whoever makes an object of that name right now keeps it.
            made = await self._client.apply(path, wanted, field_manager=MANAGER, force=present is not None)
        self._observer.put(resource, made)
        if _covers(made, _content(wanted)):
            self._bent.pop(path, None)
            return
        if path not in self._bent:
            logger.warning("%s %s/%s is kept otherwise than applied", manifest["kind"], meta["namespace"], meta["name"])
        self._bent[path] = (stamp, str(made["metadata"]["resourceVersion"]))

    async def delete(self, *, kind: str, namespace: str, name: str, uid: str) -> None:
        """DELETE this very object; already gone, or another of that name, is success."""
        resource = resource_of(kind)
        async with self._watchful(resource):
            try:
                await self._client.delete(resource.path(namespace=namespace, name=name), uid=uid)
            except (NotFound, Conflict):
                self._observer.suspect(resource)
                return
        if resource is PODS:
            self._observer.forget_pod(Key(namespace, name), uid=uid)

    async def end_pod(self, *, namespace: str, name: str, uid: str, reason: str) -> None:
        """An active deadline in the past: the kubelet fails the pod, and its log stays. Asked for once a pod."""
        if uid in self._ended:
            return
        body = {"metadata": {"uid": uid, "annotations": {ENDED: reason}}, "spec": {"activeDeadlineSeconds": 1}}
        async with self._watchful(PODS):
            try:
                ended = await self._client.patch(PODS.path(namespace=namespace, name=name), body)
            except (NotFound, Conflict):
                self._observer.suspect(PODS)
                return
        self._ended = {uid, *(self._ended & self._observer.pod_uids)}
        self._observer.put(PODS, ended)

    async def patch_pod(self, *, namespace: str, name: str, patch: Manifest) -> bool:
        """Merge patch; False if the pod with the patch's uid is gone."""
        async with self._watchful(PODS):
            try:
                patched = await self._client.patch(PODS.path(namespace=namespace, name=name), dict(patch))
            except (NotFound, Conflict):
                self._observer.suspect(PODS)
                return False
        self._observer.put(PODS, patched)
        return True

    async def apply_status(self, *, namespace: str, name: str, uid: str, status: Manifest) -> bool:
        """Written only where it differs in more than the times of conditions.

        What the API server keeps otherwise (a field that its schema lacks, one that somebody else holds) stays so: the
        same status is not sent again for that.
        """
        present, wanted = _timeless(self._observer.status_of(Key(namespace, name))), _timeless(status)
        before = self._sent.get(uid)
        same = before is not None and before.wanted == wanted and (before.kept == present or _covers(present, wanted))
        if same or present == wanted:
            return False
        body = {
            "apiVersion": SLM_DEPLOYMENTS.api_version,
            "kind": SLM_DEPLOYMENTS.kind,
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": dict(status),
        }
        path = SLM_DEPLOYMENTS.path(namespace=namespace, name=name, subresource="status")
        async with self._watchful(SLM_DEPLOYMENTS):
            written = await self._client.apply(path, body, field_manager=MANAGER)
        self._observer.put(SLM_DEPLOYMENTS, written)
        kept = _timeless(written.get("status") or {})
        if not _covers(kept, wanted) and (before is None or _covers(before.kept, before.wanted)):
            logger.warning(
                "%s/%s: the API server keeps another status than was written; is the CRD older?", namespace, name
            )
        alive = self._observer.deployment_uids
        self._sent = {of: sent for of, sent in self._sent.items() if of in alive}
        self._sent[uid] = _Sent(wanted=wanted, kept=kept)
        return True

    async def post_event(self, event: Manifest) -> None:
        """POST an Event."""
        async with _in_time():
            await self._client.create(EVENTS.path(namespace=event["metadata"]["namespace"]), dict(event))

    async def _refuse_foreign(self, path: str, *, owner: str) -> None:
        """What lacks our label is not in the store, and may be there all the same."""
        try:
            present = await self._client.get(path)
        except NotFound:
            return
        if controller_uid(present) != owner:
            raise Conflict(f"{present.get('kind')} {present['metadata']['name']!r} exists and is not ours", status=409)

    @asynccontextmanager
    async def _watchful(self, resource: Resource) -> AsyncIterator[None]:
        try:
            async with _in_time():
                yield
        except (Forbidden, Invalid):
            raise
        except PortError:
            self._observer.suspect(resource)
            raise


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            yield
    except TimeoutError as error:
        raise Unavailable(f"the write had no answer within {WRITE_SECONDS:g} s") from error


def _stamped(manifest: Manifest) -> dict[str, Any]:
    text = json.dumps(manifest, sort_keys=True, default=dict)
    meta = dict(manifest["metadata"])
    meta["annotations"] = {**meta.get("annotations", {}), APPLIED: hashlib.sha256(text.encode()).hexdigest()[:12]}
    return {**manifest, "metadata": meta}


def _content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """All but what the path says already: the items of a LIST of a built-in kind do not repeat it."""
    return {key: value for key, value in manifest.items() if key not in {"apiVersion", "kind"}}


def _covers(present: object, wanted: object) -> bool:
    """Whether everything that is wanted is there; what else there is, the API server or somebody else has set."""
    match wanted:
        case Mapping():
            return isinstance(present, Mapping) and all(
                key in present and _covers(present[key], value) for key, value in wanted.items()
            )
        case list() | tuple():
            if not isinstance(present, list) or len(present) != len(wanted):
                return False
            return all(_covers(*pair) for pair in zip(present, wanted, strict=True))
        case _:
            return present == wanted


def _timeless(status: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions by their type, without their times."""
    conditions = {
        str(condition.get("type")): {key: value for key, value in condition.items() if key != "lastTransitionTime"}
        for condition in status.get("conditions") or ()
    }
    return {**status, "conditions": conditions}
