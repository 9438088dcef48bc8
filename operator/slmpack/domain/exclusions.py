"""Which modules a quantised checkpoint leaves alone: lists such as `ignore` or `modules_to_not_convert`.

An entry excludes a module if it is its path, a part of its path cut at dots, or a pattern (`re:...`, or with `*` for
one part). That is never narrower than vLLM's own rules, so it never counts too few bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Exclusions", "exclusions_of"]

_LONGEST_PATTERN = 200
_MOST_REPEATS = 3
"""More of them could keep a regular expression busy for minutes."""
_REPEATED_GROUP = re.compile(r"[)\]][*+?{]|\{")
_EXPERT = re.compile(r"\bexperts\.\d+")
_LAYER = re.compile(r"\blayers\.(\d+)\b")
_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
_NEVER_QUANTISED = ("lm_head", "embed", "norm", "gate", "router", "rotary", "sinks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusions:
    """A checked list."""

    entries: tuple[str, ...]
    paths: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    def match(self, name: str) -> bool:
        """Whether the module stays unquantised."""
        if self.paths and any(run in self.paths for run in _runs(name)):
            return True
        return any(pattern.match(spelling) for pattern in self.patterns for spelling in _spellings(name))

    def unused(self, names: Iterable[str], *, layers: int) -> str | None:
        """An entry that fits no module and that nothing else explains: the layout is then unsure."""
        known = tuple(names)
        runs = {run for name in known for run in _runs(name)}
        for entry in self.entries:
            plain = _normal(entry)
            if plain in runs or any(word in plain for word in _NEVER_QUANTISED) or _beyond(plain, layers):
                continue
            pattern = _compiled(plain)
            if pattern is None or not any(pattern.match(spelling) for name in known for spelling in _spellings(name)):
                return entry
        return None


def exclusions_of(entries: Iterable[str]) -> Exclusions | str:
    """The list, or the entry that is no pattern that we dare to run."""
    kept = tuple(entries)
    paths, patterns = set[str](), list[re.Pattern[str]]()
    for entry in kept:
        plain = _normal(entry)
        if not _is_pattern(plain):
            paths.add(plain)
            continue
        pattern = _compiled(plain)
        if pattern is None:
            return entry
        patterns.append(pattern)
    return Exclusions(entries=kept, paths=frozenset(paths), patterns=tuple(patterns))


def _is_pattern(entry: str) -> bool:
    return entry.startswith("re:") or "*" in entry


def _compiled(entry: str) -> re.Pattern[str] | None:
    """None for a plain path and for a pattern that is wrong or could run for long."""
    if not _is_pattern(entry):
        return None
    if entry.startswith("re:"):
        text = entry.removeprefix("re:")
    else:
        text = r"[^.]+".join(re.escape(part) for part in entry.split("*")) + r"(\.|$)"
        return re.compile(text) if entry.count("*") <= _MOST_REPEATS else None
    repeats = text.count("*") + text.count("+")
    if len(text) > _LONGEST_PATTERN or repeats > _MOST_REPEATS or _REPEATED_GROUP.search(text.replace("[0-9]+", "")):
        return None
    try:
        return re.compile(text)
    except re.error:
        return None


def _normal(entry: str) -> str:
    return _EXPERT.sub("experts.0", entry)


def _beyond(entry: str, layers: int) -> bool:
    """Whether it names a layer behind the last, such as those that only predict tokens for speculation."""
    found = _LAYER.search(entry)
    return found is not None and int(found.group(1)) >= layers


def _spellings(name: str) -> tuple[str, ...]:
    path, _, last = name.rpartition(".")
    fused = _FUSED.get(last)
    return (name,) if fused is None else (name, f"{path}.{fused}")


def _runs(name: str) -> Iterator[str]:
    for spelling in _spellings(name):
        parts = spelling.split(".")
        for start in range(len(parts)):
            for end in range(start + 1, len(parts) + 1):
                yield ".".join(parts[start:end])
