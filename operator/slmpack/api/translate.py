"""From an accepted resource to the planner's Demand, or to every problem that a schema cannot see.

The schema knows shapes; here the engine's version, flags and environment are judged by the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from slmpack.api.load_spec import BoundsSpec, WorkloadSpec, seconds
from slmpack.api.scaling_spec import to_scaling
from slmpack.api.v1alpha1 import SLMDeployment, SLMDeploymentSpec
from slmpack.domain.engine import ArgsResult, EngineProblem, EngineTable, EngineVersion, check_env, normalise_args
from slmpack.domain.engine_version import parse_engine_version
from slmpack.domain.model import ModelProfile
from slmpack.domain.profile import Profile
from slmpack.domain.quantity import GIB, parse_bytes, parse_millicores
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Mode, WhenFull
from slmpack.domain.snapshot import Demand, ModelUnknown, Rejected, Toleration
from slmpack.domain.spec_hash import spec_hash
from slmpack.domain.workload import Bounds, Objective, Workload

__all__ = ["DEFAULT_CPU_MILLICORES", "DEFAULT_MEMORY_BYTES", "Known", "translate"]

DEFAULT_CPU_MILLICORES = 1500
"""A V1 engine keeps 0.9 to 1.4 cores busy (architecture D6a)."""
DEFAULT_MEMORY_BYTES = 4 * GIB
"""Resident memory of a vLLM server's processes without its weights was 3.05 GB (facts-vllm.md D)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the spec refers to, as far as it is known now."""

    model: ModelProfile | ModelUnknown
    priority: int = 0
    """The value of the pod's PriorityClass."""
    profile: Profile | Problem | None = None
    """What spec.profileRef leads to; None without one."""


def translate(resource: SLMDeployment, *, known: Known, engines: EngineTable) -> Demand | Rejected:
    """The demand, or all problems at once."""
    spec = resource.spec
    version = parse_engine_version(spec.engine.image, spec.engine.version)
    if isinstance(version, EngineProblem):
        return Rejected(problems=(_unsupported(version), *_env_problems(spec)), replicas=_fixed(spec))
    args = normalise_args(spec.engine.args, version, engines)
    problems = (*(_invalid(p) for p in args.problems), *_args_conflicts(args), *_env_problems(spec))
    if problems:
        return Rejected(problems=problems, replicas=_fixed(spec))
    return _demand(resource, version, args.args, known=known)


