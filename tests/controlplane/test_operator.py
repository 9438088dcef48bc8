"""The operator process on the real control plane: what it makes, what it leaves alone, and how it gets over faults."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.api.crd import render_crd
from slmpack.devcluster.nodes import a100_mig_node, whole_node
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.operator import Operator, eventually, operator_account, playing_nodes

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from tests.support.control_plane import ControlPlane, MutatingRequest

    Start = Callable[..., Operator]

EXAMPLE = Path(__file__).parents[2] / "examples" / "qwen2.5-1.5b.yaml"
NAME = "qwen2-5-1-5b"
SLM = "/apis/slmpack.dev/v1alpha1"


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl("apply", "--server-side", "-f", "-", input=render_crd())
    eventually(lambda: control_plane.kubectl("get", "slm", "-A", check=False).returncode == 0)
    nodes = [whole_node("op-l4", gpus=2), a100_mig_node("op-a100", profiles={"1g.10gb": 7})]
    with playing_nodes(control_plane, nodes):
        yield control_plane


@pytest.fixture
def namespace(cluster: ControlPlane) -> Iterator[str]:
    name = cluster.new_namespace("operator")
    yield name
    cluster.kubectl("delete", "slm", "--all", "-n", name)
    cluster.kubectl("delete", "pods", "--all", "-n", name, "--force", "--grace-period=0")
    # Left to the garbage collector, they go whenever it has learnt of the CRD; its writes would count in the next test.
    cluster.kubectl("delete", "services", "--all", "-n", name)


@pytest.fixture
def system(cluster: ControlPlane) -> str:
    return cluster.new_namespace("system")


@pytest.fixture
def start(cluster: ControlPlane, namespace: str, system: str, tmp_path: Path) -> Iterator[Start]:
    """Starts operators of one account, which reconcile the test's namespace."""
    token = operator_account(cluster, system=system, namespace=namespace)
    started: list[Operator] = []

    def make(*, server: str | None = None, policy: dict[str, Any] | None = None, **config: Any) -> Operator:
        kubeconfig = cluster.kubeconfig(token, user="slmpack", server=server)
        given = {"kubeconfig": str(kubeconfig), "namespace": namespace, "lease_namespace": system, **config}
        started.append(Operator(given, log=tmp_path / f"operator-{len(started)}.log", policy=policy))
        return started[-1]

    yield make
    for operator in started:
        operator.__exit__()


@pytest.fixture
def proxy(cluster: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy.in_front_of(cluster) as running:
        yield running


def _pods(cluster: ControlPlane, namespace: str) -> dict[str, str]:
    """Name and uid of those that are not ending: an engine may drain for half a minute."""
    metas = [item["metadata"] for item in cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]]
    return {meta["name"]: meta["uid"] for meta in metas if "deletionTimestamp" not in meta}


def _status(cluster: ControlPlane, namespace: str) -> dict[str, Any]:
    found = cluster.request("GET", f"{SLM}/namespaces/{namespace}/slmdeployments/{NAME}")
    status: dict[str, Any] = found.get("status", {})
    return status


def _apply_example(cluster: ControlPlane, namespace: str, *, ready: str = "3/3") -> dict[str, str]:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    eventually(lambda: _status(cluster, namespace).get("ready") == ready, seconds=60, what=ready)
    return _pods(cluster, namespace)


def _more_turns(cluster: ControlPlane, operator: Operator, count: int = 2) -> None:
    """Make it turn, by a label that nothing depends on."""
    wanted = operator.turns() + count

    def nudged() -> bool:
        cluster.kubectl("label", "node", "op-l4", f"example.com/beat={time.monotonic_ns()}", "--overwrite")
        return operator.turns() >= wanted

    eventually(nudged, seconds=60 + 2 * count, what=operator.log)


def _ours(before: Counter[MutatingRequest], after: Counter[MutatingRequest]) -> dict[MutatingRequest, int]:
    """Writes of kinds that the operator writes and nobody else does here."""
    kinds = {"pods", "services", "slmdeployments"}
    changed = after - before
    return {
        request: count
        for request, count in changed.items()
        if (request.resource in kinds or request.group == "events.k8s.io") and request.subresource in {"", "status"}
    }


