"""Typed access to a config.json that may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slmpack.domain.model_profile import UnknownLayout

__all__ = ["Config", "Flag", "Rule", "UnknownError"]

_LARGEST = 2**31 - 1


class UnknownError(Exception):
    """Why a config gives no profile; leaves the parser as its `layout` only."""

    def __init__(self, *, key: str, value: object, rule: str) -> None:
        super().__init__(rule)
        shown = _shown(value)
        self.layout = UnknownLayout(key=key, value=shown, message=f"config.json: {key} is {shown}: {rule}")


@dataclass(frozen=True, slots=True)
class Flag:
    """A tensor that is there if this key of the config says so."""

    key: str
    default: bool


Rule = bool | Flag


class Config:
    """A config.json, or an object inside one: `path` is then the key that holds it."""

    def __init__(self, raw: Mapping[str, object], *, path: str = "") -> None:
        self._raw = raw
        self._path = path

    def name(self, key: str) -> str:
        """The key as an error names it."""
        return f"{self._path}.{key}" if self._path else key

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._raw.get(key) is not None

    def keys(self) -> tuple[str, ...]:
        """Every key, in the config's order."""
        return tuple(str(key) for key in self._raw)

    def raw(self, key: str) -> object:
        """The value as it stands."""
        return self._raw.get(key)

    def unknown(self, key: str, *, rule: str) -> UnknownError:
        """The error that names this key and its value."""
        return UnknownError(key=self.name(key), value=self.raw(key), rule=rule)

    def number(self, key: str, *, default: int | None = None, least: int = 1, largest: int = _LARGEST) -> int:
        """A whole number; `default` is what an absent key means, where that is known."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.unknown(key, rule="the key is needed and its value is never guessed; add it")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
            raise self.unknown(key, rule=f"a whole number from {least} to {largest} is needed")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.unknown(key, rule="true or false is needed")
        return value

    def text(self, key: str, *, default: str) -> str:
        """A string."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.unknown(key, rule="a string is needed")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; none where the key is absent."""
        value = self.raw(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
            raise self.unknown(key, rule="a list of strings is needed")
        return tuple(str(entry) for entry in value)

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers that are not negative; none where the key is absent."""
        value = self.raw(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(type(entry) is int and entry >= 0 for entry in value):
            raise self.unknown(key, rule="a list of whole numbers is needed")
        return tuple(int(entry) for entry in value)

    def inner(self, key: str) -> Config | None:
        """The object under a key; None where the key is absent."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.unknown(key, rule="an object is needed")
        return Config(value, path=self.name(key))

    def holds(self, rule: Rule) -> bool:
        """Whether a tensor exists."""
        return self.flag(rule.key, default=rule.default) if isinstance(rule, Flag) else rule


def _shown(value: object) -> str:
    match value:
        case None:
            return "missing"
        case int() if abs(value) > _LARGEST:
            return "a number out of range"
        case Mapping() | list() | tuple() if len(value) > 8:
            return f"a {type(value).__name__} of {len(value)} entries"
        case _:
            text = repr(value)
            return text if len(text) <= 80 else f"{text[:77]}..."
