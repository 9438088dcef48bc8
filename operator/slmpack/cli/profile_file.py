"""The profile document of a sweep: begun from what the server says, continued from a file, written after each point."""

from __future__ import annotations

import stat
from datetime import datetime
from pathlib import Path

import click
import yaml
from typing_extensions import override

from slmpack import __version__
from slmpack.api.profile import (
    PROFILE_KEY,
    KneeDocument,
    PointDocument,
    ProfileDocument,
    RefusalDocument,
    read_document,
    to_profile,
    write_document,
)
from slmpack.domain.knee import Knee
from slmpack.domain.profile import judge
from slmpack.render.names import PROFILE_LABEL

__all__ = ["configmap_manifest", "require_writable", "resume", "save", "with_point", "with_verdict"]

SETTINGS = (
    "model",
    "gpu",
    "engine_version",
    "sharing",
    "replicas",
    "max_num_seqs",
    "max_model_len",
    "kv_cache_tokens",
    "input_tokens",
    "output_tokens",
    "repeats",
    "min_seconds",
)
"""What must be the same for points to stand in one file."""
LARGEST_BYTES = 1024 * 1024
"""Of a file that is read: a profile has a few thousand."""


def resume(fresh: ProfileDocument, path: Path | None) -> ProfileDocument:
    """The fresh document with the points of the file, less those that measuring again may mend.

    Raises click.ClickException if the file is no profile, or one that was measured otherwise: it is never overwritten.
    """
    try:
        text = None if path is None else _text(path)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"--out {path}: cannot be read: {error}") from error
    if text is None:
        return fresh
    found = read_document(text)
    if not isinstance(found, ProfileDocument):
        wrong = "; ".join(found)
        raise click.ClickException(f"--out {path}: is there and is no profile ({wrong}); choose another file")
    for name in SETTINGS:
        theirs, ours = getattr(found, name), getattr(fresh, name)
        if theirs != ours:
            differs = f"was measured with {name} = {_shown(theirs)}, this run has {_shown(ours)}"
            raise click.ClickException(f"--out {path}: {differs}; use the same settings, or choose another file")
    kept = tuple(point for point in found.points if not any(spoilt.fault.transient for spoilt in point.faults))
    return found.model_copy(update={"points": kept, "knee": None, "refusal": None})


def _text(path: Path) -> str | None:
    """What is in a regular file; None where there is none. A device or a pipe could be read without end."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise click.ClickException(f"--out {path}: cannot be written: {error}; choose another path") from error
    if not stat.S_ISREG(status.st_mode):
        raise click.ClickException(f"--out {path}: is there and is no regular file; choose another path")
    with path.open("rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        message = f"--out {path}: has more than {LARGEST_BYTES} bytes, so it is no profile; choose another file"
        raise click.ClickException(message)
    return content.decode()


def with_point(document: ProfileDocument, point: PointDocument, *, now: datetime) -> ProfileDocument:
    """The document with one more point, and the verdict on all of them."""
    points = sorted((*document.points, point), key=lambda entry: entry.concurrency)
    stamp = now.isoformat(timespec="seconds").replace("+00:00", "Z")
    return with_verdict(
        document.model_copy(update={"points": tuple(points), "measured_at": stamp, "tool_version": __version__})
    )


def with_verdict(document: ProfileDocument) -> ProfileDocument:
    """The document with its knee by the default policy, or with the reason for none."""
    verdict = judge(to_profile(document))
    if isinstance(verdict, Knee):
        knee = KneeDocument(concurrency=verdict.batch, binding=verdict.binding.value, explanation=verdict.explanation)
        return document.model_copy(update={"knee": knee, "refusal": None})
    refusal = RefusalDocument(
        concurrency=verdict.concurrency,
        faults=tuple(found.fault for found in verdict.faults),
        message=verdict.message,
    )
    return document.model_copy(update={"knee": None, "refusal": refusal})


def require_writable(document: ProfileDocument, path: Path) -> None:
    """Write beside the file what will be in it, and remove it again. Raises click.ClickException."""
    _write(document, path, keep=False)


def save(document: ProfileDocument, path: Path) -> None:
    """Write the file in one step: what was there stays whole if this fails. Raises click.ClickException."""
    _write(document, path, keep=True)


def _write(document: ProfileDocument, path: Path, *, keep: bool) -> None:
    try:
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)  # of a run that was killed
        with fresh.open("x", encoding="utf-8") as file:
            file.write(write_document(document))
        if keep:
            fresh.replace(path)
        else:
            fresh.unlink()
    except (OSError, ValueError) as error:
        raise click.ClickException(f"--out {path}: cannot be written: {error}") from error


class _Block(str):
    """Text that is written as a block, line by line."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    @override
    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def configmap_manifest(document: ProfileDocument, *, name: str) -> str:
    """A ConfigMap that holds the profile, for `kubectl apply -f -`."""
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {PROFILE_LABEL: "true"}},
        "data": {PROFILE_KEY: _Block(write_document(document))},
    }
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _shown(value: object) -> str:
    return "none" if value is None else str(getattr(value, "value", value))
