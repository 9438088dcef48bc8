"""Raw pods and nodes as the planner sees them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from slmpack.adapters.node_views import node_view, unread_node
from slmpack.adapters.partial import UNITS_MAX
from slmpack.adapters.selector import parse_selector
from slmpack.adapters.views import pod_view
from slmpack.devcluster.nodes import a100_mig_node, tainted, whole_node
from slmpack.domain.snapshot import PodPhase, PodView

STARTED = "2026-01-01T00:00:00Z"


def _pod(*, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    gpu = {"resources": {"requests": {"nvidia.com/gpu": "1", "cpu": "500m", "memory": "1Gi"}}}
    return {
        "metadata": {"namespace": "ns", "name": "p", "uid": "u", "creationTimestamp": STARTED, **meta},
        "spec": {"containers": [gpu], **(spec or {})},
        "status": {"phase": "Running", "startTime": STARTED, **(status or {})},
    }


def _view(**parts: Any) -> PodView:
    found = pod_view(_pod(**parts))
    assert found is not None
    return found


def _condition(kind: str, status: str, **rest: str) -> dict[str, str]:
    return {"type": kind, "status": status, "lastTransitionTime": STARTED, **rest}


def test_a_pod_without_gpu_and_label_is_nobodys() -> None:
    assert pod_view(_pod(spec={"containers": [{"resources": {"requests": {"cpu": "1"}}}]})) is None


def test_requests_are_what_the_scheduler_charges() -> None:
    def container(cpu: str, **rest: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu, "nvidia.com/gpu": "1"}}, **rest}

    spec = {
        "containers": [container("1"), container("1")],
        "initContainers": [container("3"), container("500m", restartPolicy="Always"), container("100m")],
        "overhead": {"cpu": "250m"},
    }
    assert _view(spec=spec).requests == {"cpu": 3250, "nvidia.com/gpu": 3}


@pytest.mark.parametrize(
    ("status", "was_ready"),
    [
        ({}, False),
        ({"conditions": [_condition("Ready", "True")]}, True),
        ({"conditions": [_condition("Ready", "False")]}, False),
        ({"conditions": [_condition("Ready", "False", lastTransitionTime="2026-01-01T00:01:00Z")]}, True),
        ({"containerStatuses": [{"started": True}]}, True),
        ({"containerStatuses": [{"started": False}]}, False),
    ],
)
def test_what_may_have_been_ready_counts_as_having_been(status: dict[str, Any], was_ready: bool) -> None:
    assert _view(status=status).was_ready is was_ready


def _terminated(**rest: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:02:00Z", **rest}}


def _waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ({"containerStatuses": [{"state": _waiting("ContainerCreating")}]}, ("", "", None)),
        (
            {"containerStatuses": [{"state": _waiting("ErrImagePull", "no such tag")}]},
            ("ErrImagePull", "no such tag", None),
        ),
        (
            {
                "containerStatuses": [
                    {"state": _waiting("CrashLoopBackOff", "back-off"), "lastState": _terminated(message="boom")}
                ]
            },
            ("CrashLoopBackOff", "boom", 1),
        ),
        (
            {
                "containerStatuses": [
                    {"state": _waiting("CrashLoopBackOff"), "lastState": _terminated(reason="OOMKilled", exitCode=137)}
                ]
            },
            ("OOMKilled", "", 137),
        ),
        ({"containerStatuses": [{"state": _terminated(message="bad flag")}]}, ("Error", "bad flag", 1)),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, ("Evicted", "low on memory", None)),
        ({"containerStatuses": [{"state": _terminated(exitCode=0, reason="Completed")}]}, ("", "", None)),
    ],
)
def test_the_most_specific_cause_is_named(status: dict[str, Any], cause: tuple[str, str, int | None]) -> None:
    view = _view(status=status)
    assert (view.reason, view.message, view.exit_code) == cause


def test_a_failed_pod_has_an_end() -> None:
    view = _view(status={"phase": "Failed", "containerStatuses": [{"state": _terminated()}]})
    assert view.phase is PodPhase.FAILED
    assert view.finished_at == datetime(2026, 1, 1, 0, 2, tzinfo=UTC)
    assert view.finished


def test_the_schedulers_words_are_kept() -> None:
    condition = _condition("PodScheduled", "False", reason="Unschedulable", message="0/3 nodes are available")
    view = _view(status={"phase": "Pending", "conditions": [condition]})
    assert view.unschedulable == "0/3 nodes are available"
    assert view.bound_at is None
    assert view.begun == view.created


def test_a_pod_begins_when_it_is_bound() -> None:
    view = _view(status={"phase": "Pending", "conditions": [_condition("PodScheduled", "True")]})
    assert view.unschedulable == ""
    assert (
        view.begun == view.bound_at == datetime.fromisoformat(_condition("PodScheduled", "True")["lastTransitionTime"])
    )


def test_a_pod_of_another_controller_is_a_stranger_whatever_its_labels_say() -> None:
    labels = {"slmpack.dev/name": "x"}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "r", "controller": True, "name": "r"}
    assert _view(labels=labels, ownerReferences=[owner]).record is None
    assert _view(labels=labels).record is None


def test_an_unreadable_pod_is_left_out() -> None:
    spec = {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "half"}}}]}
    assert pod_view(_pod(spec=spec)) is None


def test_nodes_with_gpus() -> None:
    raw = tainted(a100_mig_node("n", profiles={"1g.10gb": 7}))
    raw["metadata"] |= {"uid": "u", "creationTimestamp": STARTED}
    node = node_view(raw)
    assert node is not None
    assert (node.name, node.ready, node.unschedulable) == ("n", True, False)
    assert node.allocatable["nvidia.com/mig-1g.10gb"] == 7
    assert node.allocatable["cpu"] == 31_500
    assert [(taint.key, taint.effect) for taint in node.taints] == [("nvidia.com/gpu", "NoSchedule")]


def test_a_node_without_gpu_is_left_out_but_one_that_lost_its_gpus_is_not() -> None:
    raw = whole_node("n")
    raw["metadata"] |= {"creationTimestamp": STARTED}
    raw["status"]["allocatable"].pop("nvidia.com/gpu")
    assert node_view(raw) is not None
    raw["metadata"]["labels"] = {}
    assert node_view(raw) is None


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ("1e9", "status.allocatable has 1000000000 nvidia.com/gpu; a node has at most 3072"),
        (3073, "a node has at most 3072"),
        (None, "nvidia.com/gpu: None is not a Kubernetes quantity"),
        (True, "nvidia.com/gpu: True is not a Kubernetes quantity"),
    ],
)
def test_a_number_of_gpus_that_cannot_be_makes_no_view(
    units: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    node = whole_node("n", gpus=1)
    node["metadata"]["creationTimestamp"] = STARTED
    node["status"]["allocatable"]["nvidia.com/gpu"] = units
    assert node_view(node) is None
    assert said in caplog.text
    assert "pydantic" not in caplog.text
    node["status"]["allocatable"]["nvidia.com/gpu"] = UNITS_MAX
    assert node_view(node) is not None


def test_a_node_of_ours_that_cannot_be_read_is_told_of() -> None:
    node = whole_node("n", gpus=1)
    node["metadata"]["creationTimestamp"] = STARTED
    assert unread_node(node) is None
    node["status"]["allocatable"]["nvidia.com/gpu"] = "1e9"
    said = "node n: status.allocatable has 1000000000 nvidia.com/gpu; a node has at most 3072"
    assert unread_node(node) == said
    assert unread_node(node, of=parse_selector("team=a")) is None, "not ours"
    node["metadata"]["labels"] = {"team": "a"}
    assert unread_node(node, of=parse_selector("team=a")) == said
    node["metadata"]["labels"], node["status"]["allocatable"] = 3, {"cpu": "many"}
    assert unread_node(node) is None, "nothing says that it has GPUs"


def test_a_field_of_another_type_is_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert node_view({"metadata": {"name": "n", "creationTimestamp": STARTED, "labels": 3}}) is None
    assert "metadata.labels: Input should be a valid dictionary, not 3" in caplog.text
    assert "errors.pydantic.dev" not in caplog.text


def test_a_pod_asks_for_no_more_than_a_node_can_have() -> None:
    container = {"resources": {"requests": {"nvidia.com/gpu": "1e9", "memory": "1Ti"}}}
    assert _view(spec={"containers": [container, container]}).requests == {
        "nvidia.com/gpu": UNITS_MAX,
        "memory": 2 * 1024**4,
    }
