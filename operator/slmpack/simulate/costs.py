"""What an iteration of one engine costs in the simulated world: the performance model's terms under a hidden truth.

    t = step + sequence * b + kernels                               host, launches, small kernels
        + max(weights(b + c), (b + prefill * c) * token)            matrix products with weights
        + cache * context + state * b + prefill * prompt * pairs    attention

as in domain/step_time.py, but with the tokens that are really there: `context` are the KV tokens that the decoding
sequences read, `pairs` the positions that the prompt tokens of the iteration look at. Both are linear; a sliding
window is taken at the mean context that the spec was made for.
"""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.calibration import Calibration
from slmpack.domain.performance_table import EngineConstants
from slmpack.domain.prediction import Sharing, Site, Tenant
from slmpack.domain.step_time import Device, StepCosts, Unpredictable, device_of, step_costs
from slmpack.simulate.truth import Truth

__all__ = ["EngineSpec", "engine_spec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One engine of a deployment on one kind of share, as it really is. Seconds, tokens; equal specs are one kind."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: int
    """The KV pool; handed out in blocks of `block_tokens`."""
    chunked: bool
    """Whether prompt chunks share iterations with decoding sequences; else prompts come first, on their own."""
    shared: bool
    """Whether its GPU's other engines slow it down (MPS); MIG instances and whole GPUs are alone."""
    slices: int
    """Of the GPU, for people and bookkeeping only."""
    host_s: float
    """Of an iteration: the host's step and the small kernels of all layers."""
    sequence_s: float
    busy_s: float
    """Of `host_s`, what keeps the device from others."""
    sequence_busy_s: float
    weights_s: float
    """Reading the weights that every iteration reads."""
    experts_s: float = 0.0
    """Reading all routed experts."""
    expert_missed: float = 0.0
    """Part of the experts that one token leaves out; n tokens leave out this to the power of n."""
    token_s: float
    """Matrix products of one token."""
    cache_s: float
    """Attention of a decoding sequence for one token of its context."""
    state_s: float = 0.0
    """Attention of a decoding sequence, whatever its context."""
    prompt_s: float
    """Attention of a prompt token for one position that it looks at."""
    prefill: float = 1.0
    """The truth's factor on prompt tokens."""
    contention: float = 1.0
    """The truth's factor on waiting for neighbours."""
    cap_memory: float = 1.0
    cap_compute: float = 1.0
    """Factors on memory and arithmetic under an SM ceiling, alone on the GPU."""
    request_s: float = 0.0
    """Of every time to first token: API server, tokeniser, network."""
    weights_part: float = 0.0
    """Seconds of the whole GPU's catalogue bandwidth that one reading of the weights takes; for power."""
    experts_part: float = 0.0
    cache_part: float = 0.0
    token_part: float = 0.0
    """Seconds of the whole GPU's catalogue FLOP/s that one token's matrix products take."""
    pairs_part: float = 0.0
    """The same of attention, for one token and one position."""
    block_tokens: int = 16


def engine_spec(  # noqa: PLR0913 - what an engine is made of
    tenant: Tenant,
    site: Site,
    constants: EngineConstants,
    truth: Truth,
    *,
    calibration: Calibration | None = None,
    slices: int = 1,
) -> EngineSpec | Unpredictable:
    """The engine that the model describes, in the world of a truth.

    `tenant.input_tokens` and `.output_tokens` are the mix at which windows are taken; its in_flight does not matter.
    """
    dtype = tenant.model.compute_dtype
    device, whole = device_of(site, dtype), device_of(_whole(site), dtype)
    if isinstance(device, Unpredictable):
        return device
    if isinstance(whole, Unpredictable):
        return whole
    costs = step_costs(tenant, device, constants)
    if isinstance(costs, Unpredictable):
        return costs
    if calibration is not None:
        costs = costs.scaled(calibration.factor, step=calibration.step_s)
    return _spec(tenant, site, constants, truth, costs=costs, whole=whole, slices=slices)


def _whole(site: Site) -> Site:
    return Site(gpu=site.gpu, sharing=Sharing.NONE)


def _spec(  # noqa: PLR0913 - as above
    tenant: Tenant,
    site: Site,
    constants: EngineConstants,
    truth: Truth,
    *,
    costs: StepCosts,
    whole: Device,
    slices: int,
) -> EngineSpec:
    model, sharing = tenant.model, constants.sharing
    context = max(1.0, tenant.input_tokens + tenant.output_tokens / 2)
    seen = max(1.0, tenant.input_tokens * (1.0 + tenant.prefix_hit_rate) / 2)
    experts = 0.0 if model.experts is None else float(model.experts.all_bytes)
    missed = 0.0 if model.experts is None else 1.0 - model.experts.per_token / model.experts.count
    dense = float(model.weight_bytes - model.lookup_bytes) - experts
    read = model.cache_read_bytes(context, tenant.kv_element_bytes)
    state = float(model.state_bytes_per_sequence)
    share = 1.0 if site.sm_percent is None else site.sm_percent / 100
    return EngineSpec(
        max_num_seqs=tenant.max_num_seqs,
        max_num_batched_tokens=tenant.max_num_batched_tokens,
        kv_tokens=tenant.kv_cache_tokens,
        chunked=constants.chunked_prefill,
        shared=site.sharing is Sharing.MPS,
        slices=slices,
        host_s=(costs.step + costs.kernels) * truth.host,
        sequence_s=costs.sequence * truth.host,
        busy_s=costs.kernels * truth.host * sharing.busy_part,
        sequence_busy_s=costs.sequence * truth.host * sharing.sequence_busy_part,
        weights_s=dense * costs.byte,
        experts_s=experts * costs.byte,
        expert_missed=missed,
        token_s=costs.token,
        cache_s=costs.cache * read / max(1.0, read + state) / context,
        state_s=costs.cache * state / max(1.0, read + state),
        prompt_s=costs.prompt / seen,
        prefill=truth.prefill,
        contention=truth.contention,
        cap_memory=max(1.0, sharing.cap_bandwidth_share / share),
        cap_compute=share**-sharing.cap_compute_exponent,
        request_s=constants.request_s,
        weights_part=dense / whole.bandwidth_s,
        experts_part=experts / whole.bandwidth_s,
        cache_part=read / context / whole.bandwidth_s,
        token_part=model.linear_flops(1.0) / whole.flops_s,
        pairs_part=model.attention_flops(1.0, context) / context / whole.flops_s,
    )
