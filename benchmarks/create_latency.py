"""From an SLMDeployment's acceptance to its first pod: 50 resources of one replica, applied at once, real API server.

Both ends are ADDED events, timed at one watch client; the stand-in kubelets only pull images meanwhile, as kubelets do
their work on other machines. The baseline, in the same run: 50 Deployments of one replica,
whose pods kube-controller-manager makes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slmpack.adapters.kube import KubeClient
from slmpack.api.crd import render_crd
from slmpack.devcluster.nodes import whole_node
from slmpack.devcluster.worker import Timing
from tests.support.control_plane import ControlPlane
from tests.support.operator import Operator, eventually, operator_account, playing_nodes

COUNT = 50
NODES = [whole_node(f"bench-{number}", product="NVIDIA-L4", gpus=8) for number in range(7)]
Json = dict[str, Any]


def main() -> None:
    with ControlPlane.start(say=lambda _: None) as control_plane, tempfile.TemporaryDirectory() as folder:
        control_plane.kubectl("apply", "--server-side", "-f", "-", input=render_crd())
        eventually(lambda: control_plane.kubectl("get", "slm", "-A", check=False).returncode == 0)
        system = control_plane.new_namespace("system")
        token = operator_account(control_plane, system=system)
        config = {
            "kubeconfig": str(control_plane.kubeconfig(token, user="slmpack")),
            "lease_namespace": system,
        }
        with (
            playing_nodes(control_plane, NODES, timing=Timing(pull=120)),
            Operator(config, log=Path(folder) / "operator.log") as operator,
        ):
            operator.wait_ready()
            ours = asyncio.run(_measure(control_plane, "slmpack.dev", "v1alpha1", "slmdeployments", _slm))
            plain = asyncio.run(_measure(control_plane, "apps", "v1", "deployments", _deployment))
    print(f"  {COUNT} resources of one replica applied at once; seconds from its ADDED event to its first pod's")
    _report("SLMDeployment (slmpack)", ours)
    _report("baseline: Deployment (kube-controller-manager)", plain)


def _report(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    figures = "  ".join(
        f"{q} {ordered[min(len(ordered) - 1, int(len(ordered) * at))]:5.3f}" for q, at in quantiles.items()
    )
    print(f"  {name:48} {figures}  max {ordered[-1]:5.3f}")


async def _measure(
    control_plane: ControlPlane, group: str, version: str, plural: str, make: Callable[[str, str], Json]
) -> list[float]:
    namespace = control_plane.new_namespace("bench")
    base = f"/apis/{group}/{version}/namespaces/{namespace}/{plural}"
    client = await KubeClient.connect(str(control_plane.kubeconfig()))
    accepted: dict[str, float] = {}
    started: dict[str, float] = {}
    done = asyncio.Event()

    async def follow(path: str, seen: dict[str, float]) -> None:
        _, version = await client.list(path)
        while True:  # the API server ends the watch of a client that is slow
            async for kind, obj in client.watch(path, resource_version=version):
                version = obj["metadata"]["resourceVersion"]
                if kind == "ADDED":
                    seen.setdefault(obj["metadata"]["labels"]["bench"], time.monotonic())
                if len(accepted) == COUNT and len(started) == COUNT:
                    done.set()

    watches = [
        asyncio.create_task(follow(base, accepted)),
        asyncio.create_task(follow(f"/api/v1/namespaces/{namespace}/pods", started)),
    ]
    await asyncio.sleep(1)
    await asyncio.gather(*(client.create(base, make(f"bench-{number}", namespace)) for number in range(COUNT)))
    try:
        await asyncio.wait_for(done.wait(), 60)
    except TimeoutError:
        raise SystemExit(f"{plural}: {len(accepted)} accepted, {len(started)} pods within 60 s") from None
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await client.close()
    return [started[name] - accepted[name] for name in accepted]


def _slm(name: str, namespace: str) -> Json:
    return {
        "apiVersion": "slmpack.dev/v1alpha1",
        "kind": "SLMDeployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {"bench": name}},
        "spec": {
            "model": {"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"},
            "replicas": 1,
            "pod": {"labels": {"bench": name}},
        },
    }


def _deployment(name: str, namespace: str) -> Json:
    labels = {"bench": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "pause", "image": "pause"}]},
            },
        },
    }
