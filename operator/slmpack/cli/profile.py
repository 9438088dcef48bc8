"""`slmpack profile`: sweep a live server, find its knee or say why not, write what an SLMDeployment can refer to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from slmpack.adapters.clock import SystemClock
from slmpack.adapters.openai_endpoint import OpenAiEndpoint, ServedModel
from slmpack.api.profile import PointDocument, ProfileDocument
from slmpack.cli.printing import printer
from slmpack.cli.profile_file import configmap_manifest, require_writable, resume, save, with_point, with_verdict
from slmpack.cli.profile_load import Shape
from slmpack.cli.profile_sweep import Limits, Sweep, SweepStoppedError, find_vocabulary, require_idle
from slmpack.cli.profile_text import ProgressTeller, plan_lines, print_profile, untold_lines
from slmpack.cli.question import find_gpu
from slmpack.domain.knee import GRID
from slmpack.domain.prediction import Sharing
from slmpack.domain.profile import FEWEST_POINTS
from slmpack.domain.profile_faults import FaultPolicy
from slmpack.ports import Clock, PortError

__all__ = ["Outcome", "ProfileOptions", "ProfileRun", "answer_profile"]

NAMED, REFUSED, INTERRUPTED = 0, 2, 130
LARGEST_BY_DEFAULT = 256
MOST_POLL_SECONDS = 0.5
LOOKS_A_REPEAT = 10
"""At the engine's metrics: a cap is told by what most of them find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """What `slmpack profile` can be told."""

    url: str
    model: str | None
    input_tokens: int
    output_tokens: int
    concurrency: tuple[int, ...] | None
    repeats: int
    min_seconds: float
    max_seconds: float
    point_seconds: float
    request_seconds: float
    gpu: str | None
    max_num_seqs: int | None
    replicas: int
    sharing: str | None
    out: Path | None
    configmap: str | None
    output: str
    dry_run: bool
    faults: FaultPolicy = field(default_factory=FaultPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a sweep ended."""

    document: ProfileDocument
    missing: tuple[int, ...]
    stopped: str | None
    """Why points are missing."""
    interrupted: bool = False


def answer_profile(options: ProfileOptions) -> int:
    """Sweep, print, write; the exit code. Raises click.ClickException where nothing can be measured."""
    options = replace(options, gpu=_gpu(options.gpu))
    run = ProfileRun(
        options, console=Console(stderr=True, highlight=False, emoji=False, markup=False), clock=SystemClock()
    )
    try:
        outcome = asyncio.run(_until_interrupted(run))
    except (SweepStoppedError, PortError) as error:
        raise click.ClickException(str(error)) from error
    if outcome is None:
        return NAMED
    _print(outcome, options)
    if outcome.interrupted:
        return INTERRUPTED
    return REFUSED if outcome.missing or outcome.document.knee is None else NAMED


async def _until_interrupted(run: ProfileRun) -> Outcome | None:
    """The sweep's own end, or what there is at Ctrl-C; a second Ctrl-C ends the process at once."""
    loop = asyncio.get_running_loop()
    sweeping = asyncio.create_task(run.play())

    def interrupt(number: int) -> None:
        loop.remove_signal_handler(number)
        sweeping.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        return await sweeping
    except asyncio.CancelledError:
        return run.outcome(stopped="interrupted", interrupted=True)


class ProfileRun:
    """One sweep from the first look at the server to its end."""

    def __init__(self, options: ProfileOptions, *, console: Console, clock: Clock) -> None:
        self._options, self._console, self._clock = options, console, clock
        self._document: ProfileDocument | None = None
        self._grid: tuple[int, ...] = ()

    async def play(self) -> Outcome | None:
        """Say what will be done and do it; None after a dry run. Raises SweepStoppedError and PortError."""
        options = self._options
        async with OpenAiEndpoint(options.url, token=_token(), request_seconds=options.request_seconds) as endpoint:
            document = self._document = resume(await _describe(endpoint, options), options.out)
            kept = tuple(point.concurrency for point in document.points)
            self._grid = tuple(size for size in _wanted(document, options.concurrency) if size not in kept)
            lines = plan_lines(document, url=endpoint.url, grid=self._grid, kept=kept, max_seconds=options.max_seconds)
            for line in (*lines, *untold_lines(endpoint.untold), *_warnings(document, options)):
                self._console.print(line, soft_wrap=True)
            if self._grid and options.out is not None:
                require_writable(document, options.out)
            if options.dry_run:
                return None
            return self.outcome(stopped=await self._sweep(endpoint, document) if self._grid else None)

    def outcome(self, *, stopped: str | None, interrupted: bool = False) -> Outcome:
        """What there is now. Raises SweepStoppedError where not even the server is known."""
        if self._document is None:
            raise SweepStoppedError("interrupted before the server had answered")
        there = {point.concurrency for point in self._document.points}
        return Outcome(
            document=with_verdict(self._document),
            missing=tuple(size for size in self._grid if size not in there),
            stopped=stopped,
            interrupted=interrupted,
        )

    async def _sweep(self, endpoint: OpenAiEndpoint, document: ProfileDocument) -> str | None:
        options, model = self._options, document.served_name or document.model
        await require_idle(endpoint)
        vocabulary = await find_vocabulary(endpoint, model=model)
        with ProgressTeller(self._console, grid=self._grid, repeats=options.repeats) as teller:
            sweep = Sweep(
                endpoint=endpoint,
                model=model,
                max_num_seqs=options.max_num_seqs,
                shape=Shape(
                    input_tokens=options.input_tokens,
                    output_tokens=options.output_tokens,
                    repeats=options.repeats,
                    min_seconds=options.min_seconds,
                    vocabulary=vocabulary,
                ),
                limits=Limits(
                    max_seconds=options.max_seconds,
                    point_seconds=options.point_seconds,
                    poll_seconds=min(MOST_POLL_SECONDS, options.min_seconds / LOOKS_A_REPEAT),
                    faults=options.faults,
                ),
                keep=partial(self._keep, document),
                teller=teller,
            )
            return await sweep.run(self._grid)

    def _keep(self, document: ProfileDocument, point: PointDocument) -> None:
        self._document = with_point(self._document or document, point, now=self._clock.now())
        if self._options.out is not None:
            save(self._document, self._options.out)


def _token() -> str | None:
    """The server's key. Raises SweepStoppedError, which does not show it, where no header can carry it."""
    token = os.environ.get("OPENAI_API_KEY") or None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise SweepStoppedError(
            "OPENAI_API_KEY: has a line break or another character that no HTTP header can carry; set it to the key"
            " alone, as printable ASCII"
        )
    return token


def _gpu(text: str | None) -> str | None:
    """As the planner compares it: a label stays, an id in any case becomes the catalogue's. Raises click.UsageError."""
    if text is None:
        return None
    gpu = find_gpu(text)
    return text if text in gpu.product_labels else gpu.id


def _warnings(document: ProfileDocument, options: ProfileOptions) -> list[str]:
    if options.configmap is None or document.gpu is not None:
        return []
    why = "a profile that does not say its GPU calibrates nothing; add --gpu, for example --gpu l4"
    return [f"Warning: --configmap without --gpu: {why}."]


async def _describe(endpoint: OpenAiEndpoint, options: ProfileOptions) -> ProfileDocument:
    """A profile without points: the server's word and the user's."""
    served = _chosen(await endpoint.models(), options.model)
    needed = options.input_tokens + options.output_tokens
    if served.max_model_len is not None and needed > served.max_model_len:
        raise SweepStoppedError(
            f"--input-len {options.input_tokens} and --output-len {options.output_tokens} make {needed} tokens, the"
            f" server takes {served.max_model_len} (max-model-len); ask for less"
        )
    engine = await endpoint.sample()
    return ProfileDocument(
        apiVersion="slmpack.dev/v1alpha1",
        kind="Profile",
        model=served.root,
        served_name=served.name,
        gpu=options.gpu,
        engine_version=await endpoint.version(),
        sharing=Sharing(options.sharing) if options.sharing else None,
        replicas=options.replicas,
        max_num_seqs=options.max_num_seqs,
        max_model_len=served.max_model_len,
        kv_cache_tokens=engine.kv_cache_tokens if engine else None,
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        repeats=options.repeats,
        min_seconds=options.min_seconds,
        points=(),
    )


def _chosen(models: tuple[ServedModel, ...], name: str | None) -> ServedModel:
    found = next((model for model in models if name in {None, model.name}), None)
    if found is None:
        names = ", ".join(model.name for model in models)
        raise SweepStoppedError(f"--model {name}: the server has {names}; name one of them")
    return found


def _wanted(document: ProfileDocument, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    """The grid: as asked, else to 256 as far as the engine can run so many at a time."""
    if asked is not None:
        return asked
    live = document.input_tokens + document.output_tokens / 2
    room = [LARGEST_BY_DEFAULT, document.max_num_seqs or LARGEST_BY_DEFAULT]
    if document.kv_cache_tokens is not None:
        room.append(max(1, int(document.kv_cache_tokens / live)))
    return tuple(size for size in GRID if size <= min(room))


def _print(outcome: Outcome, options: ProfileOptions) -> None:
    """The result on standard output, or beside it where that is for kubectl; what is missing on standard error."""
    document = outcome.document
    if options.output == "json":
        click.echo(document.model_dump_json(indent=2))
    else:
        beside = options.configmap is not None
        console = printer(sys.stderr if beside else None)
        print_profile(console, document)
    if outcome.missing:
        sizes = ", ".join(map(str, outcome.missing))
        again = f"; the same command goes on from {options.out}" if options.out else ""
        click.echo(f"Not measured: {sizes} in flight: {outcome.stopped}{again}", err=True)
    if options.configmap is None:
        return
    usable = sum(not point.faults for point in document.points)
    if usable < FEWEST_POINTS:
        raise click.ClickException(
            f"--configmap {options.configmap}: {usable} points can be used, {FEWEST_POINTS} are needed; none is printed"
        )
    click.echo(configmap_manifest(document, name=options.configmap), nl=False)
