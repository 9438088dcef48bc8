"""Which vLLM an image holds. A tag that is no released version is no version: nothing is guessed from `latest`."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "DEFAULT_IMAGE",
    "FIRST_SUPPORTED",
    "FIRST_UNSUPPORTED",
    "EngineProblem",
    "EngineVersion",
    "parse_engine_version",
    "parse_version",
]

DEFAULT_IMAGE = "vllm/vllm-openai:v0.33.0"

_VERSION = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?(?:\.post[0-9]{1,4})?")
_BUILD_SUFFIX = re.compile(r"-[A-Za-z0-9._-]+")
_PRE_RELEASE = re.compile(r"(?:rc|dev|alpha|beta|nightly|pre)[0-9]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class EngineVersion:
    """A released vLLM version."""

    major: int
    minor: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


FIRST_SUPPORTED = EngineVersion(0, 11)
FIRST_UNSUPPORTED = EngineVersion(0, 34)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProblem:
    """Something a user wrote that cannot be passed to the engine, and what would work."""

    field: str
    message: str


def parse_version(text: str) -> EngineVersion | None:
    """`0.33.0`, `v0.33.0`, `0.33` or `0.12.0.post1`; None for anything else, pre-releases included."""
    match = _VERSION.fullmatch(text)
    return None if match is None else EngineVersion(int(match[1]), int(match[2]), int(match[3] or 0))


def parse_engine_version(image: str | None, version: str | None) -> EngineVersion | EngineProblem:
    """The engine's version: engine.version where given, else the image's tag; no guess where neither says."""
    if version is not None:
        found, field, shown = parse_version(version), "spec.engine.version", version
        if found is None:
            return EngineProblem(
                field=field, message=f"{shown!r} is no released vLLM version; write for example 0.33.0"
            )
    else:
        tag = _tag(DEFAULT_IMAGE if image is None else image)
        found, field, shown = _tag_version(tag), "spec.engine.image", DEFAULT_IMAGE if image is None else image
        if found is None:
            what = f"the tag {tag!r} of {shown!r} is no" if tag else f"{shown!r} has no tag that says a"
            return EngineProblem(
                field=field, message=f"{what} released vLLM version; set engine.version, for example 0.33.0"
            )
    if FIRST_SUPPORTED <= found < FIRST_UNSUPPORTED:
        return found
    return EngineProblem(
        field=field,
        message=f"vLLM {found} (from {shown!r}) is not supported; "
        f"use {FIRST_SUPPORTED} or later, before {FIRST_UNSUPPORTED}",
    )


def _tag(image: str) -> str:
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def _tag_version(tag: str) -> EngineVersion | None:
    number, dash, suffix = tag.partition("-")
    if dash and (not _BUILD_SUFFIX.fullmatch(dash + suffix) or any(map(_PRE_RELEASE.fullmatch, suffix.split("-")))):
        return None
    return parse_version(number)
