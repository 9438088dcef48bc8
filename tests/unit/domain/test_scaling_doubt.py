"""What is not known well enough: rates that no replica has seen whole, and latencies that nothing was measured of."""

from __future__ import annotations

from datetime import timedelta

from slmpack.domain.scale_decision import ScaleDecision
from tests.support.builders import NOW
from tests.support.scaling import Scaled, scaled

FOUR = scaled()
"""Four H100 in four MPS shares each, of which two pay on a GPU."""


def figure(decision: ScaleDecision, name: str) -> float:
    return next(it.value for it in decision.figures if it.name == name)


def capacity(world: Scaled, replicas: int) -> float:
    """Requests a second that so many replicas carry, by the decision's own words."""
    return figure(world.running(replicas).under(1.0).decide(), "capacity")


def test_of_a_minute_that_no_replica_has_seen_whole_no_line_is_drawn() -> None:
    """Where all replicas are new, a rate over the minute lacks what came before: that is no rise."""
    rate = 0.45 * capacity(FOUR, 2)
    fresh = FOUR.running(2, started=NOW - timedelta(seconds=45))
    new = fresh.under(rate, arrivals_now_s=2.0 * rate, itl_s=0.02, generation_tok_s=10_000.0).decide()
    assert (figure(new, "demand"), new.desired) == (rate, 2)
    assert "correction" not in {it.name for it in new.figures}, "nor do the first answers say how fast it is"
    one_is_old = FOUR.running(2).under(rate, arrivals_now_s=2.0 * rate).decide()
    assert figure(one_is_old, "demand") > 3.0 * rate
    assert figure(FOUR.running(2, ready=0).under(0.0, reporting=1).decide(), "ready") == 0.0


def test_replicas_end_only_where_the_rest_would_do_even_if_the_model_is_off() -> None:
    """As far as no latency says how far it is."""
    world, rate = FOUR.running(4).with_state(4, start_s=45.0, busy=NOW), 0.85 * capacity(FOUR, 2)

    def ends(batch: float, times: float) -> bool:
        """With so many sequences in each batch, and an inter-token latency so many times as long as modelled."""
        guess = world.under(rate, itl_s=0.01, generation_tok_s=batch * 4 / 0.01).decide()
        itl = times * figure(guess, "modelledItl")
        decision = world.under(rate, itl_s=itl, generation_tok_s=batch * 4 / itl).decide()
        return decision.state.lower_since is not None

    assert world.under(rate).decide().state.lower_since is None, "nothing is measured"
    assert ends(batch=256.0, times=1.0)
    assert not ends(batch=256.0, times=1.2)
    quick = world.with_state(4, start_s=2.0).under(rate).decide()
    assert quick.state.lower_since == NOW, "a mistake costs little with fast starts"
