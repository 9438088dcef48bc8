"""Intervals around the performance model's figures: 80 % of the points of a source that the fit had not seen."""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.interval import Basis, Interval
from slmpack.domain.performance_table import EngineConstants, Spread, Spreads
from slmpack.domain.prediction import Sharing, Site, Tenant
from slmpack.domain.steady_state import SteadyState, kv_limited_batch

__all__ = ["Widths", "energy", "preemption", "widths_for"]

_TAIL_PART = 0.01
"""p99: what happens in more than one iteration of a hundred."""
_TAIL_FACTOR = 2.0
"""An iteration in a hundred takes twice the mean at most, unless a prompt chunk takes longer: assumed."""
_ALONE = Spread(low=1.0, high=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """How far the figures of one prediction may be off."""

    spreads: Spreads
    sharing: Spread
    basis: Basis

    def throughput(self, expected: float) -> Interval:
        """Output tokens a second."""
        return self._around(expected, self.spreads.throughput)

    def itl(self, expected: float) -> Interval:
        """Seconds."""
        return self._around(expected, self.spreads.itl)

    def ttft(self, expected: float) -> Interval:
        """Seconds."""
        return self._around(expected, self.spreads.ttft)

    def tail(self, state: SteadyState, slowdown: float) -> Interval:
        """ITL p99: an iteration with a prompt chunk, where more than one in a hundred carries one.

        Low: that of the mean; high: the slower of one with a chunk and twice the mean.
        """
        chunk = state.mixed_iteration if state.mixed_part > _TAIL_PART else state.decode_iteration
        low = self.itl(state.iteration * slowdown).low  # never under the mean's
        high = self.itl(max(state.mixed_iteration, _TAIL_FACTOR * state.iteration) * slowdown).high
        return Interval(low=low, expected=max(state.iteration, chunk) * slowdown, high=high, basis=self.basis)

    def _around(self, expected: float, spread: Spread) -> Interval:
        return Interval(
            low=expected * spread.low * self.sharing.low,
            expected=expected,
            high=expected * spread.high * self.sharing.high,
            basis=self.basis,
        )


def widths_for(site: Site, constants: EngineConstants, *, engines: int, calibrated: bool) -> Widths:
    """Narrower once calibrated; wider where engines share a device."""
    sharing = _ALONE
    if engines > 1 and site.sharing is Sharing.MPS:
        sharing = constants.sharing.mps
    if engines > 1 and site.sharing is Sharing.TIMESLICE:
        sharing = constants.sharing.timeslice
    return Widths(
        spreads=constants.calibrated if calibrated else constants.spreads,
        sharing=sharing,
        basis=Basis.CALIBRATED if calibrated else Basis.MODELLED,
    )


def preemption(tenant: Tenant, constants: EngineConstants) -> Interval:
    """Part of the requests: where more want in than the pool holds, they enter with their prompts and outgrow it."""
    wanted = min(tenant.in_flight, float(tenant.max_num_seqs))
    if wanted <= kv_limited_batch(tenant):
        return Interval.exactly(0.0, Basis.MODELLED)
    growth = tenant.output_tokens / (tenant.input_tokens + tenant.output_tokens)
    return Interval(low=0.0, expected=growth * constants.preemption_part, high=1.0, basis=Basis.MODELLED)


def energy(power: Interval, throughput: Interval) -> Interval:
    """Joules for each output token."""
    return Interval(
        low=power.low / throughput.high,
        expected=power.expected / throughput.expected,
        high=power.high / throughput.low,
        basis=max(power.basis, throughput.basis, key=lambda basis: basis.softness),
    )
