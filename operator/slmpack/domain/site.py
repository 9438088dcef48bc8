"""What the performance model takes a share of a GPU to be."""

from __future__ import annotations

from typing import assert_never

from slmpack.domain.gpu import GpuModel
from slmpack.domain.mig import find_profile
from slmpack.domain.prediction import Sharing, Site
from slmpack.domain.sharing import DraClaim, Exclusive, MigSlice, MpsPack, MpsShare, Share

__all__ = ["site_of"]


def site_of(share: Share, gpu: GpuModel) -> Site:
    """The site of one replica with that share; of a pack's engines, each."""
    match share:
        case Exclusive():
            return Site(gpu=gpu, sharing=Sharing.NONE)
        case MigSlice() | DraClaim():
            return Site(gpu=gpu, sharing=Sharing.MIG, mig_profile=find_profile(gpu, share.profile))
        case MpsShare():
            return Site(gpu=gpu, sharing=Sharing.MPS, sm_percent=share.active_thread_percentage)
        case MpsPack():
            return Site(gpu=gpu, sharing=Sharing.MPS, sm_percent=share.sm_percent)
        case _:
            assert_never(share)
