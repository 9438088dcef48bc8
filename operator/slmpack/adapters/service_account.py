"""What a pod knows of itself by the files of its service account."""

from __future__ import annotations

from pathlib import Path

__all__ = ["pod_namespace"]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def pod_namespace() -> str | None:
    """The namespace of the pod that this runs in; None outside of any."""
    try:
        return (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except OSError:
        return None
