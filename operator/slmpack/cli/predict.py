"""`slmpack predict`: throughput, latency and power of replicas on one GPU, as the model has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from slmpack.adapters.policy import load_policy
from slmpack.cli.figures import (
    MS,
    SHARING,
    between,
    exact,
    figure,
    say,
    short_name,
    shown,
    weighted,
    workload_figures,
    yes_no,
)
from slmpack.cli.pack_file import read_pack
from slmpack.cli.printing import printer
from slmpack.cli.question import Asked
from slmpack.cli.scenario import Group, Scenario, read_scenario
from slmpack.domain.interval import Basis, Interval
from slmpack.domain.performance import Unpredictable
from slmpack.domain.prediction import GpuPrediction, TenantPrediction
from slmpack.domain.quantity import format_bytes
from slmpack.domain.wording import format_number

__all__ = ["FEASIBLE", "NOT_FEASIBLE", "answer_predict"]

Json = dict[str, Any]
FEASIBLE, NOT_FEASIBLE = 0, 2
ROWS = (
    ("throughput_tok_s", "throughput", "output tokens/s"),
    ("itl_ms", "ITL, mean", "ms"),
    ("itl_p99_ms", "ITL, p99", "ms"),
    ("ttft_ms", "TTFT, mean", "ms"),
    ("power_w", "power", "W"),
    ("energy_j_per_token", "energy", "J/output token"),
    ("effective_batch", "batch", "sequences a replica"),
    ("preemption", "preempted", "part of the requests"),
)
FIGURES = tuple(key for key, _, _ in ROWS)
OF_A_TENANT = tuple(key for key in FIGURES if key not in {"power_w", "energy_j_per_token"})


def answer_predict(asked: Asked, *, pack: str | None, output: str) -> int:
    """Print the prediction and return the exit code. Raises click.ClickException where it cannot be asked."""
    if pack is not None and (asked.model is not None or asked.config is not None):
        raise click.UsageError("--pack names the models; leave MODEL and --config out")
    found = None if pack is None else read_pack(Path(pack), asked)
    policy = load_policy()
    scenario = read_scenario(asked, found, policy)
    answer = _to_json(scenario)
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
    else:
        _print(printer(), scenario, answer)
    return FEASIBLE if answer["feasible"]["value"] else NOT_FEASIBLE


def _to_json(scenario: Scenario) -> Json:
    site, known = scenario.site, list(_known(scenario))
    return {
        "gpu": site.gpu.id,
        "sharing": site.sharing.value,
        "mig_profile": site.mig_profile.name if site.mig_profile else None,
        "sm_percent": site.sm_percent,
        "replicas": scenario.replicas,
        "engine_version": str(scenario.groups[0].subject.version),
        **_figures(scenario, known),
        "feasible": _feasible(scenario, known),
        "reasons": list(_reasons(scenario, known)),
        "tenants": [_tenant(group, own, steady=scenario.steady) for group, own in _by_group(scenario)],
    }


def _by_group(scenario: Scenario) -> Iterator[tuple[Group, TenantPrediction | None]]:
    """Each group with the prediction of one of its replicas; None where nothing can be said."""
    first = 0
    for group in scenario.groups:
        prediction = scenario.prediction
        yield group, prediction.tenants[first] if isinstance(prediction, GpuPrediction) and scenario.fits else None
        first += group.replicas


def _known(scenario: Scenario) -> Iterator[tuple[Group, TenantPrediction]]:
    return ((group, own) for group, own in _by_group(scenario) if own is not None)


Known = list[tuple[Group, TenantPrediction]]


def _figures(scenario: Scenario, known: Known) -> Json:
    """Of the GPU: latencies are means over its requests, the tail is the worst replica's."""
    prediction = scenario.prediction
    if not known or not isinstance(prediction, GpuPrediction):
        return dict.fromkeys(FIGURES)
    by_token = [(group.replicas * own.throughput_tok_s.expected, own) for group, own in known]
    by_request = [
        (weight / group.workload.output_tokens, own) for (weight, own), (group, _) in zip(by_token, known, strict=True)
    ]
    by_replica = [(float(group.replicas), own) for group, own in known]
    batch = weighted((weight, exact(own.effective_batch)) for weight, own in by_replica)
    worst = max((own.itl_p99_s for _, own in known), key=lambda tail: tail.expected)
    return {
        "throughput_tok_s": figure(prediction.throughput_tok_s),
        "itl_ms": figure(weighted((weight, own.itl_s) for weight, own in by_token), scale=MS),
        "itl_p99_ms": figure(worst, scale=MS),
        # a queue that grows without end has no mean wait
        "ttft_ms": figure(weighted(((w, own.ttft_s) for w, own in by_request)), scale=MS) if scenario.steady else None,
        "power_w": figure(prediction.power_w),
        "energy_j_per_token": figure(prediction.energy_j_per_token),
        "effective_batch": figure(batch),
        "preemption": figure(weighted((weight, own.preemption) for weight, own in by_request)),
    }


