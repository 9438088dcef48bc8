"""Every constant of the scaling decision, each with its reason; docs/scaling.md explains them together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from math import isfinite

__all__ = ["ScalePolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePolicy:
    """Numbers of one decision: without a source they are assumed, and tuned on traces that docs/scaling.md names."""

    stale: timedelta = timedelta(seconds=60)
    """A sample older (or, by a skewed clock, newer) than this says nothing: four scrapes at Prometheus' usual 15 s."""
    scrape_s: float = 15.0
    """Between two scrapes, as usual: sooner there is no news."""
    assumed_start_s: float = 60.0
    """From a replica's creation until it answers, where none was measured; published medians are 26 to 115 s."""
    burst_s: float = 60.0
    """A start that takes as long as this is half too late for a burst: how recurring peaks are weighed."""
    tail: float = 0.01
    """Part of the requests that may find their replica beyond its knee, at the load that counts as its capacity."""
    bound_part: float = 0.87
    """Of a latency bound, what the mean of a replica at its knee may take: requests differ, and most are to keep it."""
    mix_step: float = 1.05
    """Token lengths are rounded to powers of this, so that one curve serves a while."""
    regret_s: float = 21_600.0
    """An end after which more are wanted again so soon was a mistake: no time of day, but chance."""
    hold_s: float = 115_200.0
    """After a mistake fewer must do for so long times the square of the lateness of a start: six hours with starts of
    45 s, two minutes with 2 s, for then a mistake costs little."""
    patience: float = 2.0
    """After an end that was no mistake that wait is so many times shorter."""
    least_hold_s: float = 3600.0
    """What is left of that wait is forgotten when it is shorter."""
    settle_s: float = 1500.0
    """After a rise none ends for so long times the lateness of a start: ten minutes with starts of 45 s."""
    least_ended: float = 200.0
    """Requests whose mean length is known to within a tenth or so: lengths spread about as far as their mean."""
    surely_less: float = 1.4
    """After a mistake an end need not wait where fewer replicas would carry so many times the demand: that is a load
    that fell, and no chance."""
    slack: float = 1.1
    """What fewer replicas must carry over the demand before others end: half of what a model may be off is not enough
    to tell, and a tenth keeps the two thresholds apart."""
    correction_low: float = 0.75
    """A measured latency makes modelled times no shorter than this part of themselves, as that is seen under little
    load,"""
    correction_high: float = 2.0
    """and no longer than this: bursts of long prompts were seen to take so much more than the mean of the model."""
    ease_s: float = 120.0
    """A step of what was learned is forgotten in so long at the soonest: a burst comes back after a lull."""
    late_part: float = 0.01
    """Of the requests, that may miss a bound before that counts; a percentile of 95 is what the spec promises."""
    least_late: float = 3.0
    """Requests: fewer late ones are chance."""
    late_step: float = 1.1
    """Late requests make modelled times so many times longer, once for each LATE that has them."""
    slight_part: float = 0.3
    """Of `late_part`: with more requests late than that nothing is forgotten."""
    late_load: float = 0.5
    """Of the modelled capacity: under less load late requests call for no replica at once."""
    unmeasured: float = 1.3
    """Before replicas end, modelled times count as so many times as long where no latency of a batch is measured."""
    care: float = 2.0
    """The lateness of a start counts so often, up to 1, in the part of that doubt and of the last peak that is heeded
    before an end: with fast starts a mistake costs little."""
    least_batch: float = 1.0
    """Sequences in a replica's batch below which its latency says nothing about its capacity."""
    least_waiting: float = 1.0
    """Requests in the queue of each replica that are there between two iterations, whatever the load."""
    kv_alarm: float = 0.9
    """Usage of the fullest replica's KV cache at which it is about to preempt."""
    alarm_load: float = 0.7
    """Of the modelled capacity: under less load a latency alarm has another cause, and replicas do not help."""
    surely: float = 3.0
    """Standard deviations, times the lateness of a start, by which the last arrivals may exceed those of SHORT; only
    what is beyond is a rise."""
    most_rise: float = 2.0
    """A rise is followed up to so many times what comes now: a straight line knows no end."""
    fill_factor: float = 1.5
    """Headroom where it opens no GPU, over the demand and the peak of PEAK: shares of an open GPU cost watts only."""
    most_drain_s: float = 60.0
    """What waits is to be gone by then at the latest."""

    def bounded(self, correction: float | None) -> float | None:
        """Within what a model may be off."""
        if correction is None or not isfinite(correction):
            return None
        return min(self.correction_high, max(self.correction_low, correction))
