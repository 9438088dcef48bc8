"""Operator processes that start in milliseconds: one process imports everything, and forks a child per start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

__all__ = ["Zygote"]

SOURCE = Path(__file__).parents[2] / "operator"
PROGRAM = """
import json, os, signal, sys
from dataclasses import replace
from datetime import timedelta
from slmpack.adapters.hub import HubSettings
from slmpack.adapters.policy import load_policy
from slmpack.bootstrap import run
from slmpack.config import OperatorConfig
import kubernetes.aio.client, kopf
config = OperatorConfig(hub=HubSettings(offline=True), bundled_models=True, port=0, **json.loads(sys.argv[1]))
# Pods that are deleted under way disturb their neighbours' starts: real failures, with real back-offs. A test has no time
# for minutes of them, nor for rollouts that stop.
quick = timedelta(seconds=1)
policy = replace(load_policy(), backoff_base=quick, backoff_max=quick, rollout_attempts=10**6)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.close(0)
        os._exit(run(config, policy=policy))
    print(child, flush=True)
    sys.stdin.readline()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


class Zygote:
    """`start` forks an operator, `kill` ends it with SIGKILL; one at a time."""

    def __init__(self, config: dict[str, Any], *, log: Path) -> None:
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(config)],
            env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # an operator that runs must not outlive a failed test
        self._process.communicate()
        self._log.close()

    def start(self) -> int:
        """Fork an operator; its process id."""
        return int(self._ask())

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self._ask() == "killed"

    def _ask(self) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()
