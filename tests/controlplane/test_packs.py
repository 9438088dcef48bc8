"""Packs on the real control plane: the operator, the supervisor as the pod's process, and fake engines behind endpoints."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import pytest

from slmpack.devcluster.nodes import H100, whole_node
from tests.support.control_plane import ApiError
from tests.support.operator import eventually
from tests.support.pack_kubelet import FAKES, playing_packs
from tests.support.scene import Stage, is_live, is_ready, name_of, open_scene, slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane, MutatingRequest
    from tests.support.pack_kubelet import Pack, Packs
    from tests.support.scene import Pod, Scene

NODES = [whole_node("packs-h100", product=H100, gpus=2)]
IMAGE = "registry.example.com/slmpack:test"
OURS, KUBERNETES = "slmpack.dev", "endpointslice-controller.k8s.io"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
LOAD_THREADS, REQUEST_SECONDS, LONG_SECONDS = 3, 0.2, 4
TURNED = {"env": [{"name": "TURN", "value": "2"}]}
PATIENCE = 90.0


@pytest.fixture(scope="module")
def packs(control_plane: ControlPlane) -> Iterator[Packs]:
    with playing_packs(control_plane, NODES) as playing:
        yield playing


@pytest.fixture(scope="module")
def shared_scene(
    control_plane: ControlPlane, packs: Packs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    config = {"supervisor_image": IMAGE, "pod_proxy": packs.proxy}
    stage = Stage.prepare(control_plane, nodes=NODES, config=config)
    with open_scene(stage, folder=tmp_path_factory.mktemp("packs")) as opened:
        yield opened


@pytest.fixture
def scene(shared_scene: Scene) -> Iterator[Scene]:
    """With an operator at work, and empty afterwards."""
    if shared_scene.operator.process.poll() is not None:
        shared_scene.start()
    yield shared_scene
    shared_scene.clear()


def _packed(replicas: int, *, engines: int = 3, grace: int = 3, fakes: dict[str, Any] | None = None) -> dict[str, Any]:
    annotations = {f"{FAKES}{name}": json.dumps(value) for name, value in (fakes or {}).items()}
    pod = {"terminationGracePeriodSeconds": grace, **({"annotations": annotations} if annotations else {})}
    spec = slm_spec(replicas=replicas, mode="MPSPack", pod=pod)
    return spec | {"sharing": spec["sharing"] | {"maxPerGPU": engines}}


def _slices(scene: Scene, name: str) -> list[dict[str, Any]]:
    """All of the Service's, Kubernetes' own among them."""
    path = f"{SLICES.format(scene.namespace)}?labelSelector=kubernetes.io/service-name%3D{name}"
    found: list[dict[str, Any]] = scene.api.request("GET", path)["items"]
    return found


def _endpoints(scene: Scene, name: str) -> set[tuple[str, int]]:
    """Where a Service's traffic goes: addresses and ports of all that is ready."""
    return {
        (address, port["port"])
        for slice_ in _slices(scene, name)
        for endpoint in slice_.get("endpoints") or ()
        if endpoint["conditions"]["ready"]
        for address in endpoint["addresses"]
        for port in slice_.get("ports") or ()
    }


def _wait_endpoints(scene: Scene, name: str, pack: Pack, *ports: int) -> None:
    wanted = {(pack.ip, port) for port in ports}
    try:
        eventually(lambda: _endpoints(scene, name) == wanted, seconds=PATIENCE)
    except AssertionError:
        raise AssertionError(f"not {wanted}, but {_endpoints(scene, name)}\n{pack.log[-6000:]}") from None


def _one_pod(scene: Scene, name: str) -> Pod:
    (pod,) = [pod for pod in scene.pods(name) if is_live(pod)]
    return pod


def _counts(scene: Scene, name: str) -> tuple[int, int]:
    status = scene.status(name)
    return status.get("replicas", -1), status.get("readyReplicas", -1)


def _wait_counts(scene: Scene, name: str, *counts: int) -> None:
    try:
        eventually(lambda: _counts(scene, name) == counts, seconds=PATIENCE)
    except AssertionError:
        raise AssertionError(f"{scene.status(name)}\n{scene.operator.log[-3000:]}") from None


def _wait_limit(scene: Scene, name: str, status: str, reason: str) -> None:
    """Until MemoryLimitEnforced says so."""

    def said() -> list[dict[str, Any]]:
        return [c for c in scene.status(name).get("conditions", []) if c["type"] == "MemoryLimitEnforced"]

    try:
        eventually(lambda: [(c["status"], c["reason"]) for c in said()] == [(status, reason)], seconds=PATIENCE)
    except AssertionError:
        raise AssertionError(f"{said()}\n{scene.operator.log[-3000:]}") from None


