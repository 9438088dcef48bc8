"""`predict --pack pack.yaml`: unequal replicas on one GPU. Keys are the flags without their dashes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import yaml
from typing_extensions import override

from slmpack.cli.question import LOADS, Asked
from slmpack.cli.question_flags import Real, question_flags
from slmpack.domain.quantity import GIB, MIB

__all__ = ["Pack", "PackTenant", "read_pack"]

OF_THE_GPU = ("gpu", "sharing", "mig_profile", "sm_percent", "itl_ms", "ttft_ms", "model_seconds", "objective")
"""What all tenants share: only at the top."""
ALIKE = (LOADS, ("model", "config"))
TENANTS, MEMORY = "tenants", "memory-gib"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackTenant:
    """One entry: `asked.replicas` equal replicas."""

    place: str
    """File and entry, for messages."""
    asked: Asked
    limit_mib: int | None
    """Memory of each replica; None: an equal part of what the others leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A pack file with the command line's flags over it."""

    asked: Asked
    """Of the GPU."""
    tenants: tuple[PackTenant, ...]


def read_pack(path: Path, given: Asked) -> Pack:
    """The pack. A tenant's own key counts before a flag, a flag before a key at the file's top.

    Raises click.ClickException, with the file and the entry in it.
    """
    raw = _object(_load(path), str(path))
    entries = raw.pop(TENANTS, None)
    if not isinstance(entries, list) or not entries:
        raise click.ClickException(f"{path}: {TENANTS} must be a list of replicas with a model each; add one")
    top = _over(given, _asked(raw, str(path), folder=path.parent))
    tenants = tuple(
        _tenant(_object(entry, f"{path}: {TENANTS}[{number}]"), top, f"{path}: {TENANTS}[{number}]", path.parent)
        for number, entry in enumerate(entries)
    )
    return Pack(asked=top, tenants=tenants)


class _OnceLoader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error: PyYAML would take the last one."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    message = f"the key {key.value!r} is there twice; leave one of them out"
                    raise yaml.constructor.ConstructorError(problem=message, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise click.ClickException(f"--pack {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.ClickException(f"--pack {path}: is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise click.ClickException(f"--pack {path}: is nested too deep; a pack has three levels") from error


def _object(value: object, place: str) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise click.ClickException(f"{place} is not an object; write keys such as model and in-flight")
    return dict(value)


def _tenant(raw: dict[str, object], top: Asked, place: str, folder: Path) -> PackTenant:
    limit = raw.pop(MEMORY, None)
    refused = [_key(name) for name in OF_THE_GPU if _key(name) in raw]
    if refused:
        raise click.ClickException(f"{place}.{refused[0]}: it is the same for the whole GPU; write it beside {TENANTS}")
    own = _asked(raw, place, folder=folder)
    asked = _over(own, top)
    gib = None if limit is None else _converted(Real(example=8), limit, f"{place}.{MEMORY}")
    return PackTenant(place=place, asked=asked, limit_mib=None if gib is None else int(gib * GIB) // MIB)


def _asked(raw: Mapping[str, object], place: str, *, folder: Path) -> Asked:
    """Every key checked as its flag is."""
    types = _types()
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in types:
            raise click.ClickException(f"{place}.{key}: not a key; known are {', '.join(sorted(types))}, {MEMORY}")
        values[key.replace("-", "_")] = _converted(types[key], value, f"{place}.{key}")
    if values.get("config") is not None:
        values["config"] = str(folder / values["config"])
    return Asked(**values)


def _types() -> dict[str, click.ParamType[Any]]:
    @question_flags
    def command() -> None: ...

    params: list[click.Parameter] = command.__click_params__  # type: ignore[attr-defined]
    return {_key(param.name): param.type for param in params if param.name and param.name != "model_seconds"}


def _converted(kind: click.ParamType[Any], value: object, place: str) -> Any:  # noqa: ANN401 - as the type says
    switch = isinstance(kind, click.types.BoolParamType)
    if isinstance(value, list | dict) or value is None or isinstance(value, bool) != switch:
        raise click.ClickException(f"{place}: {value!r} is not a value of this key; see slmpack predict --help")
    try:
        return kind.convert(value if switch else str(value), None, None)
    except click.BadParameter as error:
        raise click.ClickException(f"{place}: {error.message}") from error


def _over(first: Asked, second: Asked) -> Asked:
    """The first one's values, where it has none the second's. Of keys that mean the same, one is enough."""
    values = {field.name: getattr(first, field.name) for field in fields(Asked) if field.name != "model_seconds"}
    unset = {name for name, value in values.items() if value is None or value is False}
    for same in ALIKE:
        if not unset.issuperset(same):
            unset -= set(same)
    return replace(first, **{name: getattr(second, name) for name in unset})


def _key(name: str) -> str:
    return name.replace("_", "-")
