"""The embedded server over HTTP with the operator's own client, a stand-in kubelet behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter

import aiohttp
import pytest

from slmpack.adapters.kube import KubeClient
from slmpack.devcluster import nodes
from slmpack.devcluster.cluster import EmbeddedCluster, system_clock
from slmpack.devcluster.kubelet import Kubelets
from slmpack.ports import Conflict, Gone, NotFound
from tests.unit.devcluster.samples import CRD, PODS, SLM_PATH, eventually, problems, slm
from tests.unit.devcluster.test_kubectl import Kubectl
from tests.unit.devcluster.test_kubelet import FAST, MODEL, is_ready, pod


@pytest.fixture
async def cluster() -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster(crds=[CRD], validate=problems) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: EmbeddedCluster, tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with await KubeClient.connect(str(cluster.kubeconfig(tmp_path / "config"))) as client:
        yield client


async def test_starts_in_less_than_half_a_second(tmp_path: Path) -> None:
    start = perf_counter()
    async with EmbeddedCluster(crds=[CRD]) as cluster:
        cluster.kubeconfig(tmp_path / "config")
        assert cluster.url.startswith("http://127.0.0.1:")
    assert perf_counter() - start < 0.5


async def test_a_kubelet_over_http_plays_pods_and_kubectl_reads_their_log(
    cluster: EmbeddedCluster, client: KubeClient, tmp_path: Path
) -> None:
    node = nodes.a100_mig_node("a100", profiles={"1g.10gb": 1})
    async with Kubelets(client, nodes=[node], clock=system_clock, timing=FAST) as kubelets:
        cluster.logs = kubelets.log
        await client.create(PODS, pod())

        async def look() -> bool:
            return is_ready(await client.get(f"{PODS}/p"))

        await eventually(look)
        kubectl = Kubectl(tmp_path, cluster)
        assert "Application startup complete" in await kubectl("logs", "p")
        assert (await kubectl("get", "pods")).splitlines()[1].split()[:3] == ["p", "1/1", "Running"]
        assert (await kubectl("get", "nodes")).splitlines()[1].split()[:3] == ["a100", "Ready", "gpu"]
        assert MODEL in await kubectl("describe", "pod", "p")
        assert "nvidia.com/mig-1g.10gb" in await kubectl("describe", "node", "a100")
        await kubectl("delete", "pod", "p", "--timeout=5s")
        with pytest.raises(NotFound):
            await client.get(f"{PODS}/p")


async def test_writes_and_refusals_over_http(client: KubeClient) -> None:
    made = await client.create(SLM_PATH, slm())
    with pytest.raises(Conflict, match="already exists"):
        await client.create(SLM_PATH, slm())
    status = {"apiVersion": made["apiVersion"], "kind": made["kind"], "metadata": {"uid": made["metadata"]["uid"]}}
    await client.apply(f"{SLM_PATH}/qwen/status", status | {"status": {"ready": "0/1"}})
    assert (await client.get(f"{SLM_PATH}/qwen"))["status"] == {"ready": "0/1"}
    made["spec"]["replicas"] = 3
    with pytest.raises(Conflict, match="has been modified"):
        await client.replace(f"{SLM_PATH}/qwen", made)
    with pytest.raises(Conflict):
        await client.delete(f"{SLM_PATH}/qwen", uid="another")
    await client.delete(f"{SLM_PATH}/qwen", uid=made["metadata"]["uid"])
    assert (await client.list(SLM_PATH))[0] == []


async def test_a_watch_that_is_too_old_is_told_so_and_an_open_one_ends(
    cluster: EmbeddedCluster, client: KubeClient
) -> None:
    _, version = await client.list(SLM_PATH)
    watch = client.watch(SLM_PATH, resource_version=version)
    await client.create(SLM_PATH, slm())
    assert (await anext(watch))[0] == "ADDED"
    cluster.store.forget_history()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    with pytest.raises(Gone):
        await anext(client.watch(SLM_PATH, resource_version="1"))


async def test_initial_events_end_with_their_bookmark(cluster: EmbeddedCluster, client: KubeClient) -> None:
    await client.create(SLM_PATH, slm())
    params = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    watch = client.watch(SLM_PATH, resource_version="", params=params)
    assert (await anext(watch))[0] == "ADDED"
    kind, obj = await anext(watch)
    assert (kind, obj["metadata"]["annotations"]) == ("BOOKMARK", {"k8s.io/initial-events-end": "true"})
    await watch.aclose()  # type: ignore[attr-defined]


async def test_protobuf_is_refused_with_a_hint(cluster: EmbeddedCluster) -> None:
    headers = {"Content-Type": "application/vnd.kubernetes.protobuf"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{cluster.url}{PODS}", data=b"k8s", headers=headers) as answer,
    ):
        assert answer.status == 415
        assert "use kubectl apply -f" in (await answer.json())["message"]
