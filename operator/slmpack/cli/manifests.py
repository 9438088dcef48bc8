"""YAML and JSON files as `kubectl get -o yaml` prints them: Kubernetes objects, each with the place it was read at.

A file that cannot be read is an error that names the file, the line and what would work; nothing is left out silently.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BadFileError", "Manifest", "Manifests", "read_manifests"]

STDIN = "-"
NAMESPACED = frozenset({"SLMDeployment", "Pod", "ConfigMap", "ResourceClaim"})
USED_KINDS = (
    *("SLMDeployment", "Node", "Pod", "PriorityClass", "ConfigMap"),
    *("ResourceSlice", "DeviceClass", "ResourceClaim"),
)
LARGEST_BYTES = 256 * 2**20
"""Five thousand pods as YAML are about 100 MB."""


class BadFileError(Exception):
    """The message is for the user: where, what is wrong, what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One object of a file."""

    place: str
    """`FILE:LINE`, or `FILE:LINE item N` within a List."""
    folder: Path
    """Where relative paths in it start."""
    kind: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """metadata.name."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """metadata.namespace, `default` where there is none."""
        return str(self.body["metadata"].get("namespace") or "default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """Everything that was given."""

    used: tuple[Manifest, ...]
    ignored: tuple[str, ...]
    """One line for each kind that plan does not read, with the first place."""

    def of(self, kind: str) -> tuple[Manifest, ...]:
        """Those of one kind, in the order given."""
        return tuple(manifest for manifest in self.used if manifest.kind == kind)


def read_manifests(paths: Iterable[str]) -> Manifests:
    """Read all files (`-` is standard input). Raises BadFileError."""
    found = [manifest for path in dict.fromkeys(paths) for manifest in _read_file(path)]
    used = [manifest for manifest in found if manifest.kind in USED_KINDS]
    _refuse_twins(used)
    others: dict[str, list[str]] = {}
    for manifest in found:
        if manifest.kind not in USED_KINDS:
            others.setdefault(manifest.kind, []).append(manifest.place)
    ignored = tuple(f"{len(places)} {kind} ({places[0]}) not used" for kind, places in sorted(others.items()))
    return Manifests(used=tuple(used), ignored=ignored)


def _read_file(path: str) -> Iterator[Manifest]:
    shown = "standard input" if path == STDIN else path
    folder = Path.cwd() if path == STDIN else Path(path).parent
    empty = True
    for line, obj in _documents(_read_text(path, shown), shown):
        empty = False
        for place, item in _items(obj, f"{shown}:{line}"):
            yield _manifest(item, place=place, folder=folder)
    if empty:
        raise BadFileError(f"{shown}: is empty; give Kubernetes objects as YAML or JSON")


def _read_text(path: str, shown: str) -> str:
    try:
        raw = sys.stdin.buffer.read(LARGEST_BYTES + 1) if path == STDIN else _read_bytes(Path(path))
    except FileNotFoundError:
        raise BadFileError(f"{shown}: no such file") from None
    except IsADirectoryError:
        raise BadFileError(f"{shown}: is a folder; give each file with its own -f") from None
    except OSError as error:
        raise BadFileError(f"{shown}: cannot be read: {error.strerror or error}") from error
    if len(raw) > LARGEST_BYTES:
        raise BadFileError(f"{shown}: is larger than {LARGEST_BYTES // 2**20} MiB; give fewer objects")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadFileError(f"{shown}:{line}: is not UTF-8 text (byte {error.start}); save it as UTF-8 YAML") from None


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST_BYTES + 1)


def _documents(text: str, shown: str) -> Iterator[tuple[int, object]]:
    """Every document that holds something, with the line it starts at."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        while loader.check_node():
            node: Any = loader.get_node()
            obj: object = loader.construct_document(node)
            if obj is not None:
                yield node.start_mark.line + 1, obj
    except yaml.YAMLError as error:
        raise BadFileError(_yaml_message(error, shown)) from error
    except (RecursionError, ValueError, TypeError) as error:
        raise BadFileError(f"{shown}: is not readable YAML: {str(error)[:200] or type(error).__name__}") from error
    finally:
        loader.dispose()


def _yaml_message(error: yaml.YAMLError, shown: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
    if mark is None:
        return f"{shown}: is not YAML: {problem}"
    context = getattr(error, "context", None)
    where = f"{shown}:{mark.line + 1}"
    detail = f"{problem} ({context})" if context else str(problem)
    return (
        f"{where}: is not YAML: {detail} at column {mark.column + 1}; indent with spaces and quote special characters"
    )


def _items(obj: object, place: str) -> Iterator[tuple[str, object]]:
    """The object itself, or the items of a List."""
    if isinstance(obj, Mapping) and isinstance(obj.get("items"), list) and str(obj.get("kind", "")).endswith("List"):
        kind = str(obj["kind"]).removesuffix("List")
        for number, item in enumerate(obj["items"], start=1):
            # the items of a typed list (NodeList) carry no kind of their own
            typed = {"kind": kind, **item} if isinstance(item, Mapping) and kind else item
            yield from _items(typed, f"{place} item {number}")
    else:
        yield place, obj


def _manifest(obj: object, *, place: str, folder: Path) -> Manifest:
    if not isinstance(obj, dict):
        what = "a list" if isinstance(obj, list) else f"the text {str(obj)[:40]!r}"
        raise BadFileError(f"{place}: is {what}, not a Kubernetes object; it needs apiVersion, kind and metadata")
    kind = obj.get("kind")
    if not isinstance(kind, str) or not kind:
        raise BadFileError(f"{place}: has no kind; plan reads {', '.join(USED_KINDS)} and List")
    if kind in USED_KINDS:
        meta = obj.get("metadata")
        if not isinstance(meta, dict) or not isinstance(meta.get("name"), str) or not meta["name"]:
            raise BadFileError(f"{place}: the {kind} has no metadata.name; give it one")
        if not isinstance(meta.get("namespace") or "", str):
            raise BadFileError(f"{place}: metadata.namespace must be a string (put it in quotes)")
        wrong = next((part for part in ("spec", "status") if not isinstance(obj.get(part) or {}, dict)), None)
        if wrong is not None:
            raise BadFileError(f"{place}: {wrong} of the {kind} must be a mapping of fields")
    return Manifest(place=place, folder=folder, kind=kind, body=obj)


def _refuse_twins(manifests: Iterable[Manifest]) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for manifest in manifests:
        namespace = manifest.namespace if manifest.kind in NAMESPACED else ""
        identity = (manifest.kind, namespace, manifest.name)
        if identity in seen:
            raise BadFileError(
                f"{manifest.place}: {manifest.kind} {manifest.name} is given twice, first at {seen[identity]};"
                " keep one of them"
            )
        seen[identity] = manifest.place
