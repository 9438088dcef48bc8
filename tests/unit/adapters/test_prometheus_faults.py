"""The fault table: what a sample says, or that there is none, for each way in which Prometheus and its targets fail.

`domain` decides on this: what is None holds, and nothing is scaled down on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp import web

from slmpack.adapters.promql import DEPLOYMENT
from slmpack.domain.load import LoadSample
from tests.support.fake_clock import FakeClock
from tests.support.fake_prometheus import Vector
from tests.support.measured_world import (
    CHAT,
    GATEWAY,
    GPU,
    HEALTHY,
    LATENCIES,
    QUERIES,
    WATCHED,
    WINDOWS,
    World,
    by_bound,
    engine,
    healthy_world,
    of_chat,
    per_engine,
    pod,
    unknown,
)

NOTHING = "no such series, or not two scrapes of it within 60 s"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with healthy_world() as found:
        yield found


async def test_healthy(world: World) -> None:
    assert await world.sample() == HEALTHY
    (gpu,) = (await world.source.read(WATCHED)).gpus
    assert (gpu.power_w, gpu.node, gpu.pods, gpu.fb_used_bytes) == (310.0, "node-a", ("team/chat-0",), 5 * 2**30)


# ---- one question among many ---------------------------------------------------------------------------------------


async def test_a_query_that_is_refused_leaves_its_field_unknown(world: World) -> None:
    refused = QUERIES.arrivals_high()

    async def refuse(_: web.Request, query: str) -> web.Response | None:
        return web.Response(status=422, text="too many samples") if query == refused else None

    world.server.misbehave = refuse
    assert await world.sample() == replace(
        HEALTHY, arrivals_high_s=None, trouble=("arrivals_high_s: the query is refused: too many samples",)
    )


async def test_a_query_that_takes_too_long_leaves_its_field_unknown(world: World) -> None:
    slow = QUERIES.arrivals_mean()

    async def hang(_: web.Request, query: str) -> None:
        if query == slow:
            await world.server.hang()

    world.server.misbehave = hang
    assert await world.sample() == replace(
        HEALTHY, arrivals_mean_s=None, trouble=(f"arrivals_mean_s: {world.server.url} did not answer within 2 s",)
    )


async def test_latencies_that_are_refused_are_told(world: World) -> None:
    async def refuse(_: web.Request, query: str) -> web.Response | None:
        return web.Response(status=422, text="too many samples") if query == QUERIES.tpot_buckets() else None

    world.server.misbehave = refuse
    assert await world.sample() == replace(
        HEALTHY, tpot_of=None, trouble=("tpot_of: the query is refused: too many samples",)
    )


async def test_an_answer_that_cannot_be_read_leaves_its_field_unknown(world: World) -> None:
    async def html(_: web.Request, query: str) -> web.Response | None:
        return web.Response(text="<html>") if query == QUERIES.kv_usage() else None

    world.server.misbehave = html
    sample = await world.sample()
    assert (sample.kv_usage, sample.running) == (None, 6.0)
    assert sample.trouble == (f"kv_usage: {world.server.url} answered, but not as Prometheus does: no JSON",)


# ---- the data ------------------------------------------------------------------------------------------------------

DATA: dict[str, tuple[dict[str, Vector], LoadSample]] = {
    "nothing at all": (
        {QUERIES.fresh(): []},
        replace(unknown("0 of 2 Ready replicas report: no fresh scrape of chat-0, chat-1", reporting=0), at=FakeClock().now()),
    ),
    "partial": (
        {QUERIES.fresh(): [(engine("chat-1"), 999_995.0)]},
        unknown("1 of 2 Ready replicas report: no fresh scrape of chat-0", reporting=1),
    ),
    "stale": (
        {QUERIES.fresh(): per_engine(999_939, 999_995)},
        unknown("1 of 2 Ready replicas report: no fresh scrape of chat-0", reporting=1),
    ),
    "all stale": (
        {QUERIES.fresh(): per_engine(999_939, 999_900)},
        replace(unknown("0 of 2 Ready replicas report: no fresh scrape of chat-0, chat-1", reporting=0), at=FakeClock().now()),
    ),
    "NaN where a time should be": (
        {QUERIES.fresh(): per_engine("NaN", 999_995)},
        unknown("1 of 2 Ready replicas report: no fresh scrape of chat-0", reporting=1),
    ),
    "the same engine under two addresses": (
        {QUERIES.fresh(): [*per_engine(999_980, 999_995), (engine("chat-1", 9000), 999_995.0)]},
        unknown(
            "more engines report than there are (chat-1 with 2 instead of 1): is a pod scraped under two addresses?", reporting=2
        ),
    ),
    "NaN in a gauge": (
        {QUERIES.running(): per_engine(4, "NaN")},
        replace(HEALTHY, running=None, trouble=("running: a replica tells a value that cannot be",)),
    ),
    "infinity in a gauge": (
        {QUERIES.waiting(): per_engine("+Inf", 1)},
        replace(HEALTHY, waiting=None, trouble=("waiting: a replica tells a value that cannot be",)),
    ),
    "less than nothing": (
        {QUERIES.waiting(): per_engine(-1, 1)},
        replace(HEALTHY, waiting=None, trouble=("waiting: a replica tells a value that cannot be",)),
    ),
    "a KV cache more than full": (
        {QUERIES.kv_usage(): per_engine(0.5, 37.5)},
        replace(HEALTHY, kv_usage=None, trouble=("kv_usage: a KV cache more than full",)),
    ),
    "a gauge that one replica lacks": (
        {QUERIES.waiting(): per_engine(1)},
        replace(HEALTHY, waiting=None, trouble=("waiting: not every replica tells it",)),
    ),
    "NaN in a rate": (
        {QUERIES.arrivals(): of_chat("NaN"), QUERIES.completions(): of_chat("+Inf")},
        replace(HEALTHY, arrivals_s=None, completions_s=None, trouble=("arrivals_s, completions_s: a value that cannot be",)),
    ),
    "no request came: NaN means nothing": (
        {QUERIES.ttft(): of_chat("NaN"), QUERIES.input_tokens(): of_chat("NaN")},
        replace(HEALTHY, ttft_s=None, input_tokens=None),
    ),
    "engines too old to tell of single requests": ({QUERIES.tpot_buckets(): []}, replace(HEALTHY, tpot_of=None)),
    "nobody tells of single requests": (
        {QUERIES.ttft_buckets(): [], QUERIES.tpot_buckets(): []},
        replace(HEALTHY, ttft_of=None, tpot_of=None),
    ),
    "single requests of strangers": (
        {QUERIES.tpot_buckets(): [({"namespace": "other", DEPLOYMENT: "chat", "le": le}, 1.0) for le in ("0.1", "+Inf")]},
        replace(HEALTHY, tpot_of=None),
    ),
    "buckets without bounds": ({QUERIES.tpot_buckets(): by_bound({"+Inf": 9})}, replace(HEALTHY, tpot_of=None)),
    "NaN in buckets": (
        {QUERIES.ttft_buckets(): by_bound({"0.1": "NaN", "+Inf": 120}), QUERIES.tpot_buckets(): by_bound({"0.1": 1, "+Inf": "NaN"})},
        replace(HEALTHY, ttft_of=None, tpot_of=None, trouble=("ttft_of, tpot_of: buckets that cannot be",)),
    ),
    "no bucket with all requests": (
        {QUERIES.tpot_buckets(): by_bound({"0.1": 1, "0.5": 2})},
        replace(HEALTHY, tpot_of=None, trouble=("tpot_of: buckets that cannot be",)),
    ),
    "the same bucket twice": (
        {QUERIES.tpot_buckets(): by_bound({"1": 90, "1.0": 90, "+Inf": 100})},
        replace(HEALTHY, tpot_of=None, trouble=("tpot_of: buckets that cannot be",)),
    ),
    "a bucket with less than the one below": (
        {QUERIES.tpot_buckets(): by_bound({"0.025": 90, "0.05": 89, "+Inf": 100})},
        replace(HEALTHY, tpot_of=None, trouble=("tpot_of: buckets that cannot be",)),
    ),
    "names that nobody exposes": (
        {QUERIES.ttft(): [], QUERIES.itl(): []},
        replace(HEALTHY, ttft_s=None, itl_s=None, trouble=(f"ttft_s, itl_s: {NOTHING}",)),
    ),
    "scraped once so far": (
        {getattr(QUERIES, query)(): [] for query, _ in WINDOWS.values()},
        replace(HEALTHY, **dict.fromkeys(WINDOWS), trouble=(f"{', '.join(WINDOWS)}: {NOTHING}",)),  # type: ignore[arg-type]
    ),
    "completions without anything running": (
        {QUERIES.fresh(): [], QUERIES.running(): [], QUERIES.completions(): of_chat(9)},
        replace(unknown("0 of 2 Ready replicas report: no fresh scrape of chat-0, chat-1", reporting=0), at=FakeClock().now()),
    ),
    "strangers of the same name elsewhere": (
        {QUERIES.completions(): [*of_chat(3.25), ({"namespace": "other", DEPLOYMENT: "chat"}, 99.0)]},
        HEALTHY,
    ),
    "pods that we do not know": (
        {QUERIES.running(): [*per_engine(4, 2), (engine("chat-9"), 50.0)]},
        HEALTHY,
    ),
    "no gateway": ({GATEWAY: []}, replace(HEALTHY, gateway_waiting=None)),
    "NaN of a gateway": ({GATEWAY: of_chat("NaN")}, replace(HEALTHY, gateway_waiting=None)),
}  # fmt: skip


@pytest.mark.parametrize("fault", DATA)
async def test_data(world: World, fault: str) -> None:
    said, expected = DATA[fault]
    world.server.vectors |= said
    sample = await world.sample()
    # The order of fields in one sentence is the order in which they are looked at.
    assert replace(sample, trouble=()) == replace(expected, trouble=())
    assert [_words(it) for it in sample.trouble] == [_words(it) for it in expected.trouble]


def _words(sentence: str) -> list[str]:
    return sorted(sentence.replace(",", "").replace(":", "").split())


@pytest.mark.parametrize("skew", [-7200, 7200])
async def test_clocks_that_differ_change_nothing(world: World, skew: int) -> None:
    ages = (20, 5)
    world.server.now += skew
    world.say(QUERIES.fresh(), per_engine(*(world.server.now - age for age in ages)))
    assert await world.sample() == HEALTHY


async def test_all_of_a_round_is_asked_of_one_instant(world: World) -> None:
    await world.sample()
    times = [form.get("time") for query, form, _ in world.server.seen]
    assert times[0] is None
    assert set(times[1:]) == {repr(world.server.now)}


async def test_a_replica_that_has_just_become_ready_is_not_missed(world: World) -> None:
    world.watched = replace(WATCHED, pods=(*WATCHED.pods, pod("chat-2", age=timedelta(seconds=44))))
    assert await world.sample() == HEALTHY
    world.watched = replace(WATCHED, pods=(*WATCHED.pods, pod("chat-2", age=timedelta(seconds=46))))
    assert (await world.sample()).running is None


async def test_the_first_replica_is_unknown_until_it_has_been_scraped(world: World) -> None:
    world.watched = replace(WATCHED, pods=(pod("chat-5", age=timedelta(seconds=10)),))
    sample = await world.sample()
    assert (sample.running, sample.reporting) == (None, 0)
    assert sample.trouble == ("no replica has been scraped since it became Ready",)


async def test_where_nothing_runs_the_loads_are_zero_and_the_gateway_counts(world: World) -> None:
    for query in ("fresh", *(query for query, _ in (*WINDOWS.values(), *LATENCIES.values()))):
        world.say(getattr(QUERIES, query)(), [])
    for pods in ((), (pod("chat-0", ready=0),)):
        world.watched = replace(WATCHED, pods=pods)
        assert await world.sample() == LoadSample(
            at=world.clock.now(), reporting=0, running=0.0, waiting=0.0, arrivals_s=0.0, completions_s=0.0, prompt_tok_s=0.0,
            generation_tok_s=0.0, gateway_waiting=7.0,
        )  # fmt: skip


async def test_where_nothing_runs_a_gateway_that_says_nothing_is_told(world: World) -> None:
    world.watched = replace(WATCHED, pods=())
    world.say(GATEWAY, [])
    assert (await world.sample()).trouble == (
        "gateway_waiting: nothing runs, and no gateway tells of requests that wait",
    )


async def test_a_gateway_query_that_is_wrong_is_told(world: World) -> None:
    async def refuse(_: web.Request, query: str) -> web.Response | None:
        return web.Response(status=400, text="parse error") if query == GATEWAY else None

    world.server.misbehave = refuse
    assert await world.sample() == replace(
        HEALTHY, gateway_waiting=None, trouble=("gateway_waiting: the query is refused: parse error",)
    )


async def test_one_without_scaling_is_not_asked_about_at_the_gateway(world: World) -> None:
    world.watched = replace(WATCHED, scaled=frozenset())
    assert (await world.sample()).gateway_waiting is None
    assert GATEWAY not in [query for query, _, _ in world.server.seen]


# ---- GPUs ----------------------------------------------------------------------------------------------------------

ON_A = {"UUID": "GPU-a", "Hostname": "node-a"}
GPU_DATA: dict[str, tuple[dict[str, Vector], dict[str, object] | None]] = {
    "no DCGM": ({text: [] for text in GPU.values()}, None),
    "too old": ({GPU["seen"]: [(ON_A, 999_900.0)]}, None),
    "no energy counter": ({GPU["energy_w"]: []}, {"power_w": 290.0}),
    "a counter that stands still": ({GPU["energy_w"]: [(ON_A, 0.0)]}, {"power_w": 290.0}),
    "no power at all": ({GPU["energy_w"]: [], GPU["power_w"]: []}, {"power_w": None}),
    "NaN": ({GPU["energy_w"]: [(ON_A, "NaN")], GPU["power_w"]: [(ON_A, "NaN")]}, {"power_w": None}),
    "a part above one": ({GPU["gr_engine_active"]: [(ON_A, 80.0)]}, {"gr_engine_active": None}),
    "an error": ({GPU["xid"]: [(ON_A, 79.0)]}, {"xid": 79}),
    "strangers": (
        {GPU["pods"]: [({**ON_A, "pod": "train-0", "namespace": "them"}, 1), ({**ON_A, "pod": "chat-0", "namespace": "team"}, 1)]},
        {"pods": ("team/chat-0", "them/train-0")},
    ),
    "the exporter's own pod": ({GPU["pods"]: [({**ON_A, "pod": "dcgm-exporter-x", "namespace": "gpu"}, 1)]}, {"pods": ()}),
    "memory said once for each pod": (
        {GPU["fb_used"]: [({**ON_A, "pod": "a"}, 1000.0), ({**ON_A, "pod": "b"}, 1004.0)]},
        {"fb_used_bytes": 1004},
    ),
    "memory split over pods": (
        {GPU["fb_used"]: [({**ON_A, "pod": "a"}, 1000.0), ({**ON_A, "pod": "b"}, 3000.0)]},
        {"fb_used_bytes": None},
    ),
    "another node label": ({GPU["seen"]: [({"UUID": "GPU-a", "node": "node-b"}, 999_995.0)]}, {"node": "node-b"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", GPU_DATA)
async def test_gpus(world: World, fault: str) -> None:
    said, expected = GPU_DATA[fault]
    world.server.vectors |= said
    reading = await world.source.read(WATCHED)
    assert reading.loads[CHAT] == HEALTHY, "loads do not depend on GPUs"
    if expected is None:
        assert reading.gpus == ()
    else:
        (gpu,) = reading.gpus
        assert {name: getattr(gpu, name) for name in expected} == expected
