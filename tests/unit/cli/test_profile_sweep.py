"""The sweep against a server that behaves like vLLM: the knee it finds, and each reason for which it names none.

Client and server share an event loop of virtual time: the figures are exact, whatever else this machine does. How busy the
client is cannot be told there, so that rule is off but where it is tested.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from slmpack.api.profile import PointDocument, ProfileDocument, RefusalDocument, parse_profile, read_document
from slmpack.cli.profile import Outcome, ProfileOptions, ProfileRun
from slmpack.cli.profile_sweep import SweepStoppedError
from slmpack.domain.profile import Profile
from slmpack.domain.profile_faults import Fault, FaultPolicy
from slmpack.ports import Unavailable
from tests.support.fake_clock import FakeClock
from tests.support.fake_vllm import FakeVllm, serving_vllm
from tests.support.virtual_time import run_in_virtual_time

IDLE_CLIENT = FaultPolicy(client_busy=float("inf"))
GRID = (1, 2, 4, 8)
SATURATED: dict[str, Any] = {"saturated_at": 4}


def options(url: str, **other: Any) -> ProfileOptions:
    found: dict[str, Any] = {
        "url": url,
        "model": None,
        "input_tokens": 40,
        "output_tokens": 16,
        "concurrency": GRID,
        "repeats": 3,
        "min_seconds": 0.1,
        "max_seconds": 900.0,
        "point_seconds": 180.0,
        "request_seconds": 120.0,
        "gpu": None,
        "max_num_seqs": None,
        "replicas": 1,
        "sharing": None,
        "out": None,
        "configmap": None,
        "output": "text",
        "dry_run": False,
        "faults": IDLE_CLIENT,
    }
    return ProfileOptions(**found | other)


async def play(fake: FakeVllm, **other: Any) -> Outcome:
    found = await ProfileRun(options(fake.url, **other), console=Console(file=io.StringIO()), clock=FakeClock()).play()
    assert found is not None
    return found


def sweep(like: dict[str, Any] | None = None, **other: Any) -> tuple[Outcome, FakeVllm]:
    """One sweep of a server like this."""

    async def main() -> tuple[Outcome, FakeVllm]:
        async with serving_vllm(**like or {}) as fake:
            return await play(fake, **other), fake

    return run_in_virtual_time(main())


def refusal(like: dict[str, Any], **other: Any) -> RefusalDocument:
    outcome, _ = sweep(like, **other)
    assert outcome.document.knee is None
    assert outcome.document.refusal is not None
    return outcome.document.refusal


def point(document: ProfileDocument, concurrency: int) -> PointDocument:
    return next(found for found in document.points if found.concurrency == concurrency)


# what is measured


def test_the_figures_are_those_of_the_server() -> None:
    """One sequence: 16 tokens of 2 ms each, and nothing between two requests."""
    document = sweep({"step_s": 0.002, "sequence_s": 0.0005})[0].document
    one, four = point(document, 1), point(document, 4)
    assert one.throughput_tok_s == pytest.approx(1 / 0.0025, rel=0.02)
    assert one.itl_s == pytest.approx(0.0025, rel=0.02)
    assert one.ttft_s == pytest.approx(0.0025, rel=0.02)
    assert four.itl_s == pytest.approx(0.004, rel=0.03)
    assert four.throughput_tok_s == pytest.approx(4 * 16 / (17 * 0.004), rel=0.05)
    assert four.itl_p50_s == pytest.approx(0.004, rel=0.03)
    assert one.requests == 3 * 3  # 0.1 s are 3 requests of 40 ms
    assert four.requests == 3 * 4 * 2
    assert four.running == pytest.approx(4, abs=0.5)
    assert (four.errors, four.preemptions, four.faults) == (0, 0, ())
    assert four.throughput_low_tok_s is not None
    assert four.throughput_high_tok_s is not None
    assert four.throughput_low_tok_s <= four.throughput_tok_s <= four.throughput_high_tok_s


def test_the_knee_is_named() -> None:
    outcome, fake = sweep(SATURATED)
    knee = outcome.document.knee
    assert knee is not None
    assert (knee.concurrency, knee.binding) == (4, "Doubling")
    assert outcome.document.refusal is None
    assert (outcome.missing, outcome.stopped) == ((), None)
    assert fake.most_running == 8


def test_no_prompt_and_no_prefix_is_sent_twice() -> None:
    _, fake = sweep(SATURATED)
    prompts = fake.prompts[1:]  # the first finds the vocabulary
    assert {len(prompt) for prompt in prompts} == {40}
    assert len({tuple(prompt[:16]) for prompt in prompts}) == len(prompts) > 40
    assert min(min(prompt) for prompt in prompts) >= 10


def test_first_requests_have_rising_lengths() -> None:
    _, fake = sweep(concurrency=(4,))
    assert sorted(body["max_tokens"] for body in fake.bodies[1:5]) == [4, 8, 12, 16]
    assert {body["max_tokens"] for body in fake.bodies[5:]} == {16}


def test_a_small_vocabulary_is_found() -> None:
    _, fake = sweep({"vocabulary": 1000}, concurrency=(1,))
    assert [max(body["prompt"]) for body in fake.bodies[:3]] == [29_999, 7_999, 999]
    assert max(max(prompt) for prompt in fake.prompts) == 999
    _, fake = sweep({"vocabulary": 256}, concurrency=(1,))
    assert max(max(prompt) for prompt in fake.prompts) <= 255


def test_the_document_says_what_was_measured() -> None:
    document = sweep(SATURATED, gpu="l4", sharing="mps", replicas=2, max_num_seqs=8)[0].document
    assert (document.model, document.served_name, document.engine_version) == ("org/tiny", "tiny", "0.32.0")
    assert (document.kv_cache_tokens, document.max_model_len, document.max_num_seqs) == (1_048_576, 4096, 8)
    assert (document.gpu, document.sharing.value if document.sharing else "", document.replicas) == ("l4", "mps", 2)
    assert (document.input_tokens, document.output_tokens, document.repeats) == (40, 16, 3)
    assert document.measured_at is not None
    assert document.tool_version is not None


def test_the_default_grid_ends_where_the_engine_does() -> None:
    assert _default_grid({"kv_tokens": 480}) == [1, 2, 4, 8]  # 10 requests of 48 tokens
    assert _default_grid({"kv_tokens": 480}, max_num_seqs=5) == [1, 2, 4]
    assert _default_grid({"kv_tokens": 47}) == [1]


def _default_grid(like: dict[str, Any], **other: Any) -> list[int]:
    outcome, _ = sweep(like, concurrency=None, **other)
    return [found.concurrency for found in outcome.document.points]


def test_a_full_kv_cache_is_a_knee_that_needs_no_larger_point() -> None:
    document = sweep({"kv_tokens": 480}, concurrency=None)[0].document
    assert document.knee is not None
    assert (document.knee.concurrency, document.knee.binding) == (8, "KvCache")


# why no knee is named


def test_refused_for_a_curve_that_ends_while_it_pays() -> None:
    found = refusal({})
    assert found.faults == ()
    assert "go on with --concurrency 16" in found.message


def test_refused_for_max_num_seqs() -> None:
    """Without the check the knee would be 4: 8 in flight give no more than 4."""
    found = refusal({"max_num_seqs": 4})
    assert (found.concurrency, found.faults) == (8, (Fault.CAP,))
    assert "at most 4 of 8 requests ran at once; the others wait" in found.message


def test_refused_for_max_num_seqs_of_one() -> None:
    assert refusal({"max_num_seqs": 1}).concurrency == 2


def test_refused_for_max_num_seqs_that_the_user_says() -> None:
    assert "max-num-seqs of 4" in refusal({}, max_num_seqs=4).message


def test_a_cap_beyond_the_knee_is_no_reason() -> None:
    document = sweep({"saturated_at": 2, "max_num_seqs": 4})[0].document
    assert document.knee is not None
    assert document.knee.concurrency == 2
    assert [found.fault for found in point(document, 8).faults] == [Fault.CAP]


def test_refused_for_prefix_hits() -> None:
    found = refusal(SATURATED | {"hit_rate": 0.05})
    assert (found.concurrency, found.faults) == (1, (Fault.CACHE_HITS,))


def test_refused_for_preemptions() -> None:
    found = refusal(SATURATED | {"preempt_from": 4})
    assert (found.concurrency, found.faults) == (4, (Fault.PREEMPTION,))


def test_refused_for_requests_of_others() -> None:
    found = refusal(SATURATED | {"neighbours_from": 30})
    assert found.faults == (Fault.CO_TENANT,)
    assert "up to 2 requests of other clients" in found.message


def test_refused_for_tokens_of_others() -> None:
    found = refusal(SATURATED | {"ghost_share": 0.2})
    assert found.faults == (Fault.CO_TENANT,)
    assert "other clients are served" in found.message


def test_refused_for_errors() -> None:
    found = refusal(SATURATED | {"fail_from": 30, "fail_to": 32})
    assert found.faults[0] is Fault.ERRORS
    assert "2 requests failed, the last with: POST " in found.message
    assert "EngineCore died" in found.message


def test_refused_for_a_slow_link() -> None:
    """The engine makes a token in 2 ms, each takes 6 ms to arrive."""
    found = refusal(SATURATED | {"delay_s": 0.006}, concurrency=(1, 2))
    assert found.faults[0] is Fault.CLIENT
    assert "is 6.0 ms here and 2.0 ms in the engine" in found.message


def test_refused_for_a_client_that_is_the_limit() -> None:
    """In virtual time tokens come faster than this process can take them: it burns seconds of CPU in no time."""
    found = refusal({"step_s": 0.000_05}, faults=FaultPolicy(), concurrency=(1, 2), min_seconds=0.01)
    assert found.faults[0] is Fault.CLIENT
    assert "this client's own thread was busy" in found.message


def test_refused_without_metrics() -> None:
    found = refusal({"metrics": False})
    assert (found.concurrency, found.faults) == (1, (Fault.UNSEEN,))


def test_refused_for_several_replicas_behind_one_address() -> None:
    assert refusal(SATURATED | {"processes": 2}).faults == (Fault.SWITCHED,)


# how it ends


def stopped(outcome: Outcome) -> tuple[list[int], tuple[int, ...], str]:
    assert outcome.stopped is not None
    return [found.concurrency for found in outcome.document.points], outcome.missing, outcome.stopped


def test_the_whole_is_bounded_in_time(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    outcome, _ = sweep(SATURATED, max_seconds=1.0, out=path)
    assert stopped(outcome) == ([1, 2], (4, 8), "the 1 s of --max-seconds are over")
    found = parse_profile(path.read_text())
    assert isinstance(found, Profile)
    assert [entry.concurrency for entry in found.points] == [1, 2]


def test_a_point_is_bounded_in_time() -> None:
    outcome, _ = sweep(SATURATED, point_seconds=0.2)
    assert stopped(outcome) == (
        [],
        GRID,
        "1 in flight: not measured within the 0.2 s of --point-seconds",
    )


def test_a_request_is_bounded_in_time() -> None:
    outcome, _ = sweep({"step_s": 0.002, "sequence_s": 0.01}, request_seconds=0.9)
    points, missing, why = stopped(outcome)
    assert (points, missing) == ([1, 2, 4], (8,))
    assert why.startswith("8 in flight: 5 requests failed, the last with: http://127.0.0.1:")


def test_a_server_in_trouble_gets_no_more_requests() -> None:
    outcome, fake = sweep(SATURATED | {"fail_from": 40})
    _, missing, why = stopped(outcome)
    assert missing
    assert "requests failed, the last with: POST" in why
    assert len(fake.prompts) <= 40 + 5 + 8


@pytest.mark.parametrize("again", [90, 1_000_000], ids=["for a while", "from then on"])
def test_metrics_that_fail_spoil_the_points_that_they_leave_out(again: int) -> None:
    outcome, _ = sweep(SATURATED | {"metrics_until": 50, "metrics_again": again})
    assert (outcome.missing, outcome.stopped) == ((), None)
    faults = [tuple(found.fault for found in entry.faults) for entry in outcome.document.points]
    assert faults[0] == ()
    assert faults[1] == (Fault.UNSEEN,)
    assert faults[-1] == (() if again == 90 else (Fault.UNSEEN,))


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-3", "1e308"])
@pytest.mark.parametrize("name", ["vllm:num_requests_running", "vllm:num_preemptions_total"])
def test_figures_that_no_engine_has_end_nothing(name: str, value: str) -> None:
    outcome, _ = sweep(SATURATED | {"gauges": {name: value}}, concurrency=(1, 2))
    assert outcome.missing == ()
    found = point(outcome.document, 2)
    assert [fault.fault for fault in found.faults] == ([Fault.UNSEEN] if name.endswith("running") else [])
    assert (found.running if name.endswith("running") else found.preemptions) is None


@pytest.mark.parametrize("blocks", ["0", "9" * 5000], ids=["0", "5000 digits"])
def test_a_kv_cache_of_no_size_is_unknown(blocks: str) -> None:
    outcome, _ = sweep(SATURATED | {"blocks": blocks}, concurrency=(1, 2))
    assert outcome.document.kv_cache_tokens is None
    assert [found.faults for found in outcome.document.points] == [(), ()]


def test_a_server_that_fails_at_once_is_an_error() -> None:
    with pytest.raises(Unavailable, match="EngineCore died"):
        sweep({"fail_from": 0})


def test_a_server_that_refuses_every_token_is_an_error() -> None:
    with pytest.raises(Exception, match="out of vocabulary"):
        sweep({"vocabulary": 100})


def test_a_stream_that_comes_at_once_has_no_latency() -> None:
    outcome, _ = sweep({"at_once": True})
    assert "something between here and the engine buffers the stream" in stopped(outcome)[2]


def test_a_server_in_use_is_left_alone() -> None:
    async def main() -> FakeVllm:
        async with serving_vllm(neighbours_from=-1) as fake:
            with pytest.raises(SweepStoppedError, match="is serving 2 requests of others"):
                await play(fake)
            return fake

    assert run_in_virtual_time(main()).bodies == []


def test_requests_that_are_too_long_are_not_sent() -> None:
    with pytest.raises(SweepStoppedError, match="make 56 tokens, the server takes 50"):
        sweep({"max_model_len": 50})


def test_a_model_that_is_not_served() -> None:
    with pytest.raises(SweepStoppedError, match="--model big: the server has tiny; name one of them"):
        sweep({}, model="big")


def test_the_model_that_is_named() -> None:
    models = ({"id": "tiny"}, {"id": "lora", "root": "org/lora"})
    outcome, fake = sweep({"models": models}, model="lora", concurrency=(1,))
    assert outcome.document.model == "org/lora"
    assert {body["model"] for body in fake.bodies} == {"lora"}


# going on


def twice(first: dict[str, Any], second: dict[str, Any], *, meanwhile: Callable[[FakeVllm], None]) -> Outcome:
    async def main() -> Outcome:
        async with serving_vllm(**SATURATED) as fake:
            await play(fake, **first)
            meanwhile(fake)
            return await play(fake, **second)

    return run_in_virtual_time(main())


def test_a_second_run_measures_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    before: list[PointDocument] = []

    def look(fake: FakeVllm) -> None:
        document = read_document(path.read_text())
        assert isinstance(document, ProfileDocument)
        before.extend(document.points)
        fake.bodies.clear()

    outcome = twice({"out": path, "concurrency": (1, 2)}, {"out": path}, meanwhile=look)
    assert [found.concurrency for found in outcome.document.points] == [1, 2, 4, 8]
    assert outcome.document.points[:2] == tuple(before)
    assert outcome.document.knee is not None
    assert read_document(path.read_text()) == outcome.document


def test_a_complete_file_sends_nothing(tmp_path: Path) -> None:
    sent: list[FakeVllm] = []

    def look(fake: FakeVllm) -> None:
        fake.bodies.clear()
        sent.append(fake)

    path = tmp_path / "profile.yaml"
    outcome = twice({"out": path}, {"out": path}, meanwhile=look)
    assert sent[0].bodies == []
    assert outcome.document.knee is not None


def test_points_that_can_be_mended_are_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"

    async def main() -> Outcome:
        async with serving_vllm(**SATURATED, hit_rate=0.1) as fake:
            spoilt = await play(fake, out=path)
            assert spoilt.document.knee is None
            fake.hit_rate = 0.0
            return await play(fake, out=path)

    outcome = run_in_virtual_time(main())
    assert outcome.document.knee is not None
    assert [found.faults for found in outcome.document.points] == [()] * 4


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"input_tokens": 41}, "was measured with input_tokens = 40, this run has 41; use the same settings"),
        ({"gpu": "l4"}, "was measured with gpu = none, this run has l4"),
        ({"sharing": "mps"}, "was measured with sharing = none, this run has mps"),
        ({"repeats": 2}, "was measured with repeats = 3, this run has 2"),
    ],
)
def test_other_settings_do_not_go_on(tmp_path: Path, second: dict[str, Any], message: str) -> None:
    path = tmp_path / "profile.yaml"
    with pytest.raises(click.ClickException) as caught:
        twice({"out": path, "concurrency": (1,)}, {"out": path} | second, meanwhile=lambda _: None)
    assert message in caught.value.message
    assert isinstance(read_document(path.read_text()), ProfileDocument)


def test_a_file_that_is_no_profile_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.yaml"
    path.write_text("a: 1\n")
    with pytest.raises(click.ClickException, match="is there and is no profile"):
        sweep(SATURATED, out=path)
    assert path.read_text() == "a: 1\n"


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(click.ClickException, match="cannot be read"):
        sweep(SATURATED, out=path)
    path.write_text("#" * (1024 * 1024 + 1))
    with pytest.raises(click.ClickException, match="has more than 1048576 bytes, so it is no profile"):
        sweep(SATURATED, out=path)


@pytest.mark.parametrize("place", ["nowhere/profile.yaml", "file/profile.yaml", "p" * 252])
def test_whether_the_file_can_be_written_is_tried_before_measuring(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()

    async def main() -> FakeVllm:
        async with serving_vllm() as fake:
            with pytest.raises(click.ClickException, match="cannot be written"):
                await play(fake, out=tmp_path / place)
            return fake

    assert run_in_virtual_time(main()).bodies == []


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(click.ClickException, match="is there and is no regular file; choose another path"):
        sweep(SATURATED, out=path)


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".profile.yaml.new")
    sweep(SATURATED, out=tmp_path / "profile.yaml", concurrency=(1,))
    assert [entry.name for entry in tmp_path.iterdir()] == ["profile.yaml"]


def test_an_interrupted_sweep_has_what_it_measured(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"

    async def main() -> Outcome:
        async with serving_vllm(**SATURATED) as fake:
            run = ProfileRun(options(fake.url, out=path), console=Console(file=io.StringIO()), clock=FakeClock())
            playing = asyncio.create_task(run.play())
            await asyncio.sleep(0.5)  # one point takes 0.4 s
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            return run.outcome(stopped="interrupted", interrupted=True)

    outcome = run_in_virtual_time(main())
    assert (stopped(outcome)[:2], outcome.interrupted) == (([1], (2, 4, 8)), True)


def test_interrupted_before_the_server_has_answered() -> None:
    run = ProfileRun(options("http://127.0.0.1:1"), console=Console(file=io.StringIO()), clock=FakeClock())
    with pytest.raises(SweepStoppedError, match="before the server had answered"):
        run.outcome(stopped="interrupted")


def test_a_bar_in_a_terminal() -> None:
    async def main() -> str:
        console = Console(file=io.StringIO(), force_terminal=True, width=100)
        async with serving_vllm(**SATURATED) as fake:
            await ProfileRun(options(fake.url, concurrency=(1, 2)), console=console, clock=FakeClock()).play()
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    text = run_in_virtual_time(main())
    assert "2 in flight, 3 of 3 repeats" in text
    assert "8/8" in text