def test_an_example_becomes_ready_and_the_process_ends_cleanly(
    cluster: ControlPlane, namespace: str, start: Start
) -> None:
    operator = start()
    operator.wait_ready()
    pods = _apply_example(cluster, namespace)
    assert set(pods) == {f"{NAME}-0", f"{NAME}-1", f"{NAME}-2"}
    service = cluster.request("GET", f"/api/v1/namespaces/{namespace}/services/{NAME}")
    assert service["spec"]["selector"] == {"slmpack.dev/name": NAME}
    events = cluster.request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
    said = {event["reason"] for event in events if event["regarding"]["kind"] == "SLMDeployment"}
    assert {"Created", "AllReady"} <= said
    deployment = cluster.request("GET", f"{SLM}/namespaces/{namespace}/slmdeployments/{NAME}")
    assert "finalizers" not in deployment["metadata"]
    assert not any("kopf" in key for key in deployment["metadata"]["annotations"])
    assert operator.get("/healthz")[0] == 200
    assert f'slmpack_replicas{{name="{NAME}",namespace="{namespace}",state="ready"}} 3.0' in operator.get("/metrics")[1]
    assert operator.terminate() < 5
    assert operator.process.returncode == 0, operator.log
    assert "Traceback" not in operator.log


def test_the_lease_is_given_back_at_the_end(cluster: ControlPlane, system: str, start: Start) -> None:
    operator = start()
    operator.wait_ready()
    operator.terminate()
    lease = cluster.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{system}/leases/slmpack")
    assert not lease["spec"].get("holderIdentity")


def test_scaling_and_deleting(cluster: ControlPlane, namespace: str, start: Start) -> None:
    start().wait_ready()
    before = _apply_example(cluster, namespace)
    cluster.kubectl("scale", "slm", NAME, "-n", namespace, "--replicas=1")
    eventually(lambda: _status(cluster, namespace).get("ready") == "1/1", seconds=60)
    eventually(lambda: len(_pods(cluster, namespace)) == 1, seconds=60)
    assert _pods(cluster, namespace).items() <= before.items()
    cluster.kubectl("delete", "slm", NAME, "-n", namespace)
    eventually(lambda: not _pods(cluster, namespace), seconds=60)


def test_an_unchanged_world_is_not_written_to(cluster: ControlPlane, namespace: str, start: Start) -> None:
    operator = start()
    operator.wait_ready()
    _apply_example(cluster, namespace)
    _more_turns(cluster, operator, 1)
    written = []
    for _ in range(3):  # a late write of the garbage collector spoils one count; an operator that writes spoils all
        before = cluster.mutating_requests()
        _more_turns(cluster, operator, 100)
        written.append(_ours(before, cluster.mutating_requests()))
        if not written[-1]:
            return
    raise AssertionError(f"writes in each of three times 100 turns: {written}")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"bundled_models": False}, id="the-model-source-is-down"),
        pytest.param({"policy": {"render_version": "2"}}, id="another-renderer"),
        pytest.param({"policy": {"default_max_model_len": 4096}}, id="another-default"),
    ],
)
def test_a_restart_changes_no_pod(cluster: ControlPlane, namespace: str, start: Start, change: dict[str, Any]) -> None:
    first = start()
    first.wait_ready()
    before = _apply_example(cluster, namespace)
    first.terminate()
    second = start(**change)
    second.wait_ready()
    _more_turns(cluster, second)
    assert _pods(cluster, namespace) == before, second.log


PROFILE = """
apiVersion: slmpack.dev/v1alpha1
kind: Profile
model: Qwen/Qwen2.5-1.5B-Instruct
gpu: a100-sxm4-80gb
input_tokens: 512
output_tokens: 256
points:
- {concurrency: 1, throughput_tok_s: 160, itl_s: 0.006}
- {concurrency: 64, throughput_tok_s: 5000, itl_s: 0.0125}
"""


