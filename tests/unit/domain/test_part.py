"""One engine in one part of a GPU: its batch, its cache, its prefix hits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.cut import Cut, cut_gpu
from slmpack.domain.engine_version import EngineVersion
from slmpack.domain.model import ModelProfile
from slmpack.domain.part import Part, largest_part, own_hit_rate, part_at
from slmpack.domain.prediction import Sharing
from slmpack.domain.serving import Engine
from slmpack.domain.sizing import make_engine
from slmpack.domain.workload import Workload
from tests.support.builders import POLICY, a_model

GRID = POLICY.choice.knee.grid


def an_engine(model: ModelProfile | None = None, *, max_num_seqs: int | None = None, tokens: int = 1024) -> Engine:
    return make_engine(
        model or a_model(),
        EngineVersion(0, 33),
        POLICY,
        max_model_len=4096,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=tokens,
        kv_cache_dtype=None,
        enforce_eager=False,
        cpu_cores=2.0,
    )


def at(engine: Engine, cut: Cut, sequences: int) -> Part:
    return part_at(engine, cut, sequences, kv_tokens=4096, policy=POLICY)


def a_cut(sharing: Sharing = Sharing.NONE, replicas: int = 1, *, gpu: str = "l4", profile: str | None = None) -> Cut:
    model = POLICY.gpus.by_id(gpu)
    assert model is not None
    cut = cut_gpu(model, sharing=sharing, replicas=replicas, mig_profile=profile)
    assert isinstance(cut, Cut)
    return cut


def held(engine: Engine, cut: Cut, live_tokens: float) -> Part:
    return largest_part(engine, cut, live_tokens=live_tokens, kv_tokens=4096, policy=POLICY)


def test_a_larger_batch_takes_more_tokens_of_a_step_and_more_memory() -> None:
    engine = an_engine()
    assert [engine.batched_tokens(sequences) for sequences in (1, 1024, 2048)] == [1024, 1024, 2048]
    assert engine.footprint(512).fixed_inside_bytes > engine.footprint(8).fixed_inside_bytes
    assert engine.footprint(8) is engine.footprint(8), "worked out once"
    assert engine == an_engine(), "what is kept is no part of the value"


@pytest.mark.parametrize("live_tokens", [16, 640, 1500, 4000, 20_000])
def test_the_largest_batch_is_the_last_of_the_grid_that_the_cache_holds(live_tokens: float) -> None:
    engine, cut = an_engine(), a_cut(Sharing.MPS, 2)
    part = held(engine, cut, live_tokens)
    fitting = [
        batch
        for batch in GRID
        if POLICY.least_num_seqs <= batch <= POLICY.max_num_seqs
        and at(engine, cut, batch).room.kv_cache_tokens >= batch * live_tokens
    ]
    assert part.sequences == max(fitting, default=POLICY.least_num_seqs)
    assert part.fits


def test_the_users_batch_counts_whether_it_is_held_or_not() -> None:
    part = held(an_engine(max_num_seqs=3), a_cut(), 10**9)
    assert (part.sequences, part.fits) == (3, True)


def test_where_nothing_fits_the_least_is_shown() -> None:
    part = held(an_engine(), a_cut(Sharing.MPS, 20), 640)
    assert (part.sequences, part.fits) == (POLICY.least_num_seqs, False)
    assert part.room.needed_bytes > (part.cut.limit_bytes or 0)
    assert part.room.needed_bytes == part.footprint.total_bytes(4096)


def test_a_model_without_a_cache_is_never_short_of_it() -> None:
    model = replace(a_model(), cache=())
    assert model.kv_elements_per_token == 0
    assert held(an_engine(model), a_cut(), 640).sequences == 512


WORKLOAD = Workload(in_flight=8.0, prefix_hit_rate=0.6)


def test_prefix_hits_shrink_with_the_pool() -> None:
    engine = an_engine()
    whole = at(engine, a_cut(), 64)
    half = at(engine, a_cut(Sharing.MPS, 2), 64)
    assert own_hit_rate(whole, WORKLOAD, policy=POLICY) == 0.6
    found = own_hit_rate(half, WORKLOAD, policy=POLICY)
    assert found == pytest.approx(0.6 * half.room.kv_cache_tokens / whole.room.kv_cache_tokens)
    assert 0.2 < found < 0.3


def test_prefix_hits_of_mig_instances_and_of_what_does_not_fit_stay() -> None:
    engine = an_engine()
    slice_ = at(engine, a_cut(Sharing.MIG, 3, gpu="a100-sxm4-40gb", profile="2g.10gb"), 64)
    assert slice_.fits
    assert own_hit_rate(slice_, WORKLOAD, policy=POLICY) == 0.6
    none = at(engine, a_cut(Sharing.MPS, 20), 64)
    assert own_hit_rate(none, WORKLOAD, policy=POLICY) == 0.6


def test_a_tenant_has_the_parts_pool_and_settings() -> None:
    engine = an_engine()
    part = at(engine, a_cut(), 300)
    tenant = part.tenant(WORKLOAD, in_flight=5.0, prefix_hit_rate=0.4)
    assert tenant.kv_cache_tokens == part.room.kv_cache_tokens
    assert (tenant.max_num_seqs, tenant.max_num_batched_tokens) == (300, 1024)
    assert (tenant.in_flight, tenant.input_tokens, tenant.output_tokens) == (5.0, 512, 256)
    assert (tenant.prefix_hit_rate, tenant.cpu_cores) == (0.4, 2.0)
