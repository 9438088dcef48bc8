"""What is read of a raw object: only the fields that are named are validated."""

from __future__ import annotations

import reprlib
from datetime import datetime
from typing import Self

from pydantic import AliasGenerator, BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from slmpack.domain.quantity import parse_bytes, parse_count, parse_millicores

__all__ = ["GPU_PREFIX", "UNITS_MAX", "Condition", "Meta", "Owner", "Partial", "amount"]

GPU_PREFIX = "nvidia.com/"
UNITS_MAX = 64 * 48
"""64 GPUs, 48 MPS clients (the device plugin's limit) on each; the plan looks at units one by one."""


class Partial(BaseModel):
    """Some fields of a Kubernetes object; the others are ignored, null is absent."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=AliasGenerator(validation_alias=to_camel), defer_build=False
    )

    @classmethod
    def read(cls, raw: object) -> Self:
        """ValueError, in one line, where a field is not what the API server would have."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            it = error.errors(include_url=False, include_context=False)[0]
            raise ValueError(f"{'.'.join(map(str, it['loc']))}: {it['msg']}, not {reprlib.repr(it['input'])}") from None


class Owner(Partial):
    """An ownerReference."""

    api_version: str = ""
    kind: str = ""
    uid: str = ""
    controller: bool | None = None


class Meta(Partial):
    """metadata."""

    name: str
    namespace: str = ""
    uid: str = ""
    creation_timestamp: datetime
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[Owner] | None = None


class Condition(Partial):
    """An entry of status.conditions."""

    type: str
    status: str
    reason: str | None = None
    message: str | None = None
    last_transition_time: datetime | None = None


def amount(name: str, value: object) -> int:
    """Millicores, bytes or devices, by the resource's name; ValueError with it for anything else."""
    parse = {"cpu": parse_millicores, "memory": parse_bytes}.get(name, parse_count)
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
