"""How a run chooses, bounds and ends its checks, and what its exit code says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.gpu import __main__ as program
from tests.gpu.check import Check, Findings, run_check, select_checks
from tests.gpu.detection import judge_answer
from tests.gpu.figures import latencies
from tests.gpu.guard import MARK, find_marked, find_session
from tests.gpu.lab import CannotRunError, Refused
from tests.gpu.limits import MIB
from tests.gpu.model_folder import read_config, tokenizer, write_model_folder
from tests.gpu.nvml import GpuMissingError
from tests.gpu.outcome import CONTRADICTED, FAILED, NOT_RUN
from tests.gpu.prediction import predict_case, predict_words
from tests.gpu.serving import Case, Load, engine_args
from tests.unit.gpu_checks.test_outcome import NO, YES, outcome, results

GPU = Path(program.__file__).parent
LOAD = {"model": "Qwen/Qwen2.5-1.5B-Instruct", "in_flight": 64, "input": 512, "output": 256}


def check(run: Any, *, name: str = "one", seconds: int = 5) -> Check:
    return Check(name=name, says="", seconds=seconds, run=run)


def end_of(run: Any, *, seconds: int = 5) -> tuple[Any, list[str]]:
    said: list[str] = []
    cleaned: list[int] = []
    ended = run_check(check(run, seconds=seconds), now=lambda: "then", clean=lambda: cleaned.append(1), say=said.append)
    assert cleaned == [1]
    return ended, said


def test_plain_pytest_finds_nothing_to_collect_here() -> None:
    assert [path.name for path in GPU.rglob("*.py") if path.name.startswith("test_")] == []


def test_without_a_gpu_it_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise GpuMissingError("no NVIDIA driver on this machine")

    monkeypatch.setattr(program, "Nvml", none)
    said: list[str] = []
    assert program.main([], say=said.append) == 2
    assert said == ["gpu checks: no NVIDIA driver on this machine"]


def test_it_runs_on_the_standard_library_alone() -> None:
    command = [sys.executable, "-S", "-m", "tests.gpu", "--help"]
    done = subprocess.run(command, cwd=program.ROOT, capture_output=True, text=True, check=True, env={})
    assert "--copy-to" in done.stdout


def test_checks_are_chosen_by_the_beginning_of_their_name() -> None:
    every = [check(None, name=name) for name in ("mps-a", "mps-uid", "vllm-1-mps")]
    assert [c.name for c in select_checks(every, "mps")] == ["mps-a", "mps-uid"]
    assert [c.name for c in select_checks(every, "vllm, mps-u")] == ["mps-uid", "vllm-1-mps"]
    assert select_checks(every, "") == every
    with pytest.raises(ValueError, match="names no check; there are mps-a, mps-uid"):
        select_checks(every, "nothing")


def test_a_check_that_hangs_is_broken_off_and_what_it_saw_stays() -> None:
    def hang(findings: Findings) -> None:
        findings.promise("a", held=True, saw="b")
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001 - a limit that this could swallow would be none
            pytest.fail("swallowed")

    ended, _ = end_of(hang, seconds=1)
    assert (ended.status, ended.failed, len(ended.promises)) == (FAILED, "broken off after 1 s", 1)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_how_a_check_breaks_off_is_said() -> None:
    def refused(findings: Findings) -> None:
        findings.promise("a", held=False, saw="b")
        raise Refused("cuInit: CUDA_ERROR_UNKNOWN")

    def lacking(findings: Findings) -> None:
        raise CannotRunError("needs root")

    def wrong(findings: Findings) -> None:
        raise KeyError("free")

    ended, _ = end_of(refused)
    assert (ended.status, ended.failed) == (CONTRADICTED, "cuInit: CUDA_ERROR_UNKNOWN")
    ended, _ = end_of(lacking)
    assert (ended.status, ended.not_run) == (NOT_RUN, "needs root")
    ended, said = end_of(wrong)
    assert (ended.status, ended.failed) == (FAILED, "KeyError: 'free'")
    assert "Traceback" in said[0]


@pytest.mark.parametrize(
    ("outcomes", "asked", "code"),
    [
        ([outcome(promises=(YES,))], False, 0),
        ([outcome(promises=(YES,)), outcome(promises=(NO,))], False, 1),
        ([outcome(promises=(YES,)), outcome(failed="why")], False, 1),
        ([outcome(promises=(YES,)), outcome("mps-uid", not_run="needs root")], False, 1),
        ([outcome(promises=(YES,)), outcome("vllm-1", not_run="no vLLM")], False, 0),
        ([outcome(promises=(YES,)), outcome("vllm-1", not_run="no vLLM")], True, 1),
        ([outcome(not_run="no MPS")], False, 2),
    ],
)
def test_nothing_that_was_not_seen_is_green(outcomes: list[Any], asked: bool, code: int) -> None:
    assert program.verdict(outcomes, asked=asked) == code


def test_names_of_this_machine_are_left_out() -> None:
    text = f"/tmp/x/pipe {program.ROOT}/a {Path.home()}/b"
    assert program.scrub(text, folder=Path("/tmp/x")) == "TMP/pipe ./a ~/b"


def test_a_folder_with_a_broken_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bad\.json: no results"):
        program.read_folder(tmp_path)


def test_predictions_are_added_where_they_are_missing() -> None:
    figure = {"value": 2.0, "low": 1.0, "high": 3.0, "basis": "modelled"}
    asked = []

    def predict(case: Any, load: Any, /, *, gpu: str, version: str) -> dict[str, Any]:
        asked.append((case, gpu, version))
        return {"itl_ms": figure}

    seen = {"case": {"replicas": 1}, "load": {}, "vllm": "0.33.0", "measured": {"itl_ms": 4.0}}
    has = outcome("has", seen={**seen, "predicted": {"itl_ms": figure}})
    made = results(
        outcome("mps"), has, outcome("lacks", seen={**seen, "predicted": {"error": "x"}}), outcome("new", seen=seen)
    )
    added = program.add_predictions(made, predict=predict).outcomes
    assert asked == [({"replicas": 1}, "NVIDIA H200", "0.33.0")] * 2
    assert added[:2] == made.outcomes[:2]
    assert [o.seen["compared"][0]["ratio"] for o in added[2:]] == [2.0, 2.0]


def test_marked_processes_and_sessions_are_found_and_end_with_the_run(tmp_path: Path) -> None:
    """The watchdog ends them when its input ends, as it does when the run is killed."""
    sleep, folder = [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "run"
    folder.mkdir()
    mark = f"test-{os.getpid()}"
    with (
        subprocess.Popen(sleep, env={**os.environ, MARK: mark}) as marked,
        subprocess.Popen(sleep, start_new_session=True) as leader,
        subprocess.Popen(sleep) as other,
    ):
        try:
            assert find_session(leader.pid) == {leader.pid}
            while find_marked(mark) != {marked.pid}:  # it has not become its program yet
                time.sleep(0.01)
            told = f"mark {mark}\nsession {leader.pid}\nfolder {folder}\n"
            guard = [sys.executable, "-I", "-S", str(GPU / "guard.py")]
            subprocess.run(guard, input=told, text=True, check=True, timeout=60)
            assert (marked.wait(timeout=10), leader.wait(timeout=10)) == (-signal.SIGTERM, -signal.SIGTERM)
            assert other.poll() is None
            assert not folder.exists()
        finally:
            for process in (marked, leader, other):
                process.kill()


class Streams(BaseHTTPRequestHandler):
    """Streams as many events as tokens were asked for, and keeps the prompts."""

    prompts: ClassVar[list[list[int]]]
    status = 200
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.prompts.append(order["prompt"])
        self.send_response(self.status)
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(order["max_tokens"] if self.status == 200 else 0):
            self.wfile.write(b'data: {"choices": [{"text": "x"}]}\n\n')
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(params=[200, 500])
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[int, type[Streams]]]:
    class Handler(Streams):
        prompts: ClassVar[list[list[int]]] = []
        status = request.param

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1], Handler
        server.shutdown()
        thread.join()


def test_the_load_keeps_requests_in_flight_and_no_prompt_comes_twice(engine: tuple[int, type[Streams]]) -> None:
    port, handler = engine
    order = {"port": port, "model": "m", "in_flight": 3, "input": 20, "output": 5, "vocabulary": 1000, "seed": "s"}
    command = [sys.executable, "-I", "-S", str(GPU / "load.py"), json.dumps(order)]
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        while len(handler.prompts) < 15:
            time.sleep(0.01)
        out, _ = client.communicate(timeout=30)
    found = json.loads(out)
    if handler.status == 500:
        assert found["done"] == []
        assert found["failures"][0].startswith("HTTP/1.1 500"), "an answer that is no stream"
        return
    assert len({tuple(prompt) for prompt in handler.prompts}) == len(handler.prompts)
    assert {len(prompt) for prompt in handler.prompts} == {20}
    assert found["failures"] == []
    assert all(sent <= first <= last for sent, first, last, _ in found["done"])
    assert latencies(found["done"], began=began, ended=time.monotonic(), output=5)["completions"] >= 5


def test_the_tokenizer_has_a_text_for_every_id(tmp_path: Path) -> None:
    config = read_config("Qwen/Qwen2.5-1.5B-Instruct")
    write_model_folder(tmp_path, config=config)
    written = json.loads((tmp_path / "tokenizer.json").read_text())
    ids = sorted([*written["model"]["vocab"].values(), *(token["id"] for token in written["added_tokens"])])
    assert ids == list(range(config["vocab_size"]))
    with pytest.raises(ValueError, match="vocab_size is 256"):
        tokenizer(256)
    with pytest.raises(ValueError, match=r"carried here are .*Qwen/Qwen3-0.6B"):
        read_config("nobody/nothing")


def test_a_case_is_what_predict_is_asked() -> None:
    case = {"replicas": 2, "mps": True, "sm_percent": 50}
    words = " ".join(predict_words(case, LOAD, gpu="NVIDIA H200", version="0.33.0+cu130"))
    assert "--gpu NVIDIA-H200 --sharing mps --replicas 2 --in-flight 64" in words
    assert "--max-num-seqs 32 --sm-percent 50 --engine-version 0.33.0 " in words
    alone = {"replicas": 1, "mps": False, "sm_percent": None}
    assert "--sharing none" in " ".join(predict_words(alone, LOAD, gpu="Tesla T4", version="main"))


def test_predict_answers_it_or_says_why_not() -> None:
    case = {"replicas": 2, "mps": True, "sm_percent": 50}
    found = predict_case(case, LOAD, gpu="NVIDIA H200", version="0.33.0")
    assert found["throughput_tok_s"]["low"] < found["throughput_tok_s"]["value"] < found["throughput_tok_s"]["high"]
    assert found["engine_version"] == "0.33.0"
    assert "Graphics 9" in predict_case(case, LOAD, gpu="Graphics 9", version="0.33.0")["error"].replace("-", " ")


def test_engines_share_nine_tenths_of_the_memory() -> None:
    total = 100 * 1024 * MIB
    words, limit = engine_args("/m", case=Case(replicas=4, mps=True), load=Load(in_flight=62), total=total)
    assert limit == 23040
    assert "--max-num-seqs=16" in words
    assert "--gpu-memory-utilization=0.215" in words, "the share less 1 GiB, rounded down"
    with pytest.raises(CannotRunError, match="over 1 GiB"):
        engine_args("/m", case=Case(replicas=4, mps=True), load=Load(), total=4 * 1024 * MIB)


@pytest.mark.parametrize(
    ("line", "listed", "attached"),
    [
        (b'{"freeBytes": 1600000000, "totalBytes": 68719476736, "allocationCode": 2}\n', True, True),
        (b'{"freeBytes": 1600000000, "totalBytes": 68719476736, "allocationCode": 2}\n', False, False),
        (b'{"freeBytes": 60000000000, "totalBytes": 68719476736, "allocationCode": 0}\n', True, False),
        (b'{"error": "cuInit failed with CUDA error 805"}\n', True, False),
        (b"", True, False),
    ],
)
def test_the_supervisors_rule_judges_the_probes_line(line: bytes, listed: bool, attached: bool) -> None:
    found = judge_answer(line, limit_mib=2048, listed=listed, device_free=60 * 1024 * MIB)
    assert found.attached is attached
    assert found.message
