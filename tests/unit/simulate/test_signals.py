"""What the operator is told of scrapes that are written down here, against values worked out by hand."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from slmpack.domain.snapshot import Key
from slmpack.simulate.readings import ITL_BUCKETS, QUEUE_BUCKETS, TTFT_BUCKETS, Histograms, Scrape
from slmpack.simulate.signals import EPOCH, GpuPlace, Signals

KEY = Key("llm", "chat")


def scrape(at: float, *, ready: bool = True, ending: bool = False, requests: float = 10.0, running: int = 4) -> Scrape:
    """One replica of one tenant on one GPU of 300 W, with so many requests a second since 0 s.

    Each has a prompt of 100 tokens, an answer of 20, waits 1.2 s, has a TTFT in (0.25, 0.5] and ITLs in (0.01, 0.025].
    """
    done = round(at * requests)

    def histogram(bounds: tuple[float, ...], *, upper: float, count: int, each: float) -> Histograms:
        counts = np.zeros((1, len(bounds) + 1), dtype=np.int64)
        counts[0, bounds.index(upper)] = count
        return Histograms(counts=counts, sums=np.array([count * each]))

    def one(value: float) -> np.ndarray:
        return np.array([value])

    return Scrape(
        at=at,
        replica=np.array([7]),
        tenant=np.array([0]),
        gpu=np.array([0]),
        ready=np.array([ready]),
        ending=np.array([ending]),
        running=np.array([running]),
        waiting=np.array([2]),
        kv_usage=one(0.25),
        completions=np.array([done]),
        preemptions=np.array([0]),
        prompt_tokens=np.array([done * 100]),
        generation_tokens=np.array([done * 20]),
        ttft=histogram(TTFT_BUCKETS, upper=0.5, count=done, each=0.4),
        tpot=histogram(ITL_BUCKETS, upper=0.025, count=done, each=0.02),
        itl=histogram(ITL_BUCKETS, upper=0.025, count=done * 19, each=0.02),
        queue=histogram(QUEUE_BUCKETS, upper=1.5, count=done, each=1.2),
        watts=one(300.0),
        joules=one(at * 300.0),
        active=one(at * 0.6),
        gateway_waiting=np.array([3]),
    )


def watched(*, until: float, cut: bool = False, first: float = 0.0) -> Signals:
    found = Signals([KEY], [GpuPlace(node="a", cut=cut)])
    for number in range(int((until - first) // 15) + 1):
        found.take(scrape(first + 15.0 * number))
    return found


def test_a_steady_load_is_read_as_it_is() -> None:
    load = watched(until=600.0).loads(605.0)[KEY]
    assert load.at == EPOCH + timedelta(seconds=600)
    assert load.reporting == 1
    assert (load.running, load.waiting, load.kv_usage, load.gateway_waiting) == (4.0, 2.0, 0.25, 3.0)
    assert load.arrivals_s == pytest.approx(10.0)
    assert load.arrivals_now_s == pytest.approx(10.0)
    assert load.completions_s == pytest.approx(10.0)
    assert load.arrivals_mean_s == pytest.approx(10.0, rel=0.03)  # the first minute is extrapolated to 0 only
    assert load.arrivals_high_s == pytest.approx(10.0)
    assert load.arrivals_peak_s == pytest.approx(10.0)
    assert load.input_tokens == pytest.approx(100.0)
    assert load.output_tokens == pytest.approx(20.0)
    assert load.prompt_tok_s == pytest.approx(1000.0)
    assert load.generation_tok_s == pytest.approx(200.0)
    assert load.ttft_s == pytest.approx(0.25 + 0.95 * 0.25)
    assert load.itl_s == pytest.approx(0.02)
    assert load.itl_p95_s == pytest.approx(0.01 + 0.95 * 0.015)
    assert load.queue_s == pytest.approx(1.2)
    assert load.ttft_of is not None
    assert load.ttft_of.rises
    assert load.ttft_of.requests == pytest.approx(1200.0)  # of two minutes
    assert dict(load.ttft_of.at_most)[0.25] == 0.0
    assert dict(load.ttft_of.at_most)[0.5] == pytest.approx(1200.0)
    assert load.tpot_of is not None
    assert dict(load.tpot_of.at_most)[0.025] == pytest.approx(1200.0)
    assert load.tpot_of.over(0.05) == 0.0


def test_requests_that_pile_up_have_arrived() -> None:
    """Completions of 10 a second, and 60 more in flight within 45 s: extrapolated to 80 in a minute."""
    signals = Signals([KEY], [GpuPlace(node="a", cut=False)])
    for number in range(5):
        signals.take(scrape(15.0 * number, running=20 * number))
    load = signals.loads(61.0)[KEY]
    assert load.arrivals_s == pytest.approx(10.0 + 80.0 / 60.0)
    assert load.completions_s == pytest.approx(10.0)


def test_a_scrape_is_known_after_the_lag_only() -> None:
    signals = watched(until=600.0)
    signals.take(scrape(615.0, running=40))
    assert signals.loads(615.5)[KEY].running == 4.0
    assert signals.loads(616.0)[KEY].running == 40.0


def test_nothing_is_known_before_the_first_scrape() -> None:
    signals = Signals([KEY], [GpuPlace(node="a", cut=False)])
    assert signals.loads(10.0) == {}
    assert signals.gpus(10.0, pods={}) == ()


def test_a_replica_that_starts_is_not_scraped() -> None:
    signals = Signals([KEY], [GpuPlace(node="a", cut=False)])
    for number in range(5):
        signals.take(scrape(15.0 * number, ready=False))
    load = signals.loads(70.0)[KEY]
    assert load.reporting == 0
    assert (load.running, load.arrivals_s, load.completions_s) == (0.0, 0.0, 0.0)
    assert load.gateway_waiting == 3.0
    assert load.kv_usage is None


def test_a_replica_that_ends_still_counts() -> None:
    signals = watched(until=585.0)
    signals.take(scrape(600.0, ready=False, ending=True))
    assert signals.loads(605.0)[KEY].reporting == 1
    assert signals.loads(605.0)[KEY].arrivals_s == pytest.approx(10.0)


def burst(*, minutes: int) -> Signals:
    """10 requests a second for so long, but 20 from the 20th to the 22nd minute."""
    signals, done = Signals([KEY], [GpuPlace(node="a", cut=False)]), 0.0
    for number in range(4 * minutes + 1):
        at = 15.0 * number
        done += 15.0 * (20.0 if 1200 < at <= 1320 else 10.0) if number else 0.0
        signals.take(scrape(at, requests=done / at if at else 0.0))
    return signals


def test_the_recent_rate_sees_a_rise_sooner() -> None:
    signals, done = Signals([KEY], [GpuPlace(node="a", cut=False)]), 0.0
    for number in range(4 * 20 + 3):
        at = 15.0 * number
        done += 15.0 * (20.0 if at > 1200 else 10.0) if number else 0.0
        signals.take(scrape(at, requests=done / at if at else 0.0))
    load = signals.loads(1232.0)[KEY]
    assert load.arrivals_now_s == pytest.approx(20.0, rel=0.02)
    assert load.arrivals_s == pytest.approx((10 + 20 + 20) / 3, rel=0.02)


def test_the_peak_is_held_for_ten_minutes() -> None:
    assert burst(minutes=31).loads(31 * 60 + 2.0)[KEY].arrivals_peak_s == pytest.approx(20.0, rel=1e-2)
    assert burst(minutes=33).loads(33 * 60 + 2.0)[KEY].arrivals_peak_s == pytest.approx(10.0, rel=1e-2)


def test_the_99th_percentile_and_the_mean_are_of_an_hour() -> None:
    load = burst(minutes=60).loads(60 * 60 + 2.0)[KEY]
    assert load.arrivals_s == pytest.approx(10.0, rel=1e-2)
    assert load.arrivals_high_s == pytest.approx(20.0, rel=0.05)
    assert load.arrivals_mean_s == pytest.approx(10.0 + 10.0 * 2 / 60, rel=0.01)
    load = burst(minutes=90).loads(90 * 60 + 2.0)[KEY]
    assert load.arrivals_high_s == pytest.approx(10.0, rel=1e-2)


def test_a_board_is_read_by_its_energy() -> None:
    (board,) = watched(until=600.0).gpus(605.0, pods={0: ("llm/chat-0", "llm/chat-1")})
    assert board.node == "a"
    assert board.power_w == pytest.approx(300.0)
    assert board.gr_engine_active == pytest.approx(0.6)
    assert board.pods == ("llm/chat-0",)


def test_of_a_board_cut_into_instances_no_activity_is_known() -> None:
    (board,) = watched(until=600.0, cut=True).gpus(605.0, pods={0: ("llm/chat-0", "llm/chat-1")})
    assert board.power_w == pytest.approx(300.0)
    assert board.gr_engine_active is None
    assert board.pods == ("llm/chat-0", "llm/chat-1")
