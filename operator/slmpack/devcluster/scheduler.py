"""The embedded cluster's scheduler: binds a pod to the node its affinity names if allocatable allows.

It filters by required node affinity, nodeSelector, taints and resources, and takes the first node left, by name. No
scoring, priority or preemption: on the real control plane the real scheduler binds.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

from slmpack.devcluster.quantity import parse_number
from slmpack.devcluster.resources import Target
from slmpack.devcluster.store import Store, timestamp
from slmpack.devcluster.watches import Change

__all__ = ["Scheduler", "pod_requests"]

Json = dict[str, Any]


def pod_requests(pod: Json) -> dict[str, Fraction]:
    """What a pod takes of a node: the sum over its containers (a limit stands for a missing request), and one pod."""
    result: dict[str, Fraction] = {"pods": Fraction(1)}
    for container in pod["spec"].get("containers", []):
        resources = container.get("resources") or {}
        for name, value in ((resources.get("limits") or {}) | (resources.get("requests") or {})).items():
            result[name] = result.get(name, Fraction(0)) + parse_number(value)
    return result


def _expression(value: str | None, expression: Json) -> bool:
    operator, values = expression["operator"], expression.get("values", [])
    if operator in {"Gt", "Lt"}:
        return value is not None and (int(value) > int(values[0])) is (operator == "Gt")
    answers = {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return answers[operator]


def _matches_affinity(pod: Json, node: Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return False
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not affinity:
        return True
    return any(
        all(_expression(labels.get(item["key"]), item) for item in term.get("matchExpressions", []))
        and all(_expression(node["metadata"]["name"], item) for item in term.get("matchFields", []))
        for term in affinity["nodeSelectorTerms"]
        if term.get("matchExpressions") or term.get("matchFields")
    )


def _tolerates(pod: Json, taint: Json) -> bool:
    for item in pod["spec"].get("tolerations") or []:
        same_effect = item.get("effect") in {None, "", taint["effect"]}
        same_key = (
            item.get("key") in {None, "", taint["key"]}
            if item.get("operator") == "Exists"
            else item.get("key") == taint["key"]
        )
        same_value = item.get("operator") == "Exists" or item.get("value", "") == taint.get("value", "")
        if same_effect and same_key and same_value:
            return True
    return False


class Scheduler:
    """Reacts to the store's changes; a pod that fits nowhere is told why in its PodScheduled condition."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pods = store.registry.by_plural("", "v1", "pods")
        self._nodes = store.registry.by_plural("", "v1", "nodes")
        self._events = store.registry.by_plural("", "v1", "events")
        store.on_change.append(self._react)

    def _react(self, change: Change) -> None:
        if change.resource.key == "pods":
            if change.kind == "ADDED":
                self._schedule(change.obj, self._used())
            elif change.kind == "DELETED" or (_has_ended(change.obj) and not _has_ended(change.old or change.obj)):
                self._schedule_waiting()
        elif change.resource.key == "nodes" and _offer(change.obj) != _offer(change.old):
            self._schedule_waiting()

    def _schedule_waiting(self) -> None:
        waiting = [pod for pod in self._store.items(Target(resource=self._pods)) if _is_waiting(pod)]
        used = self._used() if waiting else {}
        for pod in sorted(
            waiting, key=lambda item: (-item["spec"].get("priority", 0), int(item["metadata"]["resourceVersion"]))
        ):
            self._schedule(pod, used)

    def _used(self) -> dict[str, Counter[str]]:
        used: dict[str, Counter[str]] = {}
        for pod in self._store.items(Target(resource=self._pods)):
            node = pod["spec"].get("nodeName")
            if node and not _has_ended(pod):
                used.setdefault(node, Counter()).update(pod_requests(pod))
        return used

    def _schedule(self, pod: Json, used: dict[str, Counter[str]]) -> None:
        if not _is_waiting(pod):
            return
        reasons: Counter[str] = Counter()
        nodes = self._store.items(Target(resource=self._nodes))
        for node in nodes:
            reason = _refusal(pod, node, used.get(node["metadata"]["name"], Counter()))
            if reason is None:
                used.setdefault(node["metadata"]["name"], Counter()).update(pod_requests(pod))
                self._bind(pod, node["metadata"]["name"])
                return
            reasons[reason] += 1
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        text = f"0/{len(nodes)} nodes are available: {listed or 'no nodes registered'}."
        self._condition(pod, {"status": "False", "reason": "Unschedulable", "message": text})
        self._event(pod, ("Warning", "FailedScheduling", text))

    def _bind(self, pod: Json, node: str) -> None:
        meta = pod["metadata"]
        target = Target(resource=self._pods, namespace=meta["namespace"], name=meta["name"], subresource="binding")
        self._store.create(target, {"target": {"kind": "Node", "name": node}})
        self._condition(self._store.get(target), {"status": "True"})
        text = f"Successfully assigned {meta['namespace']}/{meta['name']} to {node}"
        self._event(pod, ("Normal", "Scheduled", text))

    def _condition(self, pod: Json, condition: Json) -> None:
        meta = pod["metadata"]
        others = [item for item in pod["status"].get("conditions", []) if item["type"] != "PodScheduled"]
        old: Json = next((item for item in pod["status"].get("conditions", []) if item["type"] == "PodScheduled"), {})
        if {key: old.get(key) for key in ("status", "message")} == {
            key: condition.get(key) for key in ("status", "message")
        }:
            return
        now = timestamp(self._store.clock())
        new = {"type": "PodScheduled", "lastProbeTime": None, "lastTransitionTime": now} | condition
        target = Target(resource=self._pods, namespace=meta["namespace"], name=meta["name"], subresource="status")
        self._store.replace(target, {"metadata": {}, "status": pod["status"] | {"conditions": [*others, new]}})

    def _event(self, pod: Json, what: tuple[str, str, str]) -> None:
        now, meta = timestamp(self._store.clock()), pod["metadata"]
        kind, reason, message = what
        regarding = {"apiVersion": "v1", "kind": "Pod"} | {key: meta[key] for key in ("name", "namespace", "uid")}
        event: Json = {"metadata": {"generateName": f"{meta['name']}."}, "involvedObject": regarding, "type": kind}
        event |= {"reason": reason, "message": message, "firstTimestamp": now, "lastTimestamp": now, "count": 1}
        event["source"] = {"component": "default-scheduler"}
        self._store.create(Target(resource=self._events, namespace=meta["namespace"]), event)


def _has_ended(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _is_waiting(pod: Json) -> bool:
    return not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"] and not _has_ended(pod)


def _offer(node: Json | None) -> object:
    if node is None:
        return None
    return node["spec"], node["metadata"].get("labels"), node.get("status", {}).get("allocatable")


def _refusal(pod: Json, node: Json, used: Counter[str]) -> str | None:
    """Why this node does not take the pod, in the scheduler's words; None if it does."""
    if node["spec"].get("unschedulable"):
        return "node(s) were unschedulable"
    for taint in node["spec"].get("taints") or []:
        if taint["effect"] != "PreferNoSchedule" and not _tolerates(pod, taint):
            return f"node(s) had untolerated taint(s) {{{taint['key']}: {taint.get('value', '')}}}"
    if not _matches_affinity(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    allocatable = node.get("status", {}).get("allocatable", {})
    for name, amount in sorted(pod_requests(pod).items()):
        if parse_number(allocatable.get(name, 0)) - used[name] < amount:
            return "Too many pods" if name == "pods" else f"Insufficient {name}"
    return None
