"""The operator as a process of its own under its own account, and the stand-in kubelets in a thread."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from slmpack.adapters.kube import KubeClient
from slmpack.devcluster.kubelet import Kubelets
from slmpack.devcluster.worker import Timing
from slmpack.permissions import cluster_role, lease_role, namespaced_role
from tests.support.loops import connections_closed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from slmpack.devcluster.program import Programs
    from tests.support.control_plane import ControlPlane

__all__ = ["Operator", "eventually", "operator_account", "playing_nodes"]

SOURCE = Path(__file__).parents[2] / "operator"
PROGRAM = """
import json, sys
from dataclasses import replace
from datetime import timedelta
from slmpack.adapters.hub import HubSettings
from slmpack.adapters.measuring import MetricsSettings
from slmpack.adapters.policy import load_policy
from slmpack.bootstrap import run
from slmpack.config import OperatorConfig
given = json.loads(sys.argv[1])
policy = replace(load_policy(), **given.pop("policy"))
metrics = given.pop("metrics", {})
seconds = {name: timedelta(seconds=metrics.pop(name)) for name in ("period", "timeout", "max_age") if name in metrics}
given["metrics"] = MetricsSettings(**metrics, **seconds)
sys.exit(run(OperatorConfig(hub=HubSettings(**given.pop("hub")), **given), policy=policy))
"""
LISTENING = re.compile(r"listening on (http://\S+)")


def eventually(is_true: Callable[[], object], *, seconds: float = 30.0, what: str = "") -> None:
    """Wait until something is true; AssertionError if it is not in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what or is_true}"
        time.sleep(0.1)


def operator_account(
    control_plane: ControlPlane,
    *,
    system: str,
    namespace: str | None = None,
    packs: bool = False,
    rules: Callable[[Any], Any] = lambda it: it,
) -> str:
    """Make the operator's service account with the roles of the permission table; its token."""
    _apply(control_plane, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta("slmpack", system)})
    roles = [
        cluster_role(f"slmpack-{system}", all_namespaces=namespace is None, packs=packs),
        lease_role("slmpack", namespace=system, packs=packs),
    ]
    if namespace is not None:
        roles.append(namespaced_role("slmpack", namespace=namespace, packs=packs))
    for role in map(rules, roles):
        _apply(control_plane, role)
        _apply(control_plane, _binding(role, system=system))
    return control_plane.service_account_token(system, "slmpack")


def _binding(role: dict[str, Any], *, system: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": f"{role['kind']}Binding",
        "metadata": role["metadata"],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": "slmpack", "namespace": system}],
    }


def _meta(name: str, namespace: str) -> dict[str, str]:
    return {"name": name, "namespace": namespace}


def _apply(control_plane: ControlPlane, manifest: dict[str, Any]) -> None:
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(manifest))


class Operator:
    """A running operator process; use it as a context manager."""

    def __init__(self, config: dict[str, Any], *, log: Path, policy: dict[str, Any] | None = None) -> None:
        given = {"hub": {"offline": True}, "bundled_models": True, "port": 0, **config, "policy": policy or {}}
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(given)],
                env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """Everything that it has logged."""
        return self._log.read_text()

    @property
    def url(self) -> str:
        """Where it serves its health."""
        eventually(lambda: LISTENING.search(self.log) or self.process.poll() is not None, what=self.log)
        match = LISTENING.search(self.log)
        assert match is not None, self.log
        return match[1]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def wait_ready(self, *, seconds: float = 30.0) -> None:
        """Until the Lease is held and a turn has succeeded."""
        try:
            eventually(lambda: self.process.poll() is not None or self.get("/readyz")[0] == 200, seconds=seconds)
        finally:
            ready = self.process.poll() is None and self.get("/readyz")[0] == 200
            assert ready, self.log

    def turns(self) -> int:
        """Turns that ended well."""
        match = re.search(r'^slmpack_turns_total\{result="ok"\} (\S+)$', self.get("/metrics")[1], re.MULTILINE)
        return int(float(match[1])) if match else 0

    def terminate(self) -> float:
        """SIGTERM; how many seconds it took to end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=15)
        return time.monotonic() - started


@contextmanager
def playing_nodes(
    control_plane: ControlPlane,
    nodes: Iterable[dict[str, Any]],
    *,
    timing: Timing | None = None,
    programs: Programs = lambda _pod, _ip: None,
) -> Iterator[Kubelets]:
    """Stand-in kubelets on the real API server, in a thread and loop of their own; their nodes are removed at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="kubelets", daemon=True)
    thread.start()
    nodes = list(nodes)

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=60)

    client = run(KubeClient.connect(str(control_plane.kubeconfig())))
    clock = lambda: datetime.now(UTC)  # noqa: E731, TID251
    kubelets = Kubelets(client, nodes=nodes, clock=clock, timing=timing, programs=programs)
    try:
        run(kubelets.__aenter__())
        yield kubelets
    finally:
        run(kubelets.__aexit__(None, None, None))
        for node in nodes:
            control_plane.kubectl("delete", "node", node["metadata"]["name"], "--ignore-not-found", "--wait=false")
        run(client.close())
        run(connections_closed())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
