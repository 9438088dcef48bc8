"""The engine's memory behind a block, part by part, as it is drawn."""

from __future__ import annotations

from slmpack.domain.bar_watts import Fits, fit_of
from slmpack.domain.footprint import Footprint
from slmpack.domain.plan import Block
from slmpack.page.values import Amount

__all__ = ["amounts_of", "least_amounts"]


def amounts_of(fits: Fits, block: Block, product: str) -> tuple[Amount, ...]:
    """The engine's memory in its share, estimated; empty where it runs none, or nobody knows."""
    fit = fit_of(fits, block, product)
    if fit is None or fit.part is None or block.state == "idle":
        return ()
    room = fit.part.room
    used = min(room.footprint.kv_bytes(fit.need.kv_tokens), room.kv_cache_bytes)
    return (
        *_fixed(room.footprint),
        Amount(name="KV cache at the knee", kind="kv", size=used),
        Amount(name="KV cache beyond it", kind="spare", size=room.kv_cache_bytes - used),
    )


def least_amounts(footprint: Footprint, kv_tokens: int) -> tuple[Amount, ...]:
    """The least that a share must hold."""
    return (*_fixed(footprint), Amount(name="KV cache", kind="kv", size=footprint.kv_bytes(kv_tokens)))


def _fixed(footprint: Footprint) -> tuple[Amount, ...]:
    other = footprint.fixed_inside_bytes - footprint.weights_bytes + footprint.outside_bytes
    return (
        Amount(name="weights", kind="weights", size=footprint.weights_bytes),
        Amount(name="activations, graphs, context, margin", kind="other", size=other),
    )
