"""From the flags of `estimate` and `predict` to domain values. Every error names the flag, its value and the rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import click

from slmpack.adapters.tables import bundled_config, load_gpu_catalogue
from slmpack.domain.cut import CannotCut
from slmpack.domain.engine import DEFAULT_IMAGE, EngineVersion, parse_engine_version, parse_version
from slmpack.domain.gpu import GpuModel
from slmpack.domain.model import ModelProfile, UnknownLayout, parse_model_config
from slmpack.domain.prediction import Sharing
from slmpack.domain.serving import Engine
from slmpack.domain.sizing import make_engine
from slmpack.domain.snapshot import Policy
from slmpack.domain.workload import DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS, Bounds, Objective, Workload

__all__ = ["LOADS", "Asked", "Subject", "cannot_cut", "find_gpu", "read_subject"]

LOADS = ("batch", "in_flight", "request_rate")
DEFAULT_CPU_CORES = 1.5
"""What a replica asks for where its SLMDeployment says nothing."""
NAMED = 6
"""Ids in a hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The flags, named as click names them; None where a flag is not given."""

    model: str | None = None
    config: str | None = None
    gpu: str | None = None
    sharing: str | None = None
    mig_profile: str | None = None
    sm_percent: int | None = None
    replicas: int | None = None
    batch: int | None = None
    in_flight: float | None = None
    request_rate: float | None = None
    input_len: int | None = None
    output_len: int | None = None
    prefix_hit_rate: float | None = None
    itl_ms: float | None = None
    ttft_ms: float | None = None
    objective: str | None = None
    engine_version: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    enforce_eager: bool = False
    cpu_cores: float | None = None
    model_seconds: float = 20.0

    def check(self) -> None:
        """Raise click.UsageError where flags contradict each other."""
        loads = [name for name in LOADS if getattr(self, name) is not None]
        if len(loads) > 1:
            given = " and ".join(_flag(name) for name in loads)
            raise click.UsageError(f"{given} exclude each other: each says how much load there is; keep one of them")
        if self.mig_profile is not None and self.sharing not in {None, "mig"}:
            raise click.UsageError(f"--mig-profile needs --sharing mig, not {self.sharing}; leave one of the two out")
        if self.sm_percent is not None and self.sharing not in {None, "mps"}:
            raise click.UsageError(f"--sm-percent needs --sharing mps, not {self.sharing}; leave one of the two out")

    @property
    def mechanism(self) -> Sharing | None:
        """How the GPU is to be shared, where the flags say it."""
        if self.mig_profile is not None:
            return Sharing.MIG
        if self.sm_percent is not None:
            return Sharing.MPS
        return None if self.sharing is None else Sharing(self.sharing)

    def workload(self, engine: Engine, *, replicas: int) -> Workload:
        """What one GPU faces; --batch is of each of its replicas. Assumed lengths shrink to what the engine takes."""
        room = engine.max_model_len
        output = self.output_len or min(DEFAULT_OUTPUT_TOKENS, max(1, (room - (self.input_len or 0)) // 3))
        return Workload(
            in_flight=self.in_flight if self.batch is None else float(self.batch * replicas),
            request_rate=self.request_rate,
            input_tokens=self.input_len or max(1, min(DEFAULT_INPUT_TOKENS, room - output)),
            output_tokens=output,
            prefix_hit_rate=self.prefix_hit_rate or 0.0,
        )

    @property
    def bounds(self) -> Bounds:
        """--ttft-ms and --itl-ms."""
        return Bounds(ttft_s=_seconds(self.ttft_ms), itl_s=_seconds(self.itl_ms))

    @property
    def wanted_most(self) -> Objective:
        """--objective."""
        return Objective((self.objective or Objective.THROUGHPUT.value).capitalize())


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One engine with a name for people."""

    name: str
    """Of the model: its id, or the file."""
    version: EngineVersion
    engine: Engine


def find_gpu(text: str | None, *, flag: str = "--gpu", instead: str = "") -> GpuModel:
    """The product of an id or a label; click.BadParameter with the nearest ids for any other text.

    `instead`: what else could be given, for who gives none.
    """
    catalogue = load_gpu_catalogue()
    if text is None:
        raise click.UsageError(f"{flag} is missing; name a GPU of the catalogue, for example --gpu l4{instead}")
    gpu = catalogue.find(text.strip())
    if gpu is not None:
        return gpu
    names = {name.lower(): model.id for model in catalogue.models for name in (model.id, *model.product_labels)}
    wanted = text.strip().lower()
    near = [names[name] for name in names if wanted and wanted in name]
    near = near or [names[name] for name in get_close_matches(wanted[:80], names, n=NAMED, cutoff=0.4)]
    hint = ", ".join(list(dict.fromkeys(near))[:NAMED]) or ", ".join(model.id for model in catalogue.models)
    raise click.BadParameter(f"{text!r} is not in the catalogue; the nearest are: {hint}", param_hint=flag)


def cannot_cut(found: CannotCut) -> click.ClickException:
    """The error that names the flag."""
    return click.BadParameter(found.message, param_hint=_flag(found.field))


