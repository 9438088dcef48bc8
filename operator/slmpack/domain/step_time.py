"""Time of one engine iteration on a device: host time plus the slower of memory and arithmetic.

    t(b, c) = step + sequence * b + layer * layers                              host, launches, small kernels
            + max(weight bytes(b + c) / bandwidth, linear FLOPs(b + c) / peak)  matrix products with weights
            + b * max(KV bytes(context) / bandwidth, attention FLOPs / peak)    attention of the decoding sequences
            + c * attention FLOPs(prompt / 2) / peak                            attention within the prompt, quadratic

for b decoding sequences and a prompt chunk of c tokens. Form: roofline of arXiv 2402.16363 plus the host terms of
arXiv 2503.08311's logs; the constants and their fits are in `data/performance.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from slmpack.domain.gpu import GpuModel, MigProfile
from slmpack.domain.model_profile import ModelProfile, Task
from slmpack.domain.performance_table import EngineConstants, SharingConstants
from slmpack.domain.prediction import Sharing, Site, Tenant

__all__ = ["Device", "StepCosts", "Unpredictable", "device_of", "step_costs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpredictable:
    """Why there is no prediction, and what would work."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What one engine can use: a whole GPU, a MIG instance, or a GPU under an SM ceiling."""

    bandwidth_s: float
    """Bytes a second, by the catalogue."""
    flops_s: float
    """Dense FLOPs a second in the model's compute type, by the catalogue."""
    stacked: bool
    """HBM rather than GDDR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """Coefficients of one tenant's iteration on one device, in seconds."""

    model: ModelProfile
    step: float
    sequence: float
    kernels: float
    """Launches and small kernels of all layers."""
    weights: float
    """Reading the weights of a dense model once."""
    byte: float
    """Reading one byte of weights."""
    token: float
    """Arithmetic of one token in matrix products with weights."""
    cache: float
    """Attention of one decoding sequence."""
    prompt: float
    """Attention of one prompt token."""

    def iteration(self, sequences: float, chunk: float = 0.0) -> float:
        """One iteration over so many decoding sequences and prompt tokens."""
        return self.step + self.sequence * sequences + self.kernels + self.work(sequences, chunk)

    def work(self, sequences: float, chunk: float = 0.0) -> float:
        """The part that keeps memory or arithmetic busy; with experts, the more tokens the more of them are read."""
        tokens = sequences + chunk
        memory = self.weights if self.model.experts is None else self.model.read_bytes(tokens) * self.byte
        return max(memory, tokens * self.token) + sequences * self.cache + chunk * self.prompt

    def under_cap(self, share: float, sharing: SharingConstants) -> StepCosts:
        """With so large a share of the multiprocessors, 0 to 1, at the most.

        Decoding alone hardly suffers down to `cap_bandwidth_share`, prompts do at once (MuxServe, arXiv 2404.02015).
        """
        memory = max(1.0, sharing.cap_bandwidth_share / share)
        compute = share**-sharing.cap_compute_exponent
        return replace(
            self,
            weights=self.weights * memory,
            byte=self.byte * memory,
            token=self.token * compute,
            cache=self.cache * memory,
            prompt=self.prompt * compute,
        )

    def scaled(self, factor: float, *, step: float) -> StepCosts:
        """Every time by a factor, and so many seconds more for each iteration."""
        return replace(
            self,
            step=self.step * factor + step,
            sequence=self.sequence * factor,
            kernels=self.kernels * factor,
            weights=self.weights * factor,
            byte=self.byte * factor,
            token=self.token * factor,
            cache=self.cache * factor,
            prompt=self.prompt * factor,
        )


def device_of(site: Site, dtype: str) -> Device | Unpredictable:
    """The device that one engine on the site computes with when no other runs; without an SM ceiling."""
    gpu = site.gpu
    if gpu.bandwidth_gb_s is None:
        return Unpredictable(
            reason=f"gpu {gpu.id}: memory_bandwidth_gb_s is unknown in the catalogue; throughput needs it, "
            "profile an engine on this GPU instead"
        )
    tflops = gpu.dense_tflops.of(dtype)
    if tflops is None and dtype == "fp8":
        tflops = gpu.dense_tflops.bf16  # vLLM then keeps the weights in FP8 and computes in 16 bits
    if tflops is None:
        return Unpredictable(
            reason=f"gpu {gpu.id}: dense_tflops for {dtype} is unknown in the catalogue; use a dtype that the GPU "
            "has tensor cores for (vLLM's --dtype), or profile an engine on it"
        )
    if site.sharing is Sharing.MIG and site.mig_profile is None:
        return Unpredictable(
            reason=f"gpu {gpu.id}: the MIG profile is not in the catalogue, so nobody knows its part of the GPU; "
            "profile an engine on it instead"
        )
    bandwidth_part, compute_part = _parts(site)
    return Device(
        bandwidth_s=gpu.bandwidth_gb_s * 1e9 * bandwidth_part,
        flops_s=tflops * 1e12 * compute_part,
        stacked=gpu.stacked_memory,
    )


def step_costs(tenant: Tenant, device: Device, constants: EngineConstants) -> StepCosts | Unpredictable:
    """The coefficients of one tenant; the context of a decoding sequence is the input and half of the output."""
    model = tenant.model
    if model.task is not Task.GENERATE:
        return Unpredictable(
            reason=f"model {model.architecture}: an embedding model has no decode; only generation is modelled"
        )
    memory = device.bandwidth_s * (1.0 if device.stacked else constants.gddr_factor)
    byte = 1.0 / (memory * constants.weight_efficiency)
    flop = 1.0 / (device.flops_s * constants.compute_efficiency)
    context = tenant.input_tokens + tenant.output_tokens / 2
    cached = tenant.input_tokens * tenant.prefix_hit_rate
    layer = constants.layer_s + (constants.eager_layer_s if tenant.enforce_eager else 0.0)
    slow_host = max(1.0, constants.cores / tenant.cpu_cores)
    cache_bytes = model.cache_read_bytes(context, tenant.kv_element_bytes) + model.state_bytes_per_sequence
    return StepCosts(
        model=model,
        step=constants.step_s * slow_host,
        sequence=constants.sequence_s * slow_host,
        kernels=layer * model.layers,
        weights=model.read_bytes(1.0) * byte,
        byte=byte,
        token=model.linear_flops(1.0) * flop,
        cache=max(
            cache_bytes / (memory * constants.cache_efficiency),
            model.attention_flops(1.0, context) * flop,
        ),
        prompt=model.attention_flops(1.0, (cached + tenant.input_tokens) / 2) * flop,
    )


def _parts(site: Site) -> tuple[float, float]:
    """Parts of the GPU's bandwidth and FLOP/s that the device has."""
    if site.sharing is Sharing.MIG and site.mig_profile is not None:
        return _instance(site.gpu, memory_slices=site.mig_profile.memory_slices), _sm_part(site.gpu, site.mig_profile)
    return 1.0, 1.0


def _instance(gpu: GpuModel, *, memory_slices: int) -> float:
    """Memory slices of the instance over those of the GPU, which are those of its largest profile."""
    return memory_slices / max(profile.memory_slices for profile in gpu.mig_profiles)


def _sm_part(gpu: GpuModel, profile: MigProfile) -> float:
    """Multiprocessors of the instance over the GPU's; where not known, compute slices over those of the largest."""
    if profile.sm_count is not None and gpu.sm_count is not None:
        return profile.sm_count / gpu.sm_count
    return profile.compute_slices / max(each.compute_slices for each in gpu.mig_profiles)
