"""Names, labels and owner references: how what we make is found again."""

from __future__ import annotations

from typing import Any

from slmpack.domain.snapshot import DeploymentView

__all__ = [
    "API_VERSION",
    "ENDED",
    "KIND",
    "MANAGER",
    "NAME_LABEL",
    "PREFIX",
    "PROFILE_LABEL",
    "common_labels",
    "owner_reference",
    "pack_account_name",
    "pack_role_name",
    "pod_name",
    "selector_labels",
    "selector_string",
    "service_name",
    "slice_name",
]

PREFIX = "slmpack.dev/"
API_VERSION = "slmpack.dev/v1alpha1"
KIND = "SLMDeployment"
MANAGER = "slmpack"
NAME_LABEL = f"{PREFIX}name"
PROFILE_LABEL = f"{PREFIX}profile"
"""On the ConfigMaps that spec.profileRef may name: only those are watched."""
ENDED = f"{PREFIX}ended"
"""Annotation: why a pod was ended."""


def pod_name(deployment: str, *, ordinal: int) -> str:
    """The name of a replica's pod. At most 50 characters of name leave room for an ordinal within a label's 63."""
    return f"{deployment}-{ordinal}"


def pack_account_name(deployment: str) -> str:
    """The ServiceAccount of a deployment's packs, where the user names none."""
    return f"{deployment}-pack"


def pack_role_name(pod: str) -> str:
    """The Role, and its binding, of a pack's pod."""
    return f"{pod}-pack"


def slice_name(pod: str, *, engine: int) -> str:
    """The EndpointSlice of one engine of a pack; those of the control plane end in five random characters."""
    return f"{pod}-e{engine}"


def service_name(deployment: str) -> str:
    """The name of a deployment's Service: its own, so that clients need no other."""
    return deployment


def selector_labels(deployment: str) -> dict[str, str]:
    """The labels that tell a deployment's pods from all others in its namespace."""
    return {NAME_LABEL: deployment}


def selector_string(deployment: str) -> str:
    """The same as a selector, for kubectl and for `status.selector` (the scale subresource's labelSelectorPath)."""
    return ",".join(f"{key}={value}" for key, value in selector_labels(deployment).items())


def common_labels(deployment: str) -> dict[str, str]:
    """What everything we make for a deployment carries: the selector's and Kubernetes' recommended labels."""
    return {
        **selector_labels(deployment),
        "app.kubernetes.io/component": "engine",
        "app.kubernetes.io/instance": deployment,
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/name": "vllm",
    }


def owner_reference(deployment: DeploymentView) -> dict[str, Any]:
    """The controller reference to an SLMDeployment, through which its pods and Service are collected.

    blockOwnerDeletion is false: true would need the right to update the owner's finalizers where the API server checks
    it (OwnerReferencesPermissionEnforcement), and deleting an owner need not wait for engines that drain.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": deployment.key.name,
        "uid": deployment.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
