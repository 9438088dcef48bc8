"""Replicas scraped by real HTTP, at times that a test sets; windows worked out by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from aiohttp import web

from slmpack.adapters import scrape
from slmpack.adapters.loads import Reading
from slmpack.adapters.metric_names import EngineNames
from slmpack.adapters.scrape import ReplicaScraper
from slmpack.adapters.scrape_windows import Ring, figures_of, read_figures
from slmpack.domain.load import LoadSample
from slmpack.domain.snapshot import Key
from slmpack.ports import EnginePod, Watched
from tests.support.fake_clock import FakeClock
from tests.support.live_metrics import EngineFigures, Histogram, expose_engine, token_buckets, vllm_buckets
from tests.support.pod_proxy import PodNetwork, PodProxy

CHAT = Key("team", "chat")
PERIOD = 15.0
NONE = [0.0] * len(token_buckets(1000))
TTFT, ITL, QUEUE, TPOT = (
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_time_per_output_token_seconds",
)
OLD = {ITL: "vllm:time_per_output_token_seconds", "vllm:kv_cache_usage_perc": "vllm:gpu_cache_usage_perc"}
IDLE = EngineFigures(
    model="m", started=1.0, max_model_len=1000, kv_tokens=1600, running=0, waiting=0, kv_usage=0, completions=0, preemptions=0,
    prompt_tokens=0, generation_tokens=0,
)  # fmt: skip


def _in_bucket(family: str, bound: float, count: float, total: float) -> Histogram:
    """All of them within one bucket."""
    bounds = (*vllm_buckets(family), float("inf"))
    return Histogram(counts=[count if it == bound else 0.0 for it in bounds], total=total)


@dataclass
class Engine:
    """A server on one port."""

    figures: EngineFigures = IDLE
    text: Callable[[str], str] = field(default=lambda text: text)
    status: int = 200
    hangs: bool = False
    asked: int = 0

    async def handle(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(3600)
        return web.Response(status=self.status, text=self.text(expose_engine(self.figures)))

    def serves(self, seconds: float, *, rate: float, running: float = 4, waiting: float = 0) -> None:
        """As if requests came at this rate for so long: of 100 and 50 tokens each, TTFT within 0.04 to 0.06 s."""
        done = self.figures.completions + rate * seconds
        self.figures = replace(
            self.figures, completions=done, running=running, waiting=waiting, kv_usage=running / 10, prompt_tokens=100 * done,
            generation_tokens=50 * done,
            histograms={
                "vllm:request_prompt_tokens": Histogram(counts=[done, *NONE], total=100 * done),
                "vllm:request_generation_tokens": Histogram(counts=[done, *NONE], total=50 * done),
                TTFT: _in_bucket(TTFT, 0.06, done, 0.05 * done),
                ITL: _in_bucket(ITL, 0.05, 49 * done, 49 * 0.03 * done),
                QUEUE: _in_bucket(QUEUE, 0.3, done, 0.2 * done),
                TPOT: _in_bucket(TPOT, 0.05, done, 0.03 * done),
            },
        )  # fmt: skip


@dataclass
class World:
    clock: FakeClock
    source: ReplicaScraper
    engines: dict[str, tuple[Engine, int]] = field(default_factory=dict)
    runners: list[web.AppRunner] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)

    async def start(self, pod: str) -> Engine:
        engine = Engine()
        app = web.Application()
        app.router.add_get("/metrics", engine.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.runners.append(runner)
        self.engines[pod] = (engine, runner.addresses[0][1])
        return engine

    def watched(self, *, scaled: bool = True) -> Watched:
        pods = tuple(
            EnginePod(
                key=Key("team", pod), uid=pod, deployment=CHAT, address="127.0.0.1", ports=(port,), engines=1, ready=1,
                ready_since=self.clock.now() - timedelta(hours=1),
            )
            for pod, (_, port) in self.engines.items() if pod not in self.gone
        )  # fmt: skip
        return Watched(deployments=frozenset({CHAT}), scaled=frozenset({CHAT} if scaled else ()), pods=pods)

    async def round(self) -> Reading:
        return await self.source.read(self.watched())

    async def sample(self) -> LoadSample:
        reading = await self.round()
        assert reading.trouble == ""
        return reading.loads[CHAT]

    async def after(self, rounds: int, **serves: float) -> LoadSample:
        """The sample once this was served for so many rounds by every engine that is there."""
        for _ in range(rounds):
            self.clock.advance(PERIOD)
            for pod, (engine, _) in self.engines.items():
                if pod not in self.gone:
                    engine.serves(PERIOD, **serves)
            sample = await self.sample()
        return sample


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock = FakeClock()
    source = ReplicaScraper(
        names=EngineNames(), clock=clock, timeout=timedelta(seconds=1.5), deadline=timedelta(seconds=3)
    )
    found = World(clock, source)
    yield found
    await source.close()
    for runner in found.runners:
        await runner.cleanup()


async def test_two_replicas_over_a_minute(world: World) -> None:
    await world.start("chat-0")
    await world.start("chat-1")
    sample = await world.after(5, rate=2.0, running=4, waiting=1)
    expected = {
        "running": 8.0, "waiting": 2.0, "kv_usage": 0.4, "arrivals_s": 4.0, "completions_s": 4.0, "prompt_tok_s": 400.0,
        "generation_tok_s": 200.0, "input_tokens": 100.0, "output_tokens": 50.0, "itl_s": 0.03, "queue_s": 0.2,
        # All within one bucket: PromQL draws a straight line through it.
        "ttft_s": 0.04 + 0.02 * 0.95, "itl_p95_s": 0.025 + 0.025 * 0.95,
    }  # fmt: skip
    assert {name: getattr(sample, name) for name in expected} == pytest.approx(expected)
    assert (sample.reporting, sample.trouble, sample.at, sample.gateway_waiting) == (2, (), world.clock.now(), None)


async def test_single_requests_are_those_of_two_minutes(world: World) -> None:
    await world.start("chat-0")
    await world.start("chat-1")
    assert (await world.after(1, rate=2.0)).ttft_of is None, "two scrapes are needed"
    assert _requests(await world.after(1, rate=2.0)) == (60, 60), "of a quarter of a minute"
    await world.after(8, rate=2.0)
    sample = await world.after(1, rate=2.0)
    assert _requests(sample) == (480, 480), "of two minutes, though there are more"
    assert sample.tpot_of is not None
    expected = [(bound, 480.0 if bound >= 0.05 else 0.0) for bound in (*vllm_buckets(TPOT), float("inf"))]
    assert list(sample.tpot_of.at_most) == expected
    assert _requests(await world.after(8, rate=0.0)) == (0, 0), "two minutes later"


def _requests(sample: LoadSample) -> tuple[float, float]:
    assert sample.ttft_of is not None
    assert sample.tpot_of is not None
    return pytest.approx(sample.ttft_of.requests), pytest.approx(sample.tpot_of.requests)  # type: ignore[return-value]


async def test_single_requests_of_an_engine_that_begins_anew_and_of_one_that_has_gone(world: World) -> None:
    engine = await world.start("chat-0")
    await world.start("chat-1")
    await world.after(5, rate=2.0)
    engine.figures = IDLE
    world.gone.add("chat-1")
    # Four quarters of a minute of the one that goes, five of the one that stays.
    assert _requests(await world.after(1, rate=2.0)) == (30 * (4 + 5), 30 * (4 + 5))


async def test_one_round_tells_the_present_only(world: World) -> None:
    engine = await world.start("chat-0")
    engine.serves(60, rate=2.0, running=3)
    sample = await world.sample()
    assert (sample.running, sample.kv_usage, sample.arrivals_s, sample.ttft_s) == (3.0, 0.3, None, None)
    assert len(sample.trouble) == 1
    assert sample.trouble[0].endswith(": two rounds of scrapes are needed")


async def test_requests_that_pile_up_have_arrived(world: World) -> None:
    await world.start("chat-0")
    await world.after(1, rate=1.0, running=4, waiting=0)
    assert (await world.after(1, rate=1.0, running=4, waiting=30)).arrivals_s == pytest.approx(1.0 + 30 / 15)
    drained = await world.after(1, rate=1.0, running=0, waiting=0)
    assert drained.arrivals_s == pytest.approx(1.0 - 4 / 30)


async def test_peak_mean_and_high_are_of_what_there_is(world: World) -> None:
    await world.start("chat-0")
    await world.after(9, rate=8.0)
    quiet = await world.after(44, rate=1.0)
    assert quiet.arrivals_peak_s == pytest.approx(1.0), "ten minutes and more of quiet"
    assert quiet.arrivals_high_s == pytest.approx(8.0)
    # 8 rounds at 8, then 3 on the way down (a window has four rounds between five scrapes), 41 at 1.
    assert quiet.arrivals_mean_s == pytest.approx((8 * 8 + (6.25 + 4.5 + 2.75) + 41 * 1) / 52)
    world.clock.advance(3600)
    await world.after(1, rate=1.0)
    assert (await world.after(1, rate=1.0)).arrivals_high_s == pytest.approx(1.0), "an hour later"


async def test_an_engine_that_begins_anew(world: World) -> None:
    engine = await world.start("chat-0")
    await world.after(4, rate=2.0)
    engine.figures = IDLE
    sample = await world.after(1, rate=2.0)
    assert sample.completions_s == pytest.approx(2.0)


async def test_one_that_has_gone_counts_while_it_is_within_a_window(world: World) -> None:
    await world.start("chat-0")
    await world.start("chat-1")
    await world.after(5, rate=2.0)
    world.gone.add("chat-1")
    # It served for 45 of the last 60 seconds.
    sample = await world.after(1, rate=2.0)
    assert sample.completions_s == pytest.approx(2.0 + 2.0 * 45 / 60)
    assert sample.arrivals_now_s == pytest.approx(2.0 + 2.0 * 15 / 30), "and 15 of the last 30"
    assert (await world.after(4, rate=2.0)).completions_s == pytest.approx(2.0)


def test_what_has_gone_weighs_in_ten_minutes_by_what_it_did_in_them() -> None:
    """60 requests of 100 tokens in its one minute, beside 600 of 400 tokens."""
    gone, stays = Ring(deployment=CHAT), Ring(deployment=CHAT)
    for ring, last, tokens in ((gone, 60, 100), (stays, 600, 400)):
        for at in range(0, last + 1, 15):
            prompts = {"request_prompt_tokens_sum": float(tokens * at), "request_prompt_tokens_count": float(at)}
            ring.add(at, {"running": 0.0, "waiting": 0.0, "finished": float(at), **prompts})
    found = figures_of([gone, stays], 600.0)["input_tokens"]
    assert found == pytest.approx((60 * 100 + 600 * 400) / 660)


async def test_where_nothing_runs_the_loads_are_zero(world: World) -> None:
    assert (await world.round()).loads[CHAT] == LoadSample(
        at=world.clock.now(), reporting=0, running=0.0, waiting=0.0, arrivals_s=0.0, completions_s=0.0, prompt_tok_s=0.0,
        generation_tok_s=0.0, arrivals_peak_s=0.0, arrivals_high_s=0.0, arrivals_mean_s=0.0,
    )  # fmt: skip


async def test_idle_replicas_have_no_latency_and_no_trouble(world: World) -> None:
    await world.start("chat-0")
    sample = await world.after(3, rate=0.0, running=0)
    assert (sample.arrivals_s, sample.ttft_s, sample.itl_s, sample.input_tokens, sample.trouble) == (
        0.0,
        None,
        None,
        None,
        (),
    )


async def test_without_scaling_nothing_is_scraped(world: World) -> None:
    engine = await world.start("chat-0")
    reading = await world.source.read(world.watched(scaled=False))
    assert (reading, engine.asked) == (Reading(), 0)


BROKEN: dict[str, tuple[Callable[[Engine], None], str]] = {
    "500": (lambda it: setattr(it, "status", 500), "answered 500"),
    "redirect": (lambda it: setattr(it, "status", 302), "answered 302"),
    "hangs": (lambda it: setattr(it, "hangs", True), "did not answer within 1.5 s"),
    "HTML": (lambda it: setattr(it, "text", lambda _: "<html>"), "it has no vllm:num_requests_running"),
    "garbage": (lambda it: setattr(it, "text", lambda text: text.replace("num_requests_running{", "num_requests_running{{")), "chat"),
    "NaN": (lambda it: setattr(it, "figures", replace(IDLE, running=float("nan"))), "vllm:num_requests_running is nan, which cannot be"),
    "negative": (lambda it: setattr(it, "figures", replace(IDLE, waiting=-1)), "vllm:num_requests_waiting is -1.0, which cannot be"),
    "too long": (lambda it: setattr(it, "text", lambda text: text + " " * scrape.LARGEST_BYTES), "its answer is longer than"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
async def test_one_that_cannot_be_read_makes_the_sum_unknown(world: World, fault: str) -> None:
    await world.start("chat-0")
    broken = await world.start("chat-1")
    await world.after(3, rate=1.0)
    BROKEN[fault][0](broken)
    world.clock.advance(PERIOD)
    sample = await world.sample()
    assert sample == LoadSample(
        at=world.clock.now(),
        reporting=1,
        trouble=("1 of 2 Ready replicas report: no fresh scrape of chat-1",),
    )


@pytest.mark.parametrize("fault", [it for it in BROKEN if it != "garbage"])
async def test_when_none_answers_the_first_says_why(world: World, fault: str) -> None:
    engine = await world.start("chat-0")
    breaks, words = BROKEN[fault]
    breaks(engine)
    reading = await world.round()
    assert reading.loads == {}
    assert reading.trouble.startswith("no replica answers: http://127.0.0.1:")
    assert words in reading.trouble


async def test_replicas_are_reached_through_a_proxy(world: World) -> None:
    """Their addresses are those of pods: nobody here has a route to them."""
    with PodNetwork() as network:
        proxy = PodProxy(network)
        url = await proxy.open()
        engine = Engine()
        app = web.Application()
        app.router.add_get("/metrics", engine.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, network.join("10.244.0.7"), 8001).start()
        world.runners.append(runner)
        timeout = timedelta(seconds=5)
        source = ReplicaScraper(names=EngineNames(), clock=world.clock, timeout=timeout, deadline=timeout, proxy=url)
        pod = EnginePod(
            key=Key("team", "chat-0"),
            uid="u",
            deployment=CHAT,
            address="10.244.0.7",
            ports=(8001,),
            engines=2,
            ready=1,
            ready_since=None,
        )
        engine.serves(15, rate=1.0, running=5)
        reading = await source.read(Watched(deployments=frozenset({CHAT}), scaled=frozenset({CHAT}), pods=(pod,)))
        await source.close()
        await proxy.close()
    assert reading.loads[CHAT].running == 5.0


async def test_many_that_hang_take_no_longer_than_a_round(world: World) -> None:
    engine = await world.start("chat-0")
    engine.hangs = True
    port = world.engines["chat-0"][1]
    world.engines |= {f"chat-{number}": (engine, port) for number in range(1, 80)}
    began = asyncio.get_running_loop().time()
    assert (await world.round()).loads == {}
    assert asyncio.get_running_loop().time() - began < 30


async def test_an_engine_of_an_older_version(world: World) -> None:
    def older(text: str) -> str:
        for new, old in OLD.items():
            text = text.replace(new, old)
        return "\n".join(line for line in text.splitlines() if TPOT not in line)

    engine = await world.start("chat-0")
    engine.text = older
    sample = await world.after(3, rate=2.0)
    assert sample.kv_usage == 0.4
    assert sample.itl_s == pytest.approx(0.03)
    assert sample.tpot_of is None, "and nothing is wrong"
    assert sample.ttft_of is not None
    assert sample.trouble == ()


def test_the_newer_name_counts_where_both_are_there() -> None:
    text = 'vllm:num_requests_running{e="0"} 1\nvllm:gpu_cache_usage_perc 0.9\nvllm:kv_cache_usage_perc 0.4\n'
    assert read_figures(text, EngineNames()) == {"running": 1.0, "kv_usage": 0.4}


def test_data_parallel_engines_of_one_server_are_summed() -> None:
    lines = [
        f'vllm:{name}{{engine="{engine}"}} {value}'
        for engine in (0, 1)
        for name, value in (("num_requests_running", 2), ("kv_cache_usage_perc", 0.2 + engine / 2))
    ]
    assert read_figures("\n".join(lines), EngineNames()) == {"running": 4.0, "kv_usage": 0.7}


async def test_a_metric_that_one_replica_lacks_is_unknown(world: World) -> None:
    engine = await world.start("chat-0")
    engine.text = lambda text: text.replace("vllm:num_requests_waiting{", "vllm:other{").replace(
        "vllm:kv_cache_usage_perc", "vllm:other_kv"
    )
    sample = await world.after(3, rate=2.0)
    assert (sample.running, sample.waiting, sample.kv_usage, sample.arrivals_s, sample.completions_s) == (
        4.0,
        None,
        None,
        None,
        2.0,
    )
    assert "waiting, kv_usage, arrivals_s: not every replica tells it" in sample.trouble
