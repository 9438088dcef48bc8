"""How many replicas of a SLMDeployment are wanted now, from what is measured (D8, D8a). One pure function.

docs/scaling.md tells it step by step. Demand is arrivals, capacity is that of the GPUs as they are packed; what is not
known holds the number, and never lowers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slmpack.domain.board import Room
from slmpack.domain.goodput import Correction, Goodput, correct
from slmpack.domain.headroom import Load, measure_start, read_load
from slmpack.domain.inventory import GpuNode
from slmpack.domain.load import LATE, SHORT, LoadSample
from slmpack.domain.performance import Unpredictable
from slmpack.domain.reasons import Reason
from slmpack.domain.scale_alarm import alarm_of
from slmpack.domain.scale_decision import Figure, FigureName, ScaleDecision, ScaleState, ScalingSpec
from slmpack.domain.scale_idle import is_idle, stays_on
from slmpack.domain.scale_memory import missed
from slmpack.domain.scale_pace import Paced, pace
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.scale_sight import Sight, see
from slmpack.domain.scale_turn import Turn
from slmpack.domain.scale_wish import Limits, Wish, wish_for
from slmpack.domain.sharing import WhenFull
from slmpack.domain.sizing import Need
from slmpack.domain.snapshot import Demand, DeploymentView, Key, PodView, Policy, Rejected, Snapshot
from slmpack.domain.stacks import Layout, read_layout
from slmpack.domain.token_mix import mix_of
from slmpack.domain.watts import Heat, Watts, measured_watts, strangers_on
from slmpack.domain.wording import number_of
from slmpack.domain.workload import Bounds

__all__ = ["decide_scale"]

_DAY_S = 86_400.0
"""A start that is remembered as longer is nonsense."""


def decide_scale(  # noqa: PLR0913 - what a decision looks at, in one place
    view: DeploymentView,
    demand: Demand,
    scaling: ScalingSpec,
    *,
    need: Need | None,
    room: Room | None,
    pods: Sequence[PodView],
    nodes: Sequence[GpuNode],
    snapshot: Snapshot,
    policy: Policy,
) -> ScaleDecision:
    """The number of replicas; `demand.replicas` is the most, `pods` are this deployment's own."""
    live = [pod for pod in pods if not (pod.finished or pod.deleting or pod.ended)]
    turn = _turn(view, demand, scaling, live, snapshot, policy)
    if turn.current != turn.state.desired:
        return _bounded(turn)
    if turn.current == 0 and not _knocked(turn.sight):
        return _asleep(turn)
    idle = is_idle(turn)
    if idle and (scaling.idle_asked or need is None or room is None):
        return _go_idle(turn, "")
    if need is None or room is None:
        return turn.hold(Reason.HELD, "what a replica carries is not known yet (see Accepted and Fits)")
    if turn.sight.sample is None:
        return turn.hold(Reason.METRICS_UNKNOWN, "; ".join(turn.sight.missing))
    layout = read_layout(demand, room, ours=live, snapshot=snapshot, nodes=nodes, policy=policy, key=view.key)
    if idle:
        return _go_idle(turn, stays_on(layout, snapshot, view.key))
    return _decide(turn, layout, turn.sight.sample, snapshot, view.key)


def _go_idle(turn: Turn, kept: str) -> ScaleDecision:
    """`kept`: why one is kept; empty: none is."""
    quiet = f"no request for {_seconds(turn.scaling.idle)}"
    if not kept:
        return turn.to(0, Reason.IDLE, f"{quiet}: none is kept")
    reason = Reason.STEADY if turn.current == 1 else Reason.IDLE
    return turn.to(1, reason, f"{quiet}: 1 replica is kept, as {kept}")


