"""Where the demo plays: a cluster of its own in this process, or a namespace of an existing one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from slmpack.adapters.kube import KubeClient
from slmpack.adapters.resources import PODS, SLM_DEPLOYMENTS
from slmpack.api.crd import build_crd
from slmpack.api.parse import parse_slmdeployment
from slmpack.api.v1alpha1 import SLMDeployment
from slmpack.devcluster.cluster import EmbeddedCluster, system_clock
from slmpack.devcluster.kubelet import Kubelets
from slmpack.devcluster.nodes import a100_mig_node, mps_node, whole_node
from slmpack.ports import Conflict, NotFound, PortError
from slmpack.render.names import NAME_LABEL

__all__ = ["DEMO_NAMESPACE", "Stage", "demo_nodes", "embedded_stage", "existing_stage", "load_examples"]

Json = dict[str, Any]
Say = Callable[[str], None]

DEMO_NAMESPACE = "slmpack-demo"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAMESPACE_PATH = "/api/v1/namespaces"
CRD_SECONDS = 15.0
REMOVE_SECONDS = 60.0
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A cluster with the CRD, and the namespace to use."""

    kubeconfig: Path
    namespace: str
    client: KubeClient
    operator_flags: tuple[str, ...]
    """What `slmpack run` must be told there."""
    own: bool
    """Whether the whole cluster is the demo's."""
    created: list[str] = field(default_factory=list)
    """Paths of what the demo made, in order."""

    async def create(self, collection: str, body: Mapping[str, Any]) -> bool:
        """Create an object and remember it; False if one of that name is there already.

        Looks first: what is there may be readable to an account that may not create it.
        """
        path = f"{collection}/{body['metadata']['name']}"
        if await _is_there(self.client, path):
            return False
        try:
            await self.client.create(collection, body)
        except Conflict:
            return False
        self.created.append(path)
        return True


def demo_nodes() -> tuple[Json, ...]:
    """An A100 in MIG slices, two H100s in four MPS shares each, two whole L4s."""
    return (
        a100_mig_node("a100-mig", profiles={"1g.10gb": 4, "3g.40gb": 1}),
        mps_node("h100-mps", replicas=4, gpus=2),
        whole_node("l4-whole", gpus=2),
    )


def load_examples() -> tuple[Json, ...]:
    """The SLMDeployments of examples/, which ship with the package."""
    package = Path(__file__).parents[1]
    folders = (package / "examples", package.parents[1] / "examples")
    files = next((files for folder in folders if (files := sorted(folder.glob("*.yaml")))), [])
    return tuple(obj for path in files for obj in yaml.safe_load_all(path.read_text(encoding="utf-8")) if obj)


@asynccontextmanager
async def embedded_stage(folder: Path, *, seed: int, say: Say) -> AsyncIterator[Stage]:
    """The embedded cluster with GPU nodes and stand-in kubelets; nothing of it outlives the context."""
    _reach_loopback_directly()
    async with (
        EmbeddedCluster(crds=[build_crd()], validate=_refusals) as cluster,
        Kubelets(cluster.api, nodes=demo_nodes(), clock=system_clock, seed=seed) as kubelets,
    ):
        cluster.logs = kubelets.log
        kubeconfig = cluster.kubeconfig(folder / "kubeconfig")
        say(f"a cluster in this process at {cluster.url}: 3 nodes with 5 GPUs, played by strict stand-ins")
        async with await KubeClient.connect(str(kubeconfig)) as client:
            flags = ("--lease-namespace", "default")
            yield Stage(kubeconfig=kubeconfig, namespace="default", client=client, operator_flags=flags, own=True)


def _reach_loopback_directly() -> None:
    """Python's clients, ours and the operator's, would ask a proxy for 127.0.0.1; kubectl would not."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))


def _refusals(obj: Json) -> list[str]:
    parsed = parse_slmdeployment(obj)
    return [] if isinstance(parsed, SLMDeployment) else [f"{problem.field}: {problem.message}" for problem in parsed]


@asynccontextmanager
async def existing_stage(kubeconfig: Path, *, say: Say) -> AsyncIterator[Stage]:
    """A namespace of the cluster that `kubeconfig` names; at the end, exactly what was created is removed."""
    async with await KubeClient.connect(str(kubeconfig)) as client:
        flags = ("--namespace", DEMO_NAMESPACE, "--lease-namespace", DEMO_NAMESPACE)
        stage = Stage(kubeconfig=kubeconfig, namespace=DEMO_NAMESPACE, client=client, operator_flags=flags, own=False)
        say(
            f"on {client.connection.server} the demo creates, unless there: the CRD slmdeployments.slmpack.dev,"
            f" the namespace {DEMO_NAMESPACE} and the examples in it; the operator runs on this machine"
        )
        try:
            await _prepare(stage, say=say)
            yield stage
        finally:
            await asyncio.shield(_remove(stage, say=say))


async def _prepare(stage: Stage, *, say: Say) -> None:
    if not await stage.create(CRD_PATH, build_crd()):
        say("the CRD is there already: it stays as it is")
    labels = {"app.kubernetes.io/managed-by": "slmpack-demo"}
    namespace = {"metadata": {"name": DEMO_NAMESPACE, "labels": labels}}
    if not await stage.create(NAMESPACE_PATH, namespace):
        say(f"the namespace {DEMO_NAMESPACE} is there already: it stays")
    async with asyncio.timeout(CRD_SECONDS):
        while not await _is_there(stage.client, SLM_DEPLOYMENTS.path()):  # noqa: ASYNC110 - the API server has no event for it
            await asyncio.sleep(POLL_SECONDS)


async def _is_there(client: KubeClient, path: str) -> bool:
    try:
        await client.get(path)
    except NotFound:
        return False
    return True


async def _remove(stage: Stage, *, say: Say) -> None:
    """Latest first; the pods are gone before the namespace and the CRD are deleted."""
    ours = [path for path in reversed(stage.created) if SLM_DEPLOYMENTS.plural in path.split("/")[-2]]
    rest = [path for path in reversed(stage.created) if path not in ours]
    if stage.created:
        say(f"removing what the demo created: {', '.join(path.rsplit('/', 1)[1] for path in (*ours, *rest))}")
    for path in ours:
        await _delete(stage.client, path, say=say)
    try:
        async with asyncio.timeout(REMOVE_SECONDS):
            while ours and await _pods_left(stage, ours):  # noqa: ASYNC110 - a poll is enough here
                await asyncio.sleep(POLL_SECONDS)
    except (TimeoutError, PortError) as error:
        say(f"pods of the demo are left in {stage.namespace}: {error or 'they did not end in time'}")
    for path in rest:
        await _delete(stage.client, path, say=say)


async def _pods_left(stage: Stage, deployments: list[str]) -> bool:
    names = {path.rsplit("/", 1)[1] for path in deployments}
    selector = f"{NAME_LABEL} in ({','.join(sorted(names))})"
    pods, _ = await stage.client.list(PODS.path(namespace=stage.namespace), {"labelSelector": selector})
    return bool(pods)


async def _delete(client: KubeClient, path: str, *, say: Say) -> None:
    try:
        await client.delete(path)
    except NotFound:
        return
    except PortError as error:
        say(f"{path} is left: {error}")