def _tenant(group: Group, own: TenantPrediction | None, *, steady: bool) -> Json:
    part, workload, engine = group.part, group.workload, group.subject.engine
    figures: Json = dict.fromkeys(OF_A_TENANT)
    if own is not None:
        figures = {
            "throughput_tok_s": figure(own.throughput_tok_s),
            "itl_ms": figure(own.itl_s, scale=MS),
            "itl_p99_ms": figure(own.itl_p99_s, scale=MS),
            "ttft_ms": figure(own.ttft_s, scale=MS) if steady else None,
            "effective_batch": figure(exact(own.effective_batch)),
            "preemption": figure(own.preemption),
        }
    return {
        "model": group.subject.name,
        "replicas": group.replicas,
        "fits": part.fits,
        "share_limit_bytes": part.cut.limit_bytes,
        "kv_cache_tokens": part.room.kv_cache_tokens,
        "max_num_seqs": part.sequences,
        "max_num_batched_tokens": engine.batched_tokens(part.sequences),
        "workload": workload_figures(workload, assumed=group.assumed),
        **figures,
    }


def _feasible(scenario: Scenario, known: Known) -> Json:
    """Whether everything fits, is steady and keeps the bounds: by the expected figures, the worst and the best."""

    def keeps(end: Callable[[Interval], float]) -> bool:
        return bool(known) and scenario.steady and not any(_broken(scenario, known, end))

    return yes_no(
        expected=keeps(lambda interval: interval.expected),
        low=keeps(lambda interval: interval.high),
        high=keeps(lambda interval: interval.low),
        basis=max((own.itl_s.basis for _, own in known), key=lambda b: b.softness, default=Basis.MODELLED).value,
    )


def _broken(scenario: Scenario, known: Known, end: Callable[[Interval], float]) -> Iterator[str]:
    """The bounds that a replica breaks, by one end of its figures."""
    bounds = scenario.bounds
    for group, own in known:
        for flag, bound, found in (("--itl-ms", bounds.itl_s, own.itl_s), ("--ttft-ms", bounds.ttft_s, own.ttft_s)):
            if bound is not None and end(found) > bound:
                name = short_name(group.subject.name)
                yield f"{name}: {end(found) * MS:,.1f} ms is over the {bound * MS:,.1f} ms of {flag}"


def _reasons(scenario: Scenario, known: Known) -> Iterator[str]:
    """Why it is not feasible; what is firm first."""
    for group in scenario.groups:
        if group.part.room.shortfall is not None:
            yield f"{short_name(group.subject.name)} does not fit: {group.part.room.shortfall}"
    if isinstance(scenario.prediction, Unpredictable):
        yield f"no prediction: {scenario.prediction.reason}"
    elif known and not scenario.steady:
        most = sum(
            group.replicas * own.throughput_tok_s.expected / group.workload.output_tokens for group, own in known
        )
        yield f"requests come faster than they are answered: the GPU answers {most:,.3g} a second at most"
    yield from _broken(scenario, known, lambda interval: interval.expected)


def _print(console: Console, scenario: Scenario, answer: Json) -> None:
    say(console, _sentence(scenario, answer), style="bold")
    for reason in answer["reasons"]:
        say(console, reason, indent=2, style="red")
    if answer["throughput_tok_s"] is not None:
        console.print()
        console.print(_table(answer))
    console.print()
    for line in _notes(scenario):
        say(console, line, indent=4 if line.startswith(" ") else 2)


def _sentence(scenario: Scenario, answer: Json) -> str:
    """The answer in one sentence."""
    what = " + ".join(f"{group.replicas} x {short_name(group.subject.name)}" for group in scenario.groups)
    where = f"{what} on one {scenario.site.gpu.id} ({SHARING[scenario.site.sharing.value]})"
    if answer["throughput_tok_s"] is None:
        return f"{where}: {'does not fit' if not scenario.fits else 'cannot be predicted'}"
    wait = f"TTFT {shown(answer['ttft_ms'])} ms" if answer["ttft_ms"] else "the queue grows without end"
    figures = f"{shown(answer['throughput_tok_s'])} output tokens/s, ITL {shown(answer['itl_ms'])} ms, {wait}"
    return f"{where}: {figures} (estimate)" + ("" if answer["feasible"]["value"] else "; not feasible")


def _table(answer: Json) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("  estimate", "expected", "low to high", "", "basis"):
        table.add_column(heading, justify="left" if heading in {"  estimate", "", "basis"} else "right", no_wrap=True)
    for key, label, unit in ROWS:
        found = answer[key]
        if found is not None:
            table.add_row(f"  {label}", shown(found), between(found), unit, found["basis"])
    return table


def _notes(scenario: Scenario) -> Iterator[str]:
    """Each group's part, load and share of the figures."""
    for group, own in _by_group(scenario):
        part, workload = group.part, group.workload
        limit = part.cut.limit_bytes
        each = " each" if group.replicas > 1 else ""
        share = part.cut.enforcement if limit is None else f"{format_bytes(limit)}{each}, {part.cut.enforcement}"
        yield (
            f"{group.replicas} x {group.subject.name} on vLLM {group.subject.version}: {share};"
            f" KV cache {part.room.kv_cache_tokens:,} tokens, max-num-seqs {part.sequences}"
        )
        load = (
            f"{format_number(workload.request_rate)} requests/s"
            if workload.request_rate is not None
            else f"{format_number(workload.in_flight or 0)} requests in flight"
        )
        said = " (assumed: the knee; give --in-flight, --batch or --request-rate)" if group.assumed else ""
        yield f"  load: {load}{said}, {workload.input_tokens} tokens in, {workload.output_tokens} out"
        if own is not None and len(scenario.groups) > 1:
            tokens, itl = figure(own.throughput_tok_s), figure(own.itl_s, scale=MS)
            yield f"  each: {shown(tokens)} output tokens/s, ITL {shown(itl)} ms (estimate)"
