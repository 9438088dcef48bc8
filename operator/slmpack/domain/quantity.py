"""Kubernetes quantities as integers: bytes, millicores and counts.

Grammar and suffixes are those of `k8s.io/apimachinery/pkg/api/resource`: a decimal number with a binary suffix
(Ki to Ei), a decimal one (n, u, m, k, M to E) or an exponent. A part of a unit rounds up, as the API server rounds.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

__all__ = ["GIB", "MIB", "format_bytes", "parse_bytes", "parse_count", "parse_millicores"]

MIB = 1024**2
GIB = 1024**3

_LARGEST = 2**63 - 1
"""What the API server caps a quantity at."""
_PATTERN = re.compile(
    r"\+?(?P<number>[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,2}))?"
)
_SUFFIXES = {
    **{f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
    **{letter: Fraction(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{letter: Fraction(1, 1000**power) for power, letter in enumerate("mun", start=1)},
}


def parse_bytes(value: object) -> int:
    """Bytes of "16Gi", "500M", "1e9" or 17179869184, rounded up; ValueError for anything else."""
    return _whole(value, _parse(value, example="16Gi, 500M or 17179869184"))


def parse_millicores(value: object) -> int:
    """Thousandths of a core of "500m", "2" or 2.5, rounded up; ValueError for anything else."""
    return _whole(value, _parse(value, example="500m, 2 or 2.5") * 1000)


def parse_count(value: object) -> int:
    """A whole number of devices or pods, as extended resources must be; ValueError for anything else."""
    number = _parse(value, example="a whole number such as 4")
    if number.denominator != 1:
        raise ValueError(f"{value!r} is not a whole number; write for example 4")
    return _whole(value, number)


def format_bytes(value: int) -> str:
    """Bytes for people: "12.3 GiB", "512 MiB", "100 B"; negative ones keep their sign."""
    size = abs(value)
    sign = "-" if value < 0 else ""
    if size >= GIB:
        return f"{sign}{size / GIB:.1f} GiB"
    if size >= MIB:
        return f"{sign}{size / MIB:.0f} MiB"
    if size >= 1024:
        return f"{sign}{size / 1024:.0f} KiB"
    return f"{value} B"


def _parse(value: object, *, example: str) -> Fraction:
    match = _PATTERN.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{_shown(value)} is not a Kubernetes quantity of zero or more; write for example {example}")
    number = Fraction(match["number"])
    if match["exponent"]:
        return number * Fraction(10) ** int(match["exponent"])
    return number * _SUFFIXES.get(match["suffix"] or "", Fraction(1))


def _text(value: object) -> str:
    match value:
        case bool():
            return ""
        case str():
            return value
        case int():
            return str(value) if abs(value) <= _LARGEST else ""
        case float():
            return repr(value)
        case _:
            return ""


def _whole(value: object, number: Fraction) -> int:
    if number > _LARGEST:
        raise ValueError(f"{_shown(value)} is larger than the API server's largest quantity, {_LARGEST}")
    return math.ceil(number)


def _shown(value: object) -> str:
    text = f"<{value.bit_length()}-bit integer>" if isinstance(value, int) and abs(value) > _LARGEST else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
