"""What is to be decided for one GPU, and the modelled curves and knees that decide it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import TypeVar

from slmpack.domain.calibration import Calibration
from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.knee import Knee, KneePolicy, NoKnee, find_knee
from slmpack.domain.model_profile import ModelProfile
from slmpack.domain.paying import PayPolicy
from slmpack.domain.performance import Unpredictable, predict, rates
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import GpuPrediction, Sharing, Site, Tenant
from slmpack.domain.workload import Bounds, Objective, Workload

__all__ = ["CannotPredictError", "ChoicePolicy", "Curves", "Option", "Question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoicePolicy:
    """Numbers of the two rules."""

    knee: KneePolicy = field(default_factory=KneePolicy)
    pays: PayPolicy = field(default_factory=PayPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """So many replicas of the model on one GPU."""

    replicas: int
    site: Site
    kv_cache_tokens: int
    """KV pool of each replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be decided for one GPU."""

    model: ModelProfile
    options: tuple[Option, ...]
    """By rising number of replicas, at least one."""
    workload: Workload
    """Of the GPU as a whole."""
    bounds: Bounds
    objective: Objective
    replicas: int
    """Replicas that are wanted: the assumed load is this many times the knee of one."""
    constants: EngineConstants
    cpu_cores: float
    """Of each replica."""
    most_num_seqs: int
    """The largest batch to consider; with `fixed`, the one that runs."""
    max_num_batched_tokens: int
    """At least; a larger batch takes as many."""
    enforce_eager: bool
    kv_element_bytes: int
    calibration: Calibration | None = None
    """Of this model on this GPU, where a profile was measured."""
    fixed: bool = False
    """Whether max-num-seqs is the user's: then only absolute bounds limit what runs."""


