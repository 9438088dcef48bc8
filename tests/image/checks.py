"""What the images promise, each checked on the image itself."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from slmpack.api.crd import build_crd
from slmpack.devcluster.cluster import EmbeddedCluster
from slmpack.devcluster.nodes import whole_node
from tests.image.builder import USER, Image
from tests.support.cli import a_cr

__all__ = ["OPERATOR_CHECKS", "check_pack"]

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "images/operator/requirements.lock"
SLM = "/apis/slmpack.dev/v1alpha1/namespaces/default/slmdeployments"
TOOLS = {"pip", "pip3", "uv", "gcc", "cc", "make", "ld", "hatchling", "git", "curl", "wget"}


def check_configuration(image: Image) -> None:
    """It runs the operator as a user without a name or rights, and says what it is."""
    config = image.config
    assert config["User"] == USER, config
    assert config["Entrypoint"] == ["slmpack"], config
    assert config["Cmd"] == ["run", "--http", "0.0.0.0:8080"], config
    assert config["ExposedPorts"] == {"8080/tcp": {}}, config
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == "0.0.0-test"


def check_contents(image: Image) -> None:
    """Nothing in it installs, compiles, lends rights or can be written to."""
    programs = {
        path.name
        for folder in ("usr/bin", "usr/local/bin", "opt/slmpack/bin")
        for path in (image.root / folder).glob("*")
    }
    assert not TOOLS & programs, TOOLS & programs
    for module in ("pip", "ensurepip", "setuptools"):
        done = image.run("python3", "-c", f"import {module}")
        assert f"No module named '{module}'" in done.stderr, done
        assert list(image.root.glob(f"usr/**/{module}/__init__.py")) == []
    find = ["find", str(image.root), "-xdev", "-type", "f", "-perm", "/6000"]
    assert subprocess.run(find, capture_output=True, text=True, check=True).stdout == ""
    owned = ["find", str(image.root), "-xdev", "-uid", "65532"]
    assert subprocess.run(owned, capture_output=True, text=True, check=True).stdout == ""
    assert not {"src", "tools", "dist"} & {path.name for path in image.root.iterdir()}


def check_list_of_packages(image: Image) -> None:
    """The list of packages in it is what is installed, and what the lock says."""
    listed = json.loads((image.root / "opt/slmpack/sbom.cdx.json").read_text())
    components = {it["name"].lower().replace("_", "-"): it["version"] for it in listed["components"]}
    pins = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+) \\$", LOCK.read_text(), flags=re.MULTILINE))
    assert {name: components.get(name) for name in pins} == pins
    done = image.run("python3", "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))")
    installed = {name.lower().replace("_", "-") for name in done.stdout.split()}
    assert installed - {"slmpack"} == components.keys() - {"slmpack"}


def check_commands(image: Image) -> None:
    """The commands answer on a read-only root without a folder to write to."""
    assert image.run("slmpack", "--version").stdout.startswith("slmpack, version "), image.run("slmpack", "--version")
    assert image.run("kubectl-slm", "plan", "--help").stdout.startswith("Usage: kubectl slm plan")
    assert image.run("slmpack", "crd").stdout == (ROOT / "crds/slmdeployments.slmpack.dev.yaml").read_text()
    done = image.run("slmpack", "run")
    assert (done.returncode, "no cluster configuration" in done.stdout + done.stderr) == (1, True), done
    assert "Traceback" not in done.stderr


def check_init_container(image: Image) -> None:
    """As a pack's init container, it brings the supervisor into the pod's folder."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        done = image.run("python3", "-m", "slmpack.supervisor.install", "/mnt", shared=Path(folder))
        assert done.returncode == 0, done
        assert [path.name for path in Path(folder).iterdir()] == ["supervisor.pyz"]


def check_operator(image: Image) -> None:
    """As the operator of a cluster, it becomes ready, writes a status, and ends by SIGTERM."""
    asyncio.run(_operate(image))


def check_pack(image: Image) -> None:
    """The pack's image has the program where a pack's pod starts it, for every user."""
    done = image.run("python3", "-I", "/slmpack/supervisor.pyz")
    assert done.returncode == 78, done
    assert done.stdout.startswith("[slmpack] cannot start: SLMPACK_PACK: not JSON"), done


async def _operate(image: Image) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder)
        shared.chmod(0o755)  # noqa: ASYNC240 - nothing else runs yet
        async with EmbeddedCluster(crds=[build_crd()]) as cluster:
            cluster.kubeconfig(shared / "kubeconfig").chmod(0o644)
            await cluster.api.create("/api/v1/nodes", whole_node("l4", gpus=1))
            await cluster.api.create(SLM, a_cr("qwen"))
            words = ["slmpack", "run", "--kubeconfig", "/mnt/kubeconfig", "--lease-namespace", "default"]
            process = await asyncio.create_subprocess_exec(
                *image.command([*words, "--bundled-models", "--http", "127.0.0.1:0"]),
                env=image.environment(shared=shared),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said: list[str] = []
            reader = asyncio.create_task(_read(process, said))
            try:
                await _until(lambda: _is_ready(said), said)
                await _until(lambda: _is_placed(cluster), said)
                process.terminate()
                assert await asyncio.wait_for(process.wait(), timeout=30) == 0, "".join(said)
            finally:
                if process.returncode is None:
                    process.kill()
                await reader


async def _read(process: asyncio.subprocess.Process, said: list[str]) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        said.append(line.decode())


async def _until(holds: Callable[[], Awaitable[bool]], said: list[str]) -> None:
    for _ in range(300):
        if await holds():
            return
        await asyncio.sleep(0.2)
    raise AssertionError("not within a minute; it said:\n" + "".join(said))


async def _is_ready(said: list[str]) -> bool:
    found = re.search(r"listening on (http://\S+)", "".join(said))

    def ask() -> bool:
        try:
            with urllib.request.urlopen(f"{found[1]}/readyz", timeout=5) as answer:  # type: ignore[index]
                return bool(answer.status == 200)
        except OSError:
            return False

    return found is not None and await asyncio.to_thread(ask)


async def _is_placed(cluster: EmbeddedCluster) -> bool:
    found = await cluster.api.get(f"{SLM}/qwen")
    return bool((found.get("status") or {}).get("placements"))


OPERATOR_CHECKS: tuple[Callable[[Image], None], ...] = (
    check_configuration,
    check_contents,
    check_list_of_packages,
    check_commands,
    check_init_container,
    check_operator,
)
