"""`slmpack estimate` for people: the answer in one sentence, the memory, the curve with its knee, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slmpack.cli.curve_picture import CurvePicture, PicturePoint, draw_curve
from slmpack.cli.draw import UNICODE, glyphs_of
from slmpack.cli.estimate_json import answered, engine_flags, grows
from slmpack.cli.estimated import Estimate
from slmpack.cli.figures import MS, SHARING, between, figure, say, short_name, shown
from slmpack.domain.choice import BoundsNotKept, Choice
from slmpack.domain.footprint import estimate_terms, explain_terms
from slmpack.domain.part import Part
from slmpack.domain.performance import predict
from slmpack.domain.prediction import GpuPrediction, Sharing
from slmpack.domain.quantity import GIB
from slmpack.domain.sharing import MpsShare
from slmpack.domain.wording import format_ms, format_number, number_of

__all__ = ["picture_of", "print_estimate", "print_rows"]

BATCHES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
"""Rows of the curve; the knee is another."""


def print_estimate(console: Console, estimate: Estimate) -> None:
    """Everything about one GPU."""
    say(console, _sentence(estimate), style="bold")
    console.print()
    _print_memory(console, estimate)
    picture = picture_of(estimate)
    if picture is not None:
        console.print()
        say(console, picture.title)
        for line in draw_curve(picture, width=console.width, unicode=glyphs_of(console) is UNICODE):
            console.print(Text(line, no_wrap=True, overflow="crop"))
    choice = estimate.decision.choice
    if isinstance(choice, Choice):
        console.print()
        _print_choice(console, estimate, choice)
    elif isinstance(choice, BoundsNotKept):
        say(console, estimate.why_nothing, indent=2, style="red")
    elif estimate.decision.part.fits:
        say(console, f"what pays cannot be told: {estimate.why_nothing}", indent=2, style="yellow")


def print_rows(console: Console, estimates: Sequence[Estimate], *, refused: Mapping[str, str]) -> None:
    """One row for each GPU, and below why some have no figures, or (`refused`, by GPU) no row."""
    first = estimates[0]
    workload = first.ask.workload
    load = "assumed load: replicas x knee" if first.assumed else "load as given"
    what = f"{first.subject.name} on vLLM {first.subject.version}, one GPU of each kind"
    how = f"{load}, {workload.input_tokens} tokens in, {workload.output_tokens} out; every figure is an estimate"
    say(console, f"{what} ({how})", style="bold")
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True)
    carried = () if first.assumed else ("served",)
    for heading in ("GPU", "KV tok", "knee", "repl.", "tok/s", "J/tok", *carried, "shared by"):
        table.add_column(heading, justify="left" if heading in {"GPU", "shared by"} else "right", no_wrap=True)
    whys: dict[str, list[str]] = {}
    for estimate in estimates:
        table.add_row(*_row(estimate))
        if not isinstance(estimate.decision.choice, Choice):
            gpu = estimate.decision.part.cut.site.gpu.id
            whys.setdefault(estimate.why_nothing.removeprefix(f"gpu {gpu}: "), []).append(gpu)
    console.print(table)
    for estimate in estimates:
        if estimate.left_out:
            whys.setdefault(estimate.left_out, []).append(estimate.decision.part.cut.site.gpu.id)
    for left, why in refused.items():
        whys.setdefault(f"left out: {why}", []).append(left)
    for why, gpus in whys.items():
        say(console, f"{', '.join(gpus)}: {why}", indent=2)


def picture_of(estimate: Estimate) -> CurvePicture | None:
    """One replica against its batch while all that pay run; None where nothing can be said."""
    choice, part = estimate.decision.choice, estimate.decision.part
    if not isinstance(choice, Choice):
        return None
    held = max(1.0, part.room.kv_cache_tokens / estimate.ask.workload.live_tokens)
    most = min(held, part.settings.max_num_batched_tokens)  # vLLM runs no more sequences than tokens of a step
    batches = sorted({batch for batch in BATCHES if batch <= most} | {choice.knee.batch})
    points = [point for batch in batches if (point := _point(estimate, choice, batch)) is not None]
    beside = "" if choice.replicas_per_gpu == 1 else f", {choice.replicas_per_gpu} running"
    workload = choice.workload
    return CurvePicture(
        title=(
            f"One replica of {short_name(estimate.subject.name)} on {part.cut.site.gpu.id}{beside}:"
            f" {workload.input_tokens} tokens in, {workload.output_tokens} out, {points[0].itl_ms.basis.value}"
        ),
        points=tuple(points),
        knee=choice.knee.batch,
        itl_limit_ms=estimate.asked.itl_ms,
    )


def _point(estimate: Estimate, choice: Choice, batch: int) -> PicturePoint | None:
    """One of the replicas with as many requests as it may run at a time."""
    part = replace(estimate.decision.part, sequences=batch)
    tenant = part.tenant(choice.workload, in_flight=batch, prefix_hit_rate=choice.prefix_hit_rate)
    found = predict((tenant,) * choice.replicas_per_gpu, part.cut.site, estimate.ask.constants)
    if not isinstance(found, GpuPrediction):
        return None
    one = found.tenants[0]
    return PicturePoint(batch=batch, throughput_tok_s=one.throughput_tok_s, itl_ms=one.itl_s.scaled(MS))


def _sentence(estimate: Estimate) -> str:
    """The answer in one sentence."""
    part, choice = estimate.decision.part, estimate.decision.choice
    where = f"{short_name(estimate.subject.name)} on one {part.cut.site.gpu.id}"
    need = f"{part.room.needed_bytes / GIB:.2f} GiB"
    if not part.fits:
        return f"{where}: does not fit; a replica needs {need} (estimate)"
    if isinstance(choice, BoundsNotKept):
        limit, alone = format_ms(choice.limit_s), format_ms(choice.alone_s)
        return (
            f"{where}: cannot keep the {choice.what} under {limit}; at one sequence at a time it is {alone} (estimate)"
        )
    if not isinstance(choice, Choice):
        return f"{where}: fits, needs {need} (estimate); what pays cannot be told"
    count = choice.replicas_per_gpu
    pays = f"{number_of(count)} pay{'s' if count == 1 else ''}"
    each = "it needs" if count == 1 else "each needs"
    return f"{where}: {pays} ({_way(estimate)}); {each} {need} at least; knee at batch {choice.knee.batch} (estimate)"


def _way(estimate: Estimate) -> str:
    site = estimate.decision.part.cut.site
    return f"MIG {site.mig_profile.name}" if site.mig_profile else SHARING[site.sharing.value]


def _print_memory(console: Console, estimate: Estimate) -> None:
    part, engine = estimate.decision.part, estimate.ask.engine
    footprint, room = part.footprint, part.room
    head = (
        f"one replica on vLLM {estimate.subject.version}, {engine.max_model_len:,} tokens at most,"
        f" {part.sequences} sequences at a time (estimate, {footprint.basis})"
    )
    say(console, head, indent=2)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    terms = estimate_terms(engine.model, engine.serving(part.sequences), runtime=engine.runtime)
    for row in explain_terms(footprint, terms):
        if row.label.startswith("KV cache"):
            continue
        low, high = _gib(row.spread.low), _gib(row.spread.high)
        spread = f"{low} to {high}" if low != high else ""
        table.add_row(f"    {row.label}", f"{_gib(row.planned_bytes)} GiB", spread, row.note)
    per_token = f"{room.kv_cache_tokens:,} tokens of {footprint.kv_bytes_per_token:,} B (exact)"
    per_token = per_token if footprint.kv_bytes_per_token else "none: this model keeps none"
    table.add_row("    KV cache", f"{_gib(room.kv_cache_bytes)} GiB", "", per_token)
    asked = f"utilisation {room.gpu_memory_utilization:g}: vLLM's budget"
    table.add_row("    asked for", f"{_gib(room.requested_bytes)} GiB", "", asked, style="bold")
    table.add_row("    needed", f"{_gib(room.needed_bytes)} GiB", "", _least(part), style="bold")
    limit = part.cut.limit_bytes
    size = "no limit" if limit is None else f"{_gib(limit)} GiB"
    table.add_row("    share", size, "", part.cut.enforcement, style="bold")
    console.print(table)
    for warning in estimate.warnings:
        say(console, f"warning: {warning}", indent=2, style="yellow")
    if room.shortfall is not None:
        say(console, room.shortfall, indent=2, style="red")
    elif not isinstance(estimate.decision.choice, BoundsNotKept):
        flags = (flag if value is None else f"{flag}={value}" for flag, value in engine_flags(estimate).items())
        say(console, f"flags: {' '.join(flags)}", indent=2)
        _print_ceiling(console, part)


def _least(part: Part) -> str:
    """What the least that a share must have is for."""
    room = part.room
    if room.needed_bytes > part.footprint.total_bytes(room.kv_tokens):
        return "at least, of the share: while the weights load"
    return f"at least, of the share: with a KV cache of {room.kv_tokens:,} tokens"


def _print_ceiling(console: Console, part: Part) -> None:
    """What is assumed of the multiprocessors under MPS, as `plan` assumes the device plugin's ceiling."""
    share, site = part.cut.share, part.cut.site
    if site.sharing is Sharing.MPS and isinstance(share, MpsShare) and share.replicas > 1 and site.sm_percent is None:
        ceiling = f"--sm-percent {100 // share.replicas}"
        say(console, f"no SM ceiling assumed; the device plugin sets 100 / replicas %: {ceiling}", indent=2)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _print_choice(console: Console, estimate: Estimate, choice: Choice) -> None:
    """What is predicted under the load, why, and what lost."""
    whole = choice.prediction
    one = whole.tenants[0]
    load = f"under the {'assumed ' if estimate.assumed else ''}load, all replicas together (low to high, basis):"
    lines = [load]
    rows = (
        (figure(whole.throughput_tok_s), "output tokens/s"),
        (figure(one.itl_s, scale=MS), "ms ITL"),
        (figure(one.ttft_s, scale=MS), "ms TTFT"),
        (figure(whole.power_w), "W"),
        (figure(whole.energy_j_per_token), "J/output token"),
    )
    for found, unit in rows:
        if grows(choice) and "TTFT" in unit:
            lines.append("  TTFT grows without end")
        else:
            lines.append(f"  {shown(found)} {unit} ({between(found)}, {found['basis']})")
    lines.append("because:")
    lines += [f"  {reason}" for reason in choice.reasons]
    second = choice.runner_up
    count = number_of(second.replicas_per_gpu)
    lines.append(f"runner-up: {count} at batch {second.max_num_seqs}, {second.throughput_tok_s:,.0f} output tokens/s")
    if not any(second.reason in reason for reason in choice.reasons):
        lines.append(f"  {second.reason}")
    for line in lines:
        say(console, line, indent=4 if line.startswith(" ") else 2)


