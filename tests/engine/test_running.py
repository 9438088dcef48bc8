"""A running engine: its probes, what its flags do, its metrics, where it writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slmpack.adapters.vllm_metrics import NAMES, read_exposition
from slmpack.api.profile import parse_profile
from slmpack.api.translate import DEFAULT_MEMORY_BYTES
from slmpack.domain.profile import Profile
from tests.engine.client import Answer, complete, get
from tests.engine.environment import VERSION
from tests.engine.replica import NAME
from tests.engine.tiny_model import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slmpack.domain.profile_faults import EngineSample
    from tests.engine.conftest import Say, Start
    from tests.engine.kubelet import Container, ProbeResult
    from tests.engine.kubelet import Start as Started

SEQUENCES = 8
KV_BYTES = 512 * 1024**2
TOKEN_BYTES = 2 * CONFIG["num_hidden_layers"] * CONFIG["num_key_value_heads"] * 64 * 2
"""Keys and values of every layer, heads of 64, two bytes each."""
INPUT_TOKENS, OUTPUT_TOKENS = 160, 16
"""More than a block of the CPU build (128), so that a prompt that comes twice would be found in the cache."""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Running:
    """An engine that was started and asked at once."""

    container: Container
    start: Started
    first: Answer
    """A completion that was asked for the moment the startup probe succeeded."""

    @property
    def port(self) -> int:
        return self.container.runnable.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sample(self) -> EngineSample:
        """What the operator reads in its metrics."""
        return read_exposition(get(self.port, "/metrics").text)


@pytest.fixture(scope="module")
def engine(start_engine: Start, say: Say) -> Iterator[Running]:
    with start_engine(args={"max-num-seqs": str(SEQUENCES)}, kv_cache_bytes=KV_BYTES) as container:
        start = container.wait_until_started()
        first = complete(container.runnable.port, model=NAME, tokens=1)
        say(f"ready after {start.seconds:.0f} s; {len(start.failures)} startup probes before that failed")
        yield Running(container, start, first)


def test_the_port_refuses_until_the_engine_is_ready(engine: Running) -> None:
    assert engine.start.failures
    assert {(failure.status, failure.error) for failure in engine.start.failures} == {(0, "ConnectionRefusedError")}
    assert engine.first.status == 200, engine.first.text


def test_readiness_and_liveness_succeed_once_it_is(engine: Running) -> None:
    assert engine.container.probe("readinessProbe").status == 200
    assert engine.container.probe("livenessProbe").status == 200


def test_the_flags_take_effect(engine: Running) -> None:
    (model,) = get(engine.port, "/v1/models").json["data"]
    args = engine.container.runnable.container["args"]
    assert f"--served-model-name={model['id']}" in args
    assert f"--max-model-len={model['max_model_len']}" in args
    (config,) = re.findall(r"^vllm:cache_config_info\{(.*)\} ", get(engine.port, "/metrics").text, flags=re.MULTILINE)
    assert f'kv_cache_memory_bytes="{KV_BYTES}"' in config


def test_a_busy_engine_answers_its_probes_and_holds_its_limit(engine: Running, say: Say) -> None:
    """Twice as many requests as it takes at once: the rest waits, and /health is not held up."""
    seen: list[ProbeResult] = []
    queues: list[tuple[float, float]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            seen.append(engine.container.probe("readinessProbe"))
            sample = engine.sample()
            queues.append((sample.running or 0, sample.waiting or 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(2 * SEQUENCES) as pool:
            jobs = [pool.submit(complete, engine.port, model=NAME, tokens=200) for _ in range(2 * SEQUENCES)]
            answers = [job.result() for job in jobs]
    finally:
        over.set()
        watcher.join()
    assert [answer.status for answer in answers] == [200] * 2 * SEQUENCES
    assert all(result.succeeded for result in seen)
    assert len(seen) > 3
    assert max(running for running, _ in queues) == SEQUENCES
    assert max(waiting for _, waiting in queues) == SEQUENCES
    worst = max(result.seconds for result in seen)
    say(f"{2 * SEQUENCES} requests at --max-num-seqs={SEQUENCES}: {len(seen)} probes, the slowest took {worst:.2f} s")


@pytest.mark.parametrize("field", NAMES)
def test_a_metric_that_is_read_is_there_under_its_newest_name(engine: Running, field: str) -> None:
    names = re.findall(r"^([a-z_:]+)[{ ]", get(engine.port, "/metrics").text, flags=re.MULTILINE)
    assert NAMES[field][0] in names


def test_the_metrics_count_what_was_asked_for(engine: Running, say: Say) -> None:
    before = engine.sample()
    usage = complete(engine.port, model=NAME, tokens=50, prompt="packing " * 40).json["usage"]
    after = engine.sample()
    assert (after.generated_tokens or 0) - (before.generated_tokens or 0) == usage["completion_tokens"] == 50
    assert (after.itl_count or 0) - (before.itl_count or 0) == 49
    assert (after.prefix_queries or 0) - (before.prefix_queries or 0) == usage["prompt_tokens"] == 320
    assert None not in {getattr(after, field) for field in NAMES}
    assert after.kv_cache_tokens == KV_BYTES // TOKEN_BYTES
    say(f"metrics: all {len(NAMES)} series that are read are there; {after.kv_cache_tokens} tokens of KV cache")


def profile(engine: Running, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slmpack", "profile", engine.url, "--max-num-seqs", str(SEQUENCES)]
    grid = ["--concurrency", "1,2,4", "--input-len", str(INPUT_TOKENS), "--output-len", str(OUTPUT_TOKENS)]
    env = {**os.environ, "PYTHONPATH": "operator"}
    return subprocess.run(
        [*command, *grid, *more],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_profile_measures_it_and_its_file_can_be_used(engine: Running, tmp_path: Path, say: Say) -> None:
    """On this machine client and engine share the cores, so a point may be refused; then it must say why."""
    file = tmp_path / "profile.yaml"
    before = engine.sample()
    done = profile(engine, "--out", str(file), "-o", "json")
    after = engine.sample()
    assert done.returncode in {0, 2}, done.stderr
    found = json.loads(done.stdout)
    assert [point["concurrency"] for point in found["points"]] == [1, 2, 4]
    assert (found["served_name"], found["engine_version"]) == (NAME, VERSION)
    assert found["max_model_len"] == 8192
    assert (found["knee"] is None) == (done.returncode == 2) == (found["refusal"] is not None)
    for point in found["points"]:
        assert point["errors"] == 0, point
        assert point["requests"] >= 3 * point["concurrency"], "three repeats of whole rounds"
        assert 0 < point["throughput_low_tok_s"] <= point["throughput_tok_s"] <= point["throughput_high_tok_s"], point
        faults = [fault["fault"] for fault in point["faults"]]
        say(
            f"profile, {point['concurrency']} in flight: {point['throughput_tok_s']:.0f} tokens/s, ITL "
            f"{point['itl_s'] * 1000:.1f} ms, {point['requests']} requests, spoilt by: {', '.join(faults) or 'nothing'}"
        )
    say(f"profile: {found['knee'] or found['refusal']}")
    received = OUTPUT_TOKENS * sum(point["requests"] for point in found["points"])
    assert (after.generated_tokens or 0) - (before.generated_tokens or 0) > received, "the warm-up's come on top"
    assert after.prefix_hits == before.prefix_hits, "no prompt comes twice"
    assert isinstance(parse_profile(file.read_text(encoding="utf-8")), Profile)


def test_it_writes_nothing_below_the_home_directory(engine: Running) -> None:
    """An arbitrary user id has none that it may write (CACHE_ENV in render/volumes.py)."""
    home = Path(engine.container.runnable.env["HOME"])
    assert [str(path) for path in home.rglob("*")] == []


def test_its_memory_stays_within_the_default_request(engine: Running, say: Say) -> None:
    """The CPU build also holds the KV cache there, which a GPU's engine does not."""
    resident = engine.container.resident_bytes()
    say(f"host memory of all its processes: {resident / 1024**3:.2f} GiB, KV cache of at most 0.5 GiB included")
    assert resident < DEFAULT_MEMORY_BYTES
