"""How many replicas a GPU should carry, with which batch, and why: the knee and the rule of paying, on modelled curves.

The load of the GPU is the user's, else assumed: replicas * the knee of one (D7). What runs is the knee of the chosen
number of replicas, and whether that pays is judged against fewer at their own best batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, sqrt

from slmpack.domain.interval import Basis
from slmpack.domain.knee import Binding, Knee
from slmpack.domain.paying import Answer, Load, Operating, Packing, PayRule, Step, pack_what_pays
from slmpack.domain.performance import Unpredictable
from slmpack.domain.prediction import GpuPrediction, Sharing
from slmpack.domain.question import CannotPredictError, ChoicePolicy, Curves, Option, Question
from slmpack.domain.workload import Bounds, Objective, Workload

__all__ = ["Choice", "ChoicePolicy", "Curves", "Option", "Question", "RunnerUp", "choose"]


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
    workload: Workload
    """As used: in_flight is set."""
    assumed: bool
    """Whether nobody said how much load there is."""
    carries: bool
    """Whether the whole load runs within the bounds."""
    binding: str
    """`Load` where there is too little of it to reach the knee, else the knee's binding clause."""
    steps: tuple[Step, ...]
    runner_up: RunnerUp
    reasons: tuple[str, ...]
    """Short sentences with the numbers, the load first."""


def choose(question: Question, *, policy: ChoicePolicy, curves: Curves | None = None) -> Choice | Unpredictable:
    """The number of replicas that pays on the GPU, and how they run.

    `curves` of the same question under another load are used where they hold, which saves most of the time.
    """
    if curves is None or not curves.hold_for(question, policy):
        curves = Curves(question, policy)
    try:
        return _choose(_Case(question, policy, curves))
    except CannotPredictError as cannot:
        return cannot.unpredictable


