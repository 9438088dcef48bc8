"""kill -9 at 200 random points while the world is busy: no replica is lost, doubled or over-committed (D2)."""

from __future__ import annotations

import random
import threading
import time
import urllib.error
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.api.crd import render_crd
from slmpack.devcluster.nodes import a100_mig_node, mps_node, whole_node
from slmpack.devcluster.worker import Timing
from tests.support.control_plane import ApiError
from tests.support.operator import eventually, operator_account, playing_nodes
from tests.support.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.control_plane import ControlPlane

KILLS = 200
MOST_REPLICAS = 4
SLM = "/apis/slmpack.dev/v1alpha1"
NODES = [
    whole_node("kill-l4", product="NVIDIA-L4", gpus=3),
    a100_mig_node("kill-a100", profiles={"1g.10gb": 4}),
    mps_node("kill-h100", gpus=1, replicas=4),
]
NAMES = ("ada", "bob", "cyd", "dee")


class World:
    """A namespace whose SLMDeployments somebody keeps changing, and the pods in it."""

    def __init__(self, control_plane: ControlPlane, namespace: str, *, seed: int) -> None:
        self._api = control_plane
        self._path = f"{SLM}/namespaces/{namespace}/slmdeployments"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._namespace = namespace
        self._random = random.Random(seed)
        self.broken: list[str] = []

    def slms(self) -> list[dict[str, Any]]:
        return self._list(self._path)

    def pods(self) -> list[dict[str, Any]]:
        return self._list(self._pods)

    def _list(self, path: str) -> list[dict[str, Any]]:
        """Each list is a connection of its own, and a busy machine resets one now and then."""
        for _ in range(3):
            try:
                items: list[dict[str, Any]] = self._api.request("GET", path)["items"]
            except urllib.error.URLError:
                time.sleep(0.2)
            else:
                return items
        raise AssertionError(f"no answer to GET {path}")

    def act(self) -> None:
        """One change that a user, or bad luck, could make."""
        name = self._random.choice(NAMES)
        exists = name in {slm["metadata"]["name"] for slm in self.slms()}
        try:
            if not exists:
                self._api.request("POST", self._path, body=self._slm(name))
                return
            match self._random.choice(["scale", "scale", "scale", "spec", "delete", "pod"]):
                case "scale":
                    self._put(name, lambda slm: slm["spec"].update(replicas=self._random.randint(0, MOST_REPLICAS)))
                case "spec":
                    env = [{"name": "TURN", "value": str(self._random.randint(0, 9))}]
                    self._put(name, lambda slm: slm["spec"].update(pod={"env": env}))
                case "delete":
                    self._api.request("DELETE", f"{self._path}/{name}")
                case _:
                    if pods := self.pods():
                        self._api.request("DELETE", f"{self._pods}/{self._random.choice(pods)['metadata']['name']}")
        except urllib.error.URLError:
            pass
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    def watch(self, done: threading.Event) -> None:
        """Look for what must never be, all the time."""
        while not done.wait(0.2):
            self.broken.extend(self.check())

    def check(self) -> list[str]:
        """Over-commitment, and more live replicas of one object than it ever wants, with a rollout's extra one."""
        found = []
        taken: Counter[tuple[str, str]] = Counter()
        live: Counter[str] = Counter()
        for pod in self.pods():
            if pod["status"].get("phase") in {"Failed", "Succeeded"}:
                continue
            notes = pod["metadata"]["annotations"]
            taken[notes["slmpack.dev/node"], notes["slmpack.dev/resource"]] += 1
            if "deletionTimestamp" not in pod["metadata"]:
                live[pod["metadata"]["ownerReferences"][0]["uid"]] += 1
        for (node, resource), count in taken.items():
            allocatable = next(n for n in NODES if n["metadata"]["name"] == node)["status"]["allocatable"]
            if count > int(allocatable[resource]):
                found.append(f"{count} pods on {allocatable[resource]} {resource} of {node}")
        found.extend(f"{count} live replicas of {uid}" for uid, count in live.items() if count > MOST_REPLICAS + 1)
        return found

    def is_settled(self) -> bool:
        """Every SLMDeployment has as many Ready replicas as it wants, or says why not."""
        live = Counter(
            pod["metadata"]["labels"]["slmpack.dev/name"]
            for pod in self.pods()
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") != "Failed"
        )
        return all(self._is_settled(slm, live[slm["metadata"]["name"]]) for slm in self.slms())

    @staticmethod
    def _is_settled(slm: dict[str, Any], live: int) -> bool:
        status = slm.get("status", {})
        unplaced = sum(entry["count"] for entry in status.get("unplaced", ()))
        wanted = slm["spec"]["replicas"] - unplaced
        current = status.get("observedGeneration") == slm["metadata"]["generation"]
        return bool(current and live == wanted == status.get("readyReplicas") == status.get("updatedReplicas"))

    def _put(self, name: str, change: Any) -> None:
        slm = self._api.request("GET", f"{self._path}/{name}")
        change(slm)
        self._api.request("PUT", f"{self._path}/{name}", body=slm)

    def _slm(self, name: str) -> dict[str, Any]:
        model = self._random.choice(["hf://Qwen/Qwen2.5-0.5B-Instruct", "hf://Qwen/Qwen3-0.6B"])
        spec = {
            "model": {"source": model},
            "engine": {"maxModelLen": 2048},
            "replicas": self._random.randint(1, MOST_REPLICAS),
        }
        metadata = {"name": name, "namespace": self._namespace}
        return {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "metadata": metadata, "spec": spec}


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    return control_plane.new_namespace("kill")


