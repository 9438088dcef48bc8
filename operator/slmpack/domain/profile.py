"""A measured profile: throughput and latency of one model on one GPU by requests in flight, and the knee it shows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import takewhile

from slmpack.domain.curve import CurvePoint
from slmpack.domain.knee import GRID, Binding, Knee, KneePolicy, NoKnee, find_knee
from slmpack.domain.prediction import Sharing
from slmpack.domain.profile_faults import PointFault
from slmpack.domain.workload import Bounds

__all__ = ["FEWEST_POINTS", "Profile", "ProfilePoint", "Refusal", "incredible", "judge", "mismatch"]

FEWEST_POINTS = 2
"""What a recalibration needs: one request in flight and one large number."""
CREDIBLE = (0.3, 1.5)
"""Requests in flight that throughput and latency imply (Little's law), as a part of those that the point states. They
are equal in a closed loop but for what the means leave out; tokens that come in bunches make it up to 1.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePoint:
    """One number of requests in flight, in the steady state."""

    concurrency: int
    """Requests in flight, which is the decode batch less what is in prefill."""
    throughput_tok_s: float
    """Output tokens a second, mean of the repeats."""
    itl_s: float
    """Mean inter-token latency."""
    ttft_s: float | None = None
    """Mean time to first token."""
    faults: tuple[PointFault, ...] = ()
    """What spoils the point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was measured and on what. None: not known."""

    model: str
    """Where the engine loaded the model from: its name on the Hub, or a path."""
    gpu: str | None
    engine_version: str | None
    sharing: Sharing | None
    replicas: int
    """Replicas on the GPU while it was measured, this one included."""
    max_num_seqs: int | None
    max_model_len: int | None
    kv_cache_tokens: int | None
    input_tokens: int
    output_tokens: int
    points: tuple[ProfilePoint, ...]
    """By rising concurrency."""

    @property
    def clean_points(self) -> tuple[ProfilePoint, ...]:
        """The points that nothing spoilt: what the model may be calibrated with."""
        return tuple(point for point in self.points if not point.faults)

    @property
    def kv_batch(self) -> float | None:
        """Sequences that the KV cache holds at their mean length."""
        live = self.input_tokens + self.output_tokens / 2
        return None if self.kv_cache_tokens is None else self.kv_cache_tokens / live


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No knee is named, and why."""

    concurrency: int | None
    """Where the curve stops being the engine's own; None: it never begins, or it ends too early."""
    faults: tuple[PointFault, ...]
    """What spoilt that point; empty where the curve is clean and yet shows no knee."""
    message: str


def mismatch(profile: Profile, *, model: str, gpus: Collection[str]) -> str | None:
    """Why the profile says nothing about this model on this GPU, known by these names; None where it does."""
    if profile.model != model:
        return f"model: the profile is of {profile.model}, not of {model}; measure that one, or refer to its profile"
    if profile.gpu is not None and profile.gpu not in gpus:
        return f"gpu: the profile was measured on {profile.gpu}, not on {' or '.join(sorted(gpus))}; measure it there"
    return None


def incredible(profile: Profile) -> str | None:
    """The first point that counts whose figures contradict each other, and why; None where there is none."""
    for at, point in enumerate(profile.points):
        if point.faults:
            continue
        seconds = point.itl_s
        if point.ttft_s is not None:
            seconds = (point.ttft_s + (profile.output_tokens - 1) * point.itl_s) / profile.output_tokens
        implied = point.throughput_tok_s * seconds / point.concurrency
        low, high = CREDIBLE
        if not low <= implied <= high:
            return (
                f"points[{at}]: {point.throughput_tok_s:g} tokens/s at {seconds:g} s for each token of a request "
                f"{'' if point.ttft_s is None else '(the first one included) '}are {implied:.3g} times the stated "
                f"concurrency of {point.concurrency}, must be {low} to {high} times; {_mend(point, implied)}"
            )
    return None


def _mend(point: ProfilePoint, implied: float) -> str:
    """What would work."""
    if point.ttft_s is None and implied < 1:
        return "correct throughput_tok_s (of all requests) and itl_s (seconds), or add ttft_s where prompts take long"
    return "correct throughput_tok_s (of all requests) and the latencies (seconds)"


def judge(profile: Profile, *, policy: KneePolicy | None = None, bounds: Bounds | None = None) -> Knee | Refusal:
    """The knee by the rule that the planner uses, or why none can be named.

    Only the points before the first spoilt one count. Their last one is never the knee by itself: either a larger clean
    point breaks a clause, or the KV cache has no room for the next one.
    """
    clean = tuple(takewhile(lambda point: not point.faults, profile.points))
    spoilt = profile.points[len(clean)] if len(clean) < len(profile.points) else None
    if len(clean) < FEWEST_POINTS:
        return _refusal(spoilt, f"{len(clean)} of {len(profile.points)} points can be used, {FEWEST_POINTS} are needed")
    found = find_knee(_curve(clean), policy or KneePolicy(), bounds or Bounds(), most=profile.kv_batch)
    if isinstance(found, NoKnee):
        return Refusal(concurrency=None, faults=(), message=found.reason)
    if found.binding is not Binding.GRID_END:
        return found
    largest = clean[-1].concurrency
    following = spoilt.concurrency if spoilt else next((size for size in GRID if size > largest), 2 * largest)
    if profile.kv_batch is not None and profile.kv_batch < following:
        text = f"The knee is {largest}: the KV cache holds {profile.kv_batch:.1f} requests of this length."
        return replace(found, binding=Binding.KV_CACHE, explanation=text)
    if spoilt is not None:
        return _refusal(spoilt, f"throughput still pays at {largest}, and beyond it the curve is not the engine's own")
    return Refusal(
        concurrency=largest,
        faults=(),
        message=f"throughput still pays at {largest}, the largest measured; go on with --concurrency {following}",
    )


def _curve(points: tuple[ProfilePoint, ...]) -> list[CurvePoint]:
    return [
        CurvePoint(
            batch=point.concurrency, throughput_tok_s=point.throughput_tok_s, itl_s=point.itl_s, ttft_s=point.ttft_s
        )
        for point in points
    ]


def _refusal(spoilt: ProfilePoint | None, message: str) -> Refusal:
    if spoilt is None:
        return Refusal(concurrency=None, faults=(), message=message)
    causes = "; ".join(f"{fault.fault.value}: {fault.message}" for fault in spoilt.faults)
    return Refusal(
        concurrency=spoilt.concurrency, faults=spoilt.faults, message=f"{message}. At {spoilt.concurrency}: {causes}"
    )
