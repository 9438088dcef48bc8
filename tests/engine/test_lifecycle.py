"""How an engine ends: drained, cut short, dead in the middle, and not able to start."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.engine.client import Stream, complete, get, stream_completion
from tests.engine.replica import NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from tests.engine.conftest import Say, Start
    from tests.engine.kubelet import Container

SLACK_SECONDS = 5
LAST_BYTES, LAST_LINES = 2048, 80
"""Of the log: what the kubelet makes the termination message of (FallbackToLogsOnError), the shorter of the two."""


def tokens_for(container: Container, seconds: float) -> int:
    """How many tokens take about so long, from one short request."""
    answer = complete(container.runnable.port, model=NAME, tokens=100)
    assert answer.status == 200, answer.text
    return min(8000, max(50, round(100 / answer.seconds * seconds)))


def in_flight(container: Container, pool: ThreadPoolExecutor, *, tokens: int) -> tuple[Stream, Future[Stream]]:
    """A streamed request that has begun to answer."""
    stream = Stream()
    job = pool.submit(stream_completion, container.runnable.port, model=NAME, tokens=tokens, into=stream)
    wait_for(lambda: stream.chunks > 3, seconds=60)
    return stream, job


def cores(container: Container) -> list[int]:
    """The processes that on a GPU hold its memory."""
    return [pid for pid, name in container.processes().items() if name.startswith(("VLLM::EngineCore", "VLLM::Worker"))]


def wait_for(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


def test_a_drain_completes_what_is_in_flight_and_refuses_the_rest(start_engine: Start, say: Say) -> None:
    with ThreadPoolExecutor(4) as pool, start_engine() as container:
        container.wait_until_started()
        port = container.runnable.port
        deleted = time.monotonic()
        container.pre_stop()
        assert complete(port, model=NAME, tokens=1).status == 200, "preStop only waits"
        stream, job = in_flight(container, pool, tokens=tokens_for(container, 8))

        container.terminate()
        terminated = time.monotonic()
        time.sleep(1)
        refused = complete(port, model=NAME, tokens=1)
        health = get(port, "/health")
        assert not job.done(), "the request ended before it could be in flight during the drain"

        job.result()
        code = container.exit_within(container.runnable.grace_seconds - (time.monotonic() - deleted))
        ended = time.monotonic()
        assert (stream.status, stream.finish_reason, stream.done, stream.broke) == (200, "length", True, "")
        assert (refused.status, health.status) == (500, 200)
        assert code == 0, container.tail()
        say(
            f"drain: the request in flight completed {stream.last_at - terminated:.1f} s after SIGTERM, a new one got "
            f"{refused.status}, /health {health.status}; exit {code}, {ended - stream.last_at:.1f} s after the last token"
        )


def test_a_request_too_long_to_drain_is_cut_and_the_gpu_is_free_within_the_grace(start_engine: Start, say: Say) -> None:
    """The engine's core, which holds the GPU, ends in time. The API server may wait for its client until SIGKILL."""
    with ThreadPoolExecutor(4) as pool, start_engine(grace_seconds=30) as container:
        container.wait_until_started()
        (timeout,) = [
            int(word.partition("=")[2])
            for word in container.runnable.container["args"]
            if word.startswith("--shutdown-timeout=")
        ]
        deleted = time.monotonic()
        container.pre_stop()
        stream, _ = in_flight(container, pool, tokens=tokens_for(container, 20 * timeout))
        container.terminate()
        terminated = time.monotonic()
        wait_for(lambda: not cores(container), seconds=timeout + SLACK_SECONDS)
        freed = time.monotonic() - terminated
        code = container.exit_within(container.runnable.grace_seconds - (time.monotonic() - deleted))
        ended = time.monotonic() - terminated
        assert stream.finish_reason != "length", "the request completed: it was too short for this test"
        assert stream.last_at - terminated > timeout / 2, "it was cut before its time"
        assert code in {None, 0}, container.tail()
        how = f"exit {code} after {ended:.1f} s" if code is not None else "the API server waits for its client: SIGKILL"
        say(
            f"cut: --shutdown-timeout={timeout}, last token {stream.last_at - terminated:.1f} s after SIGTERM, finish_reason="
            f"{stream.finish_reason}; the engine's core is gone after {freed:.1f} s; {how}"
        )


def test_an_engine_whose_core_died_says_so_and_exits_unasked(start_engine: Start, say: Say) -> None:
    with start_engine() as container:
        container.wait_until_started()
        (core,) = [pid for pid, name in container.processes().items() if name.startswith("VLLM::EngineCore")]
        killed = time.monotonic()
        os.kill(core, signal.SIGKILL)
        seen: list[int] = []
        while container.process.poll() is None and time.monotonic() - killed < 60:
            seen.append(container.probe("livenessProbe").status)
            time.sleep(0.1)
        code = container.exit_within(0.1)
        assert code == 0, "with restartPolicy Never such a pod is Succeeded, and its termination message is empty"
        last_good = max((number for number, status in enumerate(seen) if status == 200), default=-1)
        assert all(status in {0, 503} for status in seen[last_good + 1 :])
        assert len(seen) - last_good > 1, "it was healthy until it exited"
        order = list(dict.fromkeys(seen))
        say(f"engine core killed: /health {order} (0: refused), exit {code} after {time.monotonic() - killed:.1f} s")


def test_an_engine_that_cannot_start_exits_and_only_its_log_says_why(start_engine: Start, say: Say) -> None:
    """A KV cache that does not hold one request: what a plan that is too tight ends in."""
    with start_engine(kv_cache_bytes=1024**2) as container:
        code = container.exit_within(600)
        log = container.log.read_text(errors="replace")
        message = "\n".join(log[-LAST_BYTES:].splitlines()[-LAST_LINES:])
        assert code == 1, container.tail()
        (cause, *_) = re.findall(r"ValueError: (To serve at least one request.*)", log)
        assert cause not in message, "the cause is in the termination message now: docs/engine-test.md says it is not"
        assert "Engine core initialization failed. See root cause above." in message
        say(f"too small a KV cache: exit {code}; the log says: {cause[:90]}...; the termination message does not")
