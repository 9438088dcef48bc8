"""What co-location gains at matched requests in flight: fitted on one group of measurements, tried on the other."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.engine_rows import DATA, H100_64, a_tenant, calibration_rows, model, pool_tokens, site
from benchmarks.fitting import fit, weighted_quantile
from slmpack.adapters.performance_table import load_performance_table
from slmpack.adapters.tables import load_gpu_catalogue
from slmpack.domain.gpu import GpuModel
from slmpack.domain.paying import PayPolicy
from slmpack.domain.performance import Unpredictable, rates
from slmpack.domain.performance_table import EngineConstants, SharingConstants
from slmpack.domain.prediction import Sharing
from slmpack.domain.step_time import device_of, step_costs

TABLE = load_performance_table()
PRIOR = (0.5, 0.5)
"""busy_part and sequence_busy_part before the fit: one half, for want of knowledge."""
SIGMA = 1.0
"""How far, in logarithms, each may easily move."""
POINT = 0.05
"""Error of a gain that counts as one unit in the fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One engine and several with the same requests in flight on one GPU."""

    group: str
    model: str
    gpu: GpuModel
    sharing: Sharing
    sm_percent: int | None
    replicas: int
    in_flight: float
    lengths: tuple[int, int]
    gain: float
    """Measured throughput of several over that of one, less one."""
    unclean: str


def main() -> None:
    pairs = _pairs()
    mps = [pair for pair in pairs if pair.sharing is Sharing.MPS]
    clean = clean_pairs()
    groups = sorted({pair.group for pair in clean})
    fits = {group: fitted_sharing([pair for pair in clean if pair.group == group]) for group in groups}
    everything = fitted_sharing(clean)
    shipped = TABLE.generations[0][1].sharing
    print(f"  constant               {''.join(f'{group:>12s}' for group in groups)}        both     shipped")
    for index, name in enumerate(("busy_part", "sequence_busy_part")):
        values = "".join(f"{math.exp(fits[group][index]):12.3f}" for group in groups)
        print(f"  {name:22s} {values}{math.exp(everything[index]):12.3f}{getattr(shipped, name):12.3f}")
    print("\n  MPS: gain at matched requests in flight; fitted on the other group's clean pairs")
    errors = [_print_pair(pair, fits, groups) for pair in mps]
    _print_summary(clean, [error for pair, error in zip(mps, errors, strict=True) if not pair.unclean])
    _print_sensitivity(clean, groups)
    print("\n  time-slicing, with the shipped factor (from the Dynamo rows themselves, so no test on those)")
    for pair in pairs:
        if pair.sharing is Sharing.TIMESLICE:
            print(f"    {_label(pair)}  {gain(pair, shipped):+7.1%} {pair.gain:+9.1%}  {pair.unclean}")
    _print_caps()


def gain(pair: Pair, sharing: SharingConstants) -> float:
    """The model's gain of several engines over one."""
    constants = replace(TABLE.generation("V0" if pair.group == "MemoryGap" else "V1 async"), sharing=sharing)
    one = a_tenant(model(pair.model), pair.gpu, in_flight=pair.in_flight, lengths=pair.lengths)
    one = replace(one, max_num_batched_tokens=2048)
    pool = pool_tokens(one.model, pair.gpu, 0.9 / pair.replicas)
    each = replace(one, in_flight=pair.in_flight / pair.replicas, kv_cache_tokens=pool)
    before = rates([one], site(pair.gpu), constants)
    after = rates([each] * pair.replicas, site(pair.gpu, pair.sharing, pair.sm_percent), constants)
    assert not isinstance(before, Unpredictable)
    assert not isinstance(after, Unpredictable)
    return sum(rate.throughput_tok_s for rate in after) / before[0].throughput_tok_s - 1.0


def clean_pairs() -> list[Pair]:
    """Those that are fitted: MPS, and nothing wrong with them."""
    return [pair for pair in _pairs() if pair.sharing is Sharing.MPS and not pair.unclean]


def _pairs() -> list[Pair]:
    with (DATA / "colocation-pairs.csv").open(encoding="utf-8") as file:
        return [
            Pair(
                group=raw["group"],
                model=raw["model"],
                gpu=_gpu(raw["gpu"]),
                sharing=Sharing(raw["sharing"]),
                sm_percent=int(raw["sm_percent"]) if raw["sm_percent"] else None,
                replicas=int(raw["replicas"]),
                in_flight=float(raw["in_flight"]),
                lengths=(int(raw["input"]), int(raw["output"])),
                gain=float(raw["many_tok_s"]) / float(raw["one_tok_s"]) - 1.0,
                unclean=raw["unclean"],
            )
            for raw in csv.DictReader(file)
        ]


def _gpu(name: str) -> GpuModel:
    found = H100_64 if name == H100_64.id else load_gpu_catalogue().by_id(name)
    assert found is not None, name
    return found


def sharing_of(parameters: Sequence[float]) -> SharingConstants:
    busy, sequence = (min(1.0, math.exp(value)) for value in parameters)
    return replace(TABLE.generations[0][1].sharing, busy_part=busy, sequence_busy_part=sequence)


def fitted_sharing(pairs: Sequence[Pair], prior: tuple[float, float] = PRIOR) -> list[float]:
    def residuals(parameters: Sequence[float]) -> list[float]:
        sharing = sharing_of(parameters)
        return [gain(pair, sharing) - pair.gain for pair in pairs]

    weights = [1.0 / POINT**2] * len(pairs)
    return fit(residuals, weights, [math.log(value) for value in prior], prior_sigma=[SIGMA, SIGMA])


