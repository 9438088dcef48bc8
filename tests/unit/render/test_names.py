from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from slmpack.render.names import (
    common_labels,
    owner_reference,
    pod_name,
    selector_labels,
    selector_string,
    service_name,
)
from tests.support.render_cases import a_deployment

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
NAMES = st.from_regex(LABEL, fullmatch=True).filter(lambda name: len(name) <= 50)


@given(name=NAMES, ordinal=st.integers(min_value=0, max_value=99_999))
def test_names_stay_within_a_label(name: str, ordinal: int) -> None:
    for made in (pod_name(name, ordinal=ordinal), service_name(name), *common_labels(name).values()):
        assert len(made) <= 63
        assert LABEL.fullmatch(made)


def test_pods_of_one_deployment_differ() -> None:
    assert [pod_name("chat", ordinal=n) for n in range(3)] == ["chat-0", "chat-1", "chat-2"]


def test_selector_and_labels_agree() -> None:
    assert selector_labels("chat").items() <= common_labels("chat").items()
    assert selector_string("chat") == "slmpack.dev/name=chat"


def test_owner_reference_needs_no_right_to_finalizers() -> None:
    assert owner_reference(a_deployment()) == {
        "apiVersion": "slmpack.dev/v1alpha1",
        "kind": "SLMDeployment",
        "name": "chat",
        "uid": "0f2c5a0e-8d3b-4d57-9c1b-6f2a3f0d9a11",
        "controller": True,
        "blockOwnerDeletion": False,
    }
