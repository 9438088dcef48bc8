"""`slmpack estimate`: what a replica needs, how many of them pay on one GPU, with which flags, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from slmpack.adapters.policy import load_policy
from slmpack.cli.curve_picture import write_png
from slmpack.cli.estimate_json import estimate_to_json, rows_to_json
from slmpack.cli.estimate_text import picture_of, print_estimate, print_rows
from slmpack.cli.estimated import Estimate, estimate_on
from slmpack.cli.printing import printer
from slmpack.cli.question import Asked, cannot_cut, find_gpu, read_subject
from slmpack.domain.cut import CannotCut, Cut
from slmpack.domain.decide import ways_of
from slmpack.domain.gpu import GpuModel
from slmpack.domain.snapshot import Policy

__all__ = ["answer_estimate"]


def answer_estimate(asked: Asked, *, all_gpus: bool, png: str | None, output: str) -> int:
    """Print the estimate and return the exit code. Raises click.ClickException where it cannot be asked."""
    asked.check()
    policy = load_policy()
    console = printer()
    if all_gpus:
        if asked.gpu is not None or png is not None:
            flag = "--gpu" if asked.gpu is not None else "--png"
            raise click.UsageError(f"--all-gpus and {flag} exclude each other; keep one of them")
        estimates, refused = _everywhere(asked, policy)
        if output == "json":
            click.echo(json.dumps(rows_to_json(estimates), indent=2))
        else:
            print_rows(console, estimates, refused=refused)
        return min(estimate.code for estimate in estimates)
    ways = _ways(asked, find_gpu(asked.gpu, instead="; or compare all of them with --all-gpus"))
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
    return estimate.code


def _everywhere(asked: Asked, policy: Policy) -> tuple[list[Estimate], dict[str, str]]:
    """Every GPU of the catalogue that can be shared as asked, and why the others cannot."""
    if asked.mig_profile is not None:
        raise click.UsageError("--all-gpus and --mig-profile exclude each other: GPUs have different profiles")
    subject = read_subject(asked, policy)
    ways = {gpu.id: _ways(asked, gpu) for gpu in policy.gpus.models}
    refused = {gpu: way for gpu, way in ways.items() if isinstance(way, CannotCut)}
    if len(refused) == len(ways):
        raise cannot_cut(list(refused.values())[-1])
    found = [estimate_on(asked, subject, rows, policy) for rows in ways.values() if not isinstance(rows, CannotCut)]
    return found, {gpu: _briefly(gpu, way) for gpu, way in refused.items()}


def _briefly(gpu: str, refused: CannotCut) -> str:
    """Alike for GPUs that lack the same."""
    if refused.field == "mig_profile":
        return "the memory of its MIG instances is not in the catalogue"
    return refused.message.partition(";")[0].removeprefix(f"{gpu} ")


def _ways(asked: Asked, gpu: GpuModel) -> Sequence[Sequence[Cut]] | CannotCut:
    return ways_of(
        gpu,
        asked.mechanism,
        mig_profile=asked.mig_profile,
        replicas=asked.replicas,
        sm_percent=asked.sm_percent,
    )
