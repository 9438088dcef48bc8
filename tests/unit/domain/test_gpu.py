from __future__ import annotations

import pytest

from slmpack.domain.gpu import GpuCatalogue, GpuModel, MigProfile


def a_gpu(**changes: object) -> GpuModel:
    values: dict[str, object] = {
        "id": "h100",
        "product_labels": ("NVIDIA-H100-80GB-HBM3",),
        "compute_capability": "9.0",
        "memory_total_mib": 81559,
        "memory_usable_mib": 81082,
        "bandwidth_gb_s": 3350,
        "tdp_w": 700,
        "sm_count": 132,
        "mig_profiles": (
            MigProfile(
                name="1g.10gb",
                memory_mib=9856,
                compute_slices=1,
                memory_slices=1,
                placement_starts=(0, 1, 2, 3, 4, 5, 6),
                max_instances=7,
                sm_count=16,
            ),
        ),
        "mps_max_clients": 48,
        **changes,
    }
    return GpuModel(**values)  # type: ignore[arg-type]


H100 = a_gpu()
L4 = a_gpu(id="l4", product_labels=("NVIDIA-L4",), mig_profiles=())
CATALOGUE = GpuCatalogue(models=(H100, L4))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("NVIDIA-L4", L4),
        ("NVIDIA-L4-SHARED", L4),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", H100),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me", H100),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb-SHARED", H100),
        ("NVIDIA-H100-80GB-HBM3-MIG-INVALID", H100),
        ("NVIDIA-L40", None),
        ("NVIDIA-L4-MIG", None),
        ("", None),
    ],
)
def test_a_product_label_names_its_gpu_whatever_shares_it(label: str, expected: GpuModel | None) -> None:
    assert CATALOGUE.by_product(label) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("l4", L4), ("L4", L4), ("NVIDIA-L4", L4), ("h100", H100), ("b300", None)]
)
def test_a_user_may_write_the_id_or_the_label(text: str, expected: GpuModel | None) -> None:
    assert CATALOGUE.find(text) == expected


def test_an_id_is_exact() -> None:
    assert CATALOGUE.by_id("l4") == L4
    assert CATALOGUE.by_id("L4") is None
