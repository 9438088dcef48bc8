"""`slmpack plan` from files with ResourceSlices: what a user previews is what the operator does."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import a_cr, slmpack, write
from tests.support.dra import dra_node, mig_class, mig_device, resource_slice

NODE, SLICE = dra_node("d"), resource_slice("d", [mig_device("1g.10gb", start=0), mig_device("1g.10gb", start=1)])
HELD = {"driver": "gpu.nvidia.com", "pool": "d", "device": "gpu-0-mig-1g10gb-19-0", "request": "r"}
CLAIM = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceClaim",
    "metadata": {"name": "theirs", "namespace": "other"},
    "status": {"allocation": {"devices": {"results": [HELD]}}},
}


def test_slices_class_and_claims_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "all.yaml", a_cr(replicas=2, sharing={"mode": "DRA"}), NODE, SLICE, mig_class())
    result = slmpack("plan", "-f", path)
    assert result.exit_code == 0, result.output
    assert "DraClaim 1g.10gb" in result.stdout
    held = slmpack("plan", "-f", path, "-f", write(tmp_path, "claim.yaml", CLAIM))
    assert held.exit_code == 2
    assert "1 unplaced, InsufficientGpus" in held.stdout
    assert "another's ResourceClaim" in held.stdout


def test_without_a_class_the_reason_is_given(tmp_path: Path) -> None:
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", a_cr(sharing={"mode": "DRA"}), NODE, SLICE))
    assert result.exit_code == 2
    text = " ".join(result.stdout.split())
    assert "1 unplaced, DraUnavailable: spec.sharing.mode: there is no DeviceClass mig.nvidia.com" in text


def test_a_slice_that_cannot_be_read_ends_the_command(tmp_path: Path) -> None:
    broken = {**SLICE, "spec": {"driver": "gpu.nvidia.com"}}
    result = slmpack("plan", "-f", write(tmp_path, "all.yaml", a_cr(), NODE, broken))
    assert result.exit_code == 1
    assert "unreadable ResourceSlice" in result.output