def _turn(  # noqa: PLR0913, PLR0917 - a step of the line
    view: DeploymentView,
    demand: Demand,
    scaling: ScalingSpec,
    live: Sequence[PodView],
    snapshot: Snapshot,
    policy: Policy,
) -> Turn:
    """A deployment of which nothing is remembered keeps what runs; a new one begins with one replica."""
    running = sum(pod.record.replicas for pod in live if pod.record is not None)
    first = min(max(1, scaling.least, running), scaling.most)
    state = _until(view.scale or ScaleState(desired=first), snapshot.now, policy.scale)
    if state.corrected_of != demand.spec_hash:
        state = replace(state, correction=None, corrected=None, corrected_of=None)
    current = min(max(state.desired, scaling.least), scaling.most)
    start = measure_start(live, state.start_s, policy.scale)
    ready = sum(pod.ready_replicas for pod in live)
    sight = see(view.key, snapshot, ready=ready, wanted=current, policy=policy.scale)
    busy = state.busy if sight.quiet and state.busy is not None else snapshot.now
    return Turn(
        demand=demand,
        scaling=scaling,
        state=replace(state, start_s=start.remembered, busy=busy),
        current=current,
        ready=ready,
        fresh=any(pod.ready_since is not None and snapshot.now - pod.ready_since < LATE for pod in live),
        young=not any(pod.ready_since is not None and snapshot.now - pod.ready_since >= SHORT for pod in live),
        start=start,
        sight=sight,
        now=snapshot.now,
        policy=policy,
    )


def _until(state: ScaleState, now: datetime, policy: ScalePolicy) -> ScaleState:
    """What is remembered, as far as it can be: after a clock was set back nothing waits for what it said before."""

    def by(moment: datetime | None) -> datetime | None:
        return None if moment is None else min(moment, now)

    return replace(
        state,
        changed=by(state.changed),
        lower_since=by(state.lower_since),
        higher_since=by(state.higher_since),
        busy=by(state.busy),
        hold_s=None if state.hold_s is None else min(state.hold_s, policy.hold_s),
        start_s=None if state.start_s is None else min(state.start_s, _DAY_S),
        correction=policy.bounded(state.correction),
        corrected=by(state.corrected),
    )


def _bounded(turn: Turn) -> ScaleDecision:
    """The user moved a bound beyond the number: that is obeyed at once, whatever is measured."""
    if turn.current < turn.state.desired:
        message = f"spec.scaling.max is {turn.scaling.most}, less than the {turn.state.desired} replicas so far"
        return turn.to(turn.current, Reason.AT_MAX, message, wished=turn.state.desired, refused=Reason.AT_MAX)
    message = f"spec.scaling.min is {turn.scaling.least}, more than the {number_of(turn.state.desired)} so far"
    return turn.to(turn.current, Reason.AT_MIN, message, wished=turn.state.desired)


def _knocked(sight: Sight) -> bool:
    """Whether a request waits where no replica is."""
    return sight.sample is not None and (sight.sample.gateway_waiting or 0.0) > 0


def _asleep(turn: Turn) -> ScaleDecision:
    if turn.sight.missing:
        return turn.hold(Reason.METRICS_UNKNOWN, "; ".join(turn.sight.missing))
    return turn.to(0, Reason.IDLE, "no replica is wanted: no request waits at the gateway")


def _decide(turn: Turn, layout: Layout, sample: LoadSample, snapshot: Snapshot, key: Key) -> ScaleDecision:
    demand, policy = turn.demand, turn.policy.scale
    mix, basis = mix_of(sample, demand.workload, policy)
    load = read_load(sample, turn.start, policy, young=turn.young)
    bounds = _tightened(demand.kept_bounds, policy.bound_part)
    modelled = Goodput(mix=mix, bounds=bounds, correction=Correction(), choice=turn.policy.choice, policy=policy)
    late = missed(sample, demand.kept_bounds, policy) if turn.sight.known and turn.seasoned else None
    measured = correct(layout.ready, sample, modelled) if turn.sight.known and not turn.young else Correction()
    now = layout.with_replicas(max(1, turn.current))
    believed = modelled.corrected(measured.remembered(turn.state.correction)).of(now)
    turn = turn.learning(measured.factor if measured.measured else None, late, overloaded=load.up > believed)
    correction = measured.remembered(turn.state.correction)
    goodput = modelled.corrected(correction)
    company = any(view.key != key and not isinstance(view.demand, Rejected) for view in snapshot.deployments)
    wish = wish_for(
        now,
        goodput,
        modelled.corrected(correction.careful(load.late, policy)),
        load,
        Limits(least=turn.scaling.least, most=turn.scaling.most, reserve=int(company)),
        objective=demand.objective,
        crowded=company and now.full,
        policy=policy,
    )
    if isinstance(wish, Unpredictable) and turn.current == 0:
        return turn.to(1, Reason.WOKEN, "a request waits at the gateway, and no node is there to judge by: one replica")
    if isinstance(wish, Unpredictable):
        return turn.hold(Reason.HELD, f"what a replica carries cannot be predicted: {wish.reason}")
    watts = measured_watts(snapshot.gpus, now=turn.now, policy=policy)
    found = _Found(
        turn=turn,
        layout=now,
        goodput=goodput,
        load=load,
        wish=wish,
        watts=Watts(before=layout.with_replicas(turn.current), goodput=goodput, measured=watts, now_s=load.now),
        figures=(
            *_figures(wish, load, now, mix.input_tokens, mix.output_tokens, basis),
            *correction.figures,
            *(() if late is None else (late.figure,)),
            *strangers_on(layout, snapshot, policy=policy),
        ),
    )
    return found.settle(alarm_of(turn, sample, late, load_s=load.now, capacity_s=wish.capacity_s))


