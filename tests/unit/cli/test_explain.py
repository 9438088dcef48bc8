"""`slmpack explain`: one SLMDeployment's straight line, from files and from a cluster."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from slmpack.api.crd import build_crd
from slmpack.devcluster.cluster import EmbeddedCluster
from slmpack.devcluster.nodes import mps_node
from slmpack.domain.scale_decision import FigureName
from slmpack.domain.wording import FIGURES
from tests.support.cli import Json, a_cr, slmpack, some_nodes, write

SLM_PATH = "/apis/slmpack.dev/v1alpha1/namespaces/default/slmdeployments"
STATUS: Json = {
    "scaling": {
        "desired": 3,
        "wished": 5,
        "known": True,
        "reason": "Held",
        "message": "a sentence with numbers",
        "limitedBy": "PowerCeiling",
        "power": "350 W (300 to 400)",
        "decidedAt": "2026-11-21T12:00:00Z",
        "lastScaleTime": "2026-11-21T11:00:00Z",
        "lastDirection": "Up",
        "figures": [
            {"name": "demand", "value": 12.3, "unit": "requests/s", "basis": "measured"},
            {"name": "capacity", "value": 2000, "unit": "requests/s", "basis": "modelled"},
            {"name": "demandToKeep", "value": 14, "unit": "requests/s", "basis": "measured"},
        ],
    }
}
SCALED = a_cr("chat", scaling={"min": 0, "max": 4}, sharing={"mode": "MPS"})


def explained(tmp_path: Path, *objects: object, name: str = "chat", args: tuple[str, ...] = ()) -> str:
    files = write(tmp_path, "all.yaml", *objects, some_nodes())
    result = slmpack("explain", name, "-f", files, *args)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def as_json(tmp_path: Path, *objects: object, args: tuple[str, ...] = ()) -> Json:
    files = write(tmp_path, "all.yaml", *objects, some_nodes())
    result = slmpack("explain", "chat", "-f", files, "-o", "json", *args)
    assert result.exit_code == 0, result.output
    found: Json = json.loads(result.stdout)
    return found


def test_the_last_decision_is_what_status_says(tmp_path: Path) -> None:
    text = explained(tmp_path, SCALED | {"status": STATUS})
    for words in (
        "default/chat 0 of 3 replicas Ready, ",
        "What a replica needs one replica of hf://Qwen/Qwen2.5-1.5B-Instruct on vLLM",
        "What pays on NVIDIA-H100-80GB-HBM3, MpsShare 1/4: ",
        "Where replicas are planned: 2 x MpsShare 1/4",
        "3 replicas by the last decision, told at 2026-11-21 12:00:00 UTC (spec.scaling: 0 to 4)",
        "last change: to more, at 2026-11-21 11:00:00 UTC",
        "Held: a sentence with numbers the load alone asks for 5; all is known limited by PowerCeiling",
        "hottest GPU, an estimate: 350 W (300 to 400)",
        "demand 12.3 requests/s measured what must be carried now capacity 2,000 requests/s modelled what those there",
        "more replicas: raise spec.scaling.maxWattsPerGPU",
        "more replicas: demand over about 2,000 requests/s; it is 12.3",
        "fewer replicas: 2 replicas would have to carry 14 requests/s for 300 s",
        "none: 600 s without a request",
    ):
        assert words in text, words
    assert "now: " not in text


def test_the_answer_comes_first_and_every_figure_is_said_to_be_something(tmp_path: Path) -> None:
    lines = slmpack("explain", "chat", "-f", write(tmp_path, "all.yaml", SCALED | {"status": STATUS}, some_nodes()))
    head = " ".join(lines.stdout.partition("\n\n")[0].split())
    assert head.startswith("default/chat 0 of 3 replicas Ready, ")
    assert head.endswith("; 2 fit and pay on one GPU; 3 replicas wanted of 0 to 4, Held")
    source = Path(__file__).parents[3] / "operator/slmpack/domain"
    text = "".join(
        (source / f"{name}.py").read_text(encoding="utf-8") for name in ("headroom", "goodput", "scale_turn")
    )
    text += "".join(
        (source / f"{name}.py").read_text(encoding="utf-8") for name in ("scaling", "scale_memory", "watts")
    )
    named = set(re.findall(r'Figure\(name="(\w+)"|\("(\w+)", sample\.', text))
    constants = {value for key, value in vars(FigureName).items() if key.isupper()}
    assert {first or second for first, second in named} | constants == set(FIGURES)


def test_nobodys_words_steer_a_terminal(tmp_path: Path) -> None:
    scaling = STATUS["scaling"] | {"message": "a\x1b[31mb\x07", "figures": [{"name": "x\x1b[0m", "value": 1}]}
    files = write(tmp_path, "all.yaml", SCALED | {"status": {"scaling": scaling}}, some_nodes())
    shown = slmpack("explain", "chat", "-f", files).stdout
    assert "Held: a\ufffd[31mb\ufffd" in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_as_json(tmp_path: Path) -> None:
    found = as_json(tmp_path, SCALED | {"status": STATUS})
    assert list(found) == ["deployment", "ready", "placements", "scaling", "would_change"]
    assert "scale" not in found["deployment"]
    assert found["deployment"]["replicas"]["wanted"] == 3
    status = found["scaling"]["status"]
    assert (status["desired"], status["wished"], status["reason"], status["limited_by"]) == (
        3,
        5,
        "Held",
        "PowerCeiling",
    )
    assert status["decided_at"] == "2026-11-21T12:00:00+00:00"
    assert status["figures"][0] == {"name": "demand", "value": 12.3, "unit": "requests/s", "basis": "measured"}
    assert found["scaling"]["now"] is None


def test_with_loads_both_decisions_are_said(tmp_path: Path) -> None:
    sample = {"reporting": 2, "running": 4, "waiting": 0, "arrivals_s": 2, "arrivals_peak_s": 3, "arrivals_high_s": 3}
    loads = write(tmp_path, "loads.yaml", {"loads": {"chat": sample}})
    found = as_json(tmp_path, SCALED | {"status": STATUS}, args=("--loads", loads))
    assert found["scaling"]["status"]["desired"] == 3
    assert found["scaling"]["now"]["current"] == 3
    assert len(found["placements"]) == 2
    text = explained(tmp_path, SCALED | {"status": STATUS}, args=("--loads", loads))
    assert "chat-0 on h100, MpsShare 1/4: Ready" in text
    assert "3 replicas by the last decision" in text
    assert "now: " in text


def test_before_the_first_decision(tmp_path: Path) -> None:
    text = explained(tmp_path, SCALED)
    assert "status says nothing yet (spec.scaling: 0 to 4)" in text
    assert "the operator has not decided yet" in text
    assert as_json(tmp_path, SCALED)["scaling"] == {"status": None, "now": None}


def test_none_wanted_is_nowhere(tmp_path: Path) -> None:
    status = {"scaling": STATUS["scaling"] | {"desired": 0, "reason": "Idle", "limitedBy": None, "figures": []}}
    text = explained(tmp_path, SCALED | {"status": status})
    assert "nowhere: no replica is wanted" in text
    assert "one replica: a request that a gateway holds" in text
    assert "limited by" not in text


def test_a_fixed_number_is_the_users(tmp_path: Path) -> None:
    fixed = a_cr("chat", replicas=9, sharing={"mode": "MPS"})
    text = explained(tmp_path, fixed)
    assert "How many are wanted" not in text
    assert "replicas without a place: DoesNotPay: " in text
    assert "change spec.replicas, or give spec.scaling in its place" in text
    assert as_json(tmp_path, fixed)["scaling"] is None


def test_a_rejected_spec_says_why(tmp_path: Path) -> None:
    text = explained(tmp_path, a_cr("chat", replicas="three"))
    assert "default/chat 0 of ? replicas Ready, InvalidSpec: spec.replicas: must be a whole number" in text
    assert "any number: the spec has to be accepted" in text


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("chat", "-n", "llm"), "there is no SLMDeployment llm/chat; there is default/chat"),
        (("chta",), "there is no SLMDeployment default/chta; there is default/chat"),
        (("zzz",), "there is no SLMDeployment default/zzz; there is default/chat"),
        (("chat", "--live"), "--live and --prometheus-url go together"),
        (("chat", "--prometheus-url", "http://p:9090"), "--live and --prometheus-url go together"),
        (("chat", "--live", "--prometheus-url", "http://p:9090"), "-f explains from files; leave out --live"),
        (("chat", "--context", "one"), "-f explains from files; leave out --live, --kubeconfig and --context"),
        (("chat", "--kubeconfig", "x"), "-f explains from files; leave out --live, --kubeconfig"),
        (("chat", "--loads", "none"), "none: cannot be read"),
    ],
)
def test_what_cannot_be_explained_is_an_error(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    files = write(tmp_path, "all.yaml", SCALED, some_nodes())
    result = slmpack("explain", *args, "-f", files)
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())


def test_an_error_of_the_cluster_or_of_a_file_is_told(tmp_path: Path) -> None:
    assert "no such file" in slmpack("explain", "chat", "--kubeconfig", str(tmp_path / "none")).stderr
    assert "no such file" in slmpack("explain", "chat", "-f", str(tmp_path / "none")).stderr
    live = ("--live", "--prometheus-url", "http://p:9090", "--loads", "x")
    assert "--live and --loads exclude each other" in slmpack("explain", "chat", *live).stderr


@pytest.fixture
async def kubeconfig(tmp_path: Path) -> AsyncIterator[str]:
    async with EmbeddedCluster(crds=[build_crd()]) as embedded:
        await embedded.api.create("/api/v1/nodes", mps_node("h100", replicas=4))
        await embedded.api.create(SLM_PATH, SCALED)
        yield str(embedded.kubeconfig(tmp_path / "kubeconfig"))


class _Prometheus(BaseHTTPRequestHandler):
    """Answers everything with an error, and counts."""

    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.send_error(503)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def prometheus() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Prometheus)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_cluster_is_read(kubeconfig: str) -> None:
    command = ("explain", "chat", "--bundled-models", "--kubeconfig", kubeconfig)
    result = await asyncio.to_thread(slmpack, *command)
    assert result.exit_code == 0, result.output
    assert "What pays" in result.stdout
    assert "status says nothing yet" in result.stdout


async def test_live_measures_and_holds_on_what_is_unknown(kubeconfig: str, prometheus: str) -> None:
    live = ("--live", "--prometheus-url", prometheus, "--metrics-timeout", "1", "-o", "json")
    command = ("explain", "chat", "--bundled-models", "--kubeconfig", kubeconfig, *live)
    result = await asyncio.to_thread(slmpack, *command)
    assert result.exit_code == 0, result.output
    now = json.loads(result.stdout)["scaling"]["now"]
    assert (now["reason"], now["known"], now["desired"]) == ("MetricsUnknown", False, now["current"])
    assert _Prometheus.asked > 0
