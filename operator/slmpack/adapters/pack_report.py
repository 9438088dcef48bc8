"""A supervisor's answer into a PackReport: only the fields that are read are validated, and those strictly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from slmpack.domain.pack import MOST_ENGINES, EngineReport, EngineState, PackReport

__all__ = ["read_report"]

LONGEST_REASON = 64
LONGEST_MESSAGE = 1024
"""Both end up in status, and whoever runs in the pod may have written them."""

LARGEST = 2**63 - 1
"""Of any number: what Kubernetes itself takes, and what can still be divided."""

Index = Annotated[int, Field(ge=0, lt=MOST_ENGINES)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]


class _Partial(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", alias_generator=AliasGenerator(validation_alias=to_camel)
    )


class _Engine(_Partial):
    index: Index
    state: EngineState
    attached: bool | None
    attached_message: str = ""
    restarts: Count = 0
    reason: str = ""
    message: str = ""
    device_bytes: Count | None = None


class _Report(_Partial):
    version: Literal[1]
    pod_uid: str
    running: Annotated[list[Index], Field(max_length=MOST_ENGINES)]
    ending: bool
    engines: Annotated[list[_Engine], Field(max_length=MOST_ENGINES)]


def read_report(content: bytes, *, uid: str) -> PackReport:
    """The report of the pod with this uid. ValueError, with the reason, for anything else."""
    try:
        found = _Report.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise ValueError(f"{where}: {first['msg']}") from error
    if found.pod_uid != uid:
        raise ValueError("podUid: it is another pod's")
    if [engine.index for engine in found.engines] != list(range(len(found.engines))):
        raise ValueError("engines: they are not numbered 0, 1, 2 and so on")
    running = tuple(sorted(set(found.running)))
    if len(running) != len(found.running) or any(index >= len(found.engines) for index in running):
        raise ValueError(f"running: {found.running} are not different indexes of {len(found.engines)} engines")
    return PackReport(running=running, ending=found.ending, engines=tuple(map(_engine, found.engines)))


def _engine(found: _Engine) -> EngineReport:
    return EngineReport(
        index=found.index,
        state=found.state,
        attached=found.attached,
        attached_message=found.attached_message[:LONGEST_MESSAGE],
        restarts=found.restarts,
        reason=found.reason[:LONGEST_REASON],
        message=found.message[:LONGEST_MESSAGE],
        device_bytes=found.device_bytes,
    )
