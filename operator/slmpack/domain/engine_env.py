"""The environment variables that a user may not set on an engine, each with why.

Read in vllm/envs.py of the wheels 0.11.0 to 0.33.0: those that move memory, addresses, the process layout or the source
of the model. What is not named here (logging, timeouts, VLLM_API_KEY, HF_* ...) is the user's.
"""

from __future__ import annotations

from collections.abc import Iterable

from slmpack.domain.engine_version import EngineProblem

__all__ = ["check_env"]

_MEMORY = "it changes the engine's memory in a way that the footprint does not hold"
_ADDRESS = "the operator decides addresses and ports"
_OTHER_SOURCE = "it makes the engine load something else than the plan was made for"
_PROCESSES = "a replica is one engine on one GPU"
_RESERVED_PREFIXES = {
    "CUDA_": "the plan bounds the GPU with these (MPS limits, visible devices)",
    "NVIDIA_": "the device plugin and the plan set these",
    "SLMPACK_": "the supervisor of a pack is told by these",
    "VLLM_CPU_": _PROCESSES,
    "VLLM_DP_": _PROCESSES,
    "VLLM_ELASTIC_EP_": _PROCESSES,
    "VLLM_HUMMING_": _MEMORY,
    "VLLM_LORA_RESOLVER_": _MEMORY,
    "VLLM_RAY_": _PROCESSES,
    "VLLM_TORCH_PROFILER_": _MEMORY,
    "VLLM_USE_RAY_": _PROCESSES,
    "VLLM_WEIGHT_OFFLOADING_": _MEMORY,
}
_RESERVED_NAMES = {
    "HF_HOME": "the operator decides where the engine keeps models; use spec.model.cache",
    "PYTORCH_ALLOC_CONF": "it changes how PyTorch reserves device memory; the footprint was fitted without it",
    "PYTORCH_CUDA_ALLOC_CONF": "it changes how PyTorch reserves device memory; the footprint was fitted without it",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "the model's longest context bounds maxModelLen",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": _MEMORY,
    "VLLM_ATTENTION_BACKEND": _MEMORY,
    "VLLM_CACHE_ROOT": "the operator decides where the engine keeps its cache",
    "VLLM_CONFIG_ROOT": "the operator decides where the engine keeps its state",
    "VLLM_CUDART_SO_PATH": _OTHER_SOURCE,
    "VLLM_DISABLE_PAD_FOR_CUDAGRAPH": _MEMORY,
    "VLLM_ENABLE_INDUCTOR_MAX_AUTOTUNE": _MEMORY,
    "VLLM_ENABLE_STARTUP_PLAN": "the plan sets the KV cache; the engine must not reuse an earlier size",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "the operator counts on the engine's process layout",
    "VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE": _MEMORY,
    "VLLM_FLASH_ATTN_MAX_NUM_SPLITS_FOR_CUDA_GRAPH": _MEMORY,
    "VLLM_HOST_IP": _ADDRESS,
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "the probes must see a dead engine",
    "VLLM_LOOPBACK_IP": _ADDRESS,
    "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": _MEMORY,
    "VLLM_MM_INPUT_CACHE_GIB": _MEMORY,
    "VLLM_MODEL_REDIRECT_PATH": _OTHER_SOURCE,
    "VLLM_PORT": _ADDRESS,
    "VLLM_PP_LAYER_PARTITION": _PROCESSES,
    "VLLM_RPC_BASE_PATH": _ADDRESS,
    "VLLM_SERVER_DEV_MODE": "it opens endpoints that put the engine to sleep and reset its caches",
    "VLLM_TARGET_DEVICE": _OTHER_SOURCE,
    "VLLM_TEST_FORCE_LOAD_FORMAT": _OTHER_SOURCE,
    "VLLM_USE_BREAKABLE_CUDAGRAPH": _MEMORY,
    "VLLM_USE_MODELSCOPE": _OTHER_SOURCE,
    "VLLM_USE_RUST_FRONTEND": "probes and drain were made for the Python front end",
    "VLLM_USE_SIMPLE_KV_OFFLOAD": _MEMORY,
    "VLLM_USE_V1": "only the V1 engine is modelled",
    "VLLM_USE_V2_MODEL_RUNNER": _MEMORY,
    "VLLM_WORKER_MULTIPROC_METHOD": "the operator counts on the engine's process layout",
}


def check_env(names: Iterable[str]) -> tuple[EngineProblem, ...]:
    """A problem for each environment variable that a user may not set, sorted by name."""
    found = ((name, _reserved_env(name)) for name in sorted(set(names)))
    return tuple(
        EngineProblem(field=f"spec.pod.env[{name}]", message=f"{name} may not be set: {why}")
        for name, why in found
        if why
    )


def _reserved_env(name: str) -> str | None:
    prefix = next((prefix for prefix in _RESERVED_PREFIXES if name.startswith(prefix)), None)
    return _RESERVED_PREFIXES[prefix] if prefix else _RESERVED_NAMES.get(name)
