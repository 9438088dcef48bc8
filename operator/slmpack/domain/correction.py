"""What was measured corrects what is planned later (D6).

A measurement is device memory, seen by a means that does not echo our own flags. It holds for the same model, GPU,
engine version and flags; matching these is the caller's. Nothing else makes a basis `measured`.

Bounds: a footprint never falls below the largest measurement plus `NOISE_BYTES`, nor below `1 - LOWER_BY` of what the
estimate plans beside the weights. A measurement that lies more than `RAISE_BY_BYTES` above the estimate is not believed
(vLLM profiles the whole device, so a neighbour's memory may be in it) and is answered with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from slmpack.domain.footprint import Footprint
from slmpack.domain.interval import Basis
from slmpack.domain.quantity import GIB, MIB, format_bytes

__all__ = [
    "LOWER_BY",
    "NOISE_BYTES",
    "RAISE_BY_BYTES",
    "Means",
    "Measured",
    "NotMeasured",
    "corrected",
    "measured_on_device",
    "measured_profile",
]

NOISE_BYTES = 64 * MIB
"""Serial starts of one engine on one GPU differ by 0.04 GiB (public logs: -0.01 to 0.03 around the fit)."""
LOWER_BY = 0.5
"""At most this share of activations, non-torch memory and margin is given up, however little was measured."""
RAISE_BY_BYTES = 4 * GIB
"""Twice the most that engines which started together were charged of one another (1.62 GiB in public logs), rounded."""


class Means(Enum):
    """How device memory was seen."""

    PROCESS = "per-process NVML"
    """By the pack's supervisor."""
    SERIAL_START = "FB_USED before and after a serial start"
    CALIBRATION_START = "a calibration start without --kv-cache-memory-bytes"
    """vLLM's own profile: its budget less the KV cache that it found room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Device memory of one engine beside its KV cache, in bytes. Made by the functions below."""

    means: Means
    non_kv_bytes: int

    @property
    def inside_budget_only(self) -> bool:
        """Whether the context, and graphs outside the budget, are not in it."""
        return self.means is Means.CALIBRATION_START


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """Why a reading says nothing about the engine, and what would."""

    message: str


def measured_on_device(means: Means, *, device_bytes: int, kv_cache_bytes: int) -> Measured | NotMeasured:
    """All that the engine's process takes of the device, less the KV cache that it holds."""
    if means is Means.CALIBRATION_START:
        return NotMeasured(message=f"{means.value} reads vLLM's profile, not the device; use measured_profile")
    if not 0 <= kv_cache_bytes < device_bytes:
        return NotMeasured(
            message=f"device_bytes is {device_bytes} and kv_cache_bytes {kv_cache_bytes}: an engine takes more than its"
            " KV cache; read both while it serves"
        )
    return Measured(means=means, non_kv_bytes=device_bytes - kv_cache_bytes)


def measured_profile(
    *, requested_bytes: int, kv_cache_bytes: int, stated_kv_cache_bytes: int | None
) -> Measured | NotMeasured:
    """What vLLM's profile left of its budget for the KV cache; an echo of our own flag is no measurement."""
    if stated_kv_cache_bytes is not None:
        return NotMeasured(
            message=f"kv_cache_bytes echoes --kv-cache-memory-bytes={stated_kv_cache_bytes}: vLLM profiles nothing"
            " then; start once without the flag"
        )
    if not 0 < kv_cache_bytes < requested_bytes:
        return NotMeasured(
            message=f"kv_cache_bytes is {kv_cache_bytes} of a budget of {requested_bytes}: it must lie between 0 and"
            " the budget; start alone on the GPU"
        )
    return Measured(means=Means.CALIBRATION_START, non_kv_bytes=requested_bytes - kv_cache_bytes)


def corrected(footprint: Footprint, measured: tuple[Measured, ...]) -> Footprint | NotMeasured:
    """The footprint for later plans; as it is without measurements.

    A reading of the whole device does not say what of it lies inside the budget, so it lowers the budget's part only
    where even all of it would be less.
    """
    if not measured:
        return footprint
    largest = max(measured, key=lambda one: one.non_kv_bytes - _planned(footprint, one))
    missing = largest.non_kv_bytes + NOISE_BYTES - _planned(footprint, largest)
    if missing > RAISE_BY_BYTES:
        return NotMeasured(
            message=f"{format_bytes(largest.non_kv_bytes)} beside the KV cache, by {largest.means.value}, is"
            f" {format_bytes(missing)} over the estimate; at most {format_bytes(RAISE_BY_BYTES)} is believed of one"
            " engine: measure again with nothing else starting on the GPU"
        )
    spare = footprint.fixed_inside_bytes - max(one.non_kv_bytes for one in measured) - NOISE_BYTES
    changed = _raised(footprint, missing) if missing > 0 else _lowered(footprint, max(0, spare))
    inside = changed.fixed_inside_bytes
    return replace(
        changed,
        basis=Basis.MEASURED.value,
        non_kv_low_bytes=int(min(footprint.non_kv.low, inside)),
        non_kv_high_bytes=int(max(footprint.non_kv.high, inside)) if spare <= 0 else inside,
    )


def _planned(footprint: Footprint, measured: Measured) -> int:
    """What the plan has for the same memory."""
    outside = 0 if measured.inside_budget_only else footprint.outside_bytes
    return footprint.fixed_inside_bytes + outside


def _raised(footprint: Footprint, by: int) -> Footprint:
    return replace(footprint, margin_bytes=footprint.margin_bytes + by)


def _lowered(footprint: Footprint, by: int) -> Footprint:
    """Margin first, then activations (whose sampler term is an upper bound), then non-torch memory; never weights."""
    soft = footprint.margin_bytes + footprint.activation_bytes + footprint.non_torch_bytes
    left = min(by, int(soft * LOWER_BY))
    values = {}
    for name in ("margin_bytes", "activation_bytes", "non_torch_bytes"):
        taken = min(left, getattr(footprint, name))
        values[name] = getattr(footprint, name) - taken
        left -= taken
    return replace(footprint, **values)
