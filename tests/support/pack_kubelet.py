"""Packs on the stand-in kubelets: a pod's container `pack` as the real supervisor with the fakes of `pack_fakes`.

The supervisor gets the environment that its pod says and nothing of this process's; what an image, the kubelet and the
NVIDIA toolkit would add comes from here. Instead of a network of its own, a pod has a loopback address.

An annotation `fakes/NAME` of a pod becomes the file NAME.json of its state folder: how its fakes behave. `intervals`
are the supervisor's own, in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slmpack.devcluster.worker import Timing
from tests.support.operator import SOURCE, eventually, playing_nodes
from tests.support.pack_fakes.bench import INTERVALS, install_fakes
from tests.support.pack_fakes.outside import ask, processes_of
from tests.support.pod_proxy import PodNetwork, PodProxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from slmpack.devcluster.program import Programs
    from tests.support.control_plane import ControlPlane

    Json = dict[str, Any]

__all__ = ["FAKES", "Pack", "Packs", "playing_packs"]

FAKES = "fakes/"
SLOWER: Mapping[str, float] = {"tick": 0.1, "health": 0.3, "mps": 2.0, "nvml": 5.0, "endpoint_resync": 1.0}
"""Several supervisors on a small machine; the bench has one."""
POLL_SECONDS, PROBE_SECONDS = 0.05, 0.25
LEFTOVER_SECONDS = 20.0
TIMING = Timing(pull=0.02, create=0.02, back_off=0.5)
REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class Pack:
    """One pod's container: a `slmpack.devcluster.program.Program`, and what a test asks of it."""

    def __init__(self, pod: Json, *, ip: str, host: str, control_plane: ControlPlane) -> None:
        self.pod, self.ip, self.host = pod, ip, host
        self.left: list[str] = []
        """Commands of processes that outlived the supervisor by far; they were killed then."""
        self._control_plane = control_plane
        self._container: Json = pod["spec"]["containers"][0]
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # ---- the container

    async def run(self, publish: Callable[[bool], Awaitable[None]]) -> tuple[int, str]:
        """See `Program`."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pod-pack-"))  # a short path: a socket is below it
            await asyncio.to_thread(self._prepare)
        # Not in another thread: the supervisor is to die with the one that starts it.
        self._process = process = self._start()
        await self._watch(process, publish)
        return await self._ended(process), self.log[-4096:]

    async def stop(self, grace: float) -> int:
        """See `Program`."""
        process = self._process
        if process is None:
            return 0
        process.terminate()
        deadline = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(POLL_SECONDS)
        if process.poll() is None:
            self.kill()
        return await self._ended(process)

    def kill(self) -> None:
        """See `Program`: the kernel does it when a container's first process ends."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _ended(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code as the kubelet has it; waits for processes that the supervisor has left."""
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while (left := self.processes()) and time.monotonic() < deadline:  # noqa: ASYNC110 - nor do these
            await asyncio.sleep(PROBE_SECONDS)
        self.left += left.values()
        code = process.wait()
        return code if code >= 0 else 128 - code

    async def _watch(self, process: subprocess.Popen[bytes], publish: Callable[[bool], Awaitable[None]]) -> None:
        """The kubelet's probes, more often and with the same patience, until the process has ended."""
        began = alive = time.monotonic()
        started = ready = False
        misses = 0
        while process.poll() is None:
            now = time.monotonic()
            if not started:
                started = await self._probe("startupProbe")
                if now - began > self._patience("startupProbe"):
                    self.kill()
            if started:
                misses = 0 if await self._probe("readinessProbe") else misses + 1
                is_ready = misses == 0 or (ready and misses < self._container["readinessProbe"]["failureThreshold"])
                if is_ready is not ready:
                    ready = is_ready
                    await publish(ready)
                alive = now if await self._probe("livenessProbe") else alive
                if now - alive > self._patience("livenessProbe"):
                    self.kill()
            await asyncio.sleep(PROBE_SECONDS)

    def _patience(self, kind: str) -> float:
        probe = self._container[kind]
        return float(probe["failureThreshold"] * probe["periodSeconds"])

    async def _probe(self, kind: str) -> bool:
        probe = self._container[kind]
        named = {port["name"]: port["containerPort"] for port in self._container["ports"]}
        get = probe["httpGet"]
        try:
            async with asyncio.timeout(probe["timeoutSeconds"]):
                return await _status(self.host, named.get(get["port"], get["port"]), get["path"]) == 200
        except (OSError, TimeoutError, ValueError, IndexError):
            return False

    # ---- before its start

    def _prepare(self) -> None:
        """The init container, the volumes, and the fakes."""
        (self.folder / "tmp").mkdir()
        self._fakes = install_fakes(self.folder)
        for name, text in (self.pod["metadata"].get("annotations") or {}).items():
            if name.startswith(FAKES):
                (self.folder / f"{name.removeprefix(FAKES)}.json").write_text(text)
        (installer,) = self.pod["spec"]["initContainers"]
        (self.folder / "slmpack").mkdir()
        command = [sys.executable if word == "python3" else word for word in installer["command"]]
        subprocess.run(
            [str(self.folder / "slmpack") if word == "/slmpack" else word for word in command],
            env={"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        self._make_account()

    def _make_account(self) -> None:
        """The projected volume; as the kubelet's, the token is good as long as the pod is there."""
        meta, account = self.pod["metadata"], self.pod["spec"]["serviceAccountName"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
        body = {"spec": {"expirationSeconds": 3600, "boundObjectRef": bound}}
        token = self._control_plane.request("POST", path, body=body)["status"]["token"]
        folder = self.folder / "account"
        folder.mkdir()
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text(token)
        shutil.copy(self._control_plane.ca_file, folder / "ca.crt")

    def _start(self) -> subprocess.Popen[bytes]:
        program = str(self.folder / "slmpack" / "supervisor.pyz")
        command = [program if word == "/slmpack/supervisor.pyz" else word for word in self._container["command"]]
        command = [sys.executable if word == "python3" else word for word in command]
        # The supervisor's own launcher makes it die with this process.
        launcher = [sys.executable, "-I", program, "exec", str(os.getpid()), ""]
        with (self.folder / "output").open("ab") as log:
            return subprocess.Popen(
                [*launcher, *command],
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        """The kubelet's and the image's variables, those of the pod, and what the fakes need."""
        server = urlsplit(self._control_plane.url)
        env = {
            "HOME": "/",
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }
        for item in self._container["env"]:
            value = self._field(item["valueFrom"]["fieldRef"]["fieldPath"]) if "valueFrom" in item else item["value"]
            env[item["name"]] = REFERENCE.sub(
                lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), value
            )
        intervals = self.folder / "intervals.json"
        given = json.loads(intervals.read_text()) if intervals.exists() else {}
        return (
            env
            | self._fakes
            | {
                "TMPDIR": str(self.folder / "tmp"),
                "FAKE_PACK_BIND": self.host,
                "SLMPACK_BIND": self.host,
                "SLMPACK_ACCOUNT": str(self.folder / "account"),
                "SLMPACK_INTERVALS": json.dumps({**INTERVALS, **SLOWER, **given}),
            }
        )

    def _field(self, path: str) -> str:
        if path == "status.podIP":
            return self.ip
        group, name = path.split(".")
        return str(self.pod[group][name])

    # ---- what a test asks

    @property
    def folder(self) -> Path:
        """State of the fakes, and all that the container writes."""
        assert self._folder is not None, "not started"
        return self._folder

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """All output, over all restarts."""
        return (self.folder / "output").read_text(errors="replace")

    def processes(self) -> dict[int, str]:
        """What runs of this pod, by its state folder in the environment."""
        return {} if self._folder is None else processes_of(self._folder)

    def ask(self, port: int, path: str, *, method: str = "GET") -> int:
        """The status of one request to an engine, or to the supervisor. OSError if there is none."""
        return ask(f"http://{self.host}:{port}{path}", method=method)


class Packs:
    """All packs of a test, by the pod's uid."""

    def __init__(self, control_plane: ControlPlane, network: PodNetwork) -> None:
        self.network = network
        self.proxy = ""
        """URL by which an operator reaches them."""
        self._control_plane = control_plane
        self._packs: dict[str, Pack] = {}

    def __call__(self, pod: Json, ip: str) -> Pack | None:
        """`slmpack.devcluster.program.Programs`."""
        if pod["spec"]["containers"][0]["name"] != "pack":
            return None
        pack = Pack(pod, ip=ip, host=self.network.join(ip), control_plane=self._control_plane)
        self._packs[pod["metadata"]["uid"]] = pack
        return pack

    def of(self, pod: Json) -> Pack:
        """That of a pod which has started."""
        uid: str = pod["metadata"]["uid"]
        eventually(lambda: uid in self._packs, what=f"{pod['metadata']['name']} is on a node")
        return self._packs[uid]

    def close(self) -> None:
        """Leave nothing behind."""
        for pack in self._packs.values():
            pack.close()


@contextmanager
def playing_packs(
    control_plane: ControlPlane,
    nodes: Iterable[Json],
    *,
    network: PodNetwork | None = None,
    others: Programs = lambda _pod, _ip: None,
) -> Iterator[Packs]:
    """`playing_nodes` on which packs run, and pods that `others` has a program for, with the proxy to the packs."""
    with contextlib.nullcontext(network) if network else PodNetwork() as joined:
        packs = Packs(control_plane, joined)
        programs = lambda pod, ip: packs(pod, ip) or others(pod, ip)  # noqa: E731
        try:
            with playing_nodes(control_plane, nodes, timing=TIMING, programs=programs) as kubelets:
                proxy = PodProxy(joined)
                packs.proxy = asyncio.run_coroutine_threadsafe(proxy.open(), kubelets.loop).result(timeout=30)
                try:
                    yield packs
                finally:
                    asyncio.run_coroutine_threadsafe(proxy.close(), kubelets.loop).result(timeout=30)
        finally:
            packs.close()


async def _status(host: str, port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