def test_a_profile_calibrates_the_decision_and_restarts_nothing(
    cluster: ControlPlane, namespace: str, start: Start
) -> None:
    start().wait_ready()
    before = _apply_example(cluster, namespace)

    def basis() -> str:
        return str(_status(cluster, namespace)["decisions"][0]["basis"])

    assert basis() == "modelled"
    patch = '{"spec": {"profileRef": {"name": "measured"}}}'
    cluster.kubectl("patch", "slm", NAME, "-n", namespace, "--type=merge", "-p", patch)
    missing = "spec.profileRef: there is no ConfigMap measured"
    eventually(lambda: missing in str(_status(cluster, namespace)["decisions"]), seconds=60, what=missing)
    cluster.kubectl("create", "configmap", "measured", "-n", namespace, f"--from-literal=profile.yaml={PROFILE}")
    cluster.kubectl("label", "configmap", "measured", "-n", namespace, "slmpack.dev/profile=true")
    eventually(lambda: basis() == "calibrated", seconds=60, what="calibrated")
    assert _pods(cluster, namespace) == before


def test_a_killed_operator_leaves_nothing_to_clean_up(cluster: ControlPlane, namespace: str, start: Start) -> None:
    first = start()
    first.wait_ready()
    before = _apply_example(cluster, namespace)
    first.process.kill()
    second = start()
    second.wait_ready(seconds=60)
    _more_turns(cluster, second)
    assert _pods(cluster, namespace) == before, second.log


def test_nodes_without_allocatable_end_nothing(cluster: ControlPlane, namespace: str, start: Start) -> None:
    operator = start()
    operator.wait_ready()
    before = _apply_example(cluster, namespace)
    path = "/api/v1/nodes/op-a100/status"
    node = cluster.request("GET", "/api/v1/nodes/op-a100")
    empty = copy.deepcopy(node)
    for field in ("capacity", "allocatable"):
        empty["status"][field]["nvidia.com/mig-1g.10gb"] = "0"
    empty["metadata"].pop("resourceVersion")
    cluster.request("PUT", path, body=empty)
    operator.terminate()
    second = start()
    second.wait_ready()
    _more_turns(cluster, second)
    assert _pods(cluster, namespace) == before, second.log
    node["metadata"].pop("resourceVersion")
    cluster.request("PUT", path, body=node)


def test_a_restart_with_a_stale_list_ends_and_doubles_nothing(
    cluster: ControlPlane, namespace: str, start: Start, proxy: FaultProxy
) -> None:
    first = start()
    first.wait_ready()
    stale = cluster.request("GET", "/api/v1/pods")
    before = _apply_example(cluster, namespace)
    first.terminate()
    fault = proxy.add(Fault(path="/pods$", method="GET", watch=False, body=stale))
    second = start(server=proxy.url)
    second.wait_ready()
    _more_turns(cluster, second)
    assert fault.hits > 0
    assert _pods(cluster, namespace) == before, second.log


def test_a_pod_deleted_while_watches_get_410_is_replaced(
    cluster: ControlPlane, namespace: str, start: Start, proxy: FaultProxy
) -> None:
    operator = start(server=proxy.url)
    operator.wait_ready()
    before = _apply_example(cluster, namespace)
    proxy.add(Fault(path="/pods$", watch=True, status=410, as_event=True, times=3))
    proxy.add(Fault(path="/pods$", watch=True, status=503, delay_seconds=0.2))
    proxy.cut_watches()
    cluster.kubectl("delete", "pod", f"{NAME}-1", "-n", namespace, "--force", "--grace-period=0")
    eventually(lambda: _pods(cluster, namespace).get(f"{NAME}-1", "") not in {"", before[f"{NAME}-1"]}, seconds=60)
    proxy.clear()
    eventually(lambda: _status(cluster, namespace).get("ready") == "3/3", seconds=60, what=operator.log)
    after = _pods(cluster, namespace)
    kept = {name: uid for name, uid in before.items() if name != f"{NAME}-1"}
    assert kept.items() <= after.items()
    assert len(after) == 3


def test_an_api_server_that_is_down_neither_ends_nor_confuses_the_operator(
    cluster: ControlPlane, namespace: str, start: Start, proxy: FaultProxy
) -> None:
    operator = start(server=proxy.url)
    operator.wait_ready()
    before = _apply_example(cluster, namespace)
    proxy.refuse()
    eventually(lambda: operator.get("/readyz")[0] == 503, seconds=60)
    assert operator.get("/healthz")[0] == 200
    proxy.accept()
    eventually(lambda: operator.get("/readyz")[0] == 200, seconds=60, what=operator.log)
    _more_turns(cluster, operator)
    assert _pods(cluster, namespace) == before


