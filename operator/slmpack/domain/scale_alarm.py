"""What says that the replicas carry less than the model thinks, so that one more is wanted."""

from __future__ import annotations

from slmpack.domain.load import LATE, LoadSample
from slmpack.domain.scale_memory import Missed
from slmpack.domain.scale_turn import Turn

__all__ = ["alarm_of"]


def alarm_of(turn: Turn, sample: LoadSample, late: Missed | None, *, load_s: float, capacity_s: float) -> str:
    """In words; empty where nothing does. `load_s` and `capacity_s` are requests a second.

    It counts once the last change shows, and only under a load that may be the cause: more replicas on a GPU slow each
    other, so that an alarm that they cause themselves must not call for more.
    """
    policy = turn.policy.scale
    if late is not None and late.alarming(policy) and load_s >= policy.late_load * capacity_s:
        return f"{late.part:.1%} of the requests of {LATE.total_seconds():.0f} s were late: {late.words} or more"
    if not turn.settled or load_s < policy.alarm_load * capacity_s:
        return ""
    return _by_percentile(turn, sample)


def _by_percentile(turn: Turn, sample: LoadSample) -> str:
    policy, bounds = turn.policy.scale, turn.demand.kept_bounds
    if sample.kv_usage is not None and sample.kv_usage >= policy.kv_alarm:
        return f"the fullest KV cache is at {sample.kv_usage:.0%}"
    if bounds.ttft_s is not None and sample.ttft_s is not None and sample.ttft_s > bounds.ttft_s:
        return f"TTFT p95 is {sample.ttft_s:.2f} s, over {bounds.ttft_s:g} s"
    if bounds.itl_s is not None and sample.itl_s is not None and sample.itl_s > bounds.itl_s:
        return f"ITL is {sample.itl_s * 1000:.1f} ms, over {bounds.itl_s * 1000:g} ms"
    return ""
