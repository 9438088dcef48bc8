"""A namespace, an operator of its own on some of the nodes, and what a test asks of them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from slmpack.api.crd import render_crd
from tests.support.control_plane import ApiError
from tests.support.operator import Operator, eventually, operator_account

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.control_plane import ControlPlane

    Pod = dict[str, Any]
    World = dict[str, Pod]

__all__ = [
    "FAULT",
    "PodHistory",
    "Scene",
    "Stage",
    "is_finished",
    "is_live",
    "is_ready",
    "name_of",
    "open_scene",
    "slm_spec",
    "spec_hash",
]

FAULT = "devcluster.slmpack.dev/fault"
SLM = "/apis/slmpack.dev/v1alpha1"


def _apply_crd(control_plane: ControlPlane) -> None:
    """Apply the CRD, and wait until it is served."""
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=render_crd())
    eventually(lambda: control_plane.kubectl("get", "slm", "-A", check=False).returncode == 0)


def slm_spec(
    *,
    replicas: int = 1,
    mode: str = "Exclusive",
    products: Sequence[str] = (),
    tolerations: Sequence[dict[str, str]] = (),
    engine: dict[str, Any] | None = None,
    pod: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A small model; its pods drain in no time."""
    sharing = {"mode": mode, "gpuProducts": list(products), "tolerations": list(tolerations)}
    return {
        "model": {"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"},
        "engine": {"maxModelLen": 2048, **(engine or {})},
        "sharing": {key: value for key, value in sharing.items() if value},
        "replicas": replicas,
        "pod": {"terminationGracePeriodSeconds": 1, **(pod or {})},
    }


def name_of(pod: Pod) -> str:
    name: str = pod["metadata"]["name"]
    return name


def spec_hash(pod: Pod) -> str:
    found: str = pod["metadata"]["annotations"]["slmpack.dev/spec-hash"]
    return found


def is_finished(pod: Pod) -> bool:
    return pod["status"].get("phase") in {"Failed", "Succeeded"}


def is_live(pod: Pod) -> bool:
    """It counts as a replica: neither finished nor ending."""
    return not is_finished(pod) and "deletionTimestamp" not in pod["metadata"]


