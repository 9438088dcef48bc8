"""A kubeconfig that is none: a sentence that names it, and silence where a prompt waits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slmpack.adapters.connection import context_namespace, load_connection
from slmpack.ports import Unavailable
from tests.support.cli import slmpack

BIN = Path(sys.executable).parent
SERVER = """
current-context: x
contexts: [{name: x, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 5}}]
users: [{name: u, user: {}}]
"""
BROKEN = {
    "not YAML": "not: [yaml",
    "a list": "[]",
    "empty": "",
    "contexts are a number": "contexts: 5",
    "not UTF-8": b"\xff\xfe\xff",
    "the server is a number": SERVER,
}


def written(folder: Path, content: str | bytes) -> str:
    path = folder / "config"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("args", [("top",), ("top", "-A"), ("plan", "--cluster"), ("explain", "x")])
def test_a_broken_kubeconfig_is_named(tmp_path: Path, content: str | bytes, args: tuple[str, ...]) -> None:
    path = written(tmp_path, content)
    result = slmpack(*args, "--kubeconfig", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"the cluster cannot be read: {path} is no kubeconfig (" in result.stderr
    assert "give one that `kubectl config view` can read" in result.stderr
    assert len(result.stderr.splitlines()) == 1


async def test_it_is_found_as_kubectl_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", written(tmp_path, "[]"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(Unavailable, match="config is no kubeconfig"):
        await load_connection()
    with pytest.raises(Unavailable, match="config is no kubeconfig"):
        await load_connection(server="http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="config is no kubeconfig"):
        context_namespace()


@pytest.mark.parametrize("content", [*BROKEN.values(), None], ids=[*BROKEN, "none"])
def test_completion_is_silent(tmp_path: Path, content: str | bytes | None) -> None:
    path = str(tmp_path / "none") if content is None else written(tmp_path, content)
    given = os.environ | {"KUBECONFIG": path}
    for args in (["explain", ""], ["top", "-n", ""]):
        found = subprocess.run(
            [BIN / "kubectl_complete-slm", *args], env=given, capture_output=True, text=True, check=False
        )
        assert (found.returncode, found.stdout, found.stderr) == (0, ":4\n", "")
    bash = given | {"_SLMPACK_COMPLETE": "bash_complete", "COMP_WORDS": "slmpack explain ", "COMP_CWORD": "2"}
    found = subprocess.run([BIN / "slmpack"], env=bash, capture_output=True, text=True, check=False)
    assert (found.stdout.strip(), found.stderr) == ("", "")