@pytest.fixture
def zygote(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Zygote]:
    system = control_plane.new_namespace("system")
    token = operator_account(control_plane, system=system)
    config = {
        "kubeconfig": str(control_plane.kubeconfig(token, user="slmpack")),
        "namespace": namespace,  # what earlier tests left behind would take the room: it is older
        "lease_namespace": system,
        "identity": "the-pod",
        "node_selector": "kubernetes.io/hostname in (kill-l4,kill-a100,kill-h100)",
    }
    with Zygote(config, log=tmp_path / "operator.log") as running:
        yield running


@pytest.mark.timeout(900)
def test_killed_at_any_point_it_loses_doubles_and_overcommits_nothing(
    control_plane: ControlPlane, namespace: str, zygote: Zygote, tmp_path: Path
) -> None:
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=render_crd())
    eventually(lambda: control_plane.kubectl("get", "slm", "-A", check=False).returncode == 0)
    chance = random.Random(20261121)
    world = World(control_plane, namespace, seed=1)
    done = threading.Event()
    watcher = threading.Thread(target=world.watch, args=(done,), daemon=True)
    timing = Timing(pull=0.02, create=0.02, start=0.3, stop=0.05, back_off=0.5, scale=0.02)
    with playing_nodes(control_plane, NODES, timing=timing):
        watcher.start()
        seen: set[str] = set()
        for _ in range(KILLS):
            zygote.start()
            until = time.monotonic() + chance.uniform(0.5, 1.8)
            while time.monotonic() < until:
                world.act()
                seen.update(pod["metadata"]["uid"] for pod in world.pods())
                time.sleep(0.05)
            zygote.kill()
        assert len(seen) > KILLS // 10, (tmp_path / "operator.log").read_text()[-3000:]
        zygote.start()
        try:
            eventually(world.is_settled, seconds=120, what="the world settles after the last start")
        except AssertionError as error:
            states = [(slm["metadata"]["name"], slm["spec"]["replicas"], slm.get("status")) for slm in world.slms()]
            raise AssertionError(f"{error}: {states}") from error
        finally:
            done.set()
        watcher.join()
        zygote.kill()
    assert world.broken == []
