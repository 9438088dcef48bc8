"""The engine's interface as data: versions, flags, environment and the memory constants of each generation.

A flag passes only if the table knows it for this version and calls it harmless or modelled. Every other way to the same
effect (abbreviations, underscores, short forms, dotted keys, environment variables) is closed here.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from slmpack.domain.engine_env import check_env
from slmpack.domain.engine_version import (
    DEFAULT_IMAGE,
    FIRST_SUPPORTED,
    FIRST_UNSUPPORTED,
    EngineProblem,
    EngineVersion,
    parse_engine_version,
    parse_version,
)
from slmpack.domain.interval import Interval

__all__ = [
    "DEFAULT_IMAGE",
    "FIRST_SUPPORTED",
    "FIRST_UNSUPPORTED",
    "ArgsResult",
    "EngineFlag",
    "EngineProblem",
    "EngineRuntime",
    "EngineTable",
    "EngineVersion",
    "FlagClass",
    "FlagType",
    "check_env",
    "kv_element_bytes",
    "normalise_args",
    "parse_engine_version",
    "parse_version",
]


class FlagClass(Enum):
    """What becomes of a flag that a user writes."""

    MODELLED = "modelled"
    """Passed on, and the plan reads its value."""
    HARMLESS = "harmless"
    """Passed on: it changes neither memory nor what the operator relies on."""
    RESERVED = "reserved"
    """The operator sets it."""
    REFUSED = "refused"
    """Its effect is not modelled."""


class FlagType(Enum):
    """What a flag's value is."""

    BOOL = "bool"
    """--x and --no-x."""
    SWITCH = "switch"
    """--x alone."""
    INT = "int"
    FLOAT = "float"
    STR = "str"
    LIST = "list"
    """One or more words; one is taken here."""
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFlag:
    """One row of the flag table."""

    name: str
    """With its two dashes."""
    flag_class: FlagClass
    type: FlagType
    since: EngineVersion
    """The first version that has it."""
    until: EngineVersion | None = None
    """The last version that has it; None if the newest still does."""
    aliases: tuple[str, ...] = ()
    why: str = ""
    """For reserved and refused flags: the reason, and what to use instead."""
    values: tuple[str, ...] = ()
    """For modelled flags whose every value must be understood: those that are."""

    @property
    def key(self) -> str:
        """The name as users write it in engine.args."""
        return self.name.removeprefix("--")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRuntime:
    """Memory constants of a range of versions; each has its source in `data/engines.yaml`."""

    since: EngineVersion
    until: EngineVersion | None
    """The last version of the range; None for the newest."""
    validated: bool
    """Whether start-up logs of these versions were among those that the constants were fitted on."""
    weights_factor: Interval
    logits_copies: Interval
    mlp_factor: Interval
    activation_constant_bytes: Interval
    non_torch_bytes: Interval
    cuda_graph_base_bytes: Interval
    cuda_graph_each_bytes: Interval
    """For each captured batch size."""
    cuda_graphs_inside_budget: bool
    context_bytes: Interval
    margin_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTable:
    """Every flag and every generation that is known."""

    flags: tuple[EngineFlag, ...]
    runtimes: tuple[EngineRuntime, ...]

    def flag(self, name: str) -> EngineFlag | None:
        """The flag with this name or alias; dashes in front do not matter."""
        key = name.lstrip("-")
        return next((flag for flag in self.flags if key == flag.key or key in flag.aliases), None)

    def supports(self, flag: str, version: EngineVersion) -> bool:
        """Whether this version knows the flag."""
        known = self.flag(flag)
        return known is not None and _in_range(known.since, known.until, version)

    def runtime_for(self, version: EngineVersion) -> EngineRuntime:
        """Memory constants of a version; LookupError for one that the table does not hold."""
        for runtime in self.runtimes:
            if _in_range(runtime.since, runtime.until, version):
                return runtime
        raise LookupError(f"no memory constants for vLLM {version}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgsResult:
    """A user's engine.args as canonical flags, sorted by name, and what is wrong with them."""

    args: tuple[tuple[str, str | None], ...]
    """Flag and value; None where the flag stands alone. Pass a value as `--flag=value`: it may begin with a dash."""
    problems: tuple[EngineProblem, ...]


def normalise_args(args: Mapping[str, object], version: EngineVersion, table: EngineTable) -> ArgsResult:
    """Check a user's engine.args against the table; only flags without a problem are in the result."""
    problems: list[EngineProblem] = []
    spelled: dict[str, str] = {}
    accepted: dict[str, tuple[str, str | None] | None] = {}
    for key in sorted(args):
        flag = _resolve(key, version, table)
        if isinstance(flag, EngineProblem):
            problems.append(flag)
        elif flag.name in spelled:
            problems.append(_problem(key, f"it is {flag.name}, which {spelled[flag.name]!r} sets already; keep one"))
        else:
            spelled[flag.name] = key
            rendered = _render(flag, args[key])
            if isinstance(rendered, str):
                problems.append(_problem(key, rendered))
            else:
                accepted[flag.name] = rendered
    kept = sorted((item for item in accepted.values() if item is not None), key=lambda item: item[0])
    return ArgsResult(args=tuple(kept), problems=tuple(problems))


def kv_element_bytes(kv_cache_dtype: str | None, *, model_dtype_bytes: int) -> int:
    """Bytes of one KV cache element for a --kv-cache-dtype that the table accepts; auto is the model's dtype."""
    if kv_cache_dtype in {None, "auto"}:
        return model_dtype_bytes
    return 1 if str(kv_cache_dtype).startswith("fp8") else 2


def _in_range(since: EngineVersion, until: EngineVersion | None, version: EngineVersion) -> bool:
    return since <= version and (until is None or version <= until)


def _problem(key: str, message: str) -> EngineProblem:
    return EngineProblem(field=f"spec.engine.args[{key}]", message=message)


def _resolve(key: str, version: EngineVersion, table: EngineTable) -> EngineFlag | EngineProblem:
    name = key.lstrip("-").replace("_", "-")
    base, dot, _ = name.partition(".")
    flag = table.flag(base)
    if flag is None:
        return _problem(key, _unknown(base, version, table))
    if flag.flag_class in {FlagClass.RESERVED, FlagClass.REFUSED}:
        verb = "is set by the operator" if flag.flag_class is FlagClass.RESERVED else "is refused"
        return _problem(key, f"{flag.name} {verb}: {flag.why}")
    if dot:
        return _problem(key, f"dotted keys are not taken; write {flag.key} with one JSON value")
    if not _in_range(flag.since, flag.until, version):
        span = (
            f"since {flag.since}"
            if flag.until is None
            else f"from {flag.since} to {flag.until.major}.{flag.until.minor}"
        )
        return _problem(key, f"vLLM {version} does not have {flag.name} (known {span}); remove it or change the engine")
    return flag


def _unknown(name: str, version: EngineVersion, table: EngineTable) -> str:
    positive = table.flag(name.removeprefix("no-")) if name.startswith("no-") else None
    if positive is not None and positive.type is FlagType.BOOL:
        return f'write {positive.key}: "false" instead'
    usable = [flag.key for flag in table.flags if _in_range(flag.since, flag.until, version)]
    longer = [key for key in usable if name and key.startswith(name)]
    if len(longer) == 1:
        return f"abbreviations are not taken; write {longer[0]} in full"
    near = difflib.get_close_matches(name[:80], usable, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"not a flag of `vllm serve` that is known for {version}{hint}"


def _render(flag: EngineFlag, value: object) -> tuple[str, str | None] | str | None:
    """The flag with its value, None where nothing is to be passed, or why the value is not taken."""
    if flag.type in {FlagType.BOOL, FlagType.SWITCH}:
        return _render_bool(flag, value)
    text = _value_text(flag.type, value)
    if text is None:
        return f"{_shown(value)} is not taken; {flag.name} needs {_EXPECTED[flag.type]}"
    if flag.values and text not in flag.values:
        return f"{_shown(value)} is not modelled; {flag.name} may be {', '.join(flag.values)}"
    if flag.flag_class is FlagClass.MODELLED and flag.type is FlagType.INT and int(text) < 1:
        return f"{_shown(value)} is too small; {flag.name} needs 1 or more"
    return flag.name, text


def _render_bool(flag: EngineFlag, value: object) -> tuple[str, None] | str | None:
    wanted = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
    if not isinstance(wanted, bool):
        return f"{_shown(value)} is not taken; {flag.name} needs true or false"
    if wanted:
        return flag.name, None
    return None if flag.type is FlagType.SWITCH else (f"--no-{flag.key}", None)


_EXPECTED = {
    FlagType.INT: "a whole number, written out",
    FlagType.FLOAT: "a number",
    FlagType.STR: "a text",
    FlagType.LIST: "one word (lists are not taken)",
    FlagType.JSON: "a JSON object or list",
}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def _value_text(kind: FlagType, value: object) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    match kind:
        case FlagType.INT:
            return _integer_text(value)
        case FlagType.FLOAT:
            return _float_text(value)
        case FlagType.JSON:
            return _json_text(value)
        case _:
            return _word(value)


def _integer_text(value: object) -> str | None:
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else None
    return str(int(value)) if isinstance(value, str) and _INTEGER.fullmatch(value) else None


def _float_text(value: object) -> str | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return repr(number) if math.isfinite(number) else None


def _json_text(value: object) -> str | None:
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(parsed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return text if isinstance(parsed, Mapping | list) else None


def _word(value: object) -> str | None:
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, int) and abs(value) >= 10**18:
        return None
    return str(value) or None


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number of more than 18 digits"
    if isinstance(value, Mapping | list | tuple):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
