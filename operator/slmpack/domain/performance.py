"""Throughput, latency and power of the engines that share one GPU, in the steady state.

`rates` is the fast path that sweeps use: expected values only. `predict` adds intervals, tail latency, preemptions and
power. Both answer Unpredictable, a value, where the catalogue or the model lacks what the formulas need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from slmpack.domain.calibration import Calibration, MeasuredPoint, solve_calibration
from slmpack.domain.contention import shared_alike, shared_apart
from slmpack.domain.gpu import GpuModel
from slmpack.domain.interval import Interval
from slmpack.domain.performance_intervals import energy, preemption, widths_for
from slmpack.domain.performance_table import EngineConstants, PowerConstants
from slmpack.domain.power import board_power, bytes_a_second, flops_a_second
from slmpack.domain.prediction import GpuPrediction, Sharing, Site, Tenant, TenantPrediction
from slmpack.domain.steady_state import LEAST_IN_FLIGHT, SteadyState, steady_state
from slmpack.domain.step_time import Device, StepCosts, Unpredictable, device_of, step_costs

__all__ = ["Rate", "Unpredictable", "calibrate", "predict", "rates"]


@dataclass(frozen=True, slots=True)
class Rate:
    """One tenant's expected steady state; seconds and output tokens a second."""

    throughput_tok_s: float
    itl_s: float
    ttft_s: float
    batch: float
    """Sequences in decode."""


@dataclass(frozen=True, slots=True)
class _Engine:
    """One tenant alone on what it may use, and under sharing."""

    tenant: Tenant
    alone: SteadyState
    """On the whole device (with MIG: on its instance)."""
    capped: float
    """Seconds of an iteration at the device under the SM ceiling; 0 without one."""
    slowdown: float
    """Iteration time under sharing over that alone."""


def rates(
    tenants: Sequence[Tenant], site: Site, constants: EngineConstants, *, calibration: Calibration | None = None
) -> tuple[Rate, ...] | Unpredictable:
    """Each tenant's expected throughput, latency and batch, in the order given; at least one tenant.

    `calibration` is that of the tenants' model on this GPU.
    """
    engines = _engines(tenants, site, constants, calibration)
    if isinstance(engines, Unpredictable):
        return engines
    if engines[0] is engines[-1]:
        return (_rate(engines[0], constants),) * len(engines)
    return tuple([_rate(engine, constants) for engine in engines])


def predict(
    tenants: Sequence[Tenant], site: Site, constants: EngineConstants, *, calibration: Calibration | None = None
) -> GpuPrediction | Unpredictable:
    """The prediction for a GPU; all figures are of the physical GPU or of one tenant, as their fields say."""
    whole = device_of(replace(site, sharing=Sharing.NONE), tenants[0].model.compute_dtype)
    if isinstance(whole, Unpredictable):
        return whole
    engines = _engines(tenants, site, constants, calibration)
    if isinstance(engines, Unpredictable):
        return engines
    each = tuple(_rate(engine, constants) for engine in engines)
    widths = widths_for(site, constants, engines=len(engines), calibrated=calibration is not None)
    throughput = widths.throughput(sum(rate.throughput_tok_s for rate in each))
    power = _power(engines, each, whole, site.gpu, constants.power)
    return GpuPrediction(
        tenants=tuple(
            TenantPrediction(
                throughput_tok_s=widths.throughput(rate.throughput_tok_s),
                itl_s=widths.itl(rate.itl_s),
                itl_p99_s=widths.tail(engine.alone, engine.slowdown),
                ttft_s=widths.ttft(rate.ttft_s),
                effective_batch=rate.batch,
                preemption=preemption(engine.tenant, constants),
            )
            for engine, rate in zip(engines, each, strict=True)
        ),
        throughput_tok_s=throughput,
        power_w=power,
        energy_j_per_token=energy(power, throughput),
    )


def calibrate(
    points: Sequence[MeasuredPoint], tenant: Tenant, site: Site, constants: EngineConstants
) -> Calibration | Unpredictable:
    """The correction that makes the model meet measured points; at least one.

    `tenant` is the engine that was measured, alone on the site, whatever its own in_flight says.
    """
    modelled = []
    for point in points:
        found = rates((replace(tenant, in_flight=point.in_flight),), site, constants)
        if isinstance(found, Unpredictable):
            return found
        modelled.append(found[0].itl_s)
    return solve_calibration(tuple(modelled), tuple(point.itl_s for point in points))