def _start_pack(scene: Scene, packs: Packs, name: str, spec: dict[str, Any]) -> Pack:
    scene.apply(name, spec)
    scene.wait_reason(name, "AllReady", seconds=PATIENCE)
    return packs.of(_one_pod(scene, name))


def test_a_pack_is_made_with_all_it_needs_and_serves(scene: Scene, packs: Packs) -> None:
    pack = _start_pack(scene, packs, "qwen", _packed(1))
    pod = _one_pod(scene, "qwen")
    assert is_ready(pod)
    _wait_counts(scene, "qwen", 1, 1)
    _wait_endpoints(scene, "qwen", pack, 8000)
    _wait_limit(scene, "qwen", "True", "SeenFromInside")
    _assert_written_by_the_pod(scene, "qwen", pod)
    eventually(lambda: _kubernetes_endpoints(scene, "qwen") == {pack.ip}, what="the Service selects the pod")
    ports = [one.get("ports") for one in _slices(scene, "qwen") if _managed_by(one) == KUBERNETES]
    assert not any(ports), "Kubernetes' own slice leads nowhere: no port of the pod has the name that the Service wants"


def _managed_by(slice_: dict[str, Any]) -> str:
    found: str = slice_["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]
    return found


def _kubernetes_endpoints(scene: Scene, name: str) -> set[str]:
    """Ready addresses in the slices that Kubernetes makes."""
    endpoints = [e for one in _slices(scene, name) if _managed_by(one) == KUBERNETES for e in one["endpoints"] or ()]
    return {address for endpoint in endpoints if endpoint["conditions"]["ready"] for address in endpoint["addresses"]}


def _assert_written_by_the_pod(scene: Scene, name: str, pod: Pod) -> None:
    ours = sorted(
        (one for one in _slices(scene, name) if _managed_by(one) == OURS),
        key=lambda one: one["metadata"]["name"],
    )
    assert [one["metadata"]["name"] for one in ours] == [f"{name_of(pod)}-e{index}" for index in range(3)]
    for one in ours:
        (owner,) = one["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Pod", pod["metadata"]["uid"])
    account = pod["spec"]["serviceAccountName"]
    token = scene.api.service_account_token(scene.namespace, account)
    path = SLICES.format(scene.namespace)
    scene.api.request("GET", f"{path}/{ours[0]['metadata']['name']}", token=token)
    for allowed_not in (path, scene.path(), f"/api/v1/namespaces/{scene.namespace}/secrets"):
        with pytest.raises(ApiError, match="403"):
            scene.api.request("GET", allowed_not, token=token)


class _Load:
    """Clients that take a ready endpoint of the Service for each request, as kube-proxy would. A context manager."""

    def __init__(self, scene: Scene, packs: Packs, name: str) -> None:
        self._scene, self._packs, self._name = scene, packs, name
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(LOAD_THREADS)]
        self.served: list[tuple[str, int]] = []
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_served(self, *endpoints: tuple[str, int]) -> None:
        """Until each of these has answered from now on."""
        mark = len(self.served)
        eventually(lambda: set(endpoints) <= set(self.served[mark:]), seconds=PATIENCE, what=f"{endpoints} serve")

    def _run(self, number: int) -> None:
        while not self._over.is_set():
            number += 1
            try:
                found = sorted(_endpoints(self._scene, self._name))
                address, port = found[number % len(found)]
                self._ask(self._packs.network.find(address), port)
            except (OSError, http.client.HTTPException, ApiError, ZeroDivisionError) as error:
                self.failed.append(f"{time.monotonic():.1f}: {error!r}")
            else:
                self.served.append((address, port))

    def _ask(self, host: str, port: int) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=30)
        try:
            connection.request("POST", f"/v1/completions?seconds={REQUEST_SECONDS}", body="{}")
            response = connection.getresponse()
            response.read()
            if response.status != HTTPStatus.OK:
                raise OSError(f"port {port} answered {response.status}")
        finally:
            connection.close()


def _scale(scene: Scene, name: str, replicas: int) -> None:
    scene.api.kubectl("scale", "slm", name, f"--replicas={replicas}", "-n", scene.namespace)


def _restarts(pod: Pod) -> int:
    count: int = pod["status"]["containerStatuses"][0]["restartCount"]
    return count


