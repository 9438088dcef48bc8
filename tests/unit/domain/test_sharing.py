"""The union of shares: every kind has a limit, a total, a mode and a name."""

from __future__ import annotations

import pytest

from slmpack.domain.quantity import GIB
from slmpack.domain.sharing import (
    Exclusive,
    MigSlice,
    Mode,
    MpsShare,
    Share,
    cuda_total_bytes,
    describe_share,
    limit_bytes,
    mode_of,
    starts_alone,
)

TABLE = [
    (Exclusive(resource="nvidia.com/gpu", memory_bytes=22 * GIB), 22, 22, Mode.EXCLUSIVE, False, "Exclusive"),
    (
        MigSlice(resource="nvidia.com/mig-1g.10gb", profile="1g.10gb", memory_bytes=10 * GIB),
        10,
        10,
        Mode.MIG,
        False,
        "MigSlice 1g.10gb",
    ),
    (
        MpsShare(
            resource="nvidia.com/gpu",
            replicas=4,
            gpu_memory_bytes=80 * GIB,
            limit_bytes=19 * GIB,
            active_thread_percentage=25,
        ),
        19,
        80,
        Mode.MPS,
        True,
        "MpsShare 1/4",
    ),
]


@pytest.mark.parametrize(("share", "limit", "total", "mode", "alone", "text"), TABLE)
def test_every_kind_of_share(share: Share, limit: int, total: int, mode: Mode, alone: bool, text: str) -> None:
    assert limit_bytes(share) == limit * GIB
    assert cuda_total_bytes(share) == total * GIB
    assert mode_of(share) is mode
    assert starts_alone(share) is alone
    assert describe_share(share) == text