class CannotPredictError(Exception):
    """Leaves a computation in the middle of a curve; `choose` turns it into a value."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.unpredictable = Unpredictable(reason=reason)


class Curves:
    """The curves and knees of a question, computed as they are asked for; they hold for any load and number wanted."""

    def __init__(self, question: Question, policy: ChoicePolicy) -> None:
        self._question = _without_load(question)
        self._policy = policy
        self._curves: dict[int, Curve] = {}
        self._knees: dict[int, Knee | NoKnee] = {}
        self._first = question.options[0]
        """What the others are compared with."""
        self._endless = not question.model.kv_elements_per_token
        """A model without a KV cache is never short of it."""

    def hold_for(self, question: Question, policy: ChoicePolicy) -> bool:
        """Whether they were computed for this question, but for the load and the number of replicas wanted."""
        return self._policy == policy and self._question == _without_load(question)

    def reference_itl_s(self) -> float:
        """ITL of one replica alone at the reference batch."""
        return self.curve(self._first).at(self._policy.knee.itl_reference_batch).itl_s

    def curve(self, option: Option) -> Curve:
        """All replicas of the option, against the batch of each."""
        if option.replicas not in self._curves:
            fixed = (self._question.most_num_seqs,) if self._question.fixed else ()
            compute = self._repeated if self._as_first(option) else self._point
            grid = (*self._policy.knee.grid, *fixed)
            self._curves[option.replicas] = Curve.of_function(grid, lambda batch: compute(option, batch))
        return self._curves[option.replicas]

    def find(self, option: Option) -> Knee | NoKnee:
        """Of each replica while all of the option run; those that share a GPU keep to the ITL of one alone."""
        if option.replicas not in self._knees:
            self._knees[option.replicas] = self._find(option)
        return self._knees[option.replicas]

    def _find(self, option: Option) -> Knee | NoKnee:
        if self._as_first(option) and isinstance(alone := self.find(self._first), Knee):
            return replace(alone, throughput_tok_s=self.curve(option).at(alone.batch).throughput_tok_s)
        policy = self._policy.knee
        if option.replicas != self._first.replicas:
            policy = replace(policy, reference_itl_s=self.reference_itl_s())
        bounds, limit = self._question.bounds, self._question.most_num_seqs
        return find_knee(self.curve(option), policy, bounds, most=self.held(option), limit=limit)

    def _as_first(self, option: Option) -> bool:
        """Whether these are more MIG instances like the first option's: they do not meet: their figures add up."""
        first = self._first
        more = option.site.sharing is Sharing.MIG and option.replicas != first.replicas
        return more and (option.site, option.kv_cache_tokens) == (first.site, first.kv_cache_tokens)

    def knee(self, option: Option) -> Knee:
        """The knee. Raises CannotPredictError where there is none."""
        found = self.find(option)
        if isinstance(found, NoKnee):
            raise CannotPredictError(found.reason)
        return found

    def held(self, option: Option) -> float:
        """Sequences of the workload's mean length whose KV cache one replica holds."""
        return self._pool(option) / self._question.workload.live_tokens

    def hits(self, option: Option) -> float:
        """Prefix hits of each replica: they shrink as its KV pool does, for each holds the shared prefixes itself.

        Modelled: requests are spread evenly and alike, so that a cache's hits depend on its size and not on how many
        requests it sees; in proportion below the pool that the stated rate is of.
        """
        rate, pool = self._question.workload.prefix_hit_rate, self._pool(self._first)
        return rate * min(1.0, self._pool(option) / pool) if rate else 0.0

    def predict(self, option: Option, in_flight: float, sequences: int) -> GpuPrediction:
        """All replicas of the option with so many requests in flight at each."""
        tenants = (self._tenant(option, in_flight, sequences),) * option.replicas
        question = self._question
        return _known(predict(tenants, option.site, question.constants, calibration=question.calibration))

    def _point(self, option: Option, batch: float) -> CurvePoint:
        question = self._question
        tenants = (self._tenant(option, batch, ceil(batch)),) * option.replicas
        rate = _known(rates(tenants, option.site, question.constants, calibration=question.calibration))[0]
        return CurvePoint(
            batch=batch,
            throughput_tok_s=rate.throughput_tok_s * option.replicas,
            itl_s=rate.itl_s,
            ttft_s=rate.ttft_s,
            energy_j_per_token=self._energy(option, batch),
        )

    def _repeated(self, option: Option, batch: float) -> CurvePoint:
        first = self.curve(self._first).at(batch)
        return CurvePoint(
            batch=batch,
            throughput_tok_s=first.throughput_tok_s / self._first.replicas * option.replicas,
            itl_s=first.itl_s,
            ttft_s=first.ttft_s,
            energy_j_per_token=self._energy(option, batch),
        )

    def _energy(self, option: Option, batch: float) -> float | None:
        """Joules an output token, where the objective is to have few of them."""
        if self._question.objective is not Objective.ENERGY:
            return None
        return self.predict(option, batch, ceil(batch)).energy_j_per_token.expected

    def _tenant(self, option: Option, in_flight: float, sequences: int) -> Tenant:
        question = self._question
        return Tenant(
            model=question.model,
            in_flight=in_flight,
            kv_cache_tokens=self._pool(option),
            max_num_seqs=sequences,
            max_num_batched_tokens=max(question.max_num_batched_tokens, sequences),
            kv_element_bytes=question.kv_element_bytes,
            enforce_eager=question.enforce_eager,
            cpu_cores=question.cpu_cores,
            input_tokens=question.workload.input_tokens,
            output_tokens=question.workload.output_tokens,
            prefix_hit_rate=self.hits(option),
        )

    def _pool(self, option: Option) -> int:
        """Tokens."""
        if self._endless:
            return ceil(self._question.most_num_seqs * self._question.workload.live_tokens)
        return option.kv_cache_tokens


_Known = TypeVar("_Known")


def _known(answer: _Known | Unpredictable) -> _Known:
    if isinstance(answer, Unpredictable):
        raise CannotPredictError(answer.reason)
    return answer


def _without_load(question: Question) -> Question:
    workload = replace(question.workload, in_flight=None, request_rate=None)
    return replace(question, workload=workload, replicas=1)
