"""A pack with real engines: planned and rendered by the operator, started as its containers would be, on this machine.

Real: the plan and the pod; the init container's command, and what it installs; the supervisor, by the pod's command and
environment with its own intervals, under the Python that vLLM has; `vllm serve` and all of its processes, as the
supervisor starts them. What is not stands in STAND_INS, and for the engines' flags and variables in `replica`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmpack.devcluster.nodes import H100, whole_node
from slmpack.domain.snapshot import Key
from slmpack.render.pack_children import PackPod, pack_children
from slmpack.render.pod import render_pod
from slmpack.supervisor.processes import descendants, kill_all, read_processes
from tests.engine.environment import VERSION
from tests.engine.kubelet import Container
from tests.engine.replica import CPU_ENV, NAME, Runnable, at_mounts, changed, mounts_of, planned
from tests.engine.tiny_model import CONFIG
from tests.support.pack_fakes import bench as fakes
from tests.support.pack_fakes.bench import PackBench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ENGINES", "STAND_INS", "Pack", "running_pack"]

Json = dict[str, Any]

ENGINES = 2
SUPERVISOR = "registry.local/slmpack:test"
SOURCE = Path(__file__).parents[2] / "operator"
KV_BYTES = 256 * 1024**2
"""Of host memory, for each engine."""
POD_IP = "10.1.2.3"
START_SECONDS = 400
"""Patience for an engine to start: 35 s were seen on two cores, 110 s under load, and two start slower than one."""

STAND_INS = {
    "MPS": "tests/support/pack_fakes has a control daemon and a server that know who is a client, and bind nothing",
    "MPS clients": "a vLLM plugin makes each EngineCore, which on a GPU holds the memory, a client of that daemon",
    "probe and NVML": "answer for a GPU of 80 GiB, so a limit is seen because they say so",
    "API server": "knows these EndpointSlices only; the operator's own renderer wrote them",
    "container": "a session and TMPDIR of its own, but no namespaces: the supervisor is not process 1",
    "ports, paths": "those in SLMPACK_PACK are changed as in a replica's arguments; the control API listens on 127.0.0.1 only",
}
"""What is not real here, and what it is instead."""

CLIENT = """
import multiprocessing, sys
sys.path.append({fakes!r})
from fake_client import attach
connections = []
def register():
    if multiprocessing.current_process().name.startswith("EngineCore"):
        connections.append(attach())
"""
"""The plugin. A CUDA process becomes a client with its context; vLLM on a CPU makes none."""

WATCHDOG = """
import sys
from slmpack.supervisor.processes import descendants, kill_all, read_processes
sys.stdin.read()
kill_all(descendants(read_processes(), roots=[int(sys.argv[1])]))
"""
"""Waits for this process to end, however it ends, then kills the pack: engines are in sessions of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A running pack."""

    bench: PackBench
    container: Container
    settings: Json
    """SLMPACK_PACK as it was started with."""
    slices: tuple[Path, ...]

    def until(self, condition: Callable[[], Any], *, what: str, seconds: float = 60) -> Any:
        """Wait for a state; AssertionError with the end of the output if it does not come."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self.container.process.poll() is None, f"the supervisor ended:\n{self.container.tail()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.container.tail()}"
            time.sleep(0.1)
        return found

    def run(self, *indexes: int) -> int:
        """Have exactly these engines run, and wait until they are ready; the status of the PUT."""
        status = self.bench.put(*indexes)
        self.until(lambda: self.ready == indexes, what=f"{indexes} ready", seconds=START_SECONDS)
        return status

    @property
    def ready(self) -> tuple[int, ...]:
        """The engines that serve."""
        return tuple(one["index"] for one in self.bench.report()["engines"] if one["ready"])

    def port(self, index: int) -> int:
        """Where the engine listens."""
        port: int = self.settings["engines"][index]["port"]
        return port

    def endpoints(self, index: int) -> list[Json]:
        """What the engine's slice says."""
        found: list[Json] = json.loads(self.slices[index].read_text(encoding="utf-8"))["endpoints"]
        return found

    def server(self, index: int) -> int:
        """The process that the supervisor has started for the engine."""
        word = f"--port={self.port(index)}".encode()
        mine = [
            pid
            for pid, proc in read_processes().items()
            if proc.parent == self.container.process.pid and word in _read(pid, "cmdline").split(b"\0")
        ]
        assert len(mine) == 1, mine
        return mine[0]

    def tree(self, index: int) -> dict[int, int]:
        """The engine's processes, and when each was started."""
        return _tree(self.server(index))

    def core(self, index: int) -> int:
        """The engine's EngineCore."""
        (core,) = [pid for pid in self.tree(index) if _read(pid, "cmdline").startswith(b"VLLM::EngineCore")]
        return core

    def everything(self) -> dict[int, int]:
        """Every process of the pack, and when it was started."""
        return _tree(self.container.process.pid)