def test_scaling_under_load_fails_no_request(scene: Scene, packs: Packs) -> None:
    pack = _start_pack(scene, packs, "qwen", _packed(1, grace=9))
    before = _one_pod(scene, "qwen")
    _wait_endpoints(scene, "qwen", pack, 8000)
    with _Load(scene, packs, "qwen") as load, ThreadPoolExecutor() as pool:
        _scale(scene, "qwen", 3)
        _wait_counts(scene, "qwen", 3, 3)
        load.wait_served(*((pack.ip, port) for port in (8000, 8001, 8002)))
        begun = pool.submit(pack.ask, 8002, f"/v1/completions?seconds={LONG_SECONDS}", method="POST")
        _scale(scene, "qwen", 2)
        _wait_endpoints(scene, "qwen", pack, 8000, 8001)
        _wait_counts(scene, "qwen", 2, 2)
        load.wait_served((pack.ip, 8000), (pack.ip, 8001))
    assert load.failed == []
    assert begun.result() == HTTPStatus.OK, "the engine that left finished what it had begun"
    eventually(lambda: _is_refused(pack, 8002), what="the third engine ends")
    (after,) = scene.pods("qwen")
    assert (after["metadata"]["uid"], _restarts(after)) == (before["metadata"]["uid"], 0)


def _is_refused(pack: Pack, port: int) -> bool:
    try:
        pack.ask(port, "/health")
    except OSError:
        return True
    return False


def test_the_scale_subresource_counts_engines(scene: Scene, packs: Packs) -> None:
    _start_pack(scene, packs, "qwen", _packed(2))
    path = f"{scene.path('slmdeployments', 'qwen')}/scale"
    _wait_counts(scene, "qwen", 2, 2)
    scale = scene.api.request("GET", path)
    assert (scale["spec"]["replicas"], scale["status"]["replicas"], len(scene.pods())) == (2, 2, 1)
    scene.api.request("PUT", path, body=scale | {"spec": {"replicas": 3}})
    _wait_counts(scene, "qwen", 3, 3)
    assert scene.api.request("GET", path)["status"]["replicas"] == 3
    assert len(scene.pods()) == 1


def _made(scene: Scene, name: str) -> list[str]:
    """Names of all that is there for a deployment."""
    kinds = "service,serviceaccount,pod,role,rolebinding,endpointslice"
    command = ("get", kinds, "-n", scene.namespace, "-l", f"slmpack.dev/name={name}", "-o", "name")
    return scene.api.kubectl(*command).stdout.split()


def _writes(scene: Scene) -> dict[MutatingRequest, int]:
    """Requests so far that write what an operator makes; their status, which others write, and tokens aside."""
    made = {"services", "serviceaccounts", "pods", "roles", "rolebindings", "endpointslices"}
    found = scene.api.mutating_requests()
    return {one: count for one, count in found.items() if one.resource in made and not one.subresource}


def _kill_operator(scene: Scene) -> None:
    scene.operator.process.kill()
    scene.operator.process.wait()


def test_without_an_operator_endpoints_stay_right(scene: Scene, packs: Packs) -> None:
    slow = {"intervals": {"backoff": 2}, "engine-8000": {"delay": 1}, "engine-8001": {"delay": 1}}
    pack = _start_pack(scene, packs, "qwen", _packed(2, engines=2, fakes=slow))
    _wait_endpoints(scene, "qwen", pack, 8000, 8001)
    _wait_limit(scene, "qwen", "True", "SeenFromInside")
    _kill_operator(scene)

    with pytest.raises((OSError, http.client.HTTPException)):
        pack.ask(8001, "/crash?code=1")
    _wait_endpoints(scene, "qwen", pack, 8000)
    _wait_endpoints(scene, "qwen", pack, 8000, 8001)
    assert pack.ask(8001, "/health") == HTTPStatus.OK

    os.kill(pack.pid, signal.SIGKILL)
    _wait_endpoints(scene, "qwen", pack)
    _wait_endpoints(scene, "qwen", pack, 8000, 8001)
    assert [pack.ask(port, "/health") for port in (8000, 8001)] == [HTTPStatus.OK, HTTPStatus.OK]
    eventually(lambda: is_ready(_one_pod(scene, "qwen")))
    eventually(lambda: _kubernetes_endpoints(scene, "qwen") == {pack.ip}, what="Kubernetes has written all it writes")
    assert _restarts(_one_pod(scene, "qwen")) == 1
    assert pack.left == [], "no process outlived the supervisor"

    before = _writes(scene)
    scene.start()
    scene.more_turns()
    assert _writes(scene) == before