def _row(estimate: Estimate) -> tuple[str, ...]:
    part, choice = estimate.decision.part, estimate.decision.choice
    gpu, carried = part.cut.site.gpu.id, () if estimate.assumed else ("?",)
    if not part.fits:
        return gpu, "-", "-", "-", "-", "-", *("-" for _ in carried), "does not fit"
    tokens = _tokens(part)
    if isinstance(choice, BoundsNotKept):
        return gpu, tokens, "-", "-", "-", "-", *("no" for _ in carried), f"{choice.what} not kept"
    if not isinstance(choice, Choice):
        return gpu, tokens, "?", "?", "?", "?", *carried, "not known"
    prediction = choice.prediction
    return (
        gpu,
        tokens,
        str(choice.knee.batch),
        str(choice.replicas_per_gpu),
        shown(figure(prediction.throughput_tok_s)),
        shown(figure(prediction.energy_j_per_token)),
        *(_carried(choice) for _ in carried),
        _way(estimate),
    )


def _tokens(part: Part) -> str:
    """Of the KV cache, in thousands."""
    tokens = part.room.kv_cache_tokens
    if not part.footprint.kv_bytes_per_token:
        return "none"
    return f"{tokens // 1000:,}k" if tokens >= 1000 else str(tokens)


def _carried(choice: Choice) -> str:
    """Whether the load is; of a request rate that is not, how many requests a second are answered."""
    if choice.carries:
        return "yes"
    return f"{format_number(answered(choice).expected)}/s" if grows(choice) else "no"
