"""One decision under way: what it starts from, and how it ends up as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slmpack.domain.headroom import Start
from slmpack.domain.interval import Interval
from slmpack.domain.load import LATE, SHORT
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Figure, FigureName, ScaleDecision, ScaleState, ScalingSpec
from slmpack.domain.scale_memory import Missed, learned
from slmpack.domain.scale_sight import Sight
from slmpack.domain.snapshot import Demand, Policy
from slmpack.domain.wording import number_of

__all__ = ["Turn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one decision starts from."""

    demand: Demand
    scaling: ScalingSpec
    state: ScaleState
    """With what this turn has seen of starts and requests."""
    current: int
    """Replicas that are wanted as yet, within the bounds."""
    ready: int
    young: bool
    """No replica has answered for as long as SHORT."""
    fresh: bool
    """One of them has answered for less than LATE."""
    start: Start
    sight: Sight
    now: datetime
    policy: Policy

    @property
    def settled(self) -> bool:
        """All that are wanted answer, and the last change shows in what is measured over SHORT."""
        return self.ready == self.current and self._unchanged_for(SHORT + timedelta(seconds=self.start.seconds))

    @property
    def seasoned(self) -> bool:
        """All that are wanted have answered for as long as LATE, and so have no others."""
        return self.ready == self.current and not self.fresh and self._unchanged_for(LATE)

    def _unchanged_for(self, window: timedelta) -> bool:
        return self.state.changed is None or self.now - self.state.changed >= window

    def learning(self, measured: float | None, late: Missed | None, *, overloaded: bool) -> Turn:
        """With what this turn says of how slow the replicas are, remembered; see scale_memory.learned."""
        state = learned(self.state, measured, late, overloaded=overloaded, now=self.now, policy=self.policy.scale)
        if state.correction != self.state.correction:
            state = replace(state, corrected_of=self.demand.spec_hash)
        return replace(self, state=state)

    def to(  # noqa: PLR0913 - a decision's fields
        self,
        desired: int,
        reason: Reason,
        message: str,
        *,
        wished: int | None = None,
        state: ScaleState | None = None,
        figures: Sequence[Figure] = (),
        refused: Reason | None = None,
        power_w: Interval | None = None,
    ) -> ScaleDecision:
        """The decision; without a state, the number changes now if it does."""
        after = self._moved(desired) if state is None else state
        return ScaleDecision(
            desired=desired,
            current=self.current,
            wished=desired if wished is None else wished,
            reason=reason,
            message=message,
            state=after,
            known=self.sight.known and reason is not Reason.METRICS_UNKNOWN,
            figures=(*figures, *self._own()),
            refused=refused,
            power_w=power_w,
            ceiling_w=self.scaling.max_watts_per_gpu,
        )

    def hold(self, reason: Reason, message: str) -> ScaleDecision:
        """Leave the number as it is, and forget that fewer or more were wished."""
        return self.to(self.current, reason, f"{number_of(self.current)} held: {message}")

    def _moved(self, desired: int) -> ScaleState:
        state = replace(self.state, lower_since=None, higher_since=None)
        if desired == state.desired:
            return state
        return replace(state, desired=desired, changed=self.now, went_up=desired > state.desired)

    def _own(self) -> tuple[Figure, ...]:
        sample = self.sight.sample
        measured = (
            ()
            if sample is None
            else tuple(
                Figure(name=name, value=value, unit=unit)
                for name, value, unit in (
                    ("running", sample.running, ""),
                    ("waiting", sample.waiting, ""),
                    ("gatewayWaiting", sample.gateway_waiting, ""),
                    (FigureName.KV_USAGE, sample.kv_usage, ""),
                    (FigureName.TTFT_P95, sample.ttft_s, "s"),
                    ("itlP95", sample.itl_p95_s, "s"),
                )
                if value is not None
            )
        )
        return (
            *measured,
            Figure(name=FigureName.START, value=self.start.seconds, unit="s", basis=self.start.basis),
            Figure(name="ready", value=float(self.ready), unit="replicas"),
        )
