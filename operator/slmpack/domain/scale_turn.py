"""One decision under way: what it starts from, and how it ends up as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slmpack.domain.headroom import Start
from slmpack.domain.interval import Interval
from slmpack.domain.load import SHORT
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_decision import Figure, FigureName, ScaleDecision, ScaleState, ScalingSpec
from slmpack.domain.scale_memory import Lateness, learned
from slmpack.domain.scale_sight import Sight
from slmpack.domain.snapshot import Demand, Policy

__all__ = ["Turn", "count"]


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
    start: Start
    sight: Sight
    now: datetime
    policy: Policy

    @property
    def settled(self) -> bool:
        """The last change shows in what is measured over SHORT."""
        changed = self.state.changed
        return changed is None or self.now - changed >= SHORT + timedelta(seconds=self.start.seconds)

    def learning(self, measured: float | None, late: Lateness | None) -> Turn:
        """With what this turn says of how slow the replicas are, remembered; see scale_memory.learned."""
        settled = self.settled and self.ready == self.current
        state = learned(self.state, measured, late, settled=settled, now=self.now, policy=self.policy.scale)
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
        return self.to(self.current, reason, f"{count(self.current)} held: {message}")

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


def count(replicas: int) -> str:
    """`1 replica`, `2 replicas`."""
    return f"{replicas} replica{'' if replicas == 1 else 's'}"