def _engines(
    tenants: Sequence[Tenant], site: Site, constants: EngineConstants, calibration: Calibration | None
) -> tuple[_Engine, ...] | Unpredictable:
    """Equal tenants give one and the same object, computed once."""
    first = tenants[0]
    if tenants.count(first) == len(tenants):
        engine = _engine(first, site, constants, calibration, engines=len(tenants))
        return engine if isinstance(engine, Unpredictable) else (engine,) * len(tenants)
    alone: list[_Engine] = []
    for tenant in tenants:
        if alone and alone[-1].tenant == tenant:
            alone.append(alone[-1])
            continue
        engine = _engine(tenant, site, constants, calibration, engines=1)
        if isinstance(engine, Unpredictable):
            return engine
        alone.append(engine)
    return _apart(alone, site, constants)


def _engine(
    tenant: Tenant, site: Site, constants: EngineConstants, calibration: Calibration | None, *, engines: int
) -> _Engine | Unpredictable:
    """With `engines` more than one: one of so many equal ones."""
    costs = _costs(tenant, site, constants, calibration)
    if isinstance(costs, Unpredictable):
        return costs
    alone = steady_state(tenant, costs, constants)
    capped = 0.0
    if site.sharing is Sharing.MPS and site.sm_percent is not None:
        under = costs.under_cap(site.sm_percent / 100, constants.sharing)
        capped = steady_state(tenant, under, constants).busy
    slowdown = 1.0
    if site.sharing is Sharing.TIMESLICE and engines > 1:
        slowdown = engines * constants.sharing.timeslice_factor
    if site.sharing is Sharing.MPS:
        think = alone.cycle - alone.busy
        slowdown = shared_alike(engines, busy=alone.busy, think=think, capped=capped) / alone.cycle
    return _Engine(tenant, alone, capped, slowdown)


def _apart(engines: Sequence[_Engine], site: Site, constants: EngineConstants) -> tuple[_Engine, ...]:
    """Unequal engines, each of which is known alone."""
    if site.sharing is Sharing.TIMESLICE:
        total = constants.sharing.timeslice_factor * sum(engine.alone.cycle for engine in engines)
        return tuple(replace(engine, slowdown=total / engine.alone.cycle) for engine in engines)
    if site.sharing is not Sharing.MPS:
        return tuple(engines)
    stations = [(engine.alone.busy, engine.alone.cycle - engine.alone.busy, engine.capped) for engine in engines]
    return tuple(
        replace(engine, slowdown=time / engine.alone.cycle)
        for engine, time in zip(engines, shared_apart(stations), strict=True)
    )


def _power(
    engines: Sequence[_Engine], each: Sequence[Rate], whole: Device, gpu: GpuModel, power: PowerConstants
) -> Interval:
    """Of the board; an engine with less than one request there on average has none for the rest of the time."""
    busy = [min(1.0, engine.alone.running) for engine in engines]
    moved = sum(
        part * bytes_a_second(engine.tenant, rate.batch / part, rate.itl_s)
        for part, engine, rate in zip(busy, engines, each, strict=True)
    )
    computed = sum(
        flops_a_second(engine.tenant, rate.throughput_tok_s) for engine, rate in zip(engines, each, strict=True)
    )
    any_busy = 1.0 - prod(1.0 - part for part in busy)
    return board_power(
        gpu,
        power,
        memory=moved / whole.bandwidth_s / any_busy,
        compute=computed / whole.flops_s / any_busy,
        busy=any_busy,
    )


def _costs(
    tenant: Tenant, site: Site, constants: EngineConstants, calibration: Calibration | None
) -> StepCosts | Unpredictable:
    device = device_of(site, tenant.model.compute_dtype)
    if isinstance(device, Unpredictable):
        return device
    costs = step_costs(tenant, device, constants)
    if calibration is None or isinstance(costs, Unpredictable):
        return costs
    return costs.scaled(calibration.factor, step=calibration.step_s)


def _rate(engine: _Engine, constants: EngineConstants) -> Rate:
    """Little's law over one request: prefill, then a token an iteration; those beyond the places queue."""
    tenant, alone = engine.tenant, engine.alone
    itl = alone.iteration * engine.slowdown
    prefill = alone.prefill * engine.slowdown
    inside = prefill + (tenant.output_tokens - 1) * itl
    in_flight = max(LEAST_IN_FLIGHT, tenant.in_flight)
    waiting = in_flight - alone.running
    if waiting <= 0.0:
        throughput = in_flight * tenant.output_tokens / (constants.request_s + inside)
        return Rate(throughput, itl, constants.request_s + prefill, alone.batch)
    throughput = alone.running * tenant.output_tokens / inside
    queue = waiting * tenant.output_tokens / throughput
    return Rate(throughput, itl, constants.request_s + queue + prefill, alone.batch)
