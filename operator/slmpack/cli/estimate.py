"""`slmpack estimate`: what a replica needs, how many of them pay on one GPU, with which flags, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from slmpack.adapters.policy import load_policy
from slmpack.cli.curve_picture import write_png
from slmpack.cli.question import Asked, Subject, cannot_cut, find_gpu, read_subject
from slmpack.domain.decide import Ask, Decision, decide, ways_of
from slmpack.domain.engine_version import FIRST_SUPPORTED, FIRST_UNSUPPORTED
from slmpack.domain.gpu import GpuModel
from slmpack.domain.performance import Unpredictable
from slmpack.domain.prospect import own_hit_rate
from slmpack.domain.snapshot import Policy
from slmpack.domain.whatif import CannotCut, Cut

__all__ = ["DOES_NOT_FIT", "FITS", "Estimate", "answer_estimate", "estimate_on"]

FITS, DOES_NOT_FIT = 0, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The answer for one GPU."""

    asked: Asked
    subject: Subject
    ask: Ask
    decision: Decision
    hit_rate: float
    """Prefix hits of each replica that is chosen."""

    @property
    def assumed(self) -> bool:
        """Whether nobody gave a load."""
        return self.ask.workload.assumed

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before the figures are used."""
        found = []
        if not FIRST_SUPPORTED <= self.subject.version < FIRST_UNSUPPORTED:
            found.append(
                f"the operator does not start vLLM {self.subject.version}, only {FIRST_SUPPORTED} or later, before"
                f" {FIRST_UNSUPPORTED}; the figures are of the nearest generation that is known"
            )
        note = self.ask.engine.model.weights_note
        return (*found, note) if note else tuple(found)

    @property
    def why_nothing(self) -> str:
        """Why there is no choice."""
        choice = self.decision.choice
        return choice.reason if isinstance(choice, Unpredictable) else self.decision.part.room.shortfall or ""


def answer_estimate(asked: Asked, *, all_gpus: bool, png: str | None, output: str) -> int:
    """Print the estimate and return the exit code. Raises click.ClickException where it cannot be asked."""
    from slmpack.cli.estimate_json import estimate_to_json, rows_to_json
    from slmpack.cli.estimate_text import picture_of, print_estimate, print_rows

    asked.check()
    policy = load_policy()
    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    if all_gpus:
        if asked.gpu is not None or png is not None:
            flag = "--gpu" if asked.gpu is not None else "--png"
            raise click.UsageError(f"--all-gpus and {flag} exclude each other; keep one of them")
        estimates = _everywhere(asked, policy)
        if output == "json":
            click.echo(json.dumps(rows_to_json(estimates), indent=2))
        else:
            print_rows(console, estimates)
        return FITS if any(estimate.decision.part.fits for estimate in estimates) else DOES_NOT_FIT
    ways = _ways(asked, find_gpu(asked.gpu))
    if isinstance(ways, CannotCut):
        raise cannot_cut(ways)
    estimate = estimate_on(asked, read_subject(asked, policy), ways, policy)
    if png is not None:
        picture = picture_of(estimate)
        if picture is None:
            raise click.ClickException(f"--png {png}: there is no curve to draw; see the reasons without --png")
        write_png(picture, Path(png))
        click.echo(f"the curve is in {png}", err=True)
    if output == "json":
        click.echo(json.dumps(estimate_to_json(estimate), indent=2))
    else:
        print_estimate(console, estimate)
    return FITS if estimate.decision.part.fits else DOES_NOT_FIT


def estimate_on(asked: Asked, subject: Subject, rows: Sequence[Sequence[Cut]], policy: Policy) -> Estimate:
    """The answer for one GPU that can be cut in these ways."""
    engine = subject.engine
    ask = Ask(
        engine=engine,
        constants=policy.performance.constants_for(subject.version),
        workload=asked.workload(engine, replicas=asked.replicas or 1),
        bounds=asked.bounds,
        objective=asked.wanted_most,
        batch=asked.batch,
        replicas=asked.replicas,
    )
    decision = decide(ask, rows, policy=policy)
    hits = own_hit_rate(engine, decision.part, ask.workload, policy=policy)
    return Estimate(asked=asked, subject=subject, ask=ask, decision=decision, hit_rate=hits)


def _everywhere(asked: Asked, policy: Policy) -> list[Estimate]:
    """Every GPU of the catalogue that can be shared as asked."""
    if asked.mig_profile is not None:
        raise click.UsageError("--all-gpus and --mig-profile exclude each other: GPUs have different profiles")
    subject = read_subject(asked, policy)
    ways = [_ways(asked, gpu) for gpu in policy.gpus.models]
    refused = [way for way in ways if isinstance(way, CannotCut)]
    if len(refused) == len(ways):
        raise cannot_cut(refused[-1])
    return [estimate_on(asked, subject, rows, policy) for rows in ways if not isinstance(rows, CannotCut)]


def _ways(asked: Asked, gpu: GpuModel) -> Sequence[Sequence[Cut]] | CannotCut:
    return ways_of(
        gpu,
        asked.mechanism,
        mig_profile=asked.mig_profile,
        replicas=asked.replicas,
        sm_percent=asked.sm_percent,
    )