def _choose(case: _Case) -> Choice:
    question, curves = case.question, case.curves
    workload, load = _load(question, curves.knee(question.options[0]).batch)
    limits = case.limits()
    answer = pack_what_pays(map(case.packing, question.options), load, limits, rule=case.rule())
    if answer is None:
        raise CannotPredictError(
            f"No batch keeps the ITL under {(limits.itl_s or 0) * 1000:.1f} ms and the TTFT bound."
        )
    operating = answer.operating
    option = case.option(operating.replicas)
    knee = curves.knee(option)
    sequences = _sequences(question, knee, operating, case.policy.knee.grid)
    in_flight = operating.point.batch if load.in_flight is None else load.in_flight / option.replicas
    used = replace(workload, in_flight=in_flight * option.replicas)
    return Choice(
        replicas_per_gpu=option.replicas,
        max_num_seqs=sequences,
        max_num_batched_tokens=max(question.max_num_batched_tokens, sequences),
        knee=knee,
        prediction=curves.predict(option, in_flight, sequences),
        workload=used,
        assumed=question.workload.assumed,
        carries=operating.carries,
        binding="Load" if operating.carries and operating.point.batch < knee.batch else knee.binding.value,
        steps=answer.steps,
        runner_up=_runner_up(case, answer, knee, option),
        reasons=_reasons(case, answer, knee, used),
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """One question under its load."""

    question: Question
    policy: ChoicePolicy
    curves: Curves

    def limits(self) -> Bounds:
        """The bounds, and the ITL rule of the knee where the batch is ours: the same for every number of replicas."""
        bounds = self.question.bounds
        if self.question.fixed:
            return bounds
        relative = self.policy.knee.itl_factor * self.curves.reference_itl_s()
        return replace(bounds, itl_s=relative if bounds.itl_s is None else min(bounds.itl_s, relative))

    def rule(self) -> PayRule:
        """Engines that share a device are the harder to predict; MIG instances do not meet."""
        shared = self.question.options[-1].site.sharing in (Sharing.MPS, Sharing.TIMESLICE)
        spread = self.question.constants.sharing.difference if shared else self.policy.pays.run_to_run
        basis = Basis.MODELLED if self.question.calibration is None else Basis.CALIBRATED
        return PayRule(policy=self.policy.pays, objective=self.question.objective, spread=spread, basis=basis)

    def option(self, replicas: int) -> Option:
        """The option with so many replicas."""
        return next(option for option in self.question.options if option.replicas == replicas)

    def packing(self, option: Option) -> Packing:
        """What the rule of paying looks at."""
        most = min(self.curves.held(option), self.question.most_num_seqs)
        found = self.curves.find(option)
        knee = found.batch if isinstance(found, Knee) else 0
        runs = most if self.question.fixed else knee
        return Packing(replicas=option.replicas, curve=self.curves.curve(option), runs=runs, most=most)


def _load(question: Question, knee: int) -> tuple[Workload, Load]:
    workload = question.workload
    if workload.request_rate is not None:
        return workload, Load(demand_tok_s=workload.request_rate * workload.output_tokens)
    in_flight = workload.in_flight if workload.in_flight is not None else float(question.replicas * knee)
    return replace(workload, in_flight=in_flight), Load(in_flight=in_flight)


def _sequences(question: Question, knee: Knee, operating: Operating, grid: tuple[int, ...]) -> int:
    """What --max-num-seqs should be: the knee; for latency no more of it than the load needs."""
    if question.fixed:
        return question.most_num_seqs
    if question.objective is not Objective.LATENCY:
        return knee.batch
    running = operating.point.batch
    if question.workload.request_rate is not None:
        running += 2 * sqrt(running)  # arrivals are random: two standard deviations of a Poisson number
    return min(knee.batch, next((batch for batch in grid if batch >= running), knee.batch))


def _runner_up(case: _Case, answer: Answer, knee: Knee, option: Option) -> RunnerUp:
    """The next number of replicas, else the one before, else another batch."""
    if answer.steps and answer.steps[-1].replicas != option.replicas:
        lost = answer.steps[-1]
        return _packed(lost.replicas, lost.operating, lost.text)
    if answer.before is not None:
        return _packed(answer.before.replicas, answer.before, answer.steps[-1].text)
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


def _packed(replicas: int, operating: Operating | None, reason: str) -> RunnerUp:
    return RunnerUp(
        replicas_per_gpu=replicas,
        max_num_seqs=1 if operating is None else max(1, ceil(operating.point.batch)),
        reason=reason,
        throughput_tok_s=0.0 if operating is None else operating.goodput_tok_s,
    )


def _reasons(case: _Case, answer: Answer, knee: Knee, used: Workload) -> tuple[str, ...]:
    """The load, the knee, each step, and what is lost."""
    option = case.option(answer.operating.replicas)
    stated, hits = case.question.workload, case.curves.hits(option)
    each = f"of {used.input_tokens} input and {used.output_tokens} output tokens"
    if stated.request_rate is not None:
        load = f"The load is {stated.request_rate:g} requests/s {each}, about {used.in_flight:,.0f} in flight."
    elif stated.in_flight is not None:
        load = f"The load is {used.in_flight:,g} request{'' if used.in_flight == 1 else 's'} in flight {each}."
    else:
        knees = f"{case.question.replicas} x the knee of one replica"
        load = f"Nobody said how much load there is: assumed {knees}, {used.in_flight:,g} requests in flight {each}."
    reasons = [load, knee.explanation, *(step.text for step in answer.steps)]
    if not answer.operating.carries:
        reasons.append("The load is more than this GPU runs at a time within the bounds: the rest waits.")
    if hits < stated.prefix_hit_rate:
        reasons.append(
            f"Each of {option.replicas} replicas has a smaller KV cache than one alone: "
            f"its prefix hits are modelled as {hits:.2f} instead of {stated.prefix_hit_rate:.2f}."
        )
    return tuple(reasons)