def test_errors_and_lost_replies_double_nothing(
    cluster: ControlPlane, namespace: str, start: Start, proxy: FaultProxy
) -> None:
    operator = start(server=proxy.url)
    operator.wait_ready()
    proxy.add(Fault(path="/pods$", method="POST", drop_reply=True, times=2))
    proxy.add(Fault(path="/pods$", method="POST", status=429, times=2))
    proxy.add(Fault(path="/status$", method="PATCH", status=503, times=2))
    pods = _apply_example(cluster, namespace)
    assert set(pods) == {f"{NAME}-0", f"{NAME}-1", f"{NAME}-2"}, operator.log
    assert _status(cluster, namespace)["reason"] == "AllReady"


def test_a_quota_is_reported_in_the_api_servers_words(cluster: ControlPlane, namespace: str, start: Start) -> None:
    operator = start()
    operator.wait_ready()
    quota = {"metadata": {"name": "one"}, "spec": {"hard": {"pods": "1"}}}
    cluster.request("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", body=quota)
    path = f"/api/v1/namespaces/{namespace}/resourcequotas/one"
    eventually(lambda: cluster.request("GET", path).get("status", {}).get("hard"))
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    eventually(lambda: _status(cluster, namespace).get("ready") == "1/3", seconds=60, what=operator.log)
    status = _status(cluster, namespace)
    assert status["reason"] == "CreateRefused"
    ready = next(condition for condition in status["conditions"] if condition["type"] == "Ready")
    assert "exceeded quota: one" in ready["message"]


def test_a_foreign_service_is_not_taken_over(cluster: ControlPlane, namespace: str, start: Start) -> None:
    operator = start()
    operator.wait_ready()
    cluster.kubectl("create", "service", "clusterip", NAME, "--tcp=80", "-n", namespace)
    theirs = cluster.request("GET", f"/api/v1/namespaces/{namespace}/services/{NAME}")
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    eventually(lambda: _status(cluster, namespace).get("reason") == "NameConflict", seconds=60, what=operator.log)
    assert cluster.request("GET", f"/api/v1/namespaces/{namespace}/services/{NAME}")["spec"] == theirs["spec"]


def test_a_second_operator_waits_and_takes_over(cluster: ControlPlane, namespace: str, start: Start) -> None:
    first = start()
    first.wait_ready()
    second = start()
    eventually(lambda: "standby: held by" in second.get("/readyz")[1], what=second.log)
    assert second.get("/healthz")[0] == 200
    before = _apply_example(cluster, namespace)
    assert second.turns() == 0
    first.terminate()
    stopped = time.monotonic()
    second.wait_ready()
    assert time.monotonic() - stopped < 5
    _more_turns(cluster, second, 1)
    assert _pods(cluster, namespace) == before


def test_missing_permissions_are_listed_at_the_start(cluster: ControlPlane, namespace: str, tmp_path: Path) -> None:
    system = cluster.new_namespace("system")

    def without_nodes(role: dict[str, Any]) -> dict[str, Any]:
        return {**role, "rules": [rule for rule in role["rules"] if rule["resources"] != ["nodes"]]}

    token = operator_account(cluster, system=system, namespace=namespace, rules=without_nodes)
    config = {"kubeconfig": str(cluster.kubeconfig(token)), "namespace": namespace, "lease_namespace": system}
    with Operator(config, log=tmp_path / "operator.log") as operator:
        eventually(lambda: operator.process.poll() is not None, what=operator.log)
        assert operator.process.returncode == 1
        assert "may not list nodes in the whole cluster" in operator.log


def test_bad_specs_are_explained_and_freeze_what_runs(cluster: ControlPlane, namespace: str, start: Start) -> None:
    operator = start()
    operator.wait_ready()
    before = _apply_example(cluster, namespace)
    patch = json.dumps({"spec": {"engine": {"args": {"no-such-flag": "2"}}}})
    cluster.kubectl("patch", "slm", NAME, "-n", namespace, "--type=merge", "-p", patch)
    eventually(lambda: _status(cluster, namespace).get("reason") == "InvalidSpec", seconds=30, what=operator.log)
    assert _pods(cluster, namespace) == before
