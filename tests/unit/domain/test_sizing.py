"""From a demand to a need, and from a share to flags that keep the engine inside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.engine_settings import EngineSettings
from slmpack.domain.gpu import GpuCatalogue
from slmpack.domain.quantity import GIB, MIB
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.serving import Engine
from slmpack.domain.sharing import Exclusive, MpsShare, Share
from slmpack.domain.sizing import (
    Need,
    engine_of,
    nearest_fit,
    need_bytes,
    room_in,
    size_replica,
)
from slmpack.domain.snapshot import Demand, ModelUnknown, ReplicaRecord
from slmpack.domain.workload import Workload
from tests.support.builders import (
    POLICY,
    a_demand,
    a_deployment,
    a_model,
    a_need,
    a_snapshot,
    creates,
    plan,
    whole_node,
)

UNKNOWN = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="the model source does not answer")


def an_engine(demand: Demand) -> Engine:
    engine = engine_of(demand, POLICY)
    assert isinstance(engine, Engine)
    return engine


def settings_in(share: Share, need: Need) -> EngineSettings | None:
    room = room_in(share, need, POLICY)
    settings = room.settings(max_model_len=8192, max_num_seqs=8, max_num_batched_tokens=2048)
    return settings if room.fits else None


def a_record() -> ReplicaRecord:
    (create,) = creates(plan(a_snapshot(deployments=(a_deployment(),), nodes=(whole_node("n"),))))
    return create.record


def test_the_default_length_is_the_configs_or_8192_and_the_users_counts() -> None:
    assert (a_need().max_model_len, a_need().kv_tokens) == (8192, 8192)
    assert a_need(a_demand(model=a_model("facebook/opt-1.3b"))).max_model_len == 2048
    assert a_need(a_demand(max_model_len=1000)).max_model_len == 1000


def test_a_length_beyond_the_models_is_named_with_what_works() -> None:
    problem = size_replica(a_demand(max_model_len=200_000), POLICY, ())
    assert problem == Problem(
        reason=Reason.MODEL_LEN_TOO_LONG,
        field="spec.engine.maxModelLen",
        message="spec.engine.maxModelLen: 200000 is more than the model's 32768 positions; at most 32768 works",
    )


@pytest.mark.parametrize(
    ("args", "limits", "tokens"),
    [
        ((), (8, 8, 512), 2048),
        ((("--max-num-seqs", "64"),), (64, 8, 64), 2048),
        ((("--max-num-seqs", "3"),), (3, 3, 3), 2048),
        ((("--max-num-batched-tokens", "64"),), (8, 8, 64), 64),
        ((("--max-num-batched-tokens", "4"),), (4, 4, 4), 4),
        ((("--max-num-seqs", "4096"),), (4096, 8, 4096), 4096),
        ((("--max-num-seqs", "16"), ("--max-num-batched-tokens", "512")), (16, 8, 16), 512),
    ],
)
def test_batching_is_the_users_else_within_the_policys(
    args: tuple[tuple[str, str | None], ...], limits: tuple[int, int, int], tokens: int
) -> None:
    demand = a_demand(engine_args=args)
    engine = an_engine(demand)
    assert (engine.first_num_seqs, engine.least_num_seqs, engine.most_num_seqs) == limits
    need = a_need(demand)
    assert (need.max_num_seqs, need.max_num_batched_tokens) == (limits[0], tokens)


def test_the_least_cache_holds_a_longest_request_and_the_least_batch() -> None:
    long = replace(a_demand(), workload=Workload(input_tokens=3000, output_tokens=200))
    assert a_need(long).kv_tokens == 8 * 3100
    assert a_need(replace(long, max_model_len=30_000)).kv_tokens == 30_000
    many = replace(long, engine_args=(("--max-num-seqs", "64"),))
    assert a_need(many).kv_tokens == 8 * 3100, "not of all 64: what finds no room waits"
    assert a_need(replace(long, engine_args=(("--max-num-seqs", "3"),))).kv_tokens == 3 * 3100


def test_flags_that_change_memory_change_the_footprint() -> None:
    plain = a_need().footprint
    assert a_need(a_demand(engine_args=(("--dtype", "half"),))).footprint == plain
    fp8 = a_need(a_demand(engine_args=(("--kv-cache-dtype", "fp8"),))).footprint
    assert fp8.kv_bytes_per_token * 2 == plain.kv_bytes_per_token
    assert a_need(a_demand(engine_args=(("--enforce-eager", None),))).footprint.cuda_graph_bytes == 0


def test_an_unknown_model_is_sized_by_the_record_of_a_replica_of_the_same_spec() -> None:
    unknown, record = a_demand(model=UNKNOWN), a_record()
    assert record.max_num_seqs is not None
    assert record.footprint is not None
    expected = replace(a_need(), footprint=record.footprint, max_num_seqs=record.max_num_seqs, loading_bytes=0)
    assert size_replica(unknown, POLICY, (record,)) == expected
    assert size_replica(unknown, POLICY, (replace(record, max_num_seqs=None),)) == replace(expected, max_num_seqs=8)


@pytest.mark.parametrize("change", [{"spec_hash": "spec-old"}, {"footprint": None}, {"max_model_len": None}])
def test_an_unknown_model_without_such_a_record_is_a_problem(change: dict[str, object]) -> None:
    record = replace(a_record(), **change)  # type: ignore[arg-type]
    expected = Problem(reason=UNKNOWN.reason, message=UNKNOWN.message, field="spec.model.source")
    assert size_replica(a_demand(model=UNKNOWN), POLICY, (record,)) == expected


def test_adapters_take_their_slots() -> None:
    plain, one, four = (
        a_need(a_demand(engine_args=args)).footprint
        for args in (
            (),
            (("--enable-lora", None),),
            (("--enable-lora", None), ("--max-lora-rank", "64"), ("--max-loras", "4")),
        )
    )
    assert plain.weights_bytes < one.weights_bytes < four.weights_bytes
    ranks_alone = a_need(a_demand(engine_args=(("--max-lora-rank", "64"),))).footprint
    assert ranks_alone == plain


def test_weights_that_the_engine_quantises_itself_are_whole_while_they_load() -> None:
    model = a_model()
    quantised = replace(model, weight_bytes=model.weight_bytes // 2, loading_bytes=model.weight_bytes)
    need = a_need(a_demand(model=quantised))
    assert need.loading_bytes == model.weight_bytes
    huge = replace(need, loading_bytes=30 * GIB)
    assert settings_in(exclusive(24 * GIB), need) is not None
    assert settings_in(exclusive(24 * GIB), huge) is None
    assert need_bytes(huge) > 30 * GIB


def exclusive(size: int) -> Exclusive:
    return Exclusive(resource="nvidia.com/gpu", memory_bytes=size)


def test_settings_alone_on_a_device_leave_the_cache_to_vllm() -> None:
    assert settings_in(exclusive(80 * GIB), a_need()) == EngineSettings(
        gpu_memory_utilization=0.92,
        kv_cache_memory_bytes=None,
        max_model_len=8192,
        max_num_seqs=8,
        max_num_batched_tokens=2048,
    )


def test_settings_of_a_share_state_the_cache_in_whole_blocks_within_the_limit() -> None:
    need = a_need()
    share = MpsShare(
        resource="nvidia.com/gpu",
        replicas=4,
        gpu_memory_bytes=80 * GIB,
        limit_bytes=19 * GIB,
        active_thread_percentage=25,
    )
    settings = settings_in(share, need)
    assert settings is not None
    assert settings.gpu_memory_utilization == 0.229  # (19 GiB - context) / 80 GiB, rounded down
    assert settings.kv_cache_memory_bytes is not None
    assert settings.kv_cache_memory_bytes % (16 * need.footprint.kv_bytes_per_token) == 0
    taken = settings.kv_cache_memory_bytes + need.footprint.fixed_inside_bytes + need.footprint.outside_bytes
    assert 19 * GIB - 200 * MIB < taken <= 19 * GIB


def test_the_edge_between_fitting_and_not() -> None:
    need = a_need()
    enough = int(need_bytes(need) / 0.92) + 100 * MIB
    assert settings_in(exclusive(enough), need) is not None
    assert settings_in(exclusive(need_bytes(need) - MIB), need) is None
    assert settings_in(exclusive(MIB), need) is None, "less than the context"


def test_the_nearest_fit_is_the_smallest_slice_or_gpu_of_the_catalogue() -> None:
    assert nearest_fit(a_need(), POLICY) == "a 1g.5gb slice of a100-sxm4-40gb (4.8 GiB) or a whole a16 (14.7 GiB)"
    huge = replace(a_need(), kv_tokens=10**9)
    assert nearest_fit(huge, POLICY) == "no GPU of the catalogue"
    assert nearest_fit(a_need(), replace(POLICY, gpus=GpuCatalogue(models=()))) == "no GPU of the catalogue"


def test_a_need_is_what_the_pod_will_request() -> None:
    need: Need = a_need(a_demand(cpu=700, memory=3 * GIB))
    assert need.requests("nvidia.com/gpu") == {"nvidia.com/gpu": 1, "cpu": 700, "memory": 3 * GIB, "pods": 1}
    demand: Demand = a_demand()
    assert (demand.cpu_millicores, demand.memory_bytes) == (1500, 4 * GIB)


def test_requests_longer_than_the_engine_takes_are_named_with_what_works() -> None:
    long = replace(a_demand(), workload=Workload(input_tokens=9000, output_tokens=256))
    problem = size_replica(long, POLICY, ())
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.field) == (Reason.WORKLOAD_TOO_LONG, "spec.workload")
    assert problem.message.endswith("(maxModelLen); set spec.engine.maxModelLen to 9256 or more")
    assert not isinstance(size_replica(replace(long, max_model_len=9256), POLICY, ()), Problem)
    never = size_replica(replace(long, workload=Workload(input_tokens=40_000)), POLICY, ())
    assert isinstance(never, Problem)
    assert "the model has 32768 positions: state shorter requests" in never.message
