"""The profile file, `profile.yaml`: written by `slmpack profile`, kept in a ConfigMap, read by the planner.

Its figures bear the names of `slmpack predict -o json`: snake_case with the unit at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from slmpack.domain.prediction import Sharing
from slmpack.domain.profile import FEWEST_POINTS, Profile, ProfilePoint, incredible
from slmpack.domain.profile_faults import Fault, PointFault

__all__ = [
    "PROFILE_KEY",
    "FaultDocument",
    "KneeDocument",
    "PointDocument",
    "ProfileDocument",
    "RefusalDocument",
    "parse_profile",
    "read_document",
    "to_profile",
    "write_document",
]

PROFILE_KEY = "profile.yaml"
"""The key of the ConfigMap."""
LARGEST_CHARACTERS = 128 * 1024
"""A profile has a few thousand; reading much more would hold up the operator."""
DEEPEST = 32
"""Brackets in brackets; a profile has 4. The YAML reader takes seconds for hundreds of them."""
SHOWN_MAX = 80

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[StrictInt, Field(ge=1)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=1024)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FaultDocument(_Part):
    """What spoils a point."""

    fault: Fault
    message: StrictStr = ""


class PointDocument(_Part):
    """One number of requests in flight. The first three are required, the rest is for the reader."""

    concurrency: Count
    """Requests in flight."""
    throughput_tok_s: Positive
    """Output tokens a second, mean of the repeats."""
    itl_s: Positive
    """Mean inter-token latency, seconds."""
    ttft_s: Positive | None = None
    """Mean time to first token, seconds."""
    throughput_low_tok_s: Positive | None = None
    """The slowest repeat."""
    throughput_high_tok_s: Positive | None = None
    """The fastest repeat."""
    itl_p50_s: Share | None = None
    itl_p99_s: Share | None = None
    ttft_p99_s: Share | None = None
    running: Share | None = None
    """Requests that ran at a time, mean by the engine's metrics."""
    preemptions: Share | None = None
    """Requests that were preempted."""
    requests: Annotated[StrictInt, Field(ge=0)] | None = None
    """Requests that were finished in the repeats."""
    errors: Annotated[StrictInt, Field(ge=0)] = 0
    """Requests that failed."""
    client_busy: Share | None = None
    """CPU seconds a second of the client."""
    faults: tuple[FaultDocument, ...] = ()
    """What spoils the point; empty: it can be used."""


class KneeDocument(_Part):
    """The knee with the default policy and no absolute bounds. For the reader: the planner finds it anew."""

    concurrency: Count
    binding: StrictStr
    explanation: StrictStr


class RefusalDocument(_Part):
    """Why no knee is named."""

    concurrency: Count | None = None
    faults: tuple[Fault, ...] = ()
    message: StrictStr


class ProfileDocument(_Part):
    """The whole file."""

    apiVersion: Literal["slmpack.dev/v1alpha1"]  # noqa: N815 - Kubernetes' spelling
    kind: Literal["Profile"]
    model: Name
    """Where the engine loaded the model from: its name on the Hub, or a path."""
    served_name: Name | None = None
    """What requests call it."""
    gpu: Name | None = None
    """The GPU: a catalogue id or the node's nvidia.com/gpu.product label."""
    engine_version: Name | None = None
    sharing: Sharing | None = None
    """How the replicas of the GPU shared it meanwhile."""
    replicas: Count = 1
    """Replicas on the GPU meanwhile, this one included."""
    max_num_seqs: Count | None = None
    max_model_len: Count | None = None
    kv_cache_tokens: Count | None = None
    input_tokens: Count
    output_tokens: Count
    repeats: Count | None = None
    min_seconds: Share | None = None
    """Least length of a repeat."""
    measured_at: StrictStr | None = None
    """When the last point was measured, UTC."""
    tool_version: StrictStr | None = None
    points: tuple[PointDocument, ...]
    """By rising concurrency."""
    knee: KneeDocument | None = None
    refusal: RefusalDocument | None = None

    @field_validator("points")
    @classmethod
    def _in_order(cls, points: tuple[PointDocument, ...]) -> tuple[PointDocument, ...]:
        sizes = [point.concurrency for point in points]
        if len(set(sizes)) < len(sizes):
            twice = next(size for size in sizes if sizes.count(size) > 1)
            raise PydanticCustomError("twice", f"there are two points of concurrency {twice}; keep one")
        return tuple(sorted(points, key=lambda point: point.concurrency))


