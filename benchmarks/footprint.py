"""The footprint against public start-up logs of vLLM: requested less KV cache, in GiB.

Every source weighs one. Each row is estimated with constants fitted without its source; the table that ships
(`data/engines.yaml`) is the fit on all. Over is estimate - log, under its negative.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from slmpack.adapters.tables import load_engine_table
from slmpack.domain.engine import EngineRuntime
from slmpack.domain.footprint import estimate_footprint, estimate_terms
from slmpack.domain.interval import Interval
from slmpack.domain.model import ModelProfile, parse_model_config
from slmpack.domain.quantity import GIB
from tests.support.footprint_logs import Log, excluded_rows, read_kv_logs, read_logs
from tests.support.models import MODEL_CHECKS, a_model_config

ENGINES = load_engine_table()
WIDE_MARGIN_BYTES = next(runtime.margin_bytes for runtime in ENGINES.runtimes if not runtime.validated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the logs determine; everything else of the table is by hand, with its source there."""

    weights_factor: float
    logits_copies: float
    activation_constant_gib: float
    non_torch_gib: float
    non_torch_high_gib: float


def fit(logs: Sequence[Log]) -> Fit:
    """By least squares, every source weighing one.

    weights: mean of logged over the config's, unquantised and without adapters. non-torch: the sources' median.
    logits copies and constant: the rows whose peak is the logits and which log their activations, or else state their
    sequences (what is left of their budget then), and in which no other engine started at the same time.
    """
    plain = [log for log in logs if log.model.quantization is None and not log.adapters]
    factor = _mean((log, log.weights_gib * GIB / log.model.weight_bytes) for log in plain)
    logged = _by_source((log, log.non_torch_gib) for log in logs if log.non_torch_gib is not None)
    non_torch = median(median(values) for values in logged.values())
    points = []
    for log in logs:
        rest = log.non_kv_gib - factor * log.model.weight_bytes / GIB - non_torch
        usable = log.sequences_stated and not log.started_with
        if _logits_lead(log) and (log.activations_gib is not None or usable):
            points.append((log, _logits_gib(log), rest if log.activations_gib is None else log.activations_gib))
    copies, constant = _line(points)
    return Fit(
        weights_factor=factor,
        logits_copies=copies,
        activation_constant_gib=constant,
        non_torch_gib=non_torch,
        non_torch_high_gib=max(max(values) for values in logged.values()),
    )


def runtime_of(log: Log, found: Fit) -> EngineRuntime:
    """The engine's constants with the fitted ones in their places."""
    shipped = ENGINES.runtime_for(log.version)
    return replace(
        shipped,
        weights_factor=_centre(shipped.weights_factor, found.weights_factor),
        logits_copies=_centre(shipped.logits_copies, found.logits_copies),
        activation_constant_bytes=_centre(shipped.activation_constant_bytes, found.activation_constant_gib * GIB),
        non_torch_bytes=replace(
            _centre(shipped.non_torch_bytes, found.non_torch_gib * GIB), high=found.non_torch_high_gib * GIB
        ),
    )


def over_gib(log: Log, runtime: EngineRuntime) -> float:
    """What is planned beside the KV cache, less what the log says."""
    return estimate_footprint(log.model, log.serving, runtime=runtime).fixed_inside_bytes / GIB - log.non_kv_gib


def covers(log: Log, runtime: EngineRuntime) -> bool:
    """Whether the log lies in the printed interval."""
    interval = estimate_terms(log.model, log.serving, runtime=runtime).non_kv
    return interval.low <= log.non_kv_gib * GIB <= interval.high


def main() -> None:
    logs = read_logs()
    sources = sorted({log.source for log in logs})
    models = len({log.model_id for log in logs})
    print(f"  {len(logs)} rows, {len(sources)} sources, {models} models; {len(excluded_rows())} rows left out")
    held_out = {source: fit([log for log in logs if log.source != source]) for source in sources}
    _coefficients({"all sources": fit(logs), **{f"without {source}": one for source, one in held_out.items()}})
    stated, other = [log for log in logs if log.stated], [log for log in logs if not log.stated]
    alone = [log for log in other if not log.started_with]
    print("  over (under is negative), GiB               rows  sources   least  median    p90    most")
    for name, estimate in _estimates(held_out).items():
        for kind, rows in (("stated", stated), ("other", alone)):
            _errors(f"{name}, {kind}", [(log, estimate(log)) for log in rows])
    _coverage(
        {
            "stated": stated,
            "other": other,
            "other, started alone": alone,
            "other, started at the same time": [log for log in other if log.started_with],
        },
        held_out,
    )
    _kv_bytes()


def _coefficients(fits: dict[str, Fit]) -> None:
    print("  fit                                           weights  logits  constant GiB  non-torch GiB")
    for name, found in fits.items():
        print(
            f"  {name:<46.46} {found.weights_factor:6.4f}  {found.logits_copies:6.2f}"
            f"  {found.activation_constant_gib:12.3f}  {found.non_torch_gib:13.3f}"
        )


