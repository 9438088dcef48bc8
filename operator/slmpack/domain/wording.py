"""Figures in sentences for people: as many digits as tell something."""

from __future__ import annotations

__all__ = ["FIGURES", "format_ms", "format_number", "number_of"]

FIGURES = {
    "demand": "what must be carried now",
    "demandToKeep": "what fewer would have to carry",
    "capacity": "what those there are carry",
    "capacityWanted": "what those wanted would carry",
    "gpus": "GPUs that the replicas are on",
    "inputTokens": "mean of a prompt",
    "outputTokens": "mean of an answer",
    "arrivals": "over a minute",
    "arrivalsNow": "as lately as can be told",
    "arrivalsPeak": "highest of ten minutes",
    "arrivalsHigh": "99th percentile of an hour",
    "arrivalsMean": "mean of an hour",
    "dispersion": "how bursty: 1 is chance alone",
    "lateness": "of a start for a burst, 0 to 1",
    "running": "requests in the engines' batches",
    "waiting": "requests queued, 1 each is usual",
    "gatewayWaiting": "requests that a gateway holds",
    "kvUsage": "of the fullest KV cache, 0 to 1",
    "ttftP95": "first token, 95th percentile",
    "itlP95": "next token, 95th percentile",
    "itl": "next token, mean",
    "modelledItl": "the same, by the model",
    "correction": "factor on the model, as learned",
    "late": "part of the requests over their bound",
    "start": "from creation until it answers",
    "ready": "replicas that answer",
    "strangers": "others' pods on these GPUs",
}
"""What a figure of a scale decision is, by its name in status."""


def number_of(number: int, what: str = "replica") -> str:
    """How many there are: "1 replica", "2 replicas", "0 pods"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def format_ms(seconds: float) -> str:
    """Seconds as "17.3 ms", "0.05 ms"."""
    return f"{seconds * 1000:{'.1f' if seconds >= 0.001 else '.2g'}} ms"


def format_number(value: float) -> str:
    """A count or a rate: whole numbers in full, others with three significant digits: "1,000", "6.67", "1,234"."""
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"
