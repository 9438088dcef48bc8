"""The GPU catalogue: what a product label means in memory, multiprocessors and MIG profiles.

A number that no source gives is None and stays None: nothing here fills a gap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["USABLE_FRACTION", "DenseTflops", "GpuCatalogue", "GpuModel", "MigProfile"]

_LABEL_SUFFIX = re.compile(r"-SHARED$|-MIG-(?:INVALID|[0-9]+g\.[0-9]+gb[a-z0-9.+]*)$")


USABLE_FRACTION = 0.98
"""CUDA's total over nvidia-smi's where gpus.yaml has no captured one; at least 0.98 in the captures that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigProfile:
    """One MIG profile: an interval of `memory_slices` that may start at any of `placement_starts`."""

    name: str
    """As nvidia-smi prints it, for example `1g.10gb+me`."""
    memory_mib: int | None
    """The lowest value that a driver was seen to report for an instance."""
    compute_slices: int
    memory_slices: int
    placement_starts: tuple[int, ...]
    max_instances: int
    sm_count: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTflops:
    """Peak tensor-core TFLOP/s without sparsity; None: the product has no such unit or no source gives a figure."""

    bf16: float | None = None
    fp16: float | None = None
    fp8: float | None = None

    def of(self, dtype: str) -> float | None:
        """By the name of a compute type: bf16, fp16 or fp8; None for any other."""
        match dtype:
            case "bf16":
                return self.bf16
            case "fp16":
                return self.fp16
            case "fp8":
                return self.fp8
            case _:
                return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One product; all figures are for one GPU."""

    id: str
    product_labels: tuple[str, ...]
    """Values of `nvidia.com/gpu.product` without the sharing suffixes."""
    compute_capability: str
    memory_total_mib: int
    """What `nvidia.com/gpu.memory` and nvidia-smi say; where no source does, what CUDA reports, which is less."""
    memory_usable_mib: int | None
    """What CUDA reports as the total, where it was captured."""
    bandwidth_gb_s: float | None
    tdp_w: int
    sm_count: int | None
    mig_profiles: tuple[MigProfile, ...]
    """Empty where the product has no MIG."""
    mps_max_clients: int | None
    """Engines that the device plugin's MPS daemon admits on one GPU; None without MPS."""
    dense_tflops: DenseTflops = DenseTflops()
    idle_w: tuple[float, float] | None = None
    """Lowest and highest power seen with no CUDA context; None: never captured."""
    loaded_idle_w: tuple[float, float] | None = None
    """Lowest and highest power seen with a model resident and no work; None: never captured."""
    stacked_memory: bool = True
    """HBM; False for GDDR."""

    @property
    def cuda_total_mib(self) -> int:
        """What CUDA reports as the total, captured or estimated."""
        return self.memory_usable_mib or int(self.memory_total_mib * USABLE_FRACTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCatalogue:
    """Every known product, in the table's order."""

    models: tuple[GpuModel, ...]

    def by_product(self, label: str) -> GpuModel | None:
        """The product of a `nvidia.com/gpu.product` label; a -SHARED or -MIG-<profile> suffix does not matter."""
        product = _LABEL_SUFFIX.sub("", _LABEL_SUFFIX.sub("", label))
        return next((model for model in self.models if product in model.product_labels), None)

    def by_id(self, name: str) -> GpuModel | None:
        """The product with this id of the table."""
        return next((model for model in self.models if model.id == name), None)

    def find(self, text: str) -> GpuModel | None:
        """The product that a user means: an id in any case, or a label."""
        return self.by_id(text.lower()) or self.by_product(text)
