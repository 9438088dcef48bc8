"""`vllm serve`'s command line as argparse reads it, from the option list that its own help prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import resources

__all__ = ["CommandLine", "UsageError", "parse_command_line"]

_VALUES = {"0": (0, 0), "1": (1, 1), "?": (0, 1), "+": (1, None), "*": (0, None)}


class UsageError(Exception):
    """What argparse prints before it exits with 2."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"usage: vllm serve [model_tag] [options]\nvllm serve: error: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The positional model, and each option's values by its first name without dashes."""

    model: str | None
    options: dict[str, list[str]] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        """The last value of an option; None if it was not given."""
        values = self.options.get(name)
        return values[-1] if values else None

    def given(self, name: str) -> bool:
        """Whether a switch such as `enforce-eager` was set."""
        return name in self.options


@cache
def _known() -> dict[str, tuple[str, int, int | None]]:
    """Every spelling -> (first name, fewest values, most values)."""
    text = resources.files(__package__).joinpath("vllm_serve_flags.txt").read_text(encoding="utf-8")
    known = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            kind, *names = line.split()
            for name in names:
                known[name] = (names[0], *_VALUES[kind])
    return known


def _resolve(name: str) -> str | None:
    """The full spelling: underscores are dashes, `--json-arg.key` counts as `--json-arg`, a unique prefix is enough."""
    spelled = "--" + name[2:].split(".", 1)[0].replace("_", "-") if name.startswith("--") else name
    if spelled in _known():
        return spelled
    matches = sorted(known for known in _known() if spelled.startswith("--") and known.startswith(spelled))
    firsts = {_known()[match][0] for match in matches}
    if len(firsts) > 1:
        raise UsageError(f"ambiguous option: {name} could match {', '.join(matches)}")
    return matches[0] if matches else None


def parse_command_line(arguments: list[str]) -> CommandLine:
    """Parse what follows `vllm serve`; UsageError for an option or a value that vLLM does not take."""
    model: str | None = None
    options: dict[str, list[str]] = {}
    unknown: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if model is None:
                model = word
            else:
                unknown.append(word)
            continue
        name, has_value, value = word.partition("=")
        spelled = _resolve(name)
        if spelled is None:
            unknown.append(word)
            continue
        first, fewest, most = _known()[spelled]
        values = [value] if has_value else []
        while not has_value and rest and not rest[0].startswith("--") and (most is None or len(values) < most):
            values.append(rest.pop(0))
        _check_count(spelled, values, (fewest, most))
        if spelled.startswith("--no-") and not first.startswith("--no-"):
            options.pop(first.lstrip("-"), None)
        else:
            options[first.lstrip("-")] = values
    if unknown:
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}")
    return CommandLine(model=model or options.get("model", [""])[-1] or None, options=options)


def _check_count(name: str, values: list[str], bounds: tuple[int, int | None]) -> None:
    fewest, most = bounds
    if len(values) < fewest:
        raise UsageError(f"argument {name}: expected {'one argument' if most == 1 else 'at least one argument'}")
    if most == 0 and values:
        raise UsageError(f"argument {name}: ignored explicit argument {values[0]!r}")
