"""A real Prometheus 3 on loopback, and promtool: from PATH, or compiled once into a cache outside the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from tests.support.components import LOOPBACK, free_ports
from tests.support.go_programs import GoPrograms, build_main
from tests.support.processes import ProcessFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["PROMETHEUS", "Prometheus", "ensure_prometheus", "promtool"]

MAJOR = "3"
VERSION = "3.15.0"
"""Prometheus 3.15.0 is v0.315.0 as a Go module."""
PROMETHEUS = GoPrograms(
    label="Prometheus",
    module=Path(__file__).resolve().parents[1] / "prometheus",
    sources=("go.mod", "go.sum", "tools.go"),
    packages={name: f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")},
    flags=(
        # Static, file and HTTP discovery stay; the clouds' would treble the build.
        "-tags=remove_all_sd,enable_kubernetes_sd",
        f"-ldflags=-s -w -X github.com/prometheus/common/version.Version={VERSION}",
    ),
    takes="2 to 4 minutes on two quiet cores",
    instead="Or put prometheus and promtool 3 on PATH.",
)
READY_SECONDS = 30.0
POLL_SECONDS = 0.02
DISCOVERY = "200ms"
"""How soon new targets are taken; 5 s is the default."""


def find_prometheus() -> Path | None:
    """The folder of programs that are there already: from PATH where both are of the major version, or cached."""
    folders = dict.fromkeys(Path(found).parent for name in PROMETHEUS.packages if (found := shutil.which(name)))
    for folder in folders:
        if not PROMETHEUS.lacking(folder) and all(_major(folder / name) == MAJOR for name in PROMETHEUS.packages):
            return folder
    return PROMETHEUS.cached()


def ensure_prometheus(*, say: Callable[[str], None] = print) -> Path:
    """The folder of prometheus and promtool, built first where they are not there (minutes). Raises BinariesError."""
    return find_prometheus() or PROMETHEUS.build(say=say)


def _major(program: Path) -> str:
    try:
        answer = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    match = re.search(r"version v?(\d+)\.", answer.stdout + answer.stderr)
    return match[1] if match else ""


def promtool(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool; its exit status and output are the caller's to judge."""
    command = [str(ensure_prometheus() / "promtool"), *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


class Prometheus:
    """A running Prometheus; `with Prometheus.start(scrapes) as prometheus:`. It may be killed and started anew."""

    def __init__(self, program: Path, *, processes: ProcessFolder) -> None:
        self._program = program
        self._processes = processes
        (self.port,) = free_ports(1)

    @classmethod
    @contextmanager
    def start(
        cls,
        scrapes: Sequence[Mapping[str, Any]] = (),
        *,
        interval: str = "1s",
        rules: Sequence[Path] = (),
        say: Callable[[str], None] = print,
    ) -> Iterator[Self]:
        """Start with `scrape_configs` and rule files, ready to answer; leave no process and no file behind."""
        programs = ensure_prometheus(say=say)
        processes = ProcessFolder(prefix="slmpack-prometheus-")
        try:
            prometheus = cls(programs / "prometheus", processes=processes)
            prometheus.configure(scrapes, interval=interval, rules=rules)
            prometheus.resume()
            yield prometheus
        finally:
            processes.close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def folder(self) -> Path:
        """Configuration, data and log; it is removed at the end. File discovery may read from here."""
        return self._processes.path

    @property
    def pid(self) -> int:
        """The running process."""
        return self._processes.pids["prometheus"]

    @property
    def log(self) -> str:
        """All that it has logged."""
        return (self.folder / "prometheus.log").read_text(errors="replace")

    def configure(
        self, scrapes: Sequence[Mapping[str, Any]], *, interval: str = "1s", rules: Sequence[Path] = ()
    ) -> None:
        """Write the configuration; `reload` makes a running one read it."""
        config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [dict(scrape) for scrape in scrapes],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def reload(self) -> None:
        """Read the configuration anew. RuntimeError with Prometheus' words if it is wrong."""
        request = urllib.request.Request(f"{self.url}/-/reload", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10):
                pass
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(error.read().decode(errors="replace")) from None

    def kill(self) -> None:
        """End it at once; what it has stored stays for `resume`."""
        self._processes.kill("prometheus")

    def pause(self) -> None:
        """Freeze it: connections are taken by the kernel and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        while any(_state(thread) != "T" for thread in threads.iterdir()):
            time.sleep(POLL_SECONDS)

    def unpause(self) -> None:
        """Let a frozen one run on."""
        os.kill(self.pid, signal.SIGCONT)

    def resume(self) -> None:
        """Start it, for the first time or after `kill`, on the same port and data; return when it answers."""
        command = [
            str(self._program),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=6h",
            f"--web.listen-address={LOOPBACK}:{self.port}",
            "--web.enable-lifecycle",
            f"--scrape.discovery-reload-interval={DISCOVERY}",
            "--log.level=warn",
        ]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), "GOMAXPROCS": "2"}
        self._processes.start("prometheus", command=command, env=environment)
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if (obituary := self._processes.ended()) is not None:
                raise RuntimeError(f"Prometheus failed: {obituary}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Prometheus is not ready after {READY_SECONDS:.0f} s:\n{self.log}")
            time.sleep(POLL_SECONDS)

    def query(self, expression: str, *, seconds: float = 10.0) -> list[dict[str, Any]]:
        """The instant vector: `metric` and `value` of each series. OSError if there is no answer in so many seconds."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}), seconds=seconds)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expression: str) -> float | None:
        """The value of the one series that an expression gives; None if there is none, ValueError if more."""
        found = self.query(expression)
        if len(found) > 1:
            raise ValueError(f"{expression}: {len(found)} series")
        return float(found[0]["value"][1]) if found else None

    def targets(self) -> dict[str, str]:
        """Health by the URL of each active target: up, down or unknown."""
        active = self._get("/api/v1/targets?state=active")["data"]["activeTargets"]
        return {target["scrapeUrl"]: target["health"] for target in active}

    def rule_groups(self) -> list[dict[str, Any]]:
        """The rule groups once every rule has been evaluated, with the health of each rule."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            groups: list[dict[str, Any]] = self._get("/api/v1/rules")["data"]["groups"]
            if all(rule["health"] != "unknown" for group in groups for rule in group["rules"]):
                return groups
            if time.monotonic() > deadline:
                raise RuntimeError(f"rules are not evaluated after {READY_SECONDS:.0f} s:\n{self.log}")
            time.sleep(POLL_SECONDS)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _get(self, path: str, *, seconds: float = 10.0) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=seconds) as response:
            return json.loads(response.read())


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


if __name__ == "__main__":
    sys.exit(build_main("prometheus", ensure_prometheus))
