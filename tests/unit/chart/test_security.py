"""A lint of what runs: the restricted Pod Security standard, and what good operators' pods have beyond it.

The rules are written out here; the control plane's tests have the API server enforce the standard as well.
https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chart import Rendered, render, rendering_error
from tests.support.chart_cases import CASES

HOST = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SERVICE_STOPS_IN = 5
"""Seconds in which SIGTERM ends the operator."""


def _pods(rendered: Rendered) -> Iterator[dict[str, Any]]:
    yield rendered.pod["spec"]
    for pod in rendered.of("Pod"):
        yield pod["spec"]


def restricted_problems(pod: dict[str, Any]) -> list[str]:
    """What the restricted standard forbids of a pod's spec."""
    outer = pod.get("securityContext", {})
    found = [name for name in HOST if pod.get(name)]
    found += [f"volume {one['name']}" for one in pod.get("volumes", []) if not VOLUMES & set(one)]
    for one in pod["containers"] + pod.get("initContainers", []):
        own = one.get("securityContext", {})
        both = {**outer, **own}
        checks = {
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "privileged": not own.get("privileged"),
            "runAsNonRoot": both.get("runAsNonRoot") is True and both.get("runAsUser") != 0,
            "seccomp": both.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "procMount": "procMount" not in own,
            "hostPort": not any("hostPort" in port for port in one.get("ports", [])),
        }
        found += [f"{one['name']}: {name}" for name, good in checks.items() if not good]
    return found


def further_problems(pod: dict[str, Any]) -> list[str]:
    """What the standard allows and a good operator's pod avoids all the same."""
    found = [] if pod.get("enableServiceLinks") is False else ["enableServiceLinks"]
    found += [] if "automountServiceAccountToken" in pod else ["automountServiceAccountToken is not said"]
    for one in pod["containers"]:
        mounts = {mount["mountPath"]: mount for mount in one.get("volumeMounts", [])}
        resources = one.get("resources", {})
        checks = {
            "read-only root": one["securityContext"].get("readOnlyRootFilesystem") is True,
            "pinned image": "@sha256:" in one["image"] or not one["image"].endswith((":latest", "slmpack")),
            "requests": {"cpu", "memory"} <= set(resources.get("requests", {})),
            "memory limit": "memory" in resources.get("limits", {}),
            "secrets are not written": all(
                mount.get("readOnly") or path in {"/tmp", "/var/cache/slmpack"}
                for path, mount in mounts.items()
                if not path.startswith("/etc/ssl")
            ),
            "no secret in the environment": not any("TOKEN" in env["name"] and "value" in env for env in one["env"]),
        }
        found += [f"{one['name']}: {name}" for name, good in checks.items() if not good]
    bounded = (one["emptyDir"].get("sizeLimit") for one in pod.get("volumes", []) if "emptyDir" in one)
    return found + ["unbounded emptyDir"] * (not all(bounded))


@pytest.mark.parametrize("case", CASES)
def test_every_pod_meets_the_restricted_standard_and_more(case: str) -> None:
    pods = list(_pods(render(CASES[case])))
    assert len(pods) == 2
    for pod in pods:
        assert restricted_problems(pod) == []
        assert further_problems(pod) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"securityContext": {"allowPrivilegeEscalation": True}}, "allowPrivilegeEscalation"),
        ({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}}, "capabilities"),
        ({"podSecurityContext": {"runAsNonRoot": False}}, "runAsNonRoot"),
        ({"podSecurityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccomp"),
        ({"extraVolumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "volume host"),
    ],
)
def test_the_lint_sees_what_is_wrong(values: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in restricted_problems(render(values).pod["spec"]))


def test_the_lint_sees_what_could_be_better() -> None:
    loose = render({"resources": {"limits": {"memory": None}}, "securityContext": {"readOnlyRootFilesystem": False}})
    assert {"operator: memory limit", "operator: read-only root"} <= set(further_problems(loose.pod["spec"]))


def test_folders_that_are_written_are_mounted() -> None:
    container = render().container
    cache = next(env["value"] for env in container["env"] if env["name"] == "SLMPACK_MODEL_CACHE")
    assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {cache, "/tmp"}


@pytest.mark.parametrize("case", CASES)
def test_one_operator_that_is_replaced_and_never_doubled(case: str) -> None:
    deployment = render(CASES[case]).one("Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert not render(CASES[case]).of("PodDisruptionBudget")


def test_probes_restart_what_stands_still_and_not_what_waits() -> None:
    container = render().container
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")} == {"/healthz"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")} <= set(ports)
    assert f":{ports['http']}" in next(arg for arg in render().args if arg.startswith("--http="))


def test_the_grace_period_leaves_time_to_give_the_lease_back() -> None:
    assert render().pod["spec"]["terminationGracePeriodSeconds"] > SERVICE_STOPS_IN
    assert "minimum: got 5, want 6" in rendering_error({"terminationGracePeriodSeconds": SERVICE_STOPS_IN})