def _tightened(bounds: Bounds, part: float) -> Bounds:
    return Bounds(
        ttft_s=None if bounds.ttft_s is None else bounds.ttft_s * part,
        itl_s=None if bounds.itl_s is None else bounds.itl_s * part,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What is wished, before it is refused, bounded and paced."""

    turn: Turn
    layout: Layout
    """With the present number; with one replica where there is none."""
    goodput: Goodput
    load: Load
    wish: Wish
    watts: Watts
    figures: tuple[Figure, ...]

    def settle(self, alarm: str) -> ScaleDecision:
        """The decision."""
        turn, wish = self.turn, self.wish
        current = turn.current
        up = max(wish.up, current + 1 if alarm else 0, 1)
        if up > current:
            return self._raise(up, alarm)
        if wish.wished > current and current < turn.scaling.most:
            unknown = "what a further replica would carry cannot be predicted on the GPUs that are left"
            return self._end(current, Reason.HELD, f"{self._asked()}; {unknown}", None)
        if wish.wished > current:
            return self._end(
                current, Reason.AT_MAX, f"{self._asked()}, but spec.scaling.max is {current}", Reason.AT_MAX
            )
        if wish.down < current:
            return self._lower()
        return self._end(current, Reason.STEADY, self._asked(), None)

    def _raise(self, up: int, alarm: str) -> ScaleDecision:
        turn, wish, current = self.turn, self.wish, self.turn.current
        most = turn.scaling.most
        target = min(up, most)
        refused = Reason.AT_MAX if max(up, wish.wished) > most else None
        allowed = self._paying(target)
        if allowed < target:
            target, refused = allowed, Reason.DOES_NOT_PAY
        cool = self._cool(target)
        if cool < target:
            target, refused = cool, Reason.POWER_CEILING
        if target >= max(wish.wished, current + 1 if alarm else 1):
            refused = None  # what is lacking would only have filled GPUs that are open anyway
        why = f"{self._asked()}{f'; {alarm}' if alarm else ''}"
        limit = "" if refused is None else f"; {self._refusal(refused, target)}"
        if target <= current:
            return self._end(current, refused or Reason.STEADY, f"{why}{limit}", refused)
        paced = self._pace(target, needed=bool(alarm) or wish.wished > current)
        if paced.waits is not None:
            words = f"{why}; {target} wait for {_seconds(paced.waits)} (behaviour.scaleUp)"
            return self._to(paced.desired, Reason.HELD, words, refused, paced.state)
        reason = Reason.WOKEN if current == 0 else Reason.LOAD_ROSE
        return self._to(paced.desired, reason, f"{why}: {paced.desired} wanted{limit}", refused, paced.state)

    def _lower(self) -> ScaleDecision:
        turn, wish, current = self.turn, self.wish, self.turn.current
        if not turn.sight.known:
            return self._end(current, Reason.METRICS_UNKNOWN, self._unknown(), None)
        paced = self._pace(wish.down)
        enough = f"{number_of(wish.down)} would carry {wish.down_for:.3g} requests/s"
        if paced.waits is not None:
            words = f"{self._asked()}; {enough}, if that lasts {_seconds(paced.waits)} more"
            return self._to(paced.desired, Reason.HELD, words, None, paced.state)
        slower = "" if paced.desired == wish.down else ", as no more may end at once"
        words = f"{self._asked()}; {enough}: {paced.desired} wanted{slower}"
        return self._to(paced.desired, Reason.LOAD_FELL, words, None, paced.state)

    def _pace(self, target: int, *, needed: bool = False) -> Paced:
        turn = self.turn
        return pace(
            target,
            turn.state,
            turn.scaling,
            certain=self.wish.certain,
            current=turn.current,
            needed=needed,
            now=turn.now,
            late=self.load.late,
            policy=turn.policy.scale,
        )

    def _after(self, desired: int) -> tuple[Figure, ...]:
        if desired in {self.turn.current, 0}:
            return ()
        carry = self.goodput.of(self.layout.with_replicas(desired))
        return (Figure(name="capacityWanted", value=carry, unit="requests/s", basis="modelled"),)

    def _paying(self, target: int) -> int:
        """No more than the GPUs take that are there, if further ones would not pay on those (D7)."""
        after = self.layout.with_replicas(max(1, target))
        if after.missing <= self.layout.missing or not after.withheld:
            return target
        if self.turn.demand.when_full is WhenFull.PENDING:
            return target  # a node may come
        return max(self.turn.current, after.placed)

    def _cool(self, target: int) -> int:
        """The most replicas up to the target with which no GPU that they are added to is over the ceiling."""
        ceiling = self.turn.scaling.max_watts_per_gpu
        if ceiling is None:
            return target
        while target > self.turn.current:
            heat = self._heat(target, added=True)
            if heat is None or max(heat.power_w.high, heat.measured_w or 0.0) <= ceiling:
                break
            target -= 1
        return target

    def _heat(self, replicas: int, *, added: bool) -> Heat | None:
        return self.watts.hottest(self.layout.with_replicas(max(1, replicas)), self.load.up, added=added)

    def _refusal(self, refused: Reason, target: int) -> str:
        if refused is Reason.AT_MAX:
            return f"spec.scaling.max is {self.turn.scaling.most}"
        if refused is Reason.DOES_NOT_PAY:
            return "one more on the GPUs in use would not pay, and no other GPU is free"
        heat, ceiling = self._heat(target + 1, added=True), self.turn.scaling.max_watts_per_gpu
        assert heat is not None and ceiling is not None  # noqa: S101, PT018 - it refused
        now = "" if heat.measured_w is None else f", {heat.measured_w:.0f} W are measured now"
        return (
            f"one more would take a GPU of node {heat.node} to {heat.power_w.high:.0f} W at this load{now}: more than "
            f"spec.scaling.maxWattsPerGPU, {ceiling:g}"
        )

    def _asked(self) -> str:
        load, wish, current = self.load, self.wish, self.turn.current
        waits = f", {load.waiting:.0f} wait" if load.waiting >= 1 else ""
        carries = f"{number_of(current)} carry" if current != 1 else "1 replica carries"
        if current == 0:
            carries = "1 replica would carry"
        return (
            f"{load.now:.3g} requests/s arrive{waits}, {load.up:.3g} are to be carried; {carries} {wish.capacity_s:.3g}"
        )

    def _unknown(self) -> str:
        return f"{number_of(self.turn.current)} held: {'; '.join(self.turn.sight.missing)}"

    def _end(self, desired: int, reason: Reason, message: str, refused: Reason | None) -> ScaleDecision:
        if not self.turn.sight.known and refused is None:
            reason, message = Reason.METRICS_UNKNOWN, self._unknown()
        return self._to(desired, reason, message, refused, None)

    def _to(
        self, desired: int, reason: Reason, message: str, refused: Reason | None, state: ScaleState | None
    ) -> ScaleDecision:
        heat = self._heat(desired, added=False) if desired else None
        return self.turn.to(
            desired,
            reason,
            message,
            wished=self.wish.wished,
            state=state,
            figures=(*self.figures, *self._after(desired)),
            refused=refused,
            power_w=None if heat is None else heat.power_w,
        )


def _figures(  # noqa: PLR0913, PLR0917 - one list
    wish: Wish, load: Load, layout: Layout, input_tokens: int, output_tokens: int, basis: str
) -> tuple[Figure, ...]:
    return (
        Figure(name=FigureName.DEMAND, value=load.up, unit="requests/s", basis="measured"),
        Figure(name=FigureName.DEMAND_TO_KEEP, value=load.keep, unit="requests/s", basis="measured"),
        Figure(name=FigureName.CAPACITY, value=wish.capacity_s, unit="requests/s", basis="modelled"),
        Figure(name="gpus", value=float(layout.held), unit="", basis="assumed"),
        Figure(name="inputTokens", value=float(input_tokens), unit="tokens", basis=basis),
        Figure(name="outputTokens", value=float(output_tokens), unit="tokens", basis=basis),
        *load.figures,
    )


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.0f} s"
