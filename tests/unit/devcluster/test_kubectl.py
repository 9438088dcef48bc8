"""The embedded server's contract: the kubectl lines that the demo prints, by the real kubectl."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from slmpack.devcluster.cluster import EmbeddedCluster
from tests.unit.devcluster.samples import CRD, SLM_PATH, problems, slm


class Kubectl:
    def __init__(self, folder: Path, cluster: EmbeddedCluster) -> None:
        self.folder, self.cluster = folder, cluster
        found = shutil.which("kubectl", path=str(Path(sys.executable).parent))
        assert found, "kubectl is part of the development environment"
        self.command = (
            found,
            f"--kubeconfig={cluster.kubeconfig(folder / 'config')}",
            f"--cache-dir={folder / 'cache'}",
        )

    async def __call__(self, *args: str, code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            *self.command, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == code, output.decode()
        return output.decode()

    def file(self, obj: object) -> str:
        path = self.folder / "object.yaml"
        path.write_text(yaml.safe_dump(obj))
        return str(path)


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    async with EmbeddedCluster(crds=[CRD], validate=problems) as cluster:
        yield Kubectl(tmp_path, cluster)


async def test_applies_gets_edits_and_deletes_a_deployment(kubectl: Kubectl) -> None:
    path = kubectl.file(slm(replicas=1))
    assert await kubectl("apply", "-f", path) == "slmdeployment.slmpack.dev/qwen created\n"
    assert await kubectl("apply", "-f", path) == "slmdeployment.slmpack.dev/qwen unchanged\n"
    assert await kubectl("apply", "-f", kubectl.file(slm(replicas=2))) == "slmdeployment.slmpack.dev/qwen configured\n"
    await kubectl.cluster.api.apply(
        f"{SLM_PATH}/qwen/status",
        {"status": {"ready": "1/2", "conditions": [{"type": "Ready", "status": "True", "reason": "AllReady"}]}},
        field_manager="slmpack",
    )
    header, row = (await kubectl("get", "slm")).splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "AGE"]
    assert row.split()[:3] == ["qwen", "1/2", "AllReady"]
    assert yaml.safe_load(await kubectl("get", "slm", "qwen", "-o", "yaml"))["spec"]["replicas"] == 2
    assert await kubectl("scale", "slm/qwen", "--replicas=5") == "slmdeployment.slmpack.dev/qwen scaled\n"
    assert json.loads(await kubectl("get", "slm", "qwen", "-o", "json"))["spec"]["replicas"] == 5
    await kubectl("label", "slm", "qwen", "team=a")
    assert await kubectl("get", "slm", "-l", "team=a", "-o", "name") == "slmdeployment.slmpack.dev/qwen\n"
    assert await kubectl("patch", "slm", "qwen", "--type=merge", "-p", '{"spec":{"replicas":3}}')
    assert await kubectl("wait", "slm/qwen", "--for=condition=Ready", "--timeout=5s")
    uid = (await kubectl.cluster.api.get(f"{SLM_PATH}/qwen"))["metadata"]["uid"]
    await kubectl.cluster.api.create(
        "/apis/events.k8s.io/v1/namespaces/default/events",
        {
            "metadata": {"generateName": "qwen."},
            "regarding": {"kind": "SLMDeployment", "name": "qwen", "namespace": "default", "uid": uid},
            "reason": "Placed",
            "note": "one replica on node a100",
            "type": "Normal",
            "eventTime": "2026-01-01T00:00:00.000000Z",
        },
    )
    described = await kubectl("describe", "slm", "qwen")
    assert "Replicas:" in described
    assert "one replica on node a100" in described
    assert "one replica on node a100" in await kubectl("get", "events")
    assert "How many." in await kubectl("explain", "slmdeployment.spec.replicas")
    assert await kubectl("delete", "slm", "qwen") == 'slmdeployment.slmpack.dev "qwen" deleted from default namespace\n'
    assert "No resources found" in await kubectl("get", "slm")


async def test_a_bad_spec_is_refused_with_its_message(kubectl: Kubectl) -> None:
    refused = await kubectl("apply", "-f", kubectl.file(slm(model=None)), code=1)
    assert 'SLMDeployment "qwen" is invalid: spec.model: Required value' in refused


async def test_server_side_apply_and_watch(kubectl: Kubectl) -> None:
    await kubectl("apply", "--server-side", "-f", kubectl.file(slm(replicas=1)))
    process = await asyncio.create_subprocess_exec(
        *kubectl.command, "get", "slm", "-w", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).split()[0] == b"NAME"
    assert (await process.stdout.readline()).split()[0] == b"qwen"
    await kubectl.cluster.api.apply(f"{SLM_PATH}/qwen/status", {"status": {"ready": "1/1"}}, field_manager="slmpack")
    assert (await asyncio.wait_for(process.stdout.readline(), 5)).split()[:2] == [b"qwen", b"1/1"]
    process.terminate()
    await process.communicate()


async def test_crd_and_built_ins_from_files(kubectl: Kubectl) -> None:
    crd = CRD | {"metadata": {"name": "others.example.org"}}
    crd["spec"] = CRD["spec"] | {
        "group": "example.org",
        "names": {"plural": "others", "kind": "Other", "singular": "other"},
    }
    await kubectl("apply", "-f", kubectl.file(crd))
    await kubectl("wait", "crd/others.example.org", "--for=condition=Established", "--timeout=5s")
    await kubectl("get", "others.example.org")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "name": "http"}]},
    }
    await kubectl("apply", "-f", kubectl.file(service))
    service["spec"] = {"selector": {"app": "web"}, "ports": [{"port": 81, "name": "http"}]}
    await kubectl("apply", "-f", kubectl.file(service))
    assert "81/TCP" in await kubectl("get", "svc", "web")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await kubectl("apply", "-f", kubectl.file(pod))
    assert "0/0 nodes are available" in await kubectl("describe", "pod", "p")
    assert (await kubectl("get", "pods", "-o", "wide")).splitlines()[1].split()[:4] == ["p", "0/1", "Pending", "0"]
    await kubectl("delete", "pod", "p")
