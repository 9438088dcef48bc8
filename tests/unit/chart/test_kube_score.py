"""kube-score, a lint by others, finds nothing that was not weighed here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.chart import Rendered, render
from tests.support.chart_cases import CASES
from tests.support.kube_score import findings

WEIGHED = {
    "deployment-strategy": "Recreate: the old operator gives its Lease back before the new one asks for it",
    "deployment-replicas": "one operator plans; a second would only wait, and serving needs none",
    "container-image-pull-policy": "image.pullPolicy; a tag that stays the same needs no pull at each start",
    "container-security-context-user-group-id": "the image's user is 65532; a number here would break OpenShift",
    "container-memory-requests-equal-limits": "a limit guards the node; the request is what is usual",
    "container-ephemeral-storage-request-equals-limit": "the same of the disk",
    "container-resource-requests-equal-limits": "both of them",
    "container-cpu-requests-equal-limits": "a CPU limit would make plans late",
    "pod-networkpolicy": "networkPolicy.enabled is the user's: without a plugin that enforces it, it says nothing",
}


def _judged(rendered: Rendered) -> set[tuple[str, str]]:
    return findings(one for one in rendered.objects if one["kind"] != "CustomResourceDefinition")


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_found_that_was_not_weighed(case: str) -> None:
    assert {check for _, check in _judged(render(CASES[case]))} <= set(WEIGHED)


def test_each_of_the_weighed_is_still_found() -> None:
    assert {check for _, check in _judged(render())} == set(WEIGHED)


def test_with_a_network_policy_the_operator_has_one() -> None:
    checked = _judged(render({"networkPolicy": {"enabled": True}}))
    assert ("Deployment", "pod-networkpolicy") not in checked


@pytest.mark.parametrize(
    ("values", "check"),
    [
        ({"securityContext": {"readOnlyRootFilesystem": False}}, "container-security-context-readonlyrootfilesystem"),
        ({"image": {"repository": "x", "tag": "latest"}}, "container-image-tag"),
        ({"resources": {"limits": {"memory": None}}}, "container-resources"),
    ],
)
def test_the_lint_sees_what_is_wrong(values: dict[str, Any], check: str) -> None:
    assert ("Deployment", check) in _judged(render(values))
