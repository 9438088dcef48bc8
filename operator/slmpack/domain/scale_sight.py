"""Whether what is measured of a deployment may be believed, and what of it is missing."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from slmpack.domain.load import Latencies, LoadSample
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.snapshot import Key, Snapshot

__all__ = ["Sight", "see"]

_NOTHING = 1e-9
"""Requests a second: sums of rates are not exactly 0."""
_MOST = 1e9
"""Requests, tokens and seconds that are believed; more, fewer than none, and NaN are as good as unknown."""
_LATENCIES = ("ttft_of", "tpot_of")
_NUMBERS = tuple(
    field.name for field in fields(LoadSample) if field.name not in {"at", "reporting", "trouble", *_LATENCIES}
)
_NEEDED = (
    ("running", "requests running"),
    ("waiting", "requests waiting"),
    ("arrivals_s", "arrivals"),
    ("arrivals_peak_s", "their peak"),
    ("arrivals_high_s", "their 99th percentile"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a decision may use."""

    sample: LoadSample | None
    """None: nothing is surely known. Else what it holds is a floor of the load, at least."""
    missing: tuple[str, ...]
    """Why fewer replicas are out of the question; empty where all is known."""
    quiet: bool
    """Known for sure: no request runs, waits or came of late."""

    @property
    def known(self) -> bool:
        """Whether all is known."""
        return not self.missing

    @property
    def lately(self) -> bool:
        """Whether a request surely came within PEAK, or SHORT before that."""
        return self.sample is not None and (self.sample.arrivals_peak_s or 0.0) > _NOTHING


def see(key: Key, snapshot: Snapshot, *, ready: int, wanted: int, policy: ScalePolicy) -> Sight:
    """The deployment's sample, judged; `ready` replicas answer requests, and `wanted` are wanted as yet."""
    if snapshot.blind is not None:
        return _nothing(snapshot.blind.message)
    sample = snapshot.loads.get(key)
    if sample is None:
        return _nothing("nothing is measured of it")
    stale = _stale(sample, snapshot.now, policy)
    if stale:
        return _nothing(stale)
    sample = _possible(sample)
    if ready == 0 and wanted > 0:
        return Sight(sample=_at_the_gate(sample), missing=("no replica is ready to be measured",), quiet=False)
    missing = _missing(sample, ready)
    quiet = not missing and sample.gateway_waiting is not None and _quiet(sample)
    return Sight(sample=sample, missing=missing, quiet=quiet)


def _nothing(why: str) -> Sight:
    return Sight(sample=None, missing=(why,), quiet=False)


def _stale(sample: LoadSample, now: datetime, policy: ScalePolicy) -> str:
    age = (now - sample.at).total_seconds()
    most = policy.stale.total_seconds()
    if age > most:
        return f"the newest scrape is {age:.0f} s old, more than {most:.0f} s"
    if age < -most:
        return f"the newest scrape is {-age:.0f} s in the future: a clock is wrong by more than {most:.0f} s"
    return ""


def _possible(sample: LoadSample) -> LoadSample:
    """Without the values that cannot be."""
    odd: dict[str, Any] = {name: None for name in _NUMBERS if not _is_known(getattr(sample, name))}
    odd |= {name: None for name in _LATENCIES if not _is_histogram(getattr(sample, name))}
    return replace(sample, **odd)


def _is_histogram(of: Latencies | None) -> bool:
    """Or nothing at all."""
    return of is None or (of.rises and all(_is_known(count) for _, count in of.at_most))


def _at_the_gate(sample: LoadSample) -> LoadSample:
    """Of a deployment without a ready replica only what a gateway holds is known."""
    return LoadSample(at=sample.at, reporting=0, gateway_waiting=sample.gateway_waiting)


def _missing(sample: LoadSample, ready: int) -> tuple[str, ...]:
    if ready == 0:
        return () if sample.gateway_waiting is not None else ("nothing tells of requests that wait at a gateway",)
    found = [f"{words} unknown" for name, words in _NEEDED if getattr(sample, name) is None]
    if sample.reporting < ready:
        found.insert(0, f"{sample.reporting} of {ready} ready replicas report")
    busy = (sample.arrivals_peak_s or 0.0) > _NOTHING
    ended = sample.completions_s is None or sample.completions_s > _NOTHING
    if not found and busy and ended and (sample.input_tokens is None or sample.output_tokens is None):
        found.append("the lengths of the requests unknown")
    if not found and busy and sample.itl_s is None and sample.trouble:
        found.append("the inter-token latency unknown, which corrects what a replica carries")
    return (*found, *(sample.trouble if found else ()))


def _is_known(value: float | None) -> bool:
    return value is not None and 0 <= value <= _MOST


def _quiet(sample: LoadSample) -> bool:
    seen = (sample.running, sample.waiting, sample.arrivals_s, sample.completions_s, sample.gateway_waiting)
    return all((value or 0.0) <= _NOTHING for value in seen)
