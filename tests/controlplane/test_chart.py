"""One release of the chart on the real control plane: the operator runs as its Deployment says, with the rights it gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.binaries import ensure_binaries
from tests.support.chart_files import CHART
from tests.support.helm import ensure_helm
from tests.support.operator import eventually
from tests.support.releases import VALUES, Releases, forbidden_requests
from tests.support.scene import slm_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.chart_pods import ChartPod, ChartWorld

    Json = dict[str, Any]

NAME = "qwen"
NOT_RESTRICTED = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}} | {
    "spec": {"containers": [{"name": "a", "image": "a"}]}
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The release `slmpack` of this module."""

    releases: Releases
    namespace: str
    printed: str
    """By helm."""

    @property
    def operator(self) -> ChartPod:
        """Its operator."""
        return self.releases.operator(self.namespace)


@pytest.fixture(scope="module")
def installed(chart_world: ChartWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("chart")
    releases = Releases(control_plane=chart_world.control_plane, pods=chart_world.pods, folder=folder)
    namespace = releases.namespace()
    printed = releases.install("slmpack", namespace)
    yield Installed(releases=releases, namespace=namespace, printed=printed)
    releases.close()


def test_the_operator_does_its_work_with_the_rights_of_the_chart(installed: Installed) -> None:
    releases, operator = installed.releases, installed.operator
    assert operator.get("/readyz") == (200, "ok\n")
    team = releases.team()
    releases.apply(team, NAME, slm_spec(replicas=2))
    releases.wait(team, NAME, ready="2/2")
    before = releases.pods_of(team)
    releases.control_plane.kubectl("scale", "slm", NAME, "-n", team, "--replicas=1")
    releases.wait(team, NAME, ready="1/1")
    assert releases.pods_of(team).items() < before.items()
    releases.apply(team, NAME, slm_spec(pod={"env": [{"name": "TURN", "value": "2"}]}))
    eventually(lambda: not releases.pods_of(team).items() & before.items(), seconds=60, what=operator.log)
    releases.wait(team, NAME, ready="1/1")
    releases.control_plane.kubectl("delete", "slm", NAME, "-n", team)
    eventually(lambda: not releases.pods_of(team), seconds=60)
    assert not forbidden_requests(operator), operator.log
    assert "Traceback" not in operator.log


def test_what_the_notes_say_works_as_it_is_printed(installed: Installed) -> None:
    releases, namespace = installed.releases, installed.namespace
    lines = installed.printed.splitlines()
    tools = f"{ensure_binaries()}:{ensure_helm()}:{os.environ.get('PATH', os.defpath)}"
    env = {"PATH": tools, "KUBECONFIG": str(releases.control_plane.kubeconfig()), "HOME": str(releases.folder)}
    commands = list(_commands(lines))
    assert {"apply", "rollout", "test", "get"} <= {word for command in commands for word in command.split()}
    for command in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=env,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "warning" not in done.stderr.lower(), done.stderr  # bash warns of a here-document that does not end
    releases.wait("default", "qwen2-5-1-5b", ready="3/3")
    releases.control_plane.kubectl("delete", "slm", "qwen2-5-1-5b")
    eventually(lambda: not releases.pods_of("default"), seconds=60)
    assert namespace in installed.printed


def _commands(lines: list[str]) -> Iterator[str]:
    """Each command of the notes, a here-document with its lines; not `logs`, which the stand-in kubelets do not serve."""
    rest = iter(lines)
    for line in rest:
        if re.match(r"\s*(kubectl|helm) ", line) and " logs " not in line:
            command = [line]
            while "<<EOF" in command[0] and command[-1].strip() != "EOF":
                command.append(next(rest))
            yield "\n".join(command)


def test_it_runs_where_the_restricted_pod_security_level_is_enforced(installed: Installed) -> None:
    text = json.dumps(NOT_RESTRICTED)
    done = installed.releases.control_plane.kubectl(
        "create", "-n", installed.namespace, "-f", "-", input=text, check=False
    )
    assert 'violates PodSecurity "restricted:latest"' in done.stderr
    spec = installed.operator.pod["spec"]  # which helm installed without a warning
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]


def test_the_account_may_do_its_work_and_no_more(installed: Installed) -> None:
    account = installed.operator.pod["spec"]["serviceAccountName"]
    user = f"--as=system:serviceaccount:{installed.namespace}:{account}"

    def may(*words: str) -> bool:
        kubectl = installed.releases.control_plane.kubectl
        return kubectl("auth", "can-i", *words, user, check=False).stdout.strip() == "yes"

    assert may("create", "pods", "-n", "default")
    assert may("patch", "slmdeployments.slmpack.dev", "--subresource=status", "-n", "default")
    assert not may("patch", "slmdeployments.slmpack.dev", "-n", "default")
    assert not may("delete", "slmdeployments.slmpack.dev", "-n", "default")
    assert not may("get", "secrets", "-n", installed.namespace)
    assert not may("create", "rolebindings", "-n", "default")
    assert not may("create", "pods", "--subresource=exec", "-n", "default")


def test_an_upgrade_that_changes_nothing_restarts_nothing(installed: Installed) -> None:
    pid = installed.operator.pid
    installed.releases.install("slmpack", installed.namespace, verb="upgrade")
    assert installed.operator.pid == pid


def test_helm_test_tells_a_ready_operator_from_a_standby(installed: Installed) -> None:
    releases, namespace = installed.releases, installed.namespace
    said = releases.done("test", "slmpack", "-n", namespace, "--timeout", "60s")
    assert re.search(r"Phase:\s+Succeeded", said), said
    values = {**VALUES, "crds": {"install": False}, "tests": {"timeoutSeconds": 1}}
    releases.done("install", "second", str(CHART), "-n", namespace, values=values)  # no --wait: it never gets ready
    second = releases.operator(namespace, "second")
    eventually(lambda: "standby" in second.log, seconds=60)
    failed = releases.refused("test", "second", "-n", namespace, "--timeout", "60s")
    assert "second-slmpack-test" in failed, failed
    releases.uninstall("second", namespace)
    assert installed.operator.get("/readyz") == (200, "ok\n")
