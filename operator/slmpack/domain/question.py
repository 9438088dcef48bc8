"""What is to be decided for one GPU, and the modelled curves and knees that decide it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal, TypeVar

from slmpack.domain.calibration import Calibration
from slmpack.domain.curve import Curve, CurvePoint
from slmpack.domain.knee import Binding, Knee, KneePolicy, NoKnee, find_knee
from slmpack.domain.paying import PayPolicy
from slmpack.domain.performance import Unpredictable, predict, rates
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import GpuPrediction, Sharing, Site, Tenant
from slmpack.domain.serving import Engine
from slmpack.domain.wording import format_ms
from slmpack.domain.workload import Bounds, Objective, Workload

__all__ = ["Ask", "BoundsNotKept", "CannotPredictError", "ChoicePolicy", "Curves", "Option", "Question"]


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
class Ask:
    """What one GPU is to serve."""

    engine: Engine
    constants: EngineConstants
    workload: Workload
    """Of the GPU as a whole, whatever runs there; with `spread_over`, of so many replicas together."""
    bounds: Bounds
    objective: Objective
    spread_over: int | None = None
    """Replicas over which a stated load is spread: R of them on the GPU face R / spread_over of it, at most all."""
    replicas: int | None = None
    """Replicas whose knees are assumed as the load where none is stated; None: as many as are judged."""
    assumed_in_flight: float | None = None
    """Requests in flight on the GPU that are assumed where none are stated; None: replicas * the knee of one."""
    reference_itl_s: float | None = None
    """ITL at the knee's reference batch of one replica on the whole GPU, where the options have parts of it.

    The ITL rule compares with this or, if that is less, with one replica of the first option.
    """
    calibration: Calibration | None = None
    """Of this model on this GPU, where a profile was measured."""

    @property
    def load_grows(self) -> bool:
        """Whether more replicas on the GPU bring more load."""
        if not self.workload.assumed:
            return self.spread_over is not None
        return self.replicas is None and self.assumed_in_flight is None

    def load(self, replicas: int) -> Workload:
        """What so many replicas on the GPU face together; without in_flight and request_rate where none is stated."""
        part = 1.0 if self.spread_over is None else min(1.0, replicas / self.spread_over)
        in_flight, rate = self.workload.in_flight, self.workload.request_rate
        return replace(
            self.workload,
            in_flight=None if in_flight is None else in_flight * part,
            request_rate=None if rate is None else rate * part,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be decided for one GPU."""

    ask: Ask
    options: tuple[Option, ...]
    """By rising number of replicas, at least one."""
    most_num_seqs: int
    """The largest batch to consider; where somebody gave one, that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundsNotKept:
    """A bound that the GPU keeps at no batch."""

    bound: Literal["itl", "ttft"]
    alone_s: float
    """What it is with one sequence at a time, the least there is."""
    limit_s: float

    @property
    def what(self) -> str:
        """The latency in capitals."""
        return self.bound.upper()

    @property
    def reason(self) -> str:
        """One sentence."""
        alone, limit = format_ms(self.alone_s), format_ms(self.limit_s)
        return f"No batch keeps the {self.what} under {limit}: at one sequence at a time it is {alone}."


class CannotPredictError(Exception):
    """Leaves a computation in the middle of a curve; `choose` turns it into a value."""

    def __init__(self, answer: Unpredictable | BoundsNotKept) -> None:
        super().__init__(answer.reason)
        self.answer = answer


class Curves:
    """The curves and knees of a question, computed as they are asked for; they hold for any load."""

    def __init__(self, question: Question, policy: ChoicePolicy) -> None:
        self._ask = question.ask
        self._most_num_seqs = question.most_num_seqs
        self._policy = policy
        self._curves: dict[int, Curve] = {}
        self._knees: dict[int, Knee | NoKnee] = {}
        self._first = question.options[0]
        """What the others are compared with."""
        self._endless = not question.ask.engine.model.kv_elements_per_token
        """A model without a KV cache is never short of it."""

    def reference_itl_s(self) -> float:
        """ITL of one replica alone at the reference batch."""
        own = self.curve(self._first).at(self._policy.knee.itl_reference_batch).itl_s
        return min(own, self._ask.reference_itl_s or own)

    def curve(self, option: Option) -> Curve:
        """All replicas of the option, against the batch of each."""
        if option.replicas not in self._curves:
            given = self._ask.engine.max_num_seqs
            compute = self._repeated if self._as_first(option) else self._point
            grid = self._policy.knee.grid if given is None else (*self._policy.knee.grid, given)
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
        if option.replicas != self._first.replicas or self._ask.reference_itl_s is not None:
            policy = replace(policy, reference_itl_s=self.reference_itl_s())
        bounds, limit = self._ask.bounds, self._most_num_seqs
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
            raise CannotPredictError(self._not_kept(option, found.broken) or Unpredictable(reason=found.reason))
        return found

    def _not_kept(self, option: Option, broken: Binding | None) -> BoundsNotKept | None:
        """The bound that one sequence at a time breaks, if it is that."""
        bounds, alone = self._ask.bounds, self.curve(option).at(1)
        if broken is Binding.ITL_BOUND and bounds.itl_s is not None:
            return BoundsNotKept(bound="itl", alone_s=alone.itl_s, limit_s=bounds.itl_s)
        if broken is Binding.TTFT_BOUND and bounds.ttft_s is not None and alone.ttft_s is not None:
            return BoundsNotKept(bound="ttft", alone_s=alone.ttft_s, limit_s=bounds.ttft_s)
        return None

    def held(self, option: Option) -> float:
        """Sequences of the workload's mean length whose KV cache one replica holds."""
        return self._pool(option) / self._ask.workload.live_tokens

    def hits(self, option: Option) -> float:
        """Prefix hits of each replica: they shrink as its KV pool does, for each holds the shared prefixes itself.

        Modelled: requests are spread evenly and alike, so that a cache's hits depend on its size and not on how many
        requests it sees; in proportion below the pool that the stated rate is of.
        """
        rate, pool = self._ask.workload.prefix_hit_rate, self._pool(self._first)
        return rate * min(1.0, self._pool(option) / pool) if rate else 0.0

    def predict(self, option: Option, in_flight: float, sequences: int) -> GpuPrediction:
        """All replicas of the option with so many requests in flight at each."""
        tenants, ask = self._tenants(option, in_flight, sequences), self._ask
        return _known(predict(tenants, option.site, ask.constants, calibration=ask.calibration))

    def _point(self, option: Option, batch: float) -> CurvePoint:
        tenants, ask = self._tenants(option, batch, ceil(batch)), self._ask
        rate = _known(rates(tenants, option.site, ask.constants, calibration=ask.calibration))[0]
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
        if self._ask.objective is not Objective.ENERGY:
            return None
        return self.predict(option, batch, ceil(batch)).energy_j_per_token.expected

    def _tenants(self, option: Option, in_flight: float, sequences: int) -> tuple[Tenant, ...]:
        tenant = self._ask.engine.tenant(
            self._ask.workload,
            in_flight=in_flight,
            sequences=sequences,
            kv_cache_tokens=self._pool(option),
            prefix_hit_rate=self.hits(option),
        )
        return (tenant,) * option.replicas

    def _pool(self, option: Option) -> int:
        """Tokens."""
        if self._endless:
            return ceil(self._most_num_seqs * self._ask.workload.live_tokens)
        return option.kv_cache_tokens


_Known = TypeVar("_Known")


def _known(answer: _Known | Unpredictable) -> _Known:
    if isinstance(answer, Unpredictable):
        raise CannotPredictError(answer)
    return answer