@contextmanager
def running_pack(folder: Path, *, programs: Path, model: Path) -> Iterator[Pack]:
    """Start a pack of ENGINES tiny engines of which the first runs; at the end every process of it is killed."""
    pod, slices = _rendered(folder)
    volumes = folder / "volumes"
    (container,) = pod["spec"]["containers"]
    mounts = mounts_of(pod, container, volumes=volumes, model=model)
    _initialise(pod, volumes=volumes, model=model)
    command = [at_mounts(word, mounts) for word in container["command"]]
    assert command[:2] == ["python3", "-I"], command
    bench = PackBench(program=Path(command[2]), engines=ENGINES, python=str(programs / "python3"))
    try:
        bench.intervals = {}
        env = _environment(pod, mounts=mounts, ports=(bench.control_port, *bench.ports))
        bench.start(**env, **_stand_ins(bench, programs=programs, folder=folder), HOME=str(folder))
        places = tuple(_written(body, bench.folder / "slices") for body in slices)
        runnable = Runnable(
            command=tuple(command),
            env=env,
            port=bench.control_port,
            container=container,
            grace_seconds=pod["spec"]["terminationGracePeriodSeconds"],
        )
        running = Container(runnable=runnable, log=bench.output, process=bench.supervisor)
        with _watched(bench.supervisor.pid):
            yield Pack(bench=bench, container=running, settings=json.loads(env["SLMPACK_PACK"]), slices=places)
    finally:
        bench.close()


def _rendered(folder: Path) -> tuple[Json, list[Json]]:
    """The pod for one replica with room for more, and the slices of its engines."""
    spec: Json = {
        "model": {"source": f"pvc://models/{NAME}", "config": CONFIG},
        "engine": {"image": f"vllm/vllm-openai:v{VERSION}", "args": {"enforce-eager": "true", "max-num-seqs": "8"}},
        "sharing": {"mode": "MPSPack", "maxPerGPU": ENGINES},
        "replicas": 1,
    }
    node = whole_node("gpu-node", product=H100)
    create, policy = planned(folder, spec=spec, node=node, supervisor_image=SUPERVISOR)
    pod = render_pod(
        create,
        engines=policy.engines,
        supervisor_image=policy.supervisor_image,
        token_hash=hashlib.sha256(fakes.TOKEN.encode()).hexdigest(),
    )
    meta = pod["metadata"]
    parts = pack_children(
        PackPod(
            key=Key(meta["namespace"], meta["name"]),
            uid="0000-pod",
            ip=POD_IP,
            deployment=NAME,
            engines=ENGINES,
            account=pod["spec"]["serviceAccountName"],
        )
    )
    return pod, [part for part in parts if part["kind"] == "EndpointSlice"]


def _initialise(pod: Json, *, volumes: Path, model: Path) -> None:
    """Run the init container; its image has slmpack, as this Python has."""
    (container,) = pod["spec"]["initContainers"]
    mounts = mounts_of(pod, container, volumes=volumes, model=model)
    python, *words = [at_mounts(word, mounts) for word in container["command"]]
    assert python == "python3", python
    subprocess.run([sys.executable, *words], cwd=SOURCE, check=True, stdout=subprocess.DEVNULL)


def _environment(pod: Json, *, mounts: dict[str, str], ports: tuple[int, ...]) -> dict[str, str]:
    """The container's variables, as a kubelet fills them in."""
    (container,) = pod["spec"]["containers"]
    meta = pod["metadata"]
    fields = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": "0000-pod",
        "status.podIP": POD_IP,
        "spec.nodeName": "gpu-node",
    }
    env = {name: value for name, (value, _) in CPU_ENV.items()}
    for one in container["env"]:
        field = one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        env[one["name"]] = at_mounts(one["value"], mounts) if field is None else fields[field]
    env["SLMPACK_PACK"] = _settings(env["SLMPACK_PACK"].replace("$$", "$"), mounts=mounts, ports=ports)
    return env


def _settings(text: str, *, mounts: dict[str, str], ports: tuple[int, ...]) -> str:
    """SLMPACK_PACK with this machine's ports, memory and paths; all else as rendered."""
    settings: Json = json.loads(text)
    settings["controlPort"], *engine_ports = ports
    for engine, port in zip(settings["engines"], engine_ports, strict=True):
        values = {"--port": port, "--kv-cache-memory-bytes": KV_BYTES}
        engine["port"] = port
        engine["args"] = [at_mounts(changed(word, values), mounts) for word in engine["args"]]
    return json.dumps(settings)


def _stand_ins(bench: PackBench, *, programs: Path, folder: Path) -> dict[str, str]:
    """Variables: the real vLLM before the fake one, and the plugin where all of its processes find it."""
    place = folder / "plugin"
    info = place / "slmpack_stand_in-0.dist-info"
    info.mkdir(parents=True)
    (place / "slmpack_stand_in.py").write_text(CLIENT.format(fakes=str(Path(fakes.__file__).parent)), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slmpack-stand-in\nVersion: 0\n", encoding="utf-8")
    entry = "[vllm.general_plugins]\nslmpack_stand_in = slmpack_stand_in:register\n"
    (info / "entry_points.txt").write_text(entry, encoding="utf-8")
    return {"PATH": f"{programs}{os.pathsep}{bench.env['PATH']}", "PYTHONPATH": str(place)}


def _written(body: Json, folder: Path) -> Path:
    """The slice, as the operator makes it once the pod exists: after the supervisor has begun."""
    place: Path = folder / body["metadata"]["namespace"]
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{body['metadata']['name']}.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


@contextmanager
def _watched(pid: int) -> Iterator[None]:
    guard = [sys.executable, "-c", WATCHDOG, str(pid)]
    with subprocess.Popen(guard, cwd=SOURCE, stdin=subprocess.PIPE, start_new_session=True) as dog:
        try:
            yield
        finally:
            kill_all(_tree(pid))
            dog.kill()


def _tree(root: int) -> dict[int, int]:
    table = read_processes()
    return {pid: table[pid].started for pid in descendants(table, roots=[root]) if not table[pid].zombie}


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended since it was listed
        return b""
