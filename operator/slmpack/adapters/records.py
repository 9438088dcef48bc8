"""An SLMDeployment, a Service and a PriorityClass as the store keeps them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from slmpack.adapters.views import controller_uid
from slmpack.api.parse import parse_metadata, parse_slmdeployment, parse_status
from slmpack.api.profile import parse_profile
from slmpack.api.status import ScalingStatus, SLMDeploymentStatus
from slmpack.api.v1alpha1 import SLMDeployment
from slmpack.domain.internal import internal_problem
from slmpack.domain.profile import Profile
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.scale_decision import Figure, ScaleNote, ScaleState
from slmpack.domain.snapshot import Condition, Key

__all__ = [
    "DeploymentRecord",
    "PriorityRecord",
    "ProfileRecord",
    "ServiceRecord",
    "read_deployment",
    "read_priority",
    "read_profiles",
    "read_service",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """An SLMDeployment, validated once per change. Two that differ in status alone are equal: we write that."""

    key: Key
    uid: str
    generation: int
    created: datetime
    deleting: bool
    parsed: SLMDeployment | tuple[Problem, ...]
    status: Mapping[str, Any] = field(compare=False)
    """As it stands in the API server."""
    conditions: tuple[Condition, ...] = field(compare=False)
    scale: ScaleState | None = field(compare=False)
    scale_note: ScaleNote | None = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """A Service with our label."""

    key: Key
    uid: str
    controller_uid: str
    manifest: Mapping[str, Any] = field(compare=False)
    version: str
    """resourceVersion: every change of it is of interest, as nobody but us should make one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityRecord:
    """A PriorityClass."""

    name: str
    value: int
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRecord:
    """A ConfigMap with our label."""

    profiles: Mapping[str, Profile | Problem]
    """By key of the ConfigMap: read, or why it cannot be."""


def read_deployment(raw: Mapping[str, Any]) -> DeploymentRecord | None:
    """None only for an object without readable metadata, which no API server serves."""
    meta = parse_metadata(raw)
    if meta is None:
        return None
    status = parse_status(raw)
    return DeploymentRecord(
        key=Key(meta.namespace, meta.name),
        uid=meta.uid,
        generation=meta.generation,
        created=meta.creation_timestamp or datetime.fromtimestamp(0, UTC),
        deleting=meta.deletion_timestamp is not None,
        parsed=_parsed(raw),
        status=raw.get("status") or {},
        conditions=_conditions(status),
        scale=_scale(status.scaling),
        scale_note=_scale_note(status.scaling),
    )


def _parsed(raw: Mapping[str, Any]) -> SLMDeployment | tuple[Problem, ...]:
    try:
        return parse_slmdeployment({key: value for key, value in raw.items() if key != "status"})
    except Exception as error:  # one SLMDeployment's bug must not keep the others from being listed
        logger.exception("%s: the spec cannot be read", raw["metadata"]["name"])
        return (internal_problem(error, during="reading the spec"),)


def read_service(raw: Mapping[str, Any]) -> ServiceRecord:
    """Everything but managedFields."""
    meta = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    return ServiceRecord(
        key=Key(meta["namespace"], meta["name"]),
        uid=meta.get("uid", ""),
        controller_uid=controller_uid(raw, of_ours=True),
        manifest={**raw, "metadata": meta},
        version=str(meta.get("resourceVersion", "")),
    )


def read_priority(raw: Mapping[str, Any]) -> PriorityRecord:
    """Name, value and whether pods without a class get it."""
    is_default = raw.get("globalDefault") is True
    return PriorityRecord(name=raw["metadata"]["name"], value=int(raw.get("value") or 0), is_default=is_default)


def read_profiles(raw: Mapping[str, Any]) -> ProfileRecord:
    """Every key of the ConfigMap, read as a profile."""
    data: Mapping[str, str] = raw.get("data") or {}
    return ProfileRecord(profiles={key: _profile(key, text) for key, text in data.items()})


def _profile(key: str, text: str) -> Profile | Problem:
    found = parse_profile(text)
    if isinstance(found, Profile):
        return found
    message = f"spec.profileRef: {key}: {'; '.join(found)}"
    return Problem(reason=Reason.PROFILE_UNUSABLE, field="spec.profileRef", message=message)


def _conditions(status: SLMDeploymentStatus) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            type=condition.type,
            status=condition.status,
            reason=condition.reason,
            message=condition.message,
            observed_generation=condition.observed_generation,
            last_transition=condition.last_transition_time,
        )
        for condition in status.conditions
    )


def _scale(status: ScalingStatus | None) -> ScaleState | None:
    """What an earlier decision left; None where there was none, or somebody wrote nonsense in its place."""
    if status is None:
        return None
    return ScaleState(
        desired=status.desired,
        changed=status.last_scale_time,
        went_up=status.last_direction == "Up",
        lower_since=status.lower_since,
        higher_since=status.higher_since,
        hold_s=status.hold_seconds,
        busy=status.last_request_time,
        start_s=status.start_seconds,
        correction=status.correction,
        corrected=status.corrected_at,
        corrected_of=status.corrected_of,
    )


def _scale_note(status: ScalingStatus | None) -> ScaleNote | None:
    """What status says of it; None where a newer operator gave a reason that this one does not know."""
    if status is None or status.decided_at is None:
        return None
    try:
        reason = Reason(status.reason)
        refused = None if status.limited_by is None else Reason(status.limited_by)
    except ValueError:
        return None
    return ScaleNote(
        at=status.decided_at,
        wished=status.wished,
        known=status.known,
        reason=reason,
        message=status.message,
        refused=refused,
        power=status.power or "",
        figures=tuple(Figure(name=it.name, value=it.value, unit=it.unit, basis=it.basis) for it in status.figures),
    )
