"""quantization_config (or compression_config) of a config.json, read into a `Quantization` or refused by its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slmpack.domain.exclusions import Exclusions, exclusions_of
from slmpack.domain.model_config import Config, UnknownError
from slmpack.domain.quantization import FP8, NF4, Quantization, Storage, online_quantization
from slmpack.domain.tensors import Role

__all__ = ["METHODS", "quantization_of"]

_KEYS = ("quantization_config", "compression_config")
_FORMATS = frozenset({"pack-quantized", "int-quantized", "float-quantized", "naive-quantized"})
_MXFP4 = Storage(bits=4, group_inputs=32, scale_bytes=1, hidden_multiple=256, width_multiple=128)
"""Padding as the kernels want it: openai/gpt-oss-20b (2880 wide) loads as 3072 by 2944."""


def quantization_of(config: Config, *, override: str | None) -> Quantization | None:
    """How the weights are quantised; None: not at all. `override` is what the user gave vLLM as --quantization."""
    stated = [key for key in _KEYS if config.has(key)]
    if not stated:
        if override is None:
            return None
        found = online_quantization(override)
        if found is None:
            rule = "this checkpoint is not quantised: only fp8 and bitsandbytes can be made while it loads"
            raise UnknownError(key="quantization", value=override, rule=rule)
        return found
    inner = config.inner(stated[0])
    if len(stated) > 1 or inner is None:
        raise config.unknown(stated[1], rule=f"only one of {' and '.join(_KEYS)} may be there")
    method = inner.text("quant_method", default="compressed-tensors" if stated[0] == "compression_config" else "")
    reader = _READERS.get(method)
    if reader is None:
        raise inner.unknown("quant_method", rule=f"only {', '.join(_READERS)} are modelled")
    if override is not None and override not in _GIVEN_AS[method]:
        rule = f"the checkpoint is quantised with {method}: use {' or '.join(_GIVEN_AS[method])}, or leave it out"
        raise UnknownError(key="quantization", value=override, rule=rule)
    return reader(inner)


def _excluded(config: Config, *keys: str) -> Exclusions:
    entries = [entry for key in keys for entry in config.texts(key)]
    found = exclusions_of(entries)
    if isinstance(found, str):
        key = next(key for key in keys if found in config.texts(key))
        raise UnknownError(
            key=config.name(key), value=found, rule="module paths and simple patterns (at most three *) are modelled"
        )
    return found


def _awq(config: Config) -> Quantization:
    bits = _bits(config, "bits", allowed=(4,))
    zero_bits = bits if config.flag("zero_point", default=True) else 0
    return Quantization(
        method="awq",
        storage=Storage(bits=bits, group_inputs=_group(config), scale_bytes=2, zero_bits=zero_bits),
        exclusions=_excluded(config, "modules_to_not_convert"),
    )


def _gptq(config: Config) -> Quantization:
    if config.raw("dynamic"):
        raise config.unknown("dynamic", rule="bits that differ between modules are not modelled")
    bits = _bits(config, "bits", allowed=(2, 3, 4, 8))
    sorted_too = config.flag("desc_act", default=False)
    roles = {Role.DENSE, Role.EXPERT} | ({Role.HEAD} if config.flag("lm_head", default=False) else set())
    return Quantization(
        method="gptq",
        storage=Storage(
            bits=bits,
            group_inputs=_group(config),
            scale_bytes=2,
            zero_bits=bits,
            index_bytes=8 if sorted_too else 4,
        ),
        roles=frozenset(roles),
    )


def _fp8(config: Config) -> Quantization:
    block = config.numbers("weight_block_size")
    if block and (len(block) != 2 or 0 in block):
        raise config.unknown("weight_block_size", rule="two positive numbers are needed: outputs and inputs")
    storage = Storage(bits=8, group_outputs=block[0], group_inputs=block[1]) if block else FP8
    return Quantization(
        method="fp8",
        storage=storage,
        exclusions=_excluded(config, "ignored_layers", "modules_to_not_convert"),
        computes_in_fp8=True,
    )


def _bitsandbytes(config: Config) -> Quantization:
    eight = config.flag("load_in_8bit", default=False)
    if not eight and not config.flag("load_in_4bit", default=True):
        raise config.unknown("load_in_4bit", rule="load_in_4bit or load_in_8bit must be true")
    return Quantization(
        method="bitsandbytes",
        storage=Storage(bits=8) if eight else NF4,
        exclusions=_excluded(config, "llm_int8_skip_modules"),
    )


def _compressed_tensors(config: Config) -> Quantization:
    layout = config.text("format", default="")
    if layout not in _FORMATS:
        raise config.unknown("format", rule=f"only {', '.join(sorted(_FORMATS))} are modelled")
    sparsity = config.inner("sparsity_config")
    if sparsity is not None and sparsity.text("format", default="dense") != "dense":
        raise sparsity.unknown("format", rule="only dense weights are modelled")
    groups = config.inner("config_groups")
    if groups is None or len(groups.keys()) != 1:
        raise config.unknown("config_groups", rule="exactly one group is modelled")
    group = groups.inner(groups.keys()[0])
    if group is None or group.texts("targets") != ("Linear",):
        raise config.unknown("config_groups", rule='targets must be ["Linear"]')
    weights = group.inner("weights")
    if weights is None:
        raise group.unknown("weights", rule="the key is needed")
    activations = group.inner("input_activations")
    floats = activations is not None and activations.text("type", default="int") == "float"
    return Quantization(
        method="compressed-tensors",
        storage=_compressed_storage(weights, scale_bytes=2 if layout == "pack-quantized" else 4),
        exclusions=_excluded(config, "ignore"),
        computes_in_fp8=floats,
    )


def _compressed_storage(weights: Config, *, scale_bytes: int) -> Storage:
    kind = weights.text("type", default="int")
    bits = _bits(weights, "num_bits", allowed=(4, 8) if kind == "int" else (8,))
    zero_bits = 0 if weights.flag("symmetric", default=True) else bits
    index_bytes = 4 if weights.has("actorder") else 0
    match weights.text("strategy", default=""):
        case "tensor":
            return Storage(bits=bits, group_outputs=None, scale_bytes=scale_bytes, zero_bits=zero_bits)
        case "channel":
            return Storage(bits=bits, scale_bytes=scale_bytes, zero_bits=zero_bits, index_bytes=index_bytes)
        case "group":
            size = weights.number("group_size")
            return Storage(
                bits=bits,
                group_inputs=size,
                scale_bytes=scale_bytes,
                zero_bits=zero_bits,
                index_bytes=index_bytes,
            )
        case "block":
            block = weights.numbers("block_structure")
            if len(block) != 2 or 0 in block:
                raise weights.unknown("block_structure", rule="two positive numbers are needed: outputs and inputs")
            return Storage(bits=bits, group_outputs=block[0], group_inputs=block[1], scale_bytes=scale_bytes)
        case _:
            raise weights.unknown("strategy", rule="only tensor, channel, group and block are modelled")


def _mxfp4(config: Config) -> Quantization:
    return Quantization(
        method="mxfp4",
        storage=_MXFP4,
        exclusions=_excluded(config, "modules_to_not_convert"),
        roles=frozenset({Role.EXPERT}),
    )


def _bits(config: Config, key: str, *, allowed: tuple[int, ...]) -> int:
    bits = config.number(key)
    if bits not in allowed:
        raise config.unknown(key, rule=f"only {', '.join(map(str, allowed))} are modelled")
    return bits


def _group(config: Config) -> int | None:
    """None: one group an output, which -1 means."""
    size = config.number("group_size", least=-1)
    if size == 0:
        raise config.unknown("group_size", rule="a positive number, or -1 for all inputs, is needed")
    return None if size == -1 else size


_READERS: Mapping[str, Callable[[Config], Quantization]] = {
    "awq": _awq,
    "gptq": _gptq,
    "fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "mxfp4": _mxfp4,
}
_GIVEN_AS: Mapping[str, tuple[str, ...]] = {
    "awq": ("awq", "awq_marlin"),
    "gptq": ("gptq", "gptq_marlin"),
    "fp8": ("fp8",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "mxfp4": ("mxfp4",),
}
"""What --quantization may say of a checkpoint of each method."""
METHODS = tuple(_READERS)
"""Values of quant_method that are understood."""
