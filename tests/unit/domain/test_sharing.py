"""The union of shares: every kind has a limit, a total, a mode and a name."""

from __future__ import annotations

import pytest

from slmpack.domain.quantity import GIB
from slmpack.domain.sharing import (
    DraClaim,
    Exclusive,
    MigSlice,
    Mode,
    MpsPack,
    MpsShare,
    Share,
    cuda_total_bytes,
    describe_share,
    limit_bytes,
    mode_of,
    shares_of_gpu,
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


@pytest.mark.parametrize("replicas", [1, 4, 48])
def test_the_words_for_a_share_tell_how_many_a_gpu_has(replicas: int) -> None:
    share = MpsShare(
        resource="r", replicas=replicas, gpu_memory_bytes=GIB, limit_bytes=1, active_thread_percentage=100 // replicas
    )
    assert shares_of_gpu(describe_share(share)) == replicas


@pytest.mark.parametrize(
    ("share", "most"),
    [
        (Exclusive(resource="r", memory_bytes=1), 1),
        (MpsPack(resource="r", gpu_memory_bytes=4, limits_bytes=(1, 1)), 1),
        (MigSlice(resource="r", profile="1g.10gb", memory_bytes=1), 7),
        (DraClaim(resource="r", device_class="c", profile="1g.10gb", memory_bytes=1), 7),
    ],
)
def test_of_other_shares_a_gpu_has_one_or_as_many_as_it_can_be_cut_into(share: Share, most: int) -> None:
    assert shares_of_gpu(describe_share(share)) == most


@pytest.mark.parametrize("words", ["", "MpsShare 1/0", "MpsShare 1/x", "MpsShare 1/" + "9" * 40, "MpsShare 2/4"])
def test_words_of_nobody_count_as_the_most(words: str) -> None:
    assert shares_of_gpu(words) == 7
