"""The engine's budget in a share: utilisation, KV cache, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

from slmpack.domain.cut import Cut
from slmpack.domain.footprint import Footprint
from slmpack.domain.prediction import Sharing
from slmpack.domain.quantity import GIB, MIB
from slmpack.domain.room import Room, make_room
from slmpack.domain.sharing import cuda_total_bytes, limit_bytes
from tests.unit.domain.test_cut import a_cut

FOOTPRINT = Footprint(
    weights_bytes=2 * GIB,
    kv_bytes_per_token=64 * 1024,
    activation_bytes=512 * MIB,
    non_torch_bytes=128 * MIB,
    cuda_graph_bytes=256 * MIB,
    cuda_graphs_inside_budget=True,
    context_bytes=512 * MIB,
    margin_bytes=128 * MIB,
    basis="modelled",
)


def room(
    cut: Cut, wanted: float | None = None, *, tokens: int = 4096, loading: int = 0, footprint: Footprint = FOOTPRINT
) -> Room:
    return make_room(cut.share, footprint, kv_tokens=tokens, loading_bytes=loading, ceiling=0.92, wanted=wanted)


def test_budget_and_context_lie_inside_the_share_and_the_cache_is_whole_blocks() -> None:
    for sharing, replicas in ((Sharing.NONE, 1), (Sharing.MIG, 1), (Sharing.MPS, 4), (Sharing.TIMESLICE, 3)):
        cut = a_cut(sharing, replicas)
        found = room(cut)
        assert found.shortfall is None
        total, limit = cuda_total_bytes(cut.share), limit_bytes(cut.share)
        assert found.requested_bytes == int(found.gpu_memory_utilization * total)
        assert found.requested_bytes + FOOTPRINT.outside_bytes <= limit
        assert found.gpu_memory_utilization == round(found.gpu_memory_utilization, 3) <= 0.92
        assert found.kv_cache_bytes == found.kv_cache_tokens * FOOTPRINT.kv_bytes_per_token
        assert found.kv_cache_tokens % 16 == 0
        left = found.requested_bytes - FOOTPRINT.fixed_inside_bytes - found.kv_cache_bytes
        assert 0 <= left < 16 * FOOTPRINT.kv_bytes_per_token


def test_a_wanted_utilisation_is_taken_or_named_with_what_works() -> None:
    cut = a_cut(Sharing.MPS, 2)
    assert room(cut, 0.3).gpu_memory_utilization == 0.3
    too_much = room(cut, 0.9).shortfall
    assert too_much is not None
    assert "a utilisation of 0.9 asks for" in too_much
    most = float(too_much.rpartition("at most ")[2].removesuffix(" works"))
    assert room(cut, most).shortfall is None
    assert room(cut, most + 0.001).shortfall is not None


def test_what_is_too_small_says_what_is_needed_term_by_term() -> None:
    found = room(a_cut(Sharing.MPS, 30))
    assert found.kv_cache_tokens == 0
    assert found.shortfall == (
        "a replica needs 3.8 GiB: weights 2.0 GiB + KV cache of 4,096 tokens 256 MiB"
        " + activations 512 MiB + graphs 256 MiB + context 512 MiB + other 256 MiB; the share offers 2.6 GiB"
    )


def test_a_share_smaller_than_the_context_offers_nothing() -> None:
    found = room(a_cut(), footprint=replace(FOOTPRINT, context_bytes=10**12))
    assert (found.gpu_memory_utilization, found.requested_bytes, found.kv_cache_bytes) == (0.0, 0, 0)
    assert found.shortfall is not None


def test_the_cache_must_hold_what_is_needed() -> None:
    cut = a_cut(Sharing.MIG)
    tokens = room(cut).kv_cache_tokens
    assert room(cut, tokens=tokens).shortfall is None
    assert room(cut, tokens=tokens + 1).shortfall is not None


def test_a_model_without_a_cache_needs_none() -> None:
    found = room(a_cut(), footprint=replace(FOOTPRINT, kv_bytes_per_token=0))
    assert (found.kv_cache_bytes, found.kv_cache_tokens, found.shortfall) == (0, 0, None)
    assert found.fits
    assert found.holds(10**9)
    assert found.settings(max_model_len=1, max_num_seqs=1, max_num_batched_tokens=1).kv_cache_memory_bytes is None


def test_the_weights_must_find_room_while_they_load() -> None:
    cut = a_cut()
    huge = room(cut, loading=100 * GIB)
    assert not huge.fits
    assert huge.needed_bytes > 100 * GIB
    assert huge.shortfall == (
        "the weights take 100.0 GiB while they load, before vLLM quantises them: 100.6 GiB in all,"
        " more than the share's 79.2 GiB"
    )
    fitting = room(cut, loading=70 * GIB)
    assert fitting.fits
    assert (fitting.needed_bytes, fitting.shortfall) == (70 * GIB + 640 * MIB, None)
