"""The constants of the performance model; `data/performance.yaml` holds each with its source and its fit."""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.engine_version import EngineVersion

__all__ = [
    "EngineConstants",
    "PerformanceTable",
    "PowerConstants",
    "PowerFit",
    "SharingConstants",
    "Spread",
    "Spreads",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """An 80 % interval as factors of the expected value: low <= 1 <= high."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreads:
    """Of one engine's figures."""

    itl: Spread
    throughput: Spread
    ttft: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingConstants:
    """How engines slow each other down on one device."""

    busy_part: float
    """Of the time of small kernels (`layer_s`), 0 to 1, the part in which the device serves nobody else."""
    sequence_busy_part: float
    """The same of the time for each sequence (`sequence_s`)."""
    cap_bandwidth_share: float
    """SM share at which an engine still reaches the whole memory bandwidth; below, bandwidth falls in proportion."""
    cap_compute_exponent: float
    """FLOP/s under an SM share x are x to this power of the whole."""
    timeslice_factor: float
    """Iteration time of R time-sliced engines over R times that of one."""
    timeslice: Spread
    mps: Spread
    """Of throughput and latency, beyond the spread of one engine."""
    difference: float
    """Half width of the 80 % interval of a predicted gain, as a part of the throughput (0.1: 10 points)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFit:
    """Board power: active_w + memory_w * bandwidth utilisation + compute_w * FLOP utilisation, at most the TDP."""

    active_w: float
    memory_w: float
    compute_w: float
    spread: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerConstants:
    """Fits where a GPU was measured, and parts of the TDP elsewhere."""

    by_gpu: tuple[tuple[str, PowerFit], ...]
    generic: PowerFit
    """In parts of the TDP instead of watts."""
    loaded_idle_share: float
    """Loaded idle power over TDP where none was captured."""

    def fit_for(self, gpu_id: str) -> PowerFit | None:
        """The fit of measured power on this product."""
        return next((fit for name, fit in self.by_gpu if name == gpu_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConstants:
    """One engine generation. Times in seconds."""

    generation: str
    """V0, V1 or V1 async."""
    chunked_prefill: bool
    """Whether prompt chunks share an iteration with decoding sequences; else a prompt has an iteration of its own."""
    step_s: float
    """Host time of an iteration in which the device waits."""
    sequence_s: float
    """Time of an iteration that each sequence adds: scheduling, sampling, detokenising."""
    layer_s: float
    """Launches and small kernels of one layer in one iteration, with CUDA graphs."""
    eager_layer_s: float
    """What a layer adds without CUDA graphs."""
    request_s: float
    """Of the time to first token, what neither queueing nor prefill is: the API server, tokenising, the network."""
    cores: float
    """CPU cores that one engine keeps busy; with fewer its host times grow in proportion."""
    weight_efficiency: float
    """Part of the catalogue's bandwidth that streaming the weights reaches; HBM."""
    cache_efficiency: float
    """The same for the KV cache."""
    gddr_factor: float
    """Times both, where the memory is GDDR."""
    compute_efficiency: float
    """Part of the catalogue's dense FLOP/s that matrix products reach."""
    spreads: Spreads
    calibrated: Spreads
    """Once the model is calibrated with a profile."""
    preemption_part: float
    """Of the growth of the requests beyond the KV pool, the part that ends in a preemption."""
    sharing: SharingConstants
    power: PowerConstants


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceTable:
    """Constants by the first version of each generation, oldest first."""

    generations: tuple[tuple[EngineVersion, EngineConstants], ...]

    def constants_for(self, version: EngineVersion) -> EngineConstants:
        """The generation that a version belongs to; a version before the first counts as the first."""
        found = self.generations[0][1]
        for since, constants in self.generations:
            if since <= version:
                found = constants
        return found

    def generation(self, name: str) -> EngineConstants:
        """By its name; KeyError where there is none."""
        return {constants.generation: constants for _, constants in self.generations}[name]
