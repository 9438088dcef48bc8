"""The engine's command line: what the plan bounds it with, then the user's flags."""

from __future__ import annotations

from typing import Any

from slmpack.domain.engine import EngineTable, EngineVersion
from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.plan import CreatePod
from slmpack.render.template import mapping
from slmpack.render.volumes import model_path

__all__ = ["PORT", "engine_command", "flags_line", "plan_flags", "waits_for_requests"]

PORT = 8000
"""Where an engine listens; of a pack, the first one."""

_SHUTDOWN_TIMEOUT = "--shutdown-timeout"
_SERVED_NAME = "--served-model-name"


def waits_for_requests(engines: EngineTable, *, version: EngineVersion) -> bool:
    """Whether this vLLM can complete requests in flight after SIGTERM; older ones abort them at once."""
    return engines.supports(_SHUTDOWN_TIMEOUT, version)


def engine_command(create: CreatePod, *, port: int, shutdown_timeout: int | None) -> dict[str, list[str]]:
    """The container's `command` and `args`; `shutdown_timeout` is in seconds, None for no such flag.

    The command is explicit because the image's entrypoint changed among the supported versions: from
    `python3 -m vllm.entrypoints.openai.api_server`, which takes --model, to `vllm serve`, which takes the model alone.
    """
    flags: dict[str, str | None] = {"--port": str(port), **_model_flags(create), **plan_flags(create.settings)}
    if shutdown_timeout is not None:
        flags[_SHUTDOWN_TIMEOUT] = str(shutdown_timeout)
    for flag, value in create.demand.engine_args:
        # Of a flag that both set, the plan has read the user's value and its own is what the bounds were made for.
        flags.setdefault(flag, value)
    # One word a flag, because a value may begin with a dash.
    words = [flag if value is None else f"{flag}={value}" for flag, value in flags.items()]
    return {"command": ["vllm", "serve"], "args": [_literal(word) for word in (_model(create), *words)]}


def _model(create: CreatePod) -> str:
    source = create.demand.model_source
    return model_path(source) or source.removeprefix("hf://")


def _model_flags(create: CreatePod) -> dict[str, str | None]:
    """Which revision, and the name that clients ask for: the model's on the Hub, else the deployment's."""
    demand = create.demand
    flags: dict[str, str | None] = {}
    model: dict[str, Any] = mapping(demand.template, "model")
    if revision := model.get("revision"):
        flags["--revision"] = revision
    if _SERVED_NAME not in dict(demand.engine_args):
        flags[_SERVED_NAME] = create.deployment.key.name if model_path(demand.model_source) else _model(create)
    return flags


def plan_flags(settings: EngineSettings) -> dict[str, str]:
    """The flags that keep the engine inside its share (D5)."""
    flags = {"--gpu-memory-utilization": f"{settings.gpu_memory_utilization:.3f}"}
    if settings.kv_cache_memory_bytes is not None:
        flags["--kv-cache-memory-bytes"] = str(settings.kv_cache_memory_bytes)
    return {
        **flags,
        "--max-model-len": str(settings.max_model_len),
        "--max-num-seqs": str(settings.max_num_seqs),
        "--max-num-batched-tokens": str(settings.max_num_batched_tokens),
    }


def flags_line(settings: EngineSettings) -> str:
    """`plan_flags` as one writes them on a command line."""
    return " ".join(f"{flag}={value}" for flag, value in plan_flags(settings).items())


def _literal(word: str) -> str:
    """A word that the kubelet passes on as it is: else it replaces $(NAME), which the plan did not read."""
    return word.replace("$", "$$")