def read_subject(asked: Asked, policy: Policy) -> Subject:
    """The engine that the flags describe. Raises click.ClickException where a flag or the config cannot be used."""
    name, config = _config(asked)
    version = _version(asked, policy)
    model = parse_model_config(config, dtype_override=asked.dtype, quantization_override=asked.quantization)
    if isinstance(model, UnknownLayout):
        if getattr(asked, model.key, None) is not None and model.key in {"dtype", "quantization"}:
            message = model.message.removeprefix("config.json: ")
            raise click.BadParameter(message, param_hint=_flag(model.key))
        raise click.ClickException(f"{name}: {model.message}")
    return Subject(name=name, version=version, engine=_engine(asked, model, version, policy))


def _config(asked: Asked) -> tuple[str, Mapping[str, object]]:
    """A name for people, and the config.json."""
    if asked.config is not None and asked.model is not None:
        raise click.UsageError(f"MODEL {asked.model!r} and --config exclude each other; keep one of them")
    if asked.config is not None:
        return asked.config, read_config_file(Path(asked.config))
    if asked.model is None:
        raise click.UsageError("MODEL or --config is missing; write for example Qwen/Qwen2.5-0.5B-Instruct")
    name = asked.model.removeprefix("hf://")
    if Path(asked.model).exists():
        raise click.UsageError(f"MODEL {asked.model!r} is a file here; write --config {asked.model}")
    if name.count("/") != 1 or not all(name.split("/")):
        raise click.UsageError(
            f"MODEL {asked.model!r} is no id of the Hub; write owner/name, for example Qwen/Qwen2.5-0.5B-Instruct,"
            " or --config FILE"
        )
    bundled = bundled_config(name)
    if bundled is not None:
        return name, bundled
    from slmpack.cli.hub_config import fetch_config  # takes a quarter of a second: what ships needs none of it

    return name, fetch_config(name, seconds=asked.model_seconds)


def read_config_file(path: Path) -> Mapping[str, object]:
    """A config.json, or the one in a folder."""
    found = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(found.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{found} cannot be read: {error.strerror}; name a model's config.json"
        raise click.BadParameter(message, param_hint="--config") from error
    except RecursionError as error:
        message = f"{found} is nested too deeply; name a model's config.json"
        raise click.BadParameter(message, param_hint="--config") from error
    except ValueError as error:
        raise click.BadParameter(f"{found} is not JSON: {error}", param_hint="--config") from error
    if not isinstance(config, dict):
        message = f"{found} is not a JSON object; name a model's config.json"
        raise click.BadParameter(message, param_hint="--config")
    return config


def _version(asked: Asked, policy: Policy) -> EngineVersion:
    if asked.engine_version is None:
        default = parse_engine_version(DEFAULT_IMAGE, None)
        assert isinstance(default, EngineVersion)  # noqa: S101 - the image is a constant of ours
        return default
    version = parse_version(asked.engine_version)
    if version is None:
        message = f"{asked.engine_version!r} is no released vLLM version; write for example 0.33.0"
        raise click.BadParameter(message, param_hint="--engine-version")
    try:
        policy.engines.runtime_for(version)
    except LookupError as error:
        since = min(runtime.since for runtime in policy.engines.runtimes)
        message = f"{asked.engine_version!r}: {error}; {since} or later works"
        raise click.BadParameter(message, param_hint="--engine-version") from error
    return version


def _engine(asked: Asked, model: ModelProfile, version: EngineVersion, policy: Policy) -> Engine:
    """The engine's settings; vLLM wants at least as many tokens a step as sequences."""
    length = _length(asked, model, policy)
    tokens, sequences = asked.max_num_batched_tokens, asked.max_num_seqs
    if tokens is not None and sequences is not None and sequences > tokens:
        message = f"{tokens} is less than --max-num-seqs {sequences}; at least that many are needed"
        raise click.BadParameter(message, param_hint="--max-num-batched-tokens")
    return make_engine(
        model,
        version,
        policy,
        max_model_len=length,
        max_num_seqs=sequences,
        max_num_batched_tokens=tokens,
        kv_cache_dtype=_kv_cache_dtype(asked, policy),
        enforce_eager=asked.enforce_eager,
        gpu_memory_utilization=asked.gpu_memory_utilization,
        cpu_cores=asked.cpu_cores or DEFAULT_CPU_CORES,
    )


def _length(asked: Asked, model: ModelProfile, policy: Policy) -> int:
    """Tokens that a request may have: as asked, else the policy's, more where the workload has longer requests."""
    longest = model.max_positions
    request = (asked.input_len or 0) + (asked.output_len or 0)
    length = asked.max_model_len or max(min(longest, policy.default_max_model_len), min(request, longest))
    if length > longest:
        message = f"{length} is more than the model's {longest} positions; at most that many work"
        raise click.BadParameter(message, param_hint="--max-model-len")
    if request > length or max(asked.input_len or 0, asked.output_len or 0) >= length:
        message = (
            f"a request of {asked.input_len or 'some'} tokens in and {asked.output_len or 'some'} out is longer than"
            f" the {length} tokens that the engine takes; make it shorter"
        )
        raise click.UsageError(f"--input-len, --output-len: {message}")
    return length


def _kv_cache_dtype(asked: Asked, policy: Policy) -> str | None:
    flag = policy.engines.flag("--kv-cache-dtype")
    if asked.kv_cache_dtype is not None and flag is not None and asked.kv_cache_dtype not in flag.values:
        message = f"{asked.kv_cache_dtype!r} is not modelled; use one of {', '.join(flag.values)}"
        raise click.BadParameter(message, param_hint="--kv-cache-dtype")
    return asked.kv_cache_dtype


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
