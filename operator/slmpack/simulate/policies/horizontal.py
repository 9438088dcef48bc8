"""The two halves of Kubernetes' HorizontalPodAutoscaler v2: the replica calculator and the rules that hold it back.

Source: kubernetes pkg/controller/podautoscaler/{replica_calculator,horizontal}.go and
pkg/apis/autoscaling/v2/defaults.go. The HPA, KEDA and WVA policies are built on these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from slmpack.simulate.policies.base import Bounds, whole_above, whole_below

__all__ = ["BEHAVIOUR", "TOLERANCE", "Behaviour", "Governor", "PodSamples", "Rate", "from_external", "from_pods"]

TOLERANCE = 0.1
"""--horizontal-pod-autoscaler-tolerance."""
_UP_FACTOR = 2
_UP_LEAST = 4
"""horizontal.go scaleUpLimitFactor and scaleUpLimitMinimum: what holds where an HPA states no `behavior`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One scaling policy: at most so many pods, or so many percent of the pods, within `per_s` seconds."""

    per_s: float
    pods: int | None = None
    percent: int = 0

    def most(self, start: int) -> int:
        """The most replicas from `start` at the period's beginning."""
        return start + self.pods if self.pods is not None else whole_above(start * (1 + self.percent / 100))

    def least(self, start: int) -> int:
        """The least replicas from `start` at the period's beginning."""
        return start - self.pods if self.pods is not None else whole_below(start * (1 - self.percent / 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """`spec.behavior` with selectPolicy Max: the window and the rates of each direction."""

    up_window_s: float = 0.0
    down_window_s: float = 300.0
    up: tuple[Rate, ...] = (Rate(pods=4, per_s=15.0), Rate(percent=100, per_s=15.0))
    down: tuple[Rate, ...] = (Rate(percent=100, per_s=15.0),)


BEHAVIOUR = Behaviour()
"""What the API server fills in where `spec.behavior` is stated but empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSamples:
    """A Pods metric at one sync: a value for each pod with a sample, running pods without one, pending pods."""

    measured: Sequence[float]
    missing: int = 0
    unready: int = 0


def from_pods(pods: PodSamples, *, target: float, replicas: int, tolerance: float = TOLERANCE) -> int:
    """Replicas by a Pods metric with an AverageValue target (calcPlainMetricReplicas).

    `replicas` is the scale target's spec.replicas; without any sample it is the answer.
    """
    measured = pods.measured
    if not measured:
        return replicas
    ratio = sum(measured) / len(measured) / target
    unready = pods.unready if ratio > 1 else 0
    if not pods.missing and not unready:
        return replicas if _within(ratio, tolerance) else whole_above(ratio * len(measured))
    assumed = pods.missing * target if ratio < 1 else 0.0  # a missing pod never speeds a change up
    count = len(measured) + pods.missing + unready
    new = (sum(measured) + assumed) / count / target
    if _within(new, tolerance) or (ratio < 1 < new) or (new < 1 < ratio):
        return replicas
    wanted = whole_above(new * count)
    return replicas if (new < 1 and wanted > replicas) or (new > 1 and wanted < replicas) else wanted


def from_external(*, usage: float, target: float, replicas: int, tolerance: float = TOLERANCE) -> int:
    """Replicas by an External metric with an AverageValue target (GetExternalPerPodMetricReplicas)."""
    ratio = usage / (target * replicas)
    return replicas if _within(ratio, tolerance) else whole_above(usage / target)


def _within(ratio: float, tolerance: float) -> bool:
    """Whether a ratio is near enough to 1 to change nothing."""
    return abs(ratio - 1) <= tolerance + 1e-9


class Governor:
    """What an HPA remembers: its recommendations, and what it added and took; turns a wish into the next number."""

    def __init__(self, *, behaviour: Behaviour | None, bounds: Bounds) -> None:
        """Without a behaviour the controller's own stabilisation (300 s down) and limit (twice, or 4) hold."""
        self._behaviour = behaviour
        self._bounds = bounds
        self._wishes: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def settle(self, *, now: float, current: int, wish: int) -> int:
        """The replicas to set, at `now`, where `current` are set and the metric wishes for `wish`."""
        if not self._wishes:
            self._wishes.append((now, current))
        self._wishes.append((now, wish))
        rules = self._behaviour
        new = self._plain(now, current) if rules is None else self._ruled(now, current, wish, rules)
        if new != current:
            self._changes.append((now, new - current))
        return new

    def _plain(self, now: float, current: int) -> int:
        """NormalizeDesiredReplicas: the highest of the last 300 s, within the limit upwards."""
        self._forget(now, BEHAVIOUR.down_window_s)
        highest = max(wish for _, wish in self._wishes)
        limit = min(self._bounds.most, max(_UP_FACTOR * current, _UP_LEAST))
        return min(max(highest, self._bounds.least), limit)

    def _ruled(self, now: float, current: int, wish: int, rules: Behaviour) -> int:
        """NormalizeDesiredReplicasWithBehaviors: windows of both directions, then the rates."""
        self._forget(now, max(rules.up_window_s, rules.down_window_s))
        up = min([wish, *(value for at, value in self._wishes if at > now - rules.up_window_s)])
        down = max([wish, *(value for at, value in self._wishes if at > now - rules.down_window_s)])
        settled = min(max(current, up), down)
        if settled > current:
            limit = max(current, *(rate.most(self._at_start(now, current, rate.per_s)) for rate in rules.up))
            return max(min(settled, limit, self._bounds.most), self._bounds.least)
        if settled < current:
            limit = min(current, *(rate.least(self._at_start(now, current, rate.per_s)) for rate in rules.down))
            return min(max(settled, limit, self._bounds.least), self._bounds.most)
        return self._bounds.clamp(settled)

    def _at_start(self, now: float, current: int, per_s: float) -> int:
        """Replicas when the period began: what was added since taken off, what was taken since put back."""
        return current - sum(change for at, change in self._changes if at > now - per_s)

    def _forget(self, now: float, window_s: float) -> None:
        """Drop what no rule looks back to; the newest wish always stays."""
        while len(self._wishes) > 1 and self._wishes[0][0] <= now - window_s:
            self._wishes.popleft()
        longest = max((rate.per_s for rate in self._rates()), default=0.0)
        while self._changes and self._changes[0][0] <= now - longest:
            self._changes.popleft()

    def _rates(self) -> tuple[Rate, ...]:
        """Every rate in force."""
        return () if self._behaviour is None else self._behaviour.up + self._behaviour.down
