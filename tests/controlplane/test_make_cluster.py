"""`make cluster`: the export line works, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_SECONDS = 90


@pytest.mark.timeout(180)
def test_the_cluster_of_make_cluster(tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": f"{ROOT / 'operator'}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.cluster"], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
    )
    guard = threading.Timer(START_SECONDS, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("export KUBECONFIG=")
        kubeconfig = line.strip().partition("=")[2]
        kubectl = [str(Path(sys.executable).parent / "kubectl"), f"--kubeconfig={kubeconfig}"]
        nodes = subprocess.run([*kubectl, "get", "nodes", "-o", "name"], capture_output=True, text=True, check=True)
        assert nodes.stdout.split() == ["node/a100-mig", "node/h100-mps", "node/l4-whole"]
        subprocess.run([*kubectl, "get", "slm"], capture_output=True, check=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert list(tmp_path.iterdir()) == []
