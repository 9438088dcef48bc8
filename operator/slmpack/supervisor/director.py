"""Who starts and stops next, when to try again, what is fatal. No processes, no clock, no I/O: `step` is told all."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from slmpack.supervisor.config import Timing
from slmpack.supervisor.intervals import Intervals
from slmpack.supervisor.states import (
    Action,
    Attachment,
    Do,
    DomainFacts,
    Ending,
    EngineFacts,
    EngineState,
    Phase,
    Reason,
    Verdict,
)

__all__ = ["FATAL_CODE", "Director"]

FATAL_CODE = 70
"""EX_SOFTWARE of sysexits.h: the kubelet restarts the container."""
IDLE = frozenset({Phase.STOPPED, Phase.WAITING, Phase.READY, Phase.BACKOFF, Phase.FAILED})
"""All other phases are a start or a stop, of which there is one at a time."""
RUNNING = frozenset({Phase.LAUNCHED, Phase.READY, Phase.WITHDRAWING, Phase.DRAINING, Phase.ENDING})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Death:
    engine: int
    at: float


class Director:
    """The state machine of all engines of one pack."""

    def __init__(self, *, count: int, wanted: AbstractSet[int], timing: Timing, intervals: Intervals) -> None:
        self.engines = [EngineState() for _ in range(count)]
        self.wanted = frozenset(wanted)
        self.ending: Ending | None = None
        self._timing = timing
        self._intervals = intervals
        self._deaths: list[_Death] = []
        self._actions: list[Action] = []

    def want(self, wanted: AbstractSet[int]) -> bool:
        """State the whole set of engines that shall run; False if it is so already."""
        changed = self.wanted != wanted
        self.wanted = frozenset(wanted)
        return changed

    def end(self, ending: Ending) -> bool:
        """End all engines, then the supervisor. A first ending stands, but a fatal one overtakes; True if it counts."""
        if self.ending is None or (ending.fatal and not self.ending.fatal):
            self.ending = ending
            return True
        return False

    @property
    def over(self) -> bool:
        """The supervisor may exit."""
        return self.ending is not None and all(engine.phase is Phase.STOPPED for engine in self.engines)

    def step(self, now: float, *, facts: Sequence[EngineFacts], domain: DomainFacts) -> tuple[Action, ...]:
        """What is to be done in this turn; `facts` are in the engines' order."""
        self._actions = []
        if domain.fault:
            self.end(Ending(code=FATAL_CODE, reason=domain.fault, fatal=True))
        for index, fact in enumerate(facts):
            self._observe(index, fact, now=now)
        if self.ending is not None:
            self._end_all(now)
        elif all(engine.phase in IDLE for engine in self.engines):
            self._next(now, domain=domain)
        return tuple(self._actions)

    def _act(self, index: int, do: Do) -> None:
        self._actions.append(Action(engine=index, do=do))

    def _observe(self, index: int, fact: EngineFacts, *, now: float) -> None:
        engine = self.engines[index]
        engine.healthy = fact.healthy
        if engine.phase in RUNNING and fact.exit_code is not None:
            self._exited(index, fact, now=now)
        match engine.phase:
            case Phase.CHECKING:
                self._checking(index, fact, now=now)
            case Phase.LAUNCHED:
                self._starting(index, fact, now=now)
            case Phase.READY:
                self._serving(engine, now=now)
            case Phase.WITHDRAWING:
                self._withdrawing(index, fact, now=now)
            case Phase.DRAINING:
                self._draining(index, now=now)
            case Phase.ENDING:
                self._killing(index, fact)
            case Phase.CLEANING:
                self._cleaning(index, fact, now=now)
            case Phase.STOPPED | Phase.WAITING | Phase.BACKOFF | Phase.FAILED:
                self._rest(index, now=now)

    def _rest(self, index: int, *, now: float) -> None:
        engine = self.engines[index]
        if index not in self.wanted or self.ending is not None:
            engine.stop(now=now)
        elif engine.phase is Phase.STOPPED or (engine.phase is not Phase.WAITING and now >= engine.retry_at):
            engine.enter(Phase.WAITING, now=now)

    def _checking(self, index: int, fact: EngineFacts, *, now: float) -> None:
        engine = self.engines[index]
        if index not in self.wanted or self.ending is not None:
            self._act(index, Do.CANCEL_CHECK)
            engine.stop(now=now)
        elif fact.verdict is not None and fact.verdict.reason is Reason.NONE:
            self._act(index, Do.LAUNCH)
            engine.launched_at, engine.served, engine.message = now, False, fact.verdict.message
            engine.healthy_at = engine.unhealthy_at = engine.withdrawn_at = None
            engine.enter(Phase.LAUNCHED, now=now)
        elif fact.verdict is not None:
            self._failed(index, fact.verdict, now=now)

    def _starting(self, index: int, fact: EngineFacts, *, now: float) -> None:
        engine = self.engines[index]
        engine.healthy_at = (engine.healthy_at or now) if fact.healthy else None
        if index not in self.wanted:
            self._terminate(index, now=now, after=None)
        elif engine.healthy_at is not None and fact.attachment is not None:
            message = f"{engine.message}; {fact.attachment.message}" if engine.message else fact.attachment.message
            engine.attachment = Attachment(attached=fact.attachment.attached, message=message)
            if fact.attachment.attached:
                engine.reason, engine.message, engine.served = Reason.NONE, "", True
                engine.enter(Phase.READY, now=now)
            else:
                after = Verdict(reason=Reason.NOT_ATTACHED, message=fact.attachment.message)
                self._terminate(index, now=now, after=after)
        elif engine.healthy_at is not None and now - engine.healthy_at > self._intervals.attach_limit:
            message = f"healthy, but not seen among the MPS clients within {self._intervals.attach_limit:g} s"
            self._terminate(index, now=now, after=Verdict(reason=Reason.NOT_ATTACHED, message=message))
        elif now - engine.launched_at > self._timing.start:
            message = f"not ready {self._timing.start:g} s after its start"
            self._terminate(index, now=now, after=Verdict(reason=Reason.NOT_READY_IN_TIME, message=message))

    def _serving(self, engine: EngineState, *, now: float) -> None:
        if engine.healthy:
            engine.unhealthy_at, engine.message = None, ""
        elif engine.unhealthy_at is None:
            engine.unhealthy_at, engine.message = now, "/health does not answer 200"
        if now - engine.since >= self._intervals.settled:
            engine.failures = 0

    def _withdrawing(self, index: int, fact: EngineFacts, *, now: float) -> None:
        engine = self.engines[index]
        if index in self.wanted and self.ending is None and engine.after is None:
            engine.withdrawn_at = None
            engine.enter(Phase.READY, now=now)
            return
        if engine.withdrawn_at is None and (fact.withdrawn or now - engine.since >= self._intervals.withdraw_limit):
            engine.withdrawn_at = now
        if engine.withdrawn_at is not None and now - engine.withdrawn_at >= self._timing.endpoint:
            self._terminate(index, now=now, after=engine.after)

    def _draining(self, index: int, *, now: float) -> None:
        engine = self.engines[index]
        limit = self._timing.exit + (self._timing.drain if engine.served else 0.0)
        if self.ending is not None and self.ending.fatal:
            limit = min(limit, self._intervals.fatal)
        if now - engine.since >= limit:
            self._act(index, Do.TERMINATE_CLIENTS)
            engine.enter(Phase.ENDING, now=now)

    def _killing(self, index: int, fact: EngineFacts) -> None:
        if fact.clients_terminated:
            self._act(index, Do.KILL)

    def _cleaning(self, index: int, fact: EngineFacts, *, now: float) -> None:
        engine = self.engines[index]
        if fact.gone:
            self._act(index, Do.FORGET)
            after, engine.after = engine.after, None
            if after is not None and after.reason is Reason.CRASHED:
                after = Verdict(reason=Reason.CRASHED, message=_last_words(fact))  # all of its output is in now
            if index not in self.wanted or self.ending is not None:
                engine.stop(now=now)
            elif after is not None:
                self._failed(index, after, now=now)
            else:
                engine.enter(Phase.WAITING, now=now)
        elif fact.clients_terminated:
            self._act(index, Do.KILL)
        elif not engine.asked and now - engine.since >= self._intervals.leftover:
            self._act(index, Do.TERMINATE_CLIENTS)
            engine.asked = True

    def _exited(self, index: int, fact: EngineFacts, *, now: float) -> None:
        """Its process has ended. Only after SIGTERM from us is that no crash."""
        engine = self.engines[index]
        if engine.phase not in {Phase.DRAINING, Phase.ENDING}:
            self._died(index, now=now)
            engine.after = Verdict(reason=Reason.CRASHED, message=_last_words(fact))
        engine.asked = False
        engine.enter(Phase.CLEANING, now=now)

    def _died(self, index: int, *, now: float) -> None:
        self._deaths = [death for death in self._deaths if now - death.at <= self._intervals.together]
        launched = self.engines[index].launched_at
        for death in self._deaths:
            # Only a death that this engine's process lived through: failures at start, one after another, are no fault.
            if death.engine != index and launched < death.at:
                reason = (
                    f"engines {death.engine} and {index} died within {self._intervals.together:g} s of each other: "
                    "a fatal fault of one MPS client reaches all clients of the GPU"
                )
                self.end(Ending(code=FATAL_CODE, reason=reason, fatal=True))
        self._deaths.append(_Death(engine=index, at=now))

    def _terminate(self, index: int, *, now: float, after: Verdict | None) -> None:
        engine = self.engines[index]
        engine.after = after
        if after is not None:
            engine.reason, engine.message = after.reason, after.message
        self._act(index, Do.SIGTERM)
        engine.enter(Phase.DRAINING, now=now)

    def _failed(self, index: int, why: Verdict, *, now: float) -> None:
        engine, intervals = self.engines[index], self._intervals
        engine.reason, engine.message = why.reason, why.message
        # Nothing that a quick retry could change, and each retry may run an engine without a limit for a moment.
        unattached = why.reason is Reason.NOT_ATTACHED
        delay = intervals.backoff_most if unattached else _delay(engine.failures, intervals)
        engine.failures += 1
        engine.retry_at = now + delay
        engine.enter(Phase.FAILED if unattached else Phase.BACKOFF, now=now)

    def _next(self, now: float, *, domain: DomainFacts) -> None:
        """Begin one stop, else one start: room is made before it is taken."""
        for index, engine in enumerate(self.engines):
            patience = self._timing.start
            sick = engine.unhealthy_at is not None and now - engine.unhealthy_at > patience
            if engine.phase is Phase.READY and (index not in self.wanted or sick):
                if sick and index in self.wanted:
                    message = f"/health did not answer 200 for {patience:g} s"
                    engine.after = Verdict(reason=Reason.NOT_READY_IN_TIME, message=message)
                engine.enter(Phase.WITHDRAWING, now=now)
                return
        waiting = [index for index, engine in enumerate(self.engines) if engine.phase is Phase.WAITING]
        if waiting and domain.daemon_runs:
            index = min(waiting, key=lambda index: (self.engines[index].since, index))
            engine = self.engines[index]
            engine.restarts += 1 if engine.failures else 0
            engine.reason, engine.attachment = Reason.STARTING, None
            self._act(index, Do.CHECK)
            engine.enter(Phase.CHECKING, now=now)

    def _end_all(self, now: float) -> None:
        """All at once: no start is left that a stop could disturb, and the pod's grace period is for one stop."""
        fatal = self.ending is not None and self.ending.fatal
        for index, engine in enumerate(self.engines):
            killed = engine.phase in {Phase.ENDING, Phase.CLEANING}
            if killed and now - engine.since >= self._intervals.unkillable:
                engine.enter(Phase.STOPPED, now=now)  # the kernel ends what is left of PID 1's container
            if engine.phase is Phase.LAUNCHED or (fatal and engine.phase in {Phase.READY, Phase.WITHDRAWING}):
                self._terminate(index, now=now, after=None)
            elif engine.phase is Phase.READY:
                engine.enter(Phase.WITHDRAWING, now=now)


def _delay(failures: int, intervals: Intervals) -> float:
    return min(intervals.backoff_most, intervals.backoff * 2.0 ** min(failures, 30))


def _last_words(fact: EngineFacts) -> str:
    code = fact.exit_code or 0
    how = f"ended with exit code {code}"
    if code < 0:
        try:
            how = f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            how = f"was ended by signal {-code}"
    return f"{how}; its last line: {fact.last_line[:300]}" if fact.last_line else how
