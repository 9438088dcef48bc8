"""The namespace of the operator's own pod, and who uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmpack.adapters import service_account
from slmpack.adapters.connection import context_namespace
from slmpack.adapters.service_account import pod_namespace
from slmpack.config import OperatorConfig


def test_in_a_pod_its_namespace_is_that_of_kubectl_and_of_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_account, "ACCOUNT", tmp_path)
    (tmp_path / "namespace").write_text("team-a\n")
    assert pod_namespace() == "team-a"
    assert context_namespace(str(tmp_path / "no-kubeconfig")) == "team-a"
    assert OperatorConfig().where_the_lease_is == "team-a"
    assert OperatorConfig(lease_namespace="given").where_the_lease_is == "given"


def test_elsewhere_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_account, "ACCOUNT", tmp_path)
    assert pod_namespace() is None
    assert context_namespace(str(tmp_path / "no-kubeconfig")) == "default"
    assert OperatorConfig().where_the_lease_is == "slmpack-system"
