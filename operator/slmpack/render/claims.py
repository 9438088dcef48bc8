"""ResourceClaimTemplates: how a replica's pod asks a DRA driver for its device.

One template for each SLMDeployment and profile. Its spec is immutable in the API, so its name holds a digest of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, assert_never

from slmpack.domain.dra import DRIVER
from slmpack.domain.plan import CreatePod
from slmpack.domain.sharing import DraClaim, Exclusive, MigSlice, MpsPack, MpsShare, Share
from slmpack.render.names import common_labels, owner_reference

__all__ = ["CLAIM", "container_claims", "pod_claims", "render_claim_template"]

CLAIM = "gpu"
"""The claim's name in the pod."""
_REQUEST = "slice"
_PROFILE = re.compile(r"[0-9]+g\.")


def render_claim_template(create: CreatePod) -> dict[str, Any] | None:
    """The ResourceClaimTemplate that has to be there before the pod; None where no claim brings the device."""
    share = _claimed(create.placement.share)
    if share is None:
        return None
    name = create.deployment.key.name
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": _template_name(name, share),
            "namespace": create.deployment.key.namespace,
            "labels": common_labels(name),
            "ownerReferences": [owner_reference(create.deployment)],
        },
        "spec": _spec(share),
    }


def pod_claims(create: CreatePod) -> list[dict[str, Any]]:
    """`spec.resourceClaims` of the replica's pod; empty where no claim brings the device."""
    share = _claimed(create.placement.share)
    if share is None:
        return []
    return [{"name": CLAIM, "resourceClaimTemplateName": _template_name(create.deployment.key.name, share)}]


def container_claims(create: CreatePod) -> list[dict[str, Any]]:
    """`resources.claims` of the engine's container; empty where no claim brings the device."""
    return [] if _claimed(create.placement.share) is None else [{"name": CLAIM}]


def _claimed(share: Share) -> DraClaim | None:
    match share:
        case DraClaim():
            return share
        case Exclusive() | MigSlice() | MpsShare() | MpsPack():
            return None
        case _:
            assert_never(share)


def _template_name(deployment: str, share: DraClaim) -> str:
    """A DNS subdomain of at most 50 characters of name, the profile and 8 characters that change with the spec."""
    profile = re.sub(r"[^a-z0-9.]", "-", share.profile.lower())
    digest = hashlib.sha256(json.dumps(_spec(share), sort_keys=True).encode()).hexdigest()
    return f"{deployment}-{profile}-{digest[:8]}"


def _spec(share: DraClaim) -> dict[str, Any]:
    """One device of the class, whichever of its kind: the scheduler picks it on the node that the plan names."""
    selector = {"cel": {"expression": _expression(share.profile)}}
    exactly = {
        "deviceClassName": share.device_class,
        "allocationMode": "ExactCount",
        "count": 1,
        "selectors": [selector],
    }
    return {"spec": {"devices": {"requests": [{"name": _REQUEST, "exactly": exactly}]}}}


def _expression(profile: str) -> str:
    """By the attribute `profile`; by the size where the plan knows a device by its size only."""
    if _PROFILE.match(profile):
        return f"device.attributes['{DRIVER}'].profile == '{profile}'"
    return f"device.capacity['{DRIVER}'].memory.compareTo(quantity('{profile}')) == 0"
