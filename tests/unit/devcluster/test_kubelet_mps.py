"""The MPS daemon of a stand-in node: one user at a time, so many clients and no more, and what its restart ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from slmpack.devcluster import nodes
from slmpack.devcluster.devices import AdmissionError, NodeDevices
from slmpack.devcluster.engine import Container, EngineFailureError, start_engine
from slmpack.devcluster.mps import clients_on
from tests.unit.devcluster.samples import PODS
from tests.unit.devcluster.test_kubelet import (
    FAST,
    GPU,
    MODEL,
    SLOW_START,
    condition,
    has_failed,
    is_ready,
    pod,
    running,
    share,
    waits_for,
    words,
)

Json = dict[str, Any]
IMAGE_USER = "devcluster.slmpack.dev/image-user"
PROBED = {"startupProbe": {"httpGet": {"path": "/health", "port": 8000}, "failureThreshold": 6, "periodSeconds": 10}}


@pytest.mark.parametrize(
    "other",
    [
        {"container": {"securityContext": {"runAsUser": 1000}} | PROBED},
        {"securityContext": {"runAsUser": 1000}, "container": PROBED},
        {"annotations": {IMAGE_USER: "1000"}, "container": PROBED},
    ],
    ids=["container", "pod", "image"],
)
async def test_an_engine_of_another_user_hangs_until_the_first_are_gone(other: Json) -> None:
    async with running("h100") as world:
        await world.create(share("root"))
        await world.until("root", is_ready)
        await world.create(share("same", securityContext={"runAsUser": 0}))
        await world.until("same", is_ready)
        await world.create(share("other", **other))
        failed = await world.until("other", has_failed)
        assert "before the engine had a CUDA context" in words(failed)
        assert is_ready(await world.get("root"))


async def test_an_engine_of_another_user_starts_when_the_first_are_gone() -> None:
    async with running("h100") as world:
        await world.create(share("root"))
        await world.until("root", is_ready)
        await world.create(share("other", securityContext={"runAsUser": 1000}))
        await world.until("other", lambda obj: obj["status"]["phase"] == "Running")
        await asyncio.sleep(0.1)
        assert not is_ready(await world.get("other"))
        await world.api.delete(f"{PODS}/root")
        await world.until("other", is_ready)


async def test_on_a_whole_gpu_everybody_is_served() -> None:
    async with running("a100") as world:
        for name, user in (("a", 0), ("b", 1000)):
            await world.create(pod(name, securityContext={"runAsUser": user}))
        for name in "ab":
            await world.until(name, is_ready)


@pytest.mark.parametrize(("capability", "clients"), [("7.0", 16), ("7.5", 48), ("12.0", 48)])
def test_a_gpu_takes_so_many_clients(capability: str, clients: int) -> None:
    major, minor = capability.split(".")
    node = nodes.mps_node("n", replicas=60)
    labels = node["metadata"]["labels"]
    labels |= {"nvidia.com/gpu.compute.major": major, "nvidia.com/gpu.compute.minor": minor}
    assert clients_on(labels) == clients
    devices = NodeDevices(node, chooser=Random(1))
    seen = Container(image="vllm:v0.33.0", arguments=[MODEL], environment={}, annotations={})
    for number in range(clients):
        (gpu,) = devices.allocate(str(number), {GPU: 1})
        assert gpu.view().takes_clients
        gpu.resident_bytes[str(number)] = 0
    (gpu,) = devices.allocate("one more", {GPU: 1})
    with pytest.raises(EngineFailureError, match="required to support MPS client have been exhausted"):
        start_engine(seen, gpu.view())


async def test_a_restart_of_the_device_plugin_kills_its_clients_and_withdraws_the_gpus_meanwhile() -> None:
    async with running("h100", "a100", timing=replace(SLOW_START, retry=0.02)) as world:
        for name in ("a", "b"):
            await world.create(share(name))
            await world.until(name, is_ready)
        restart = asyncio.create_task(world.kubelets.restart_device_plugin("h100"))
        for name in ("a", "b"):
            assert "MPS control daemon went away" in words(await world.until(name, has_failed))
        assert (await world.api.get("/api/v1/nodes/h100"))["status"]["allocatable"][GPU] == "0"
        await world.create(share("early"))
        early = await world.until("early", lambda obj: condition(obj, "PodScheduled") == "False")
        assert "nodeName" not in early["spec"]
        await restart
        assert (await world.api.get("/api/v1/nodes/h100"))["status"]["allocatable"][GPU] == "4"
        await world.until("early", is_ready)


async def test_a_restart_spares_who_is_no_client() -> None:
    async with running("a100") as world:
        await world.create(pod())
        await world.until("p", is_ready)
        await world.kubelets.restart_device_plugin("a100")
        assert is_ready(await world.get("p"))


async def test_clients_that_the_kubelet_restarts_itself_disturb_each_other() -> None:
    """Why a replica on such a node has restartPolicy Never: two that come back at once fail each other's start."""
    async with running("h100", timing=replace(FAST, start=0.2)) as world:
        for name in ("a", "b"):
            await world.create(share(name, restartPolicy="Always"))
            await world.until(name, is_ready)
        await world.kubelets.restart_device_plugin("h100")
        await world.until("a", waits_for("CrashLoopBackOff"))
        last = (await world.get("a"))["status"]["containerStatuses"][0]["lastState"]["terminated"]
        assert "Error in memory profiling" in last["message"]


async def test_a_changed_configuration_changes_the_shares() -> None:
    async with running("h100") as world:
        await world.create(share("a"))
        await world.until("a", is_ready)
        changed = nodes.mps_node("h100", replicas=8)
        changed["metadata"]["labels"]["nvidia.com/device-plugin.config"] = "eight"
        await world.kubelets.restart_device_plugin("h100", node=changed)
        await world.until("a", has_failed)
        node = await world.api.get("/api/v1/nodes/h100")
        assert node["status"]["allocatable"][GPU] == "8"
        assert node["metadata"]["labels"]["nvidia.com/gpu.replicas"] == "8"
        await world.create(share("b", util=0.2))
        assert "less than desired GPU memory utilization" in words(await world.until("b", has_failed)), "a half as much"
        await world.create(share("c", util=0.11))
        await world.until("c", is_ready)


def test_without_a_device_plugin_nothing_is_admitted() -> None:
    devices = NodeDevices(nodes.mps_node("n", replicas=2), chooser=Random(1))
    devices.is_advertised = False
    assert devices.allocate("none", {}) == []
    with pytest.raises(AdmissionError, match="no healthy devices present; cannot allocate unhealthy devices nvidia"):
        devices.allocate("a", {GPU: 1})


async def test_a_reboot_ends_every_process_and_the_node_comes_back() -> None:
    async with running("h100", "a100") as world:
        await world.create(share("a"))
        await world.until("a", is_ready)
        await world.create(pod("slice", restartPolicy="Always"))
        await world.until("slice", is_ready)
        await world.kubelets.reboot_node("h100")
        failed = await world.until("a", has_failed)
        assert failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 255
        assert is_ready(await world.get("slice"))
        await world.create(share("b"))
        await world.until("b", is_ready)
        await world.kubelets.reboot_node("a100")
        back = await world.until("slice", is_ready)
        assert back["status"]["containerStatuses"][0]["restartCount"] == 1