def test_without_an_operator_a_deleted_deployment_goes(scene: Scene, packs: Packs) -> None:
    pack = _start_pack(scene, packs, "qwen", _packed(1, engines=2))
    _wait_endpoints(scene, "qwen", pack, 8000)
    assert len(_made(scene, "qwen")) == 8, "with two slices of ours, and one of Kubernetes"
    _kill_operator(scene)
    scene.api.request("DELETE", scene.path("slmdeployments", "qwen"))
    eventually(lambda: not _made(scene, "qwen"), seconds=PATIENCE, what="garbage collection")
    assert (pack.processes(), pack.left) == ({}, [])


def test_a_changed_spec_rolls_out_to_a_free_gpu(scene: Scene, packs: Packs) -> None:
    spec = _packed(2, engines=2, grace=6)
    old = _start_pack(scene, packs, "qwen", spec)
    _wait_endpoints(scene, "qwen", old, 8000, 8001)
    with _Load(scene, packs, "qwen") as load:
        scene.apply("qwen", spec | {"pod": spec["pod"] | TURNED})
        eventually(lambda: len(scene.pods("qwen")) == 2, seconds=PATIENCE, what="a new pack beside the old one")
        eventually(lambda: len(scene.pods("qwen")) == 1, seconds=PATIENCE, what="the old pack goes")
        scene.wait_reason("qwen", "AllReady", seconds=PATIENCE)
        new = packs.of(_one_pod(scene, "qwen"))
        load.wait_served((new.ip, 8000), (new.ip, 8001))
    assert load.failed == []
    assert new is not old
    _wait_endpoints(scene, "qwen", new, 8000, 8001)
    assert (old.processes(), old.left) == ({}, [])


def test_an_engine_outside_its_limit_is_no_replica(scene: Scene, packs: Packs) -> None:
    fakes = {"engine-8001": {"attach": "no"}, "intervals": {"attach_limit": 2, "backoff_most": 600}}
    scene.apply("qwen", _packed(2, engines=2, fakes=fakes))
    scene.wait_reason("qwen", "NotAttached", seconds=PATIENCE)
    pack = packs.of(_one_pod(scene, "qwen"))
    _wait_limit(scene, "qwen", "False", "NotAttached")
    _wait_counts(scene, "qwen", 2, 1)
    _wait_endpoints(scene, "qwen", pack, 8000)
    (bad,) = [one for one in scene.status("qwen")["placements"] if not one["ready"]]
    assert (bad["engine"], bad["reason"]) == (1, "NotAttached")


def test_an_operator_without_the_supervisor_makes_no_packs(
    control_plane: ControlPlane, packs: Packs, tmp_path: Path
) -> None:
    assert packs
    with open_scene(Stage.prepare(control_plane, nodes=NODES), folder=tmp_path) as scene:
        scene.apply("qwen", _packed(1))
        scene.wait_reason("qwen", "NoSupervisorImage", seconds=PATIENCE)
        assert not scene.pods()


def test_what_is_deleted_by_hand_comes_back(scene: Scene, packs: Packs) -> None:
    pack = _start_pack(scene, packs, "qwen", _packed(1, engines=2))
    _wait_endpoints(scene, "qwen", pack, 8000)
    pod = _one_pod(scene, "qwen")
    path = f"{SLICES.format(scene.namespace)}/{name_of(pod)}-e0"
    uid = scene.api.request("GET", path)["metadata"]["uid"]
    scene.api.request("DELETE", path)
    eventually(lambda: _slice_uid(scene, path) not in {"", uid}, seconds=PATIENCE, what="a new slice")
    _wait_endpoints(scene, "qwen", pack, 8000)

    scene.delete_pod(name_of(pod))
    eventually(lambda: set(scene.live_uids()) - {name_of(pod)}, seconds=PATIENCE, what="a new pod")
    eventually(lambda: len(scene.pods()) == 1, seconds=PATIENCE, what="the old one goes")
    scene.wait_reason("qwen", "AllReady", seconds=PATIENCE)
    new = packs.of(_one_pod(scene, "qwen"))
    _wait_endpoints(scene, "qwen", new, 8000)
    ours = {slice_["metadata"]["name"] for slice_ in _slices(scene, "qwen") if _managed_by(slice_) == OURS}
    assert ours == {f"{name_of(new.pod)}-e{index}" for index in range(2)}, "those of the old pod went with it"


def _slice_uid(scene: Scene, path: str) -> str:
    """Empty if there is none."""
    try:
        uid: str = scene.api.request("GET", path)["metadata"]["uid"]
    except ApiError:
        return ""
    return uid
