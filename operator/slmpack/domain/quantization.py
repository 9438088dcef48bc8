"""How quantised weights lie in device memory.

Sizes are those that vLLM allocates: packed weights, one scale (and zero point) a group, index tensors; embeddings,
output head, normalisations, biases, routers and whatever the config excludes stay in the model's dtype. Sources: vLLM,
model_executor/layers/quantization, one file a method. Known deviations are on the safe side: the nested statistics of
bitsandbytes count as float32, as vLLM unpacks them (dequantize_dq; logs: 0.564 bytes a weight in 0.9.1, 0.52 in 0.7.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from slmpack.domain.exclusions import Exclusions
from slmpack.domain.tensors import Matrix, Role

__all__ = ["FP8", "NF4", "Quantization", "Storage", "online_quantization"]

_NO_EXCLUSIONS = Exclusions(entries=(), paths=frozenset(), patterns=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How one quantised matrix is kept; a group of weights shares one scale."""

    bits: int
    group_outputs: int | None = 1
    """Outputs of a group; None: all."""
    group_inputs: int | None = None
    """Inputs of a group; None: all."""
    scale_bytes: int = 4
    zero_bits: int = 0
    index_bytes: int = 0
    """Of index tensors, for each input."""
    hidden_multiple: int = 1
    """hidden_size is rounded up to a multiple of this."""
    width_multiple: int = 1
    """An MLP's width is rounded up to a multiple of this."""

    def bytes_of(self, matrix: Matrix) -> int:
        """Bytes of one copy without its bias."""
        before, after = self.hidden_multiple, self.width_multiple
        if matrix.narrowing:
            before, after = after, before
        inputs, outputs = _up(matrix.inputs, before) * before, _up(matrix.outputs, after) * after
        groups = _up(outputs, self.group_outputs or outputs) * _up(inputs, self.group_inputs or inputs)
        weights = _up(inputs * outputs * self.bits, 8)
        return weights + groups * self.scale_bytes + _up(groups * self.zero_bits, 8) + inputs * self.index_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What a checkpoint's config, or the user's flag, makes of the weights."""

    method: str
    storage: Storage
    exclusions: Exclusions = _NO_EXCLUSIONS
    roles: frozenset[Role] = frozenset({Role.DENSE, Role.EXPERT})
    computes_in_fp8: bool = False
    loads_whole: bool = False
    """Whether all 16-bit weights are on the device before they are quantised."""
    online: bool = False
    """Whether vLLM quantises an unquantised checkpoint while it loads."""

    def covers(self, matrix: Matrix) -> bool:
        """Whether the matrix is quantised."""
        tied = matrix.role is Role.HEAD and matrix.name != "lm_head"
        return matrix.role in self.roles and not tied and not self.exclusions.match(matrix.name)

    def bytes_of(self, matrix: Matrix, *, dtype_bytes: int) -> int:
        """Resident bytes of one copy with its bias; `dtype_bytes` is for what stays unquantised."""
        if not self.covers(matrix):
            return matrix.parameters * dtype_bytes
        return self.storage.bytes_of(matrix) + matrix.biases * dtype_bytes


FP8 = Storage(bits=8, group_outputs=None)
"""One float32 scale a matrix."""
NF4 = Storage(bits=4, group_inputs=64)
"""bitsandbytes: a float32 maximum for each 64 weights."""


def online_quantization(method: str) -> Quantization | None:
    """What `--quantization` makes of an unquantised checkpoint; None where vLLM, or we, cannot say.

    fp8 first loads the whole model in 16 bits (vLLM before its layer-wise loading); bitsandbytes quantises tensor by
    tensor on the way to the device.
    """
    match method:
        case "fp8":
            return Quantization(method="fp8", storage=FP8, computes_in_fp8=True, loads_whole=True, online=True)
        case "bitsandbytes":
            return Quantization(method="bitsandbytes", storage=NF4, online=True)
        case _:
            return None


def _up(number: int, divisor: int) -> int:
    return -(-number // divisor)
