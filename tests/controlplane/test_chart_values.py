"""What the chart renders is valid to the real API server for each set of values, and a second planner is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.chart import RELEASE_NAMESPACE, Rendered, render
from tests.support.chart_cases import CASES
from tests.support.chart_files import CHART
from tests.support.control_plane import ControlPlane
from tests.support.releases import RESTRICTED, VALUES, Releases

MONITORING = "monitoring.coreos.com/v1"
"""Not served: the Prometheus operator brings these kinds."""
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
SECOND: dict[str, Any] = {**VALUES, "crds": {"install": False}}


@pytest.fixture(scope="module")
def prepared(control_plane: ControlPlane) -> ControlPlane:
    """The namespaces and accounts that the cases name."""
    for namespace in (RELEASE_NAMESPACE, "team", "leases", "elsewhere"):
        control_plane.kubectl("create", "namespace", namespace, check=False)
    control_plane.kubectl("label", "--overwrite", "namespace", RELEASE_NAMESPACE, *RESTRICTED)
    for account in ("slmpack", "packer", "given"):
        control_plane.kubectl("create", "serviceaccount", account, "-n", RELEASE_NAMESPACE, check=False)
    return control_plane


def _with_the_pod(rendered: Rendered) -> list[dict[str, Any]]:
    """The objects, and the Deployment's pod by itself: admission judges pods."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**rendered.pod["metadata"], "name": "of-the-deployment"}}
    return [*rendered.objects, {**pod, "spec": rendered.pod["spec"]}]


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_every_object_without_a_warning(case: str, prepared: ControlPlane) -> None:
    items = []
    for one in _with_the_pod(render(CASES[case])):
        metadata = (
            one["metadata"] if one["kind"] in CLUSTER_WIDE else {"namespace": RELEASE_NAMESPACE, **one["metadata"]}
        )
        items += [{**one, "metadata": metadata}] * (one["apiVersion"] != MONITORING)
    done = prepared.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"),
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}),
    )
    assert done.stdout.count("serverside-applied (server dry run)") == len(items)
    assert "Warning" not in done.stderr


def test_a_second_planner_of_the_same_gpus_is_refused(releases: Releases) -> None:
    def second(namespace: str, **values: Any) -> tuple[str, ...]:
        path = releases.folder / "second.json"
        path.write_text(json.dumps({**SECOND, **values}))
        return ("install", "second", str(CHART), "-n", namespace, "--dry-run=server", "--values", str(path))

    first, elsewhere = releases.namespace(), releases.namespace()
    releases.install("slmpack", first)
    said = releases.refused(*second(elsewhere))
    assert f"an slmpack operator of release slmpack runs in namespace {first} with its Lease in {first}" in said
    assert f"Set lease.namespace={first}" in said
    releases.done(*second(elsewhere, lease={"namespace": first}))
    releases.done(*second(first))
    releases.done(*second(elsewhere, operator={"nodeSelector": "pool=own"}))
    # The first itself may be told to leave the CRD alone, and its Lease to be elsewhere.
    own = Path(releases.folder / "own.json")
    own.write_text(json.dumps({**SECOND, "lease": {"namespace": elsewhere}}))
    releases.done("upgrade", "slmpack", str(CHART), "-n", first, "--dry-run=server", "--values", str(own))
    releases.uninstall("slmpack", first)
    releases.done(*second(elsewhere))