def _coverage(kinds: dict[str, list[Log]], held_out: dict[str, Fit]) -> None:
    """Of rows, and of sources (each weighing one), by the table as it ships and with the source left out."""
    print("  interval covers                             rows  sources  as it ships       source left out   median")
    print("                                                             rows   sources    rows   sources    width")
    for kind, rows in kinds.items():
        ships = [(log, float(covers(log, _shipped(log)))) for log in rows]
        blind = [(log, float(covers(log, runtime_of(log, held_out[log.source])))) for log in rows]
        spreads = [estimate_terms(log.model, log.serving, runtime=_shipped(log)).non_kv for log in rows]
        width = median((spread.high - spread.low) / GIB for spread in spreads)
        shares = "  ".join(
            f"{sum(hit for _, hit in hits) / len(hits):6.1%}  {_mean(hits):6.1%}" for hits in (ships, blind)
        )
        print(f"  {kind:<42}  {_counts(ships)}  {shares}  {width:6.2f} GiB")


def _estimates(held_out: dict[str, Fit]) -> dict[str, Callable[[Log], float]]:
    return {
        "slmpack, source left out": lambda log: over_gib(log, runtime_of(log, held_out[log.source])),
        "the same, margin of other versions": lambda log: over_gib(
            log, replace(runtime_of(log, held_out[log.source]), margin_bytes=WIDE_MARGIN_BYTES)
        ),
        "slmpack as it ships": lambda log: over_gib(log, _shipped(log)),
        "earlier constants": lambda log: _earlier_gib(log) - log.non_kv_gib,
        "baseline: weights x 1.2": lambda log: 1.2 * log.model.weight_bytes / GIB - log.non_kv_gib,
    }


def _shipped(log: Log) -> EngineRuntime:
    return ENGINES.runtime_for(log.version)


def _earlier_gib(log: Log) -> float:
    """The formula of the first release: one constant for each term, the largest that was logged, and a margin."""
    activations = max(9.43 * _logits_gib(log), _mlp_gib(log)) + 0.149
    return 1.01 * log.model.weight_bytes / GIB + activations + 0.53 + 0.34


def _errors(name: str, errors: Sequence[tuple[Log, float]]) -> None:
    values = [error for _, error in errors]
    print(
        f"  {name:<42}  {_counts(errors)}  {min(values):+6.2f}  {quantile(errors, 0.5):+6.2f}"
        f"  {quantile(errors, 0.9):+6.2f}  {max(values):+6.2f}"
    )


def _counts(rows: Sequence[tuple[Log, float]]) -> str:
    return f"{len(rows):>4}  {len({log.source for log, _ in rows}):>7}"


def _kv_bytes() -> None:
    """KV cache bytes of a token, against the config table of an independent script and against the logs."""
    table = {name: check["kv_bytes_per_token"] for name, check in MODEL_CHECKS.items() if check["kv_bytes_per_token"]}
    exact = 0
    for name, expected in table.items():
        profile = parse_model_config(a_model_config(name))
        exact += isinstance(profile, ModelProfile) and profile.kv_elements_per_token * 2 == expected
    logs = read_kv_logs()
    within = sum(log.exact for log in logs)
    sources = len({log.source for log in logs})
    print(f"  KV cache bytes of a token: {exact} of {len(table)} models of the config table exact; within rounding on")
    print(f"  {within} of {len(logs)} unsharded rows ({sources} sources) that log it in GiB and in tokens")


def _logits_gib(log: Log) -> float:
    return log.serving.max_num_seqs * log.model.vocab_size * 4 / GIB


def _mlp_gib(log: Log) -> float:
    widest = 3 * log.model.intermediate_size + 5 * log.model.hidden_size
    return log.serving.max_num_batched_tokens * log.model.dtype_bytes * widest / GIB


def _logits_lead(log: Log) -> bool:
    return 9 * _logits_gib(log) > _mlp_gib(log)


def _centre(interval: Interval, expected: float) -> Interval:
    return replace(interval, low=min(interval.low, expected), expected=expected, high=max(interval.high, expected))


def _by_source(values: Iterable[tuple[Log, float | None]]) -> dict[str, list[float]]:
    found = defaultdict(list)
    for log, value in values:
        if value is not None:
            found[log.source].append(value)
    return found


def _mean(values: Iterable[tuple[Log, float]]) -> float:
    means = [sum(one) / len(one) for one in _by_source(values).values()]
    return sum(means) / len(means)


def quantile(values: Sequence[tuple[Log, float]], share: float) -> float:
    """With every source weighing one."""
    counts = {source: len(one) for source, one in _by_source(values).items()}
    total = 0.0
    ordered = sorted(values, key=lambda item: item[1])
    for log, value in ordered:
        total += 1 / counts[log.source] / len(counts)
        if total >= share - 1e-9:
            return value
    return ordered[-1][1]


def _line(points: Sequence[tuple[Log, float, float]]) -> tuple[float, float]:
    """Slope and intercept."""
    mean_x = _mean((log, x) for log, x, _ in points)
    mean_y = _mean((log, y) for log, _, y in points)
    slope = _mean((log, (x - mean_x) * (y - mean_y)) for log, x, y in points) / _mean(
        (log, (x - mean_x) ** 2) for log, x, _ in points
    )
    return slope, mean_y - slope * mean_x
