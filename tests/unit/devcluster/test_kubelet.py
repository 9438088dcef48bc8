"""Each strictness of the stand-in kubelet: the deliberately wrong pod fails in vLLM's words, the right one is Ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from slmpack.devcluster import nodes
from slmpack.devcluster.cluster import EmbeddedCluster, system_clock
from slmpack.devcluster.devices import NodeDevices
from slmpack.devcluster.kubelet import Kubelets
from slmpack.devcluster.podstatus import PodStatus
from slmpack.devcluster.worker import Timing
from tests.unit.devcluster.samples import PODS, eventually

Json = dict[str, Any]
FAST = Timing(pull=0.005, create=0.005, start=0.05, stop=0.01, back_off=0.02, heartbeat=0.05, retry=0.01, scale=0.01)
SLOW_START = replace(FAST, start=0.4)  # wide enough for an overlap that is meant, on a busy machine
MODEL = "Qwen/Qwen2.5-1.5B-Instruct"
NODES = (
    nodes.a100_mig_node("a100", profiles={"1g.10gb": 3, "3g.40gb": 1}),
    nodes.mps_node("h100", replicas=4),
    nodes.whole_node("l4"),
)
GPU, MIG = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"


class World:
    def __init__(self, cluster: EmbeddedCluster, kubelets: Kubelets) -> None:
        self.cluster, self.kubelets, self.api = cluster, kubelets, cluster.api

    async def create(self, pod: Json) -> Json:
        return await self.api.create(PODS, pod)

    async def get(self, name: str) -> Json:
        return await self.api.get(f"{PODS}/{name}")

    async def until(self, name: str, happens: Callable[[Json], object]) -> Json:
        async def look() -> Json | None:
            pod = await self.get(name)
            return pod if happens(pod) else None

        return await eventually(look)

    async def gone(self, name: str) -> None:
        async def look() -> bool:
            return all(pod["metadata"]["name"] != name for pod in (await self.api.list(PODS))[0])

        await eventually(look)

    async def reports(self, reason: str) -> None:
        async def look() -> bool:
            return any(event["reason"] == reason for event in (await self.api.list("/api/v1/events"))[0])

        await eventually(look)


@asynccontextmanager
async def running(*names: str, timing: Timing = FAST) -> AsyncIterator[World]:
    cluster = EmbeddedCluster()
    chosen = [node for node in NODES if node["metadata"]["name"] in (names or ("a100", "h100", "l4"))]
    async with Kubelets(cluster.api, nodes=chosen, clock=system_clock, timing=timing) as kubelets:
        yield World(cluster, kubelets)


def pod(name: str = "p", *args: str, node: str = "a100", resource: str | None = MIG, **changes: Any) -> Json:
    container: Json = {
        "name": "vllm",
        "image": "vllm/vllm-openai:v0.33.0",
        "command": ["vllm", "serve"],
        "args": list(args) or [MODEL, "--max-model-len=4096", "--max-num-seqs=64", "--gpu-memory-utilization=0.9"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if resource:
        container["resources"] = {"limits": {resource: "1"}}
    spec: Json = {
        "containers": [container | changes.pop("container", {})],
        "nodeSelector": {"kubernetes.io/hostname": node},
    }
    meta = {"name": name, "annotations": changes.pop("annotations", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"restartPolicy": "Never"} | spec | changes}


def share(name: str, util: float = 0.2, limit: str = "0=20000M", **changes: Any) -> Json:
    env = [{"name": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "value": limit}]
    args = (MODEL, "--max-model-len=4096", "--max-num-seqs=64", f"--gpu-memory-utilization={util}")
    container = {"env": env} | changes.pop("container", {})
    return pod(name, *args, node="h100", resource=GPU, container=container, **changes)


def condition(obj: Json, kind: str) -> str:
    return next((item["status"] for item in obj.get("status", {}).get("conditions", []) if item["type"] == kind), "")


def is_ready(obj: Json) -> bool:
    return condition(obj, "Ready") == "True"


def has_failed(obj: Json) -> bool:
    return bool(obj["status"]["phase"] == "Failed")


def words(obj: Json) -> str:
    return str(obj["status"]["containerStatuses"][0]["state"]["terminated"].get("message", ""))


def waits_for(reason: str) -> Callable[[Json], bool]:
    return lambda obj: any(
        item["state"].get("waiting", {}).get("reason") == reason for item in obj["status"].get("containerStatuses", [])
    )


async def test_a_right_pod_walks_to_ready_and_its_status_names_no_gpu() -> None:
    async with running("a100") as world:
        await world.create(pod())
        ready = await world.until("p", is_ready)
    assert ready["status"]["phase"] == "Running"
    assert ready["spec"]["nodeName"] == "a100"
    assert condition(ready, "PodScheduled") == "True"
    assert "GPU-" not in str(ready)
    assert "Application startup complete" in (world.kubelets.log("default", "p") or "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (pod("p", MODEL, "--no-such-flag"), "vllm serve: error: unrecognized arguments: --no-such-flag"),
        (pod("p", MODEL, "--max-num-seqs"), "argument --max-num-seqs: expected one argument"),
        (pod("p", MODEL, "--max-num-seqs=many"), "argument --max-num-seqs: invalid int value: 'many'"),
        (pod("p", MODEL, "--max-num=8"), "ambiguous option: --max-num could match"),
        (pod("p", "--max-model-len=4096"), "no model in the arguments"),
        (pod("p", "acme/unheard-of"), "no logged run for model 'acme/unheard-of'"),
        (pod("p", MODEL, "--tensor-parallel-size=2"), "World size (2) is larger than the number of available GPUs (1)"),
        (pod("p", MODEL, "--gpu-memory-utilization=0.99"), "is less than desired GPU memory utilization (0.99"),
        (pod("p", MODEL, "--gpu-memory-utilization=1.5"), "gpu_memory_utilization must be in (0, 1]"),
        (
            pod("p", "Qwen/Qwen2.5-7B-Instruct", "--gpu-memory-utilization=0.9"),
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        (pod("p", MODEL, "--gpu-memory-utilization=0.4"), "No available memory for the cache blocks"),
        (pod("p", MODEL, "--gpu-memory-utilization=0.46", "--max-num-seqs=64"), "models's max seq len (32768)"),
        (
            pod(
                "p",
                MODEL,
                "--max-model-len=4096",
                "--max-num-seqs=64",
                "--gpu-memory-utilization=0.9",
                "--kv-cache-memory-bytes=8G",
            ),
            "torch.OutOfMemoryError",
        ),
        (pod("p", resource=None), "Failed to infer device type"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_wrong_pod_fails_in_the_engines_words(wrong: Json, message: str) -> None:
    async with running("a100") as world:
        await world.create(wrong)
        failed = await world.until("p", has_failed)
    assert message in words(failed)


async def test_dollar_escapes_and_variables_in_arguments_are_expanded() -> None:
    async with running("a100") as world:
        args = ("$(MODEL)", "--max-model-len=4096", "--max-num-seqs=64", "--served-model-name=a$$b")
        await world.create(pod("p", *args, container={"env": [{"name": "MODEL", "value": MODEL}]}))
        await world.until("p", is_ready)


async def test_an_mps_limit_bounds_an_engine_although_the_gpu_has_room() -> None:
    async with running("h100") as world:
        await world.create(share("tight", limit="0=4000M"))
        assert "less than desired GPU memory utilization" in words(await world.until("tight", has_failed))
        await world.create(share("low", util=0.03, limit="0=3500M"))
        assert "torch.OutOfMemoryError" in words(await world.until("low", has_failed))
        await world.create(share("more-than-the-daemon-allows", util=0.5, limit="0=60000M"))
        assert "less than desired" in words(await world.until("more-than-the-daemon-allows", has_failed))
        await world.create(share("odd", limit="20G"))
        assert "MPS client failed" in words(await world.until("odd", has_failed))
        await world.create(share("right"))
        await world.until("right", is_ready)


@pytest.mark.parametrize("flags", [[], ["--kv-cache-memory-bytes=1G"]], ids=["profiled", "cache size given"])
async def test_engines_on_one_gpu_start_one_after_another_or_fail(flags: list[str]) -> None:
    async with running("h100", timing=SLOW_START) as world:
        for name in "ab":
            wrong = share(name)
            wrong["spec"]["containers"][0]["args"] += flags
            await world.create(wrong)
        for name in ("a", "b"):
            assert "Error in memory profiling" in words(await world.until(name, has_failed))
        await world.create(share("c"))
        await world.until("c", is_ready)
        await world.create(share("d"))
        await world.until("d", is_ready)


async def test_a_stop_next_to_a_start_fails_the_start() -> None:
    async with running("h100", timing=SLOW_START) as world:
        await world.create(share("old"))
        await world.until("old", is_ready)
        await world.create(share("new"))
        await world.until("new", lambda obj: obj["status"]["phase"] == "Running")
        await world.api.delete(f"{PODS}/old", grace_period_seconds=1)
        assert "Error in memory profiling" in words(await world.until("new", has_failed))


async def test_mig_instances_start_in_parallel() -> None:
    async with running("a100") as world:
        for name in "abc":
            await world.create(pod(name))
        for name in "abc":
            await world.until(name, is_ready)


async def test_own_shared_memory_under_mps_is_a_create_error() -> None:
    mount = {"volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}
    volumes = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    async with running("h100", "a100") as world:
        await world.create(share("wrong", container=mount, volumes=volumes))
        await world.until("wrong", waits_for("CreateContainerError"))
        await world.create(pod("right", container=mount, volumes=volumes))
        await world.until("right", is_ready)


async def test_more_than_one_share_of_a_gpu_is_not_admitted() -> None:
    async with running("h100") as world:
        await world.create(share("two", container={"resources": {"limits": {GPU: "2"}}}))
        failed = await world.until("two", has_failed)
    assert failed["status"]["reason"] == "UnexpectedAdmissionError"
    assert "maximum request size for shared resources is 1" in failed["status"]["message"]


async def test_too_little_host_memory_is_oom_killed_and_crash_loops_under_always() -> None:
    limits = {"resources": {"limits": {MIG: "1", "memory": "2Gi"}}}
    async with running("a100") as world:
        await world.create(pod(container=limits, restartPolicy="Always"))
        looping = await world.until("p", waits_for("CrashLoopBackOff"))
    status = looping["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert status["lastState"]["terminated"]["exitCode"] == 137


async def test_a_pod_that_fits_nowhere_stays_pending_with_the_schedulers_words() -> None:
    async with running("a100") as world:
        for name in "abcd":
            await world.create(pod(name))
        waiting = await world.until("d", lambda obj: condition(obj, "PodScheduled") == "False")
        message = next(item["message"] for item in waiting["status"]["conditions"] if item["type"] == "PodScheduled")
        assert message == f"0/1 nodes are available: 1 Insufficient {MIG}."
        await world.until("a", is_ready)
        await world.api.delete(f"{PODS}/a")
        await world.until("d", is_ready)


@pytest.mark.parametrize("probe", [{"path": "/healthz", "port": 8000}, {"path": "/health", "port": 80}], ids=str)
async def test_a_probe_that_vllm_does_not_answer_never_succeeds(probe: Json) -> None:
    async with running("a100") as world:
        await world.create(pod(container={"readinessProbe": {"httpGet": probe}}))
        await world.reports("Unhealthy")
        assert not is_ready(await world.get("p"))


async def test_faults_on_demand() -> None:
    async with running("a100") as world:
        fault = "devcluster.slmpack.dev/fault"
        await world.create(pod("image", annotations={fault: "ImagePullBackOff"}))
        await world.until("image", waits_for("ImagePullBackOff"))
        await world.create(pod("crash", annotations={fault: "CrashAfter=0.01"}))
        assert "Engine core died" in words(await world.until("crash", has_failed))
        probes = {
            "startupProbe": {"httpGet": {"path": "/health", "port": 8000}, "failureThreshold": 2, "periodSeconds": 5}
        }
        await world.create(pod("dead", annotations={fault: "NeverReady"}, container=probes))
        assert (await world.until("dead", has_failed))["status"]["containerStatuses"][0]["state"]["terminated"][
            "exitCode"
        ] == 137
        await world.create(pod("evicted"))
        await world.until("evicted", is_ready)
        with pytest.raises(ValueError, match="must be one of CrashAfter, Evicted"):
            world.kubelets.fault("default", "evicted", "Gremlins")
        world.kubelets.fault("default", "evicted", "Evicted")
        assert (await world.until("evicted", has_failed))["status"]["reason"] == "Evicted"
        await world.create(pod("stuck", annotations={fault: "StuckTerminating"}))
        await world.until("stuck", is_ready)
        await world.api.delete(f"{PODS}/stuck")
        await asyncio.sleep(0.1)
        assert "deletionTimestamp" in (await world.get("stuck"))["metadata"]
        world.kubelets.fault("default", "stuck", "")
        await world.gone("stuck")


async def test_a_lost_node_goes_silent_and_comes_back() -> None:
    async with running("a100") as world:
        await world.create(pod())
        await world.until("p", is_ready)
        await world.kubelets.lose_node("a100")
        node = await world.api.get("/api/v1/nodes/a100")
        assert condition(node, "Ready") == "Unknown"
        assert not is_ready(await world.get("p"))
        await world.api.delete(f"{PODS}/p")
        await asyncio.sleep(0.1)
        assert "deletionTimestamp" in (await world.get("p"))["metadata"]
        await world.create(pod("later"))
        assert "nodeName" not in (await world.get("later"))["spec"]
        await world.kubelets.recover_node("a100")
        await world.gone("p")
        await world.until("later", is_ready)


async def test_an_active_deadline_fails_the_pod_and_keeps_it() -> None:
    async with running("a100") as world:
        await world.create(pod(annotations={"devcluster.slmpack.dev/fault": "NeverReady"}))
        await world.until("p", lambda obj: obj["status"]["phase"] == "Running")
        await world.api.patch(f"{PODS}/p", {"spec": {"activeDeadlineSeconds": 1}})
        failed = await world.until("p", has_failed)
        assert failed["status"]["reason"] == "DeadlineExceeded"
        await world.api.delete(f"{PODS}/p")
        await world.gone("p")


@pytest.mark.parametrize(("sleep", "code"), [(10, 0), (40, 137)])
async def test_pre_stop_runs_within_the_grace_period_or_the_engine_is_killed(sleep: int, code: int) -> None:
    lifecycle = {"lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}}
    async with running("a100") as world:
        await world.create(pod(container=lifecycle, terminationGracePeriodSeconds=30))
        await world.until("p", is_ready)
        watch = world.cluster.store.watch(world.cluster.store.registry.parse(f"{PODS}/p")).events()
        await world.api.delete(f"{PODS}/p")
        codes = []
        async for kind, obj in watch:
            states = [item["state"] for item in obj["status"].get("containerStatuses", [])]
            codes += [state.get("terminated", {}).get("exitCode") for state in states]
            if kind == "DELETED":
                break
        await watch.aclose()
    assert codes[-1] == code


async def test_heartbeats_renew_the_lease_and_the_condition() -> None:
    async with running("l4") as world:
        lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/l4"
        first = (await world.api.get(lease))["spec"]["renewTime"]

        async def look() -> bool:
            return bool((await world.api.get(lease))["spec"]["renewTime"] != first)

        await eventually(look)


async def test_the_choice_of_gpu_follows_the_seed_and_spreads() -> None:
    node = nodes.mps_node("n", replicas=2, gpus=4)

    def order(seed: int) -> list[int]:
        devices = NodeDevices(node, chooser=Random(seed))
        chosen = [devices.allocate(str(i), {GPU: 1})[0] for i in range(4)]
        assert len({id(gpu) for gpu in chosen}) == 4
        present = devices._gpus[GPU]
        return [next(i for i, gpu in enumerate(present) if gpu is one) for one in chosen]

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(10)}) > 1


def test_a_container_counts_as_started_once_its_startup_probe_passed() -> None:
    """As the kubelet reports it; without a startup probe a container has started as soon as it runs."""
    probed: dict[str, Any] = {
        "spec": {"containers": [{"name": "engine", "startupProbe": {"httpGet": {"path": "/health"}}}]}
    }
    plain: dict[str, Any] = {"spec": {"containers": [{"name": "engine"}]}}
    for pod, ready, expected in [(probed, False, False), (probed, True, True), (plain, False, True)]:
        status = PodStatus(pod, main="engine", ip="10.1.0.1", now=lambda: "2026-11-21T12:00:00Z").running(ready=ready)
        assert [container["started"] for container in status["containerStatuses"]] == [expected]