def parse_profile(text: str) -> Profile | tuple[str, ...]:
    """The profile in the text of a file or a ConfigMap's key, or all that is wrong with it, at least one message.

    It never raises. A profile has at least two points that nothing spoilt, with figures that agree.
    """
    document = read_document(text)
    if not isinstance(document, ProfileDocument):
        return document
    profile = to_profile(document)
    usable = len(profile.clean_points)
    if usable < FEWEST_POINTS:
        spoilt = (
            f" ({len(profile.points) - usable} more are spoilt, see their faults)" if profile.points[usable:] else ""
        )
        return (
            f"points: {usable} can be used{spoilt}; two are enough: one request in flight and one large number of them",
        )
    if profile.clean_points[0].concurrency != 1:
        return ("points: none of concurrency 1 can be used, which the knee's rule compares with; measure it",)
    why = incredible(profile)
    return profile if why is None else (why,)


def read_document(text: str) -> ProfileDocument | tuple[str, ...]:
    """The file as it is, however few its points, or all that is wrong with it."""
    if len(text) > LARGEST_CHARACTERS:
        return (f"{PROFILE_KEY}: has {len(text)} characters, no profile has more than {LARGEST_CHARACTERS}",)
    steps = ((character in "[{") - (character in "]}") for character in text)
    if max(accumulate(steps), default=0) > DEEPEST:
        return (f"{PROFILE_KEY}: has more than {DEEPEST} brackets within each other, which no profile needs",)
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return (f"{PROFILE_KEY}: is not YAML: {' '.join(str(error).split())}",)
    if not isinstance(found, dict):
        return (f"{PROFILE_KEY}: must be an object, got {_shown(found)}; `slmpack profile URL --out FILE` writes one",)
    try:
        return ProfileDocument.model_validate(found)
    except ValidationError as error:
        return tuple(_messages(error))


def to_profile(document: ProfileDocument) -> Profile:
    """The document as the domain's value."""
    return Profile(
        model=document.model,
        gpu=document.gpu,
        engine_version=document.engine_version,
        sharing=document.sharing,
        replicas=document.replicas,
        max_num_seqs=document.max_num_seqs,
        max_model_len=document.max_model_len,
        kv_cache_tokens=document.kv_cache_tokens,
        input_tokens=document.input_tokens,
        output_tokens=document.output_tokens,
        points=tuple(
            ProfilePoint(
                concurrency=point.concurrency,
                throughput_tok_s=point.throughput_tok_s,
                itl_s=point.itl_s,
                ttft_s=point.ttft_s,
                faults=tuple(PointFault(fault=found.fault, message=found.message) for found in point.faults),
            )
            for point in document.points
        ),
    )


def write_document(document: ProfileDocument) -> str:
    """The file's text; what is not known is left out."""
    return yaml.safe_dump(
        document.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True, width=120
    )


def _messages(error: ValidationError) -> Iterator[str]:
    for details in error.errors(include_url=False):
        path = ""
        for part in details["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        yield f"{path}: {_message(details)}"


def _message(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    rules: dict[str, Any] = {
        "missing": "is required",
        "extra_forbidden": "is not a field of a profile; remove it",
        "finite_number": f"must be a finite number, got {_shown(details['input'])}",
        "greater_than": f"must be more than {context.get('gt')}, got {_shown(details['input'])}",
        "greater_than_equal": f"must be {context.get('ge')} or more, got {_shown(details['input'])}",
        "int_type": f"must be a whole number, got {_shown(details['input'])}",
        "string_type": f"must be text (in quotes), got {_shown(details['input'])}",
        "tuple_type": f"must be a list, got {_shown(details['input'])}",
        "twice": details["msg"],
    }
    return str(rules.get(kind, f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {_shown(details['input'])}"))


def _shown(value: object) -> str:
    """The value, cut; not what is in lists and objects, which aliases may make huge."""
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
