"""Figures in sentences for people: as many digits as tell something."""

from __future__ import annotations

__all__ = ["format_ms", "format_number"]


def format_ms(seconds: float) -> str:
    """Seconds as "17.3 ms", "0.05 ms"."""
    return f"{seconds * 1000:{'.1f' if seconds >= 0.001 else '.2g'}} ms"


def format_number(value: float) -> str:
    """A count or a rate: whole numbers in full, others with three significant digits: "1,000", "6.67", "1,234"."""
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"
