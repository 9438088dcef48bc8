"""The replica under test: planned and rendered by the operator from files, then fitted to this machine.

What is not run as rendered stands in this module, each with its reason; what more a pack needs is in `pack`.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmpack.cli.manifests import read_manifests
from slmpack.cli.world import Question, observe_world
from slmpack.devcluster.nodes import mps_node
from slmpack.domain.plan import CreatePod
from slmpack.domain.planner import plan_cluster
from slmpack.domain.snapshot import Policy
from slmpack.render.pod import render_pod
from tests.engine.environment import VERSION
from tests.engine.tiny_model import CONFIG

__all__ = [
    "CHANGED_FLAGS",
    "CPU_ENV",
    "NAME",
    "Runnable",
    "at_mounts",
    "changed",
    "mounts_of",
    "on_this_machine",
    "planned",
    "rendered_pod",
]

Json = dict[str, Any]

NAME = "tiny"

CHANGED_FLAGS = {
    "--port": "a pod has a network of its own; here the port may be taken",
    "--kv-cache-memory-bytes": "the CPU build takes it from the host's memory, and the plan had a GPU's to give",
}
"""Rendered flags whose value is replaced, and why. Every other word is passed on as rendered."""

CPU_ENV = {
    "VLLM_CPU_OMP_THREADS_BIND": ("nobind", "the CPU build would pin its threads to cores, which are not ours alone"),
}
"""Variables that are added, with their value, and why. No rendered variable is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """A container as a process of this machine, and what a kubelet needs to look after it."""

    command: tuple[str, ...]
    env: dict[str, str]
    port: int
    """Where its probes are answered."""
    container: Json
    """As rendered: probes and lifecycle are read from it."""
    grace_seconds: int


def rendered_pod(folder: Path, *, grace_seconds: int | None = None, **engine: object) -> Json:
    """The manifest that the operator makes for one tiny model on a node that shares its GPU by MPS.

    An MPS share has the most flags: both memory bounds, and the environment of the limit. `engine` are further fields
    of spec.engine.
    """
    spec: Json = {
        "model": {"source": f"pvc://models/{NAME}", "config": CONFIG},
        "engine": {"image": f"vllm/vllm-openai:v{VERSION}", **engine},
        "sharing": {"mode": "MPS"},
    }
    if grace_seconds is not None:
        spec["pod"] = {"terminationGracePeriodSeconds": grace_seconds}
    create, policy = planned(folder, spec=spec, node=mps_node("gpu-node", replicas=4))
    return render_pod(create, engines=policy.engines)


def planned(folder: Path, *, spec: Json, node: Json, supervisor_image: str | None = None) -> tuple[CreatePod, Policy]:
    """The one pod that the operator decides to make for an SLMDeployment `tiny` on this node, and its policy."""
    deployment = {
        "apiVersion": "slmpack.dev/v1alpha1",
        "kind": "SLMDeployment",
        "metadata": {"name": NAME},
        "spec": spec,
    }
    path = folder / "world.json"
    objects = {"apiVersion": "v1", "kind": "List", "items": [deployment, node]}
    path.write_text(json.dumps(objects), encoding="utf-8")
    manifests = read_manifests([str(path)])
    question = Question(
        manifests=manifests, cluster=False, kubeconfig=None, model_seconds=0, supervisor_image=supervisor_image
    )
    world = asyncio.run(observe_world(question))
    plan = plan_cluster(world.snapshot, world.policy)
    creates = [action for action in plan.actions if isinstance(action, CreatePod)]
    assert len(creates) == 1, plan
    return creates[0], world.policy


def on_this_machine(
    pod: Json, *, programs: Path, volumes: Path, model: Path, port: int, kv_cache_bytes: int
) -> Runnable:
    """The pod's engine container with its mounts under `volumes` and the programs of the engine's environment.

    `model` is what the claim holds; the home directory is an empty folder, as an image's user without one has.
    """
    (container,) = pod["spec"]["containers"]
    mounts = mounts_of(pod, container, volumes=volumes, model=model)
    env = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(volumes / "home")}
    env |= {name: value for name, (value, _) in CPU_ENV.items()}
    (volumes / "home").mkdir(parents=True)
    for variable in container["env"]:
        env[variable["name"]] = at_mounts(variable["value"], mounts)
    values = {"--port": port, "--kv-cache-memory-bytes": kv_cache_bytes}
    assert values.keys() == CHANGED_FLAGS.keys()
    words = [at_mounts(changed(word, values), mounts) for word in (*container["command"], *container["args"])]
    return Runnable(
        command=(str(programs / words[0]), *(word.replace("$$", "$") for word in words[1:])),
        env=env,
        port=port,
        container=container,
        grace_seconds=pod["spec"]["terminationGracePeriodSeconds"],
    )


def mounts_of(pod: Json, container: Json, *, volumes: Path, model: Path) -> dict[str, str]:
    """Where each mount path of the container lies on this machine; /dev/shm is the machine's own."""
    kinds = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    found = {}
    for mount in container["volumeMounts"]:
        folder = model if "persistentVolumeClaim" in kinds[mount["name"]] else volumes / mount["name"]
        folder.mkdir(parents=True, exist_ok=True)
        found[mount["mountPath"]] = str(folder / mount.get("subPath", ""))
    return {path: place for path, place in found.items() if path != "/dev/shm"}


def at_mounts(text: str, mounts: dict[str, str]) -> str:
    """A word or a value that is a path of the container, as it is on this machine."""
    for path, place in mounts.items():
        if text == path or text.startswith(f"{path}/"):
            return place + text.removeprefix(path)
    return text


def changed(word: str, values: dict[str, int]) -> str:
    """A word of the command line with the value that CHANGED_FLAGS lets it have here."""
    flag, equals, _ = word.partition("=")
    return f"{flag}={values[flag]}" if equals and flag in values else word