def _label(pair: Pair) -> str:
    ceiling = f"{pair.sm_percent} % SM" if pair.sm_percent else "no cap"
    return f"{pair.group:10s} {pair.model:9s} {pair.replicas} engines, {pair.in_flight:4.0f} in flight, {ceiling:7s}"


def _print_pair(pair: Pair, fits: dict[str, list[float]], groups: Sequence[str]) -> float:
    other = next(group for group in groups if group != pair.group)
    predicted = gain(pair, sharing_of(fits[other]))
    if pair.unclean:
        print(f"    {_label(pair)}  {predicted:+7.1%} {pair.gain:+9.1%}  not clean: {pair.unclean}")
        return math.nan
    width = TABLE.generations[0][1].sharing.difference
    print(
        f"    {_label(pair)}  {predicted:+7.1%} {pair.gain:+9.1%}  "
        f"{_sign(predicted, width):9s} {_verdict(predicted, width)}"
    )
    return predicted - pair.gain


def _sign(predicted: float, width: float) -> str:
    return "gain" if predicted > width else "loss" if predicted < -width else "uncertain"


def _verdict(predicted: float, width: float) -> str:
    """By the rule of D7, which asks for 5 % more."""
    threshold = PayPolicy().step_gain - 1.0
    if predicted - width >= threshold:
        return "pays"
    return "does not pay" if predicted + width < threshold else "uncertain whether it pays"


def _print_summary(clean: Sequence[Pair], errors: Sequence[float]) -> None:
    width = TABLE.generations[0][1].sharing.difference
    told = [(pair, pair.gain + error) for pair, error in zip(clean, errors, strict=True) if abs(pair.gain) > 0.05]
    right = sum(predicted * pair.gain > 0 for pair, predicted in told)
    unsure = sum(_sign(predicted, width) == "uncertain" for _, predicted in told)
    unsure_to_pay = sum("uncertain" in _verdict(predicted, width) for _, predicted in told)
    within = sum(abs(predicted - pair.gain) <= 0.10 for pair, predicted in told)
    half = weighted_quantile([(abs(error), 1.0) for error in errors], 0.8)
    print(f"    clean pairs with more than 5 %: {len(told)}; sign right {right}, within 10 points {within},")
    print(f"    sign uncertain {unsure}, uncertain to pay (D7) {unsure_to_pay}; 80 % of the errors within {half:.1%}")
    print(f"    (shipped half width {width:.0%}); mean |error| {sum(map(abs, errors)) / len(errors):.1%}")


def _print_sensitivity(clean: Sequence[Pair], groups: Sequence[str]) -> None:
    """One group says little about the other's parameter, so what is assumed before the fit counts."""
    print("    with another prior (busy_part, sequence_busy_part): sign right, worst error in points")
    for prior in ((0.3, 0.3), (0.3, 0.7), (0.7, 0.3), (0.7, 0.7)):
        fits = {group: fitted_sharing([pair for pair in clean if pair.group == group], prior) for group in groups}
        found = [
            (gain(pair, sharing_of(fits[next(group for group in groups if group != pair.group)])), pair.gain)
            for pair in clean
        ]
        right = sum(predicted * measured > 0 for predicted, measured in found)
        worst = max(abs(predicted - measured) for predicted, measured in found)
        print(f"      {prior}: {right} of {len(clean)}, {worst * 100:.1f}")


def _print_caps() -> None:
    """MuxServe's sweeps of one engine under an SM ceiling against the model."""
    errors: dict[str, list[tuple[float, float]]] = {"decode": [], "prefill": []}
    by_point: dict[tuple[str, str, float, int], tuple[float, float]] = {}
    for raw in calibration_rows():
        if "MuxServe" in raw["source_url"]:
            ceiling = re.search(r"SM ([0-9]+)%", raw["sharing"])
            prefill = re.search(r"whole batch=([-0-9.]+)", raw["note"])
            assert prefill is not None
            key = (
                raw["model"],
                raw["input_len"],
                float(raw["batch_or_concurrency"]),
                int(ceiling[1]) if ceiling else 100,
            )
            by_point[key] = (float(raw["latency_ms_per_token"]), float(prefill[1]))
    for (name, length, batch, share), (decode, prefill_ms) in by_point.items():
        whole = by_point.get((name, length, batch, 100))
        if whole is None or share == 100:
            continue
        modelled = _capped(name, int(length), batch, share / 100)
        errors["decode"].append((math.log(modelled[0] / (decode / whole[0])), 1.0))
        if prefill_ms > 0 and whole[1] > 0:
            errors["prefill"].append((math.log(modelled[1] / (prefill_ms / whole[1])), 1.0))
    print("\n  one engine under an SM ceiling (MuxServe, Llama 7B and 13B, A100-80): modelled over measured slowdown")
    for name, found in errors.items():
        low, middle, high = (math.exp(weighted_quantile(found, part)) for part in (0.1, 0.5, 0.9))
        print(f"    {name:8s} {len(found)} points: median {middle:.2f}, 80 % within {low:.2f} to {high:.2f}")


def _capped(name: str, length: int, batch: float, share: float) -> tuple[float, float]:
    """Slowdown of a decode iteration and of a prefill."""
    constants: EngineConstants = TABLE.generation("V0")
    gpu = _gpu("a100-sxm4-80gb")
    device = device_of(site(gpu), "fp16")
    assert not isinstance(device, Unpredictable)
    tenant = a_tenant(model(name), gpu, in_flight=batch, lengths=(length, 2))
    free = step_costs(tenant, device, constants)
    assert not isinstance(free, Unpredictable)
    under = free.under_cap(share, constants.sharing)
    decode = under.iteration(batch) / free.iteration(batch)
    prefill = under.iteration(0.0, batch * length) / free.iteration(0.0, batch * length)
    return decode, prefill
