"""The chart's own pods on the stand-in kubelets: each container a process, started as its manifest says.

What a container would have of its image, of the kubelet and of the network comes from here: the entry point, its
volumes (the account's token among them), its variables, and an address of loopback where it listens.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.support.operator import SOURCE, eventually
from tests.support.pack_kubelet import playing_packs
from tests.support.pod_proxy import PodNetwork
from tests.support.pod_volumes import PodVolumes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from slmpack.devcluster.program import Program
    from tests.support.control_plane import ControlPlane
    from tests.support.pack_kubelet import Packs

    Json = dict[str, Any]

__all__ = ["ChartPod", "ChartPods", "ChartWorld", "playing_chart"]

ENTRYPOINT = """
import ctypes, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the test run
from pathlib import Path
import kubernetes.aio.config.incluster_config as incluster
import slmpack.adapters.service_account
account = Path(sys.argv.pop(1))
incluster.SERVICE_TOKEN_FILENAME, incluster.SERVICE_CERT_FILENAME = str(account / "token"), str(account / "ca.crt")
slmpack.adapters.service_account.ACCOUNT = account
from slmpack.cli import main
main()
"""
"""`slmpack`, with the three files of the service account where the test has put them."""
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PYTHONS = frozenset({"python", "python3"})
ANY_HOST = re.compile(r"(?<![\w.])(?:0\.0\.0\.0|\[::\])(?=:\d)")
URL = re.compile(r"http://(?P<service>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)(?:\.svc(?:\.cluster\.local)?)?:(?:\d+)")
REFUSED_PORT = 1
POLL_SECONDS, PROBE_SECONDS = 0.05, 0.2


class ChartPod:
    """One pod's container: a `slmpack.devcluster.program.Program`, and what a test asks of it."""

    def __init__(self, pod: Json, *, ip: str, host: str, pods: ChartPods) -> None:
        self.pod, self.ip, self.host = pod, ip, host
        self.container: Json = pod["spec"]["containers"][0]
        self.began = self.ended = float("nan")
        """Monotonic seconds, of the last start and end of its process."""
        self.starts = 0
        self._pods = pods
        self._folder = Path(tempfile.mkdtemp(prefix="chart-pod-"))
        self._volumes = PodVolumes(pod, folder=self._folder, control_plane=pods.control_plane)
        self._process: subprocess.Popen[bytes] | None = None

    # ---- the container

    async def run(self, publish: Callable[[bool], Awaitable[None]]) -> tuple[int, str]:
        """See `Program`."""
        await asyncio.to_thread(self._volumes.fill)
        command, env = await asyncio.to_thread(self._command), await asyncio.to_thread(self._environment)
        # Not in another thread: the process is to die with the one that starts it.
        self._process = process = self._start(command, env)
        await self._watch(process, publish)
        return self._code(process), self.log[-4096:]

    def _start(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        self.began = time.monotonic()
        self.starts += 1
        with (self._folder / "output").open("ab") as log:
            return subprocess.Popen(
                command,
                env=env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def stop(self, grace: float) -> int:
        """See `Program`."""
        process = self._process
        if process is None:
            return 0
        process.terminate()
        deadline = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(POLL_SECONDS)
        self.kill()
        return self._code(process)

    def _code(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code as the kubelet has it, of a process that has ended."""
        code = process.wait()
        self.ended = time.monotonic()
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """See `Program`."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _watch(self, process: subprocess.Popen[bytes], publish: Callable[[bool], Awaitable[None]]) -> None:
        """The kubelet's probes, more often and with the same patience, until the process has ended."""
        began = alive = time.monotonic()
        started, ready, misses = "startupProbe" not in self.container, False, 0
        while process.poll() is None:
            now = time.monotonic()
            started = started or await self._probe("startupProbe")
            if not started and now - began > self._patience("startupProbe"):
                self.kill()
            if started:
                misses = 0 if await self._probe("readinessProbe") else misses + 1
                enough = self.container.get("readinessProbe", {}).get("failureThreshold", 3)
                is_ready = misses == 0 or (ready and misses < enough)
                if is_ready is not ready:
                    ready = is_ready
                    await publish(ready)
                alive = now if await self._probe("livenessProbe") else alive
                if now - alive > self._patience("livenessProbe"):
                    self.kill()
            await asyncio.sleep(PROBE_SECONDS)

    def _patience(self, kind: str) -> float:
        probe = self.container.get(kind, {})
        return float(probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10))

    async def _probe(self, kind: str) -> bool:
        """Whether a probe succeeds; one that the manifest does not have always does."""
        probe = self.container.get(kind)
        if probe is None:
            return True
        named = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        get = probe["httpGet"]
        try:
            async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
                port = named.get(get["port"], get["port"])
                return 200 <= (await asyncio.to_thread(_get, self.host, port, get["path"]))[0] < 400
        except (OSError, TimeoutError, http.client.HTTPException):
            return False

    # ---- what it starts with

    def _command(self) -> list[str]:
        words = [*self.container.get("command", ()), *self.container.get("args", ())]
        words = [self._here(word) for word in words]
        if words and words[0] in PYTHONS:
            return [sys.executable, *words[1:]]
        if words and words[0] == "slmpack":
            words = words[1:]
        return [sys.executable, "-W", "ignore", "-c", ENTRYPOINT, str(self._volumes.path(ACCOUNT)), *words]

    def _here(self, text: str) -> str:
        """The text with this machine's files and addresses for the pod's."""
        text = ANY_HOST.sub(self.host, self._volumes.translated(text))
        return URL.sub(lambda url: self._pods.route(url["namespace"], url["service"]), text)

    def _environment(self) -> dict[str, str]:
        server = urlsplit(self._pods.control_plane.url)
        env = {
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "HOME": "/nonexistent",
            "TMPDIR": str(self._volumes.path("/tmp")),
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
            **self._pods.environment,
        }
        for item in self.container.get("env", ()):
            value = item["value"] if "value" in item else self._volumes.value(item["valueFrom"], ip=self.ip)
            if value is not None:
                env[item["name"]] = self._here(value)
        return env

    # ---- what a test asks

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def words(self) -> list[str]:
        """The command line of the running process."""
        return Path(f"/proc/{self.pid}/cmdline").read_text().split("\0")

    @property
    def log(self) -> str:
        """All output, over all restarts."""
        output = self._folder / "output"
        return output.read_text(errors="replace") if output.exists() else ""

    def listens(self) -> bool:
        """Whether it answers at all by now."""
        try:
            return bool(self.get("/healthz"))
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, str]:
        """Status and body, from the container's first port. OSError if there is no answer."""
        return _get(self.host, self.container["ports"][0]["containerPort"], path)


class ChartPods:
    """All pods of releases of the chart, by uid; also the Services' way to them. `Programs` of the kubelets."""

    def __init__(self, control_plane: ControlPlane, network: PodNetwork) -> None:
        self.control_plane = control_plane
        self._network = network
        self._pods: dict[str, ChartPod] = {}
        self.environment: dict[str, str] = {}
        """What the containers see beside what their manifests say, such as a Hub of the test's."""

    def __call__(self, pod: Json, ip: str) -> Program | None:
        """`slmpack.devcluster.program.Programs`."""
        if pod["metadata"].get("labels", {}).get("app.kubernetes.io/name") != "slmpack":
            return None
        self._pods[pod["metadata"]["uid"]] = found = ChartPod(pod, ip=ip, host=self._network.join(ip), pods=self)
        return found

    def of(self, pod: Json) -> ChartPod:
        """That of a pod which has come to a node."""
        uid: str = pod["metadata"]["uid"]
        eventually(lambda: uid in self._pods, what=f"{pod['metadata']['name']} is on a node")
        return self._pods[uid]

    def started(self, namespace: str) -> list[ChartPod]:
        """Those of a namespace in the order of their start, ended ones included."""
        return [pod for pod in self._pods.values() if pod.pod["metadata"]["namespace"] == namespace]

    def route(self, namespace: str, service: str) -> str:
        """Where a Service's address leads: to a Ready endpoint, else to where connections are refused, as by kube-proxy."""
        query = f"labelSelector=kubernetes.io/service-name%3D{service}"
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{query}"
        for piece in self.control_plane.request("GET", path)["items"]:
            for endpoint in piece["endpoints"]:
                if endpoint["conditions"].get("ready"):
                    pod = self._pods[endpoint["targetRef"]["uid"]]
                    return f"http://{pod.host}:{piece['ports'][0]['port']}"
        return f"http://{self._network.host}:{REFUSED_PORT}"

    def close(self) -> None:
        """Leave nothing behind."""
        for pod in self._pods.values():
            pod.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartWorld:
    """A control plane with nodes on which the chart's pods run."""

    control_plane: ControlPlane
    pods: ChartPods
    packs: Packs


@contextmanager
def playing_chart(control_plane: ControlPlane, nodes: Iterable[Json]) -> Iterator[ChartWorld]:
    """Stand-in kubelets on which the chart's pods run as processes, and packs."""
    with PodNetwork() as network:
        pods = ChartPods(control_plane, network)
        try:
            with playing_packs(control_plane, nodes, network=network, others=pods) as packs:
                yield ChartWorld(control_plane=control_plane, pods=pods, packs=packs)
        finally:
            pods.close()


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()
