"""Kubernetes quantities as numbers. The stand-ins read what the operator wrote with code of their own."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

__all__ = ["parse_bytes", "parse_number"]

_SUFFIX: dict[str, Fraction | int] = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "m": Fraction(1, 1000),
}
_QUANTITY = re.compile(r"^(?P<number>\d+(?:\.\d+)?)(?P<suffix>[A-Za-z]*)$")


def parse_number(quantity: object) -> Fraction:
    """The value of a quantity such as `1500m`, `4` or `16Gi`; ValueError if it is none."""
    return _parse(str(quantity))


@lru_cache(maxsize=1024)
def _parse(text: str) -> Fraction:
    found = _QUANTITY.match(text)
    if found is None or found["suffix"] not in _SUFFIX:
        rule = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        raise ValueError(f"{rule}: {text!r}")
    return Fraction(found["number"]) * _SUFFIX[found["suffix"]]


def parse_bytes(quantity: object) -> int:
    """A quantity of memory in bytes, rounded up."""
    return -int(-parse_number(quantity) // 1)
