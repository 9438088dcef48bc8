"""How many replicas a GPU should carry, with which batch, and why: the knee and the rule of paying, on modelled curves.

The load is the user's, else assumed: replicas * the knee of one (D7). Where more replicas bring more load, R is the
largest number that pays for what R bring. What runs is the knee of that number, and whether it pays is judged against
fewer at their own best batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, sqrt

from slmpack.domain.interval import Basis
from slmpack.domain.knee import Binding, Knee, NoKnee
from slmpack.domain.paying import Answer, Load, Operating, Packing, PayRule, Step, largest_kept, pack_what_pays
from slmpack.domain.performance import Unpredictable
from slmpack.domain.prediction import GpuPrediction, Sharing
from slmpack.domain.question import Ask, BoundsNotKept, CannotPredictError, ChoicePolicy, Curves, Option, Question
from slmpack.domain.wording import format_ms, format_number
from slmpack.domain.workload import Bounds, Objective, Workload

__all__ = ["Ask", "BoundsNotKept", "Choice", "ChoicePolicy", "Option", "Question", "RunnerUp", "choose"]


_BOUNDS = frozenset({Binding.ITL_BOUND, Binding.TTFT_BOUND})
"""What a user asks for in so many words."""
_LEAST = 1e-6
"""Of a load: next to none. With less, quotients leave what a float holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerUp:
    """The alternative that came closest."""

    replicas_per_gpu: int
    max_num_seqs: int
    reason: str
    """One sentence: why it lost."""
    throughput_tok_s: float
    """Expected output tokens a second of the GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to run on the GPU."""

    replicas_per_gpu: int
    max_num_seqs: int
    max_num_batched_tokens: int
    knee: Knee
    """Of each of the replicas while all of them run."""
    prediction: GpuPrediction
    """Under `workload`."""
    prefix_hit_rate: float
    """Of each replica, as modelled."""
    workload: Workload
    """As used: in_flight is set."""
    assumed: bool
    """Whether nobody said how much load there is."""
    carries: bool
    """Whether the whole load runs within the bounds."""
    binding: str
    """`Load` where there is too little of it to reach the knee, else the knee's binding clause."""
    steps: tuple[Step, ...]
    no_more: str
    """Why one more replica does not pay; empty where there is no room for it."""
    runner_up: RunnerUp
    reasons: tuple[str, ...]
    """Short sentences with the numbers, the load first."""
    refusal: str
    """The one of `reasons` that says why not one more; empty where there is no room for it."""


def choose(question: Question, *, policy: ChoicePolicy) -> Choice | BoundsNotKept | Unpredictable:
    """The number of replicas that pays on the GPU, and how they run.

    Where more replicas bring more load, the largest number that pays for what it brings. BoundsNotKept: not even one
    sequence at a time keeps a bound.
    """
    try:
        return _choose(_Case(question, policy, Curves(question, policy)))
    except CannotPredictError as cannot:
        return cannot.answer