def is_ready(pod: Pod) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the scenes of a module share: the nodes, and the account that their operators run under."""

    control_plane: ControlPlane
    nodes: tuple[str, ...]
    system: str
    token: str
    config: dict[str, Any]
    """Of the operators, beside what each scene sets."""

    @classmethod
    def prepare(
        cls, control_plane: ControlPlane, *, nodes: Sequence[dict[str, Any]], config: dict[str, Any] | None = None
    ) -> Self:
        """Apply the CRD and make the account; the nodes are played by somebody else."""
        _apply_crd(control_plane)
        system = control_plane.new_namespace("system")
        return cls(
            control_plane=control_plane,
            nodes=tuple(node["metadata"]["name"] for node in nodes),
            system=system,
            token=operator_account(control_plane, system=system, packs="supervisor_image" in (config or {})),
            config=config or {},
        )


class Scene:
    """One test's namespace and operator."""

    def __init__(self, stage: Stage, *, folder: Path, server: str | None = None) -> None:
        self.api = stage.control_plane
        self._server = server
        self.namespace = self.api.new_namespace("scene")
        self._stage = stage
        self._folder = folder
        self._operators: list[Operator] = []

    @property
    def operator(self) -> Operator:
        """The one that was started last."""
        return self._operators[-1]

    def start(self) -> Operator:
        """Start an operator, and wait until it is at work."""
        config = self._stage.config | {
            "kubeconfig": str(self.api.kubeconfig(self._stage.token, user="slmpack", server=self._server)),
            "namespace": self.namespace,
            "lease_namespace": self._stage.system,
            "identity": "the-pod",  # nobody waits for the Lease of the scene before
            "node_selector": f"kubernetes.io/hostname in ({','.join(self._stage.nodes)})",
        }
        self._operators.append(Operator(config, log=self._folder / f"operator-{len(self._operators)}.log"))
        self.operator.wait_ready(seconds=60)
        return self.operator

    def close(self) -> None:
        """End the operators, and leave no pod on the nodes."""
        for operator in self._operators:
            operator.__exit__()
        self.clear()

    def clear(self) -> None:
        """Delete every SLMDeployment and pod."""
        self.api.request("DELETE", self.path("slmdeployments"))
        self.api.request("DELETE", f"{self.path()}?gracePeriodSeconds=0")
        eventually(lambda: not self.pods())

    # ---- SLMDeployments

    def path(self, plural: str = "pods", name: str = "") -> str:
        root = SLM if plural == "slmdeployments" else "/api/v1"
        return f"{root}/namespaces/{self.namespace}/{plural}{'/' if name else ''}{name}"

    def apply(self, name: str, spec: dict[str, Any]) -> None:
        """Create the SLMDeployment, or replace its spec."""
        body = {
            "apiVersion": "slmpack.dev/v1alpha1",
            "kind": "SLMDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }
        self.api.kubectl("apply", "-f", "-", input=json.dumps(body))

    def status(self, name: str) -> dict[str, Any]:
        """Empty until it is about the present spec."""
        found = self.api.request("GET", self.path("slmdeployments", name))
        status: dict[str, Any] = found.get("status", {})
        return status if status.get("observedGeneration") == found["metadata"]["generation"] else {}

    def message(self, name: str) -> str:
        """What the condition Ready says."""
        conditions = self.status(name).get("conditions", [])
        return next((c["message"] for c in conditions if c["type"] == "Ready"), "")

    def wait_reason(self, name: str, reason: str, *, seconds: float = 60) -> None:
        """Until the status gives this reason."""
        try:
            eventually(lambda: self.status(name).get("reason") == reason, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"not {reason}, but {self.status(name)}\n{self.operator.log[-3000:]}") from None

    # ---- what the operator made

    def pods(self, name: str = "") -> list[Pod]:
        """Those of one SLMDeployment, or all."""
        found: list[Pod] = self.api.request("GET", self.path())["items"]
        return [pod for pod in found if not name or pod["metadata"].get("labels", {}).get("slmpack.dev/name") == name]

    def live_uids(self, name: str = "") -> dict[str, str]:
        return {name_of(pod): pod["metadata"]["uid"] for pod in self.pods(name) if is_live(pod)}

    def events(self, reason: str) -> list[dict[str, Any]]:
        """The operator's events with this reason."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        found: list[dict[str, Any]] = self.api.request("GET", path)["items"]
        return [event for event in found if event["reason"] == reason and event["regarding"]["kind"] == "SLMDeployment"]

    def more_turns(self, count: int = 2) -> None:
        """Make the operator turn, by a label that nothing depends on."""
        wanted = self.operator.turns() + count

        def nudged() -> bool:
            self.api.kubectl(
                "label", "node", self._stage.nodes[0], f"example.com/beat={time.monotonic_ns()}", "--overwrite"
            )
            return self.operator.turns() >= wanted

        eventually(nudged, seconds=60, what=self.operator.log)

    def delete_pod(self, name: str) -> None:
        try:
            self.api.request("DELETE", self.path("pods", name))
        except ApiError as error:
            if error.status != 404:
                raise


@contextmanager
def open_scene(stage: Stage, *, folder: Path, server: str | None = None) -> Iterator[Scene]:
    """A scene whose operator is at work; it speaks to `server` (default: the API server)."""
    scene = Scene(stage, folder=folder, server=server)
    try:
        scene.start()
        yield scene
    finally:
        scene.close()


class PodHistory:
    """Every state that the pods (or others) of a namespace go through, in the API server's order. A context manager."""

    def __init__(self, scene: Scene, *, plural: str = "pods") -> None:
        self._scene = scene
        self._path = scene.path(plural)
        server = urlsplit(scene.api.url)
        context = ssl.create_default_context(cafile=str(scene.api.ca_file))
        self._connection = http.client.HTTPSConnection(server.hostname or "", server.port, context=context)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._first: World = {}
        self._changes: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        listed = self._scene.api.request("GET", self._path)
        self._first = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
        query = f"watch=1&resourceVersion={listed['metadata']['resourceVersion']}&timeoutSeconds=600"
        headers = {"Authorization": f"Bearer {self._scene.api.admin_token}"}
        self._connection.request("GET", f"{self._path}?{query}", headers=headers)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _follow(self) -> None:
        try:
            with self._connection.getresponse() as response:
                for line in response:
                    self._changes.append(json.loads(line))
        except (OSError, ValueError, http.client.HTTPException):
            return  # cut, by __exit__ or else; `worlds` notices what is missing

    def worlds(self) -> list[World]:
        """The pods by uid after each change up to now, the first as found at the start."""

        def has_caught_up() -> bool:
            listed = self._scene.api.request("GET", self._path)["items"]
            present = {pod["metadata"]["uid"]: pod["metadata"]["resourceVersion"] for pod in listed}
            return present == {uid: pod["metadata"]["resourceVersion"] for uid, pod in self._replay()[-1].items()}

        eventually(has_caught_up, what="the watch tells what the list says")
        return self._replay()

    def _replay(self) -> list[World]:
        worlds = [self._first]
        for change in list(self._changes):
            world = dict(worlds[-1])
            pod = change["object"]
            if change["type"] == "DELETED":
                world.pop(pod["metadata"]["uid"], None)
            else:
                world[pod["metadata"]["uid"]] = pod
            worlds.append(world)
        return worlds
