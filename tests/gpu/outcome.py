"""What a check found, what the facts promise about it, and the file that holds both.

Pure: no clock, no files. The page is rendered from these values (page.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = [
    "CONTRADICTED",
    "FAILED",
    "HELD",
    "NOT_RUN",
    "RECORDED",
    "Machine",
    "Outcome",
    "Promise",
    "Results",
    "gpu_slug",
    "merge",
    "newest",
    "read_results",
    "write_results",
]

Json = dict[str, Any]
VERSION = 1
HELD = "held"
CONTRADICTED = "contradicted"
RECORDED = "recorded"
FAILED = "failed"
NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One thing that the facts say, and what was seen instead or indeed."""

    says: str
    held: bool
    saw: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One check, as it ended."""

    name: str
    ran_at: str
    """RFC 3339, UTC."""
    seconds: float
    promises: tuple[Promise, ...] = ()
    seen: Json = field(default_factory=dict)
    """Measured figures, each named with its unit."""
    failed: str = ""
    """Why it came to no end: a check that breaks off has promised nothing."""
    not_run: str = ""
    """What this machine lacks for it."""

    @property
    def status(self) -> str:
        """One word for the page; a contradiction stays one, even where the check broke off after it."""
        if any(not promise.held for promise in self.promises):
            return CONTRADICTED
        if self.failed:
            return FAILED
        if self.not_run:
            return NOT_RUN
        return HELD if self.promises else RECORDED


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it ran. No name, address or serial number of the machine."""

    gpu: str
    total_mib: int
    driver: str
    cuda: str
    compute_mode: str
    root: bool
    other_users: str = ""
    """Who else used the GPU when the checks began, or empty."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """One file: the last outcome of each check on one GPU on one day."""

    machine: Machine
    date: str
    """YYYY-MM-DD, UTC."""
    slmpack: str
    outcomes: tuple[Outcome, ...]

    @property
    def file_name(self) -> str:
        return f"{gpu_slug(self.machine.gpu)}-{self.date}.json"


def gpu_slug(name: str) -> str:
    """A GPU's NVML name as part of a file's name: `NVIDIA H200` is nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"


def merge(before: Results | None, now: Results) -> Results:
    """The newer outcome of each check; machine and version are those of the newer run.

    Raises ValueError if the two are of different GPUs or days.
    """
    if before is None:
        return now
    if before.file_name != now.file_name:
        raise ValueError(f"{before.file_name} and {now.file_name} are results of different GPUs or days")
    newer = {outcome.name: outcome for outcome in now.outcomes}
    kept = [newer.pop(outcome.name, outcome) for outcome in before.outcomes]
    return replace(now, outcomes=(*kept, *newer.values()))


def write_results(results: Results) -> str:
    """The file's text."""
    document = {
        "version": VERSION,
        "date": results.date,
        "slmpack": results.slmpack,
        "machine": _plain(results.machine),
        "checks": [_outcome_json(outcome) for outcome in results.outcomes],
    }
    return json.dumps(document, indent=2) + "\n"


def read_results(text: str) -> Results:
    """Raises ValueError if the text is no results file of this version."""
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"version is {document['version']!r}; this program reads {VERSION}")
        return Results(
            date=document["date"],
            slmpack=document["slmpack"],
            machine=Machine(**document["machine"]),
            outcomes=tuple(map(_outcome, document["checks"])),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no results of the GPU checks: {error!r}") from error


def _outcome_json(outcome: Outcome) -> Json:
    plain = _plain(outcome)
    return {**plain, "status": outcome.status, "promises": [_plain(promise) for promise in outcome.promises]}


def _outcome(document: Mapping[str, Any]) -> Outcome:
    fields = {name: value for name, value in document.items() if name not in {"promises", "status"}}
    return Outcome(promises=tuple(Promise(**promise) for promise in document["promises"]), **fields)


def _plain(value: Machine | Outcome | Promise) -> Json:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def newest(results: Iterable[Results]) -> Sequence[Results]:
    """The newest results of each GPU, by the GPU's name."""
    found: dict[str, Results] = {}
    for one in sorted(results, key=lambda one: one.date):
        found[one.machine.gpu] = one
    return [found[gpu] for gpu in sorted(found)]