def _choose(case: _Case) -> Choice:
    options = case.question.options
    more, judged = None, case.judge(options)
    while case.question.ask.load_grows and judged.answer.operating.replicas < judged.replicas:
        # less load pays for no more replicas: those between what paid and what was judged need no look
        paid = sum(option.replicas <= judged.answer.operating.replicas for option in options)
        options = options[: min(paid + 1, len(options) - 1)]
        more, judged = judged, case.judge(options)
    return _choice(case, _as_they_run(case, judged), more)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What pays of so many replicas and fewer, for the load of so many."""

    replicas: int
    stated: Workload
    """Their load, without in_flight and request_rate where none is stated."""
    load: Load
    answer: Answer


def _as_they_run(case: _Case, judged: _Judged) -> _Judged:
    """Where the load is assumed of all that run, no more than their own knees: nobody said that any must wait."""
    ask, operating = case.question.ask, judged.answer.operating
    own = not case.question.ask.workload.assumed or ask.assumed_in_flight is not None
    if own or operating.replicas != (ask.replicas or judged.replicas):
        return judged
    knees = operating.replicas * case.curves.knee(case.option(operating.replicas)).batch
    load = Load(in_flight=min(judged.load.in_flight or knees, float(knees)))
    return replace(judged, load=load, answer=replace(judged.answer, operating=replace(operating, carries=True)))


def _choice(case: _Case, judged: _Judged, more: _Judged | None) -> Choice:
    """What was judged last is what pays; `more` is what was judged before, with a replica more."""
    question, curves, answer = case.question, case.curves, judged.answer
    operating = answer.operating
    option = case.option(operating.replicas)
    knee = curves.knee(option)
    sequences = _sequences(case, option, operating)
    in_flight = operating.point.batch if judged.load.in_flight is None else judged.load.in_flight / option.replicas
    used = replace(judged.stated, in_flight=in_flight * option.replicas)
    lost = _lost(answer if more is None else more.answer)
    return Choice(
        replicas_per_gpu=option.replicas,
        max_num_seqs=sequences,
        max_num_batched_tokens=question.ask.engine.batched_tokens(sequences),
        knee=knee,
        prediction=curves.predict(option, in_flight, sequences),
        prefix_hit_rate=curves.hits(option),
        workload=used,
        assumed=question.ask.workload.assumed,
        carries=operating.carries,
        binding="Load" if operating.carries and operating.point.batch < knee.batch else knee.binding.value,
        steps=answer.steps,
        no_more="" if lost is None else lost.text,
        runner_up=_runner_up(case, answer, knee, option) if lost is None else _packed(lost),
        reasons=tuple(_reasons(case, judged, more, used)),
        refusal="" if lost is None else lost.text if more is None else _of_more(more),
    )


def _lost(answer: Answer) -> Step | None:
    """The step that ended the search; None where all were taken."""
    last = answer.steps[-1] if answer.steps else None
    return last if last is not None and last.replicas > answer.operating.replicas else None


@dataclass(frozen=True, slots=True)
class _Case:
    """One question under its load."""

    question: Question
    policy: ChoicePolicy
    curves: Curves

    def limits(self) -> Bounds:
        """The bounds, and the ITL rule of the knee where the batch is ours: the same for every number of replicas."""
        bounds = self.question.ask.bounds
        if self.question.ask.engine.max_num_seqs is not None:
            return bounds
        relative = self.policy.knee.itl_factor * self.curves.reference_itl_s()
        return replace(bounds, itl_s=relative if bounds.itl_s is None else min(bounds.itl_s, relative))

    def rule(self) -> PayRule:
        """Engines that share a device are the harder to predict; MIG instances do not meet."""
        ask = self.question.ask
        shared = self.question.options[-1].site.sharing in (Sharing.MPS, Sharing.TIMESLICE)
        spread = ask.constants.sharing.difference if shared else self.policy.pays.run_to_run
        basis = Basis.MODELLED if ask.calibration is None else Basis.CALIBRATED
        return PayRule(policy=self.policy.pays, objective=ask.objective, spread=spread, basis=basis)

    def option(self, replicas: int) -> Option:
        """The option with so many replicas."""
        return next(option for option in self.question.options if option.replicas == replicas)

    def packing(self, option: Option) -> Packing:
        """What the rule of paying looks at."""
        return Packing(
            replicas=option.replicas,
            curve=self.curves.curve(option),
            runs=self.runs(option),
            most=self.most(option),
        )

    def most(self, option: Option) -> float:
        """Sequences at a time that each replica could hold."""
        return min(self.curves.held(option), self.question.most_num_seqs)

    def runs(self, option: Option) -> float:
        """Sequences at a time that each replica is given: the knee, 0 where there is none.

        Where a bound stops it, all that keep the bound: it is no step of the grid that says how much pays.
        """
        found, curve = self.curves.find(option), self.curves.curve(option)
        if self.question.ask.engine.max_num_seqs is not None:
            return self.most(option)
        if isinstance(found, NoKnee):
            return 0
        if found.binding not in _BOUNDS:
            return found.batch
        beyond = min(self.most(option), curve.grid[curve.grid.index(found.batch) + 1])
        kept = largest_kept(curve, beyond, self.limits())
        return found.batch if kept is None else max(found.batch, floor(kept.batch))

    def judge(self, options: Sequence[Option]) -> _Judged:
        """What pays of these options under the load that the largest brings."""
        replicas = options[-1].replicas
        stated, load = self._load(replicas)
        limits = self.limits()
        answer = pack_what_pays(map(self.packing, options), load, limits, rule=self.rule())
        if answer is None:
            rule = f"No batch keeps the ITL rule of the knee, at most {format_ms(limits.itl_s or 0)}."
            raise CannotPredictError(Unpredictable(reason=rule))
        return _Judged(replicas=replicas, stated=stated, load=load, answer=answer)

    def _load(self, replicas: int) -> tuple[Workload, Load]:
        """What they face: as stated, else assumed."""
        ask, knee = self.question.ask, self.curves.knee(self.question.options[0]).batch
        stated = ask.load(replicas)
        if stated.request_rate is not None:
            return stated, Load(demand_tok_s=max(_LEAST, stated.request_rate * stated.output_tokens))
        assumed = ask.assumed_in_flight or float((ask.replicas or replicas) * knee)
        return stated, Load(in_flight=max(_LEAST, stated.in_flight or assumed))


def _sequences(case: _Case, option: Option, operating: Operating) -> int:
    """What --max-num-seqs should be: as many as were judged; for latency no more of them than the load needs."""
    ask, runs = case.question.ask, int(case.runs(option))
    if ask.engine.max_num_seqs is not None:
        return ask.engine.max_num_seqs
    if ask.objective is not Objective.LATENCY:
        return runs
    running = operating.point.batch
    if ask.workload.request_rate is not None:
        running += 2 * sqrt(running)  # arrivals are random: two standard deviations of a Poisson number
    return min(runs, next((batch for batch in case.policy.knee.grid if batch >= running), runs))


def _runner_up(case: _Case, answer: Answer, knee: Knee, option: Option) -> RunnerUp:
    """Where no further replica was judged: the packing with one fewer, else another batch."""
    if answer.before is not None:
        before = answer.before
        _, what = case.rule().compare(answer.operating, before)
        count = f"{before.replicas} replica{' gives' if before.replicas == 1 else 's give'}"
        return _packed(replace(answer.steps[-1], replicas=before.replicas, operating=before, text=f"{count} {what}."))
    grid = case.curves.curve(option).grid
    index = grid.index(knee.batch)
    if knee.binding is Binding.GRID_END:
        batch = grid[index - 1]
        throughput = case.curves.curve(option).at(batch).throughput_tok_s
        reason = f"A batch of {batch} gives {throughput:,.0f} instead of {knee.throughput_tok_s:,.0f} output tokens/s."
    else:
        batch, reason = grid[index + 1], knee.explanation
        runs = knee.binding not in {Binding.KV_CACHE, Binding.MAX_NUM_SEQS}
        throughput = case.curves.curve(option).at(batch).throughput_tok_s if runs else 0.0
    return RunnerUp(replicas_per_gpu=option.replicas, max_num_seqs=batch, reason=reason, throughput_tok_s=throughput)


def _packed(step: Step) -> RunnerUp:
    operating = step.operating
    return RunnerUp(
        replicas_per_gpu=step.replicas,
        max_num_seqs=1 if operating is None else max(1, ceil(operating.point.batch)),
        reason=step.text,
        throughput_tok_s=0.0 if operating is None else operating.goodput_tok_s,
    )


def _reasons(case: _Case, judged: _Judged, more: _Judged | None, used: Workload) -> Iterator[str]:
    """The load, the knee, what runs, each step, why no more, and what is lost."""
    operating, stated = judged.answer.operating, judged.stated
    option = case.option(operating.replicas)
    knee, hits = case.curves.knee(option), case.curves.hits(option)
    yield _load(case.question.ask, judged, used)
    yield knee.explanation
    if case.question.ask.engine.max_num_seqs is None and case.runs(option) > knee.batch:
        yield f"Between the two, {case.runs(option):g} keep the bounds: as many may run."
    yield from (step.text for step in judged.answer.steps)
    if more is not None:
        yield _of_more(more)
    if not operating.carries:
        yield f"The load is more than this GPU runs at a time within the bounds: {_answered(operating, used)}."
    if hits < stated.prefix_hit_rate:
        yield (
            f"Each of {option.replicas} replicas has a smaller KV cache than one alone: "
            f"its prefix hits are modelled as {hits:.2f} instead of {stated.prefix_hit_rate:.2f}."
        )


def _of_more(more: _Judged) -> str:
    """What the load of one replica more would have made of it."""
    return f"Under the load of {more.replicas} replicas: {more.answer.steps[-1].text}"


def _load(ask: Ask, judged: _Judged, used: Workload) -> str:
    each = f"of {used.input_tokens} input and {used.output_tokens} output tokens"
    in_flight = format_number(used.in_flight or 0)
    if used.request_rate is not None:
        about = f"{used.in_flight or 0:{',.0f' if (used.in_flight or 0) >= 10 else '.2g'}}"
        flying = f", about {about} in flight" if judged.answer.operating.carries else ""
        return f"The load is {format_number(used.request_rate)} requests/s {each}{flying}."
    if judged.stated.in_flight is not None:
        return f"The load is {in_flight} request{'' if used.in_flight == 1 else 's'} in flight {each}."
    knees = f"{ask.replicas or judged.replicas} x the knee of one replica"
    like = "that of the whole GPU" if ask.assumed_in_flight is not None else knees
    return f"Nobody said how much load there is: assumed {like}, {in_flight} requests in flight {each}."


def _answered(operating: Operating, used: Workload) -> str:
    """How much of a load that is not carried."""
    if used.request_rate is not None:
        rate = format_number(operating.goodput_tok_s / used.output_tokens)
        return f"about {rate} of {format_number(used.request_rate)} requests/s are answered, the rest waits"
    runs = f"{operating.replicas * operating.point.batch:,.0f}"
    return f"about {runs} of {format_number(used.in_flight or 0)} run at a time, the rest waits"
