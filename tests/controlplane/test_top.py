"""`slmpack top` by who may see no more than the SLMDeployments of one namespace: the API server's RBAC decides."""

from __future__ import annotations

import time

import pytest

from slmpack.api.crd import render_crd
from tests.support.cli import a_cr, slmpack
from tests.support.control_plane import ControlPlane

RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
def a_users_kubeconfig(control_plane: ControlPlane) -> tuple[str, str]:
    """Of a service account that may list SLMDeployments of its namespace; and the namespace, with one that is new."""
    control_plane.kubectl("apply", "--server-side", "-f", "-", input=render_crd())
    control_plane.kubectl("wait", "--for=condition=Established", "crd/slmdeployments.slmpack.dev", "--timeout=30s")
    namespace = control_plane.new_namespace("top")
    here = f"namespaces/{namespace}"
    rules = [{"apiGroups": ["slmpack.dev"], "resources": ["slmdeployments"], "verbs": ["get", "list"]}]
    control_plane.request("POST", f"{RBAC}/{here}/roles", body={"metadata": {"name": "viewer"}, "rules": rules})
    binding = {
        "metadata": {"name": "viewer"},
        "roleRef": {"apiGroup": RBAC.split("/")[2], "kind": "Role", "name": "viewer"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }
    control_plane.request("POST", f"{RBAC}/{here}/rolebindings", body=binding)
    control_plane.request("POST", f"/apis/slmpack.dev/v1alpha1/{here}/slmdeployments", body=a_cr("chat"))
    token = control_plane.service_account_token(namespace, "default")
    kubeconfig = control_plane.kubeconfig(token, user="viewer")
    may = ("auth", "can-i", "list", "slmdeployments.slmpack.dev", "-n", namespace)
    while control_plane.kubectl(*may, kubeconfig=kubeconfig, check=False).returncode:
        time.sleep(0.2)  # the API server's own cache of roles; the test's timeout ends this
    return str(kubeconfig), namespace


def test_to_list_slmdeployments_is_enough(a_users_kubeconfig: tuple[str, str]) -> None:
    kubeconfig, namespace = a_users_kubeconfig
    result = slmpack("top", "--kubeconfig", kubeconfig, "-n", namespace)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split()[:3] == [namespace, "chat", "-"]
    assert f"No operator has written the status of {namespace}/chat." in result.stdout


@pytest.mark.parametrize("flag", ["-A", "--nodes"])
def test_what_takes_more_rights_says_so(a_users_kubeconfig: tuple[str, str], flag: str) -> None:
    kubeconfig, namespace = a_users_kubeconfig
    where = [] if flag == "-A" else ["-n", namespace]
    result = slmpack("top", "--kubeconfig", kubeconfig, *where, flag)
    assert result.exit_code == 1
    assert "the cluster cannot be read: " in result.stderr
    assert "cannot list resource" in result.stderr