def _demand(
    resource: SLMDeployment,
    version: EngineVersion,
    args: tuple[tuple[str, str | None], ...],
    *,
    known: Known,
) -> Demand:
    spec = resource.spec
    template: dict[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return Demand(
        replicas=_most(spec),
        scaling=None if spec.scaling is None else to_scaling(spec.scaling),
        spec_hash=spec_hash(template),
        model_source=spec.model.source,
        model=known.model,
        engine_version=version,
        engine_image=spec.engine.image,
        engine_args=args,
        max_model_len=spec.engine.max_model_len,
        startup_budget=timedelta(seconds=spec.engine.startup_timeout_seconds),
        mode=Mode(spec.sharing.mode),
        max_per_gpu=spec.sharing.max_per_gpu,
        sm_percent=spec.sharing.sm_percent,
        when_full=WhenFull(spec.sharing.when_full),
        gpu_products=frozenset(product.replace(" ", "-") for product in spec.sharing.gpu_products),
        tolerations=tuple(
            Toleration(key=t.key, operator=t.operator, value=t.value, effect=t.effect or "")
            for t in spec.sharing.tolerations
        ),
        node_selector=spec.pod.node_selector,
        cpu_millicores=_requested(spec, "cpu", DEFAULT_CPU_MILLICORES),
        memory_bytes=_requested(spec, "memory", DEFAULT_MEMORY_BYTES),
        priority=known.priority,
        workload=_workload(spec.workload, most=_longest(spec, known.model)),
        objective=Objective(spec.objective),
        bounds=_bounds(spec.bounds),
        profile=known.profile,
        template=template,
    )


def _fixed(spec: SLMDeploymentSpec) -> int | None:
    """How many replicas the user wants; None where that is decided by what is measured."""
    return _most(spec) if spec.scaling is None else None


def _most(spec: SLMDeploymentSpec) -> int:
    """The fixed number, 1 where none is given (D3); with scaling the most, until it is decided."""
    if spec.scaling is not None:
        return spec.scaling.max
    return 1 if spec.replicas is None else spec.replicas


def _workload(spec: WorkloadSpec, *, most: int | None) -> Workload:
    """Lengths that nobody stated are no longer together than a request may be."""
    inputs, outputs = spec.input_tokens, spec.output_tokens
    if most is not None and inputs + outputs > most and not spec.model_fields_set & {"input_tokens", "output_tokens"}:
        inputs, outputs = max(1, most * 2 // 3), max(1, most // 3)
    return Workload(
        in_flight=spec.in_flight,
        request_rate=spec.request_rate,
        input_tokens=inputs,
        output_tokens=outputs,
        prefix_hit_rate=spec.prefix_hit_rate,
    )


def _longest(spec: SLMDeploymentSpec, model: ModelProfile | ModelUnknown) -> int | None:
    """Tokens that a request may have, where that is known."""
    positions = None if isinstance(model, ModelUnknown) else model.max_positions
    return min((length for length in (spec.engine.max_model_len, positions) if length is not None), default=None)


def _bounds(spec: BoundsSpec) -> Bounds:
    return Bounds(
        ttft_s=None if spec.ttft is None else seconds(spec.ttft), itl_s=None if spec.itl is None else seconds(spec.itl)
    )


def _requested(spec: SLMDeploymentSpec, name: str, default: int) -> int:
    """What the scheduler will count: the request, else the limit (as the API server defaults it), else ours."""
    resources = spec.pod.resources
    for amounts in (resources.requests, resources.limits):
        if name in amounts:
            return _parse(name, amounts)
    return default


def _parse(name: str, amounts: Mapping[str, int | str]) -> int:
    return parse_millicores(amounts[name]) if name == "cpu" else parse_bytes(amounts[name])


_PAIRS = (
    ("--enable-auto-tool-choice", "--tool-call-parser"),
    ("--enable-log-outputs", "--enable-log-requests"),
)
"""Flags that vLLM 0.32 refuses at its start without the other (docs/engine-test.md)."""


def _args_conflicts(args: ArgsResult) -> tuple[Problem, ...]:
    """Pairs of flags that vLLM refuses together, or one without the other."""
    given = dict(args.args)
    missing = [(flag, needed) for flag, needed in _PAIRS if flag in given and needed not in given]
    alone = tuple(
        _invalid(
            EngineProblem(field=f"spec.engine.args[{flag[2:]}]", message=f"{flag} needs {needed} beside it; add it")
        )
        for flag, needed in missing
    )
    batched, seqs = given.get("--max-num-batched-tokens"), given.get("--max-num-seqs")
    if batched and seqs and int(batched) < int(seqs):
        field = "spec.engine.args[max-num-batched-tokens]"
        message = f"{field}: {batched} is less than max-num-seqs {seqs}; vLLM needs at least as many"
        return (Problem(reason=Reason.INVALID_SPEC, field=field, message=message), *alone)
    return alone


def _env_problems(spec: SLMDeploymentSpec) -> tuple[Problem, ...]:
    return tuple(_invalid(problem) for problem in check_env(env.name for env in spec.pod.env))


def _invalid(problem: EngineProblem) -> Problem:
    return Problem(reason=Reason.INVALID_SPEC, field=problem.field, message=f"{problem.field}: {problem.message}")


def _unsupported(problem: EngineProblem) -> Problem:
    return Problem(reason=Reason.UNSUPPORTED_ENGINE, field=problem.field, message=f"{problem.field}: {problem.message}")
