"""`slmpack top`: what status tells, what Prometheus measures, and what nobody knows."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from slmpack.adapters.clock import SystemClock
from slmpack.adapters.connection import context_namespace
from slmpack.adapters.metric_names import MetricNames
from slmpack.adapters.promql import DEPLOYMENT, EngineQueries, gpu_queries
from slmpack.api.crd import build_crd
from slmpack.cli import main, top_command
from slmpack.cli.completion import kubectl_answer
from slmpack.cli.top import SORTS
from slmpack.cli.top_json import top_to_json
from slmpack.cli.top_rows import GpuCount, make_row
from slmpack.cli.top_text import print_top
from slmpack.devcluster.cluster import EmbeddedCluster
from slmpack.devcluster.nodes import a100_mig_node, mps_node, timesliced_node, whole_node
from slmpack.domain.load import GpuReading, LoadSample
from slmpack.domain.snapshot import Key
from tests.support.cli import Json, a_cr, slmpack
from tests.support.fake_prometheus import FakePrometheus

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
KEY = Key("team", "chat")
SCALING: Json = {
    "desired": 3,
    "wished": 5,
    "known": True,
    "reason": "Held",
    "limitedBy": "PowerCeiling",
    "power": "350 W (300 to 400)",
    "decidedAt": "2026-11-21T11:59:15Z",
    "figures": [
        {"name": "arrivals", "value": 12.3, "unit": "requests/s", "basis": "measured"},
        {"name": "capacity", "value": 20, "unit": "requests/s", "basis": "modelled"},
        {"name": "itl", "value": 0.0213, "unit": "s", "basis": "measured"},
        {"name": "ttftP95", "value": 0.4, "unit": "s", "basis": "measured"},
        {"name": "kvUsage", "value": 0.5, "basis": "measured"},
    ],
}
COUNTS: Json = {"replicas": 3, "readyReplicas": 2, "desiredReplicas": 3, "share": "MpsShare 1/4"}


def placed(share: str, *pods: tuple[str, str], **extra: Any) -> list[Json]:
    return [{"pod": pod, "node": node, "share": share, **extra} for pod, node in pods]


def raw(status: Json | None, *, generation: int = 1, name: str = "chat") -> Json:
    meta = {"namespace": "team", "name": name, "uid": "u", "generation": generation}
    return {"metadata": meta, "spec": {}} | ({} if status is None else {"status": status})


def the_row(
    status: Json | None, *, sample: LoadSample | None = None, gpus: tuple[GpuReading, ...] = (), generation: int = 1
) -> Any:
    row = make_row(raw(status, generation=generation), loads={} if sample is None else {KEY: sample}, gpus=gpus)
    assert row is not None
    return row


def gpu(node: str, uuid: str, watts: float | None, *pods: str) -> GpuReading:
    return GpuReading(node=node, uuid=uuid, at=NOW, power_w=watts, pods=pods)


def line_of(row: Any) -> str:
    text = print_top([row], None, (), now=NOW)
    return " ".join(text.splitlines()[1].split())


def test_status_alone_tells_what_the_operator_found() -> None:
    status = COUNTS | {
        "scaling": SCALING,
        "placements": placed("MpsShare 1/4", ("chat-0", "a"), ("chat-1", "a"), ("chat-2", "b")),
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Starting",
                "message": "one starts",
                "lastTransitionTime": "2026-11-21T11:00:00Z",
            }
        ],
        "observedGeneration": 1,
    }
    row = the_row(status)
    assert line_of(row) == (
        "team chat 2/3 >=2 MpsShare 1/4 12.3 20 - 21.3 ms 400 ms 50% 350 W (300 to 400) estimate 45s Starting, PowerCeiling"
    )
    notes = print_top([row], None, (), now=NOW)
    assert ">= at least" in notes
    assert "--prometheus-url measures now" in notes
    assert "<=" not in notes
    assert the_row(status, generation=2).outdated
    assert line_of(the_row(status, generation=2)).endswith("(of an older spec)")


def test_what_nobody_told_is_a_dash() -> None:
    row = the_row(None)
    assert line_of(row) == "team chat - - - -"
    assert the_row({"observedGeneration": -1}) == row
    assert "No operator has written the status of team/chat." in print_top([row], None, (), now=NOW)
    fixed = the_row(COUNTS | {"reason": "AllReady"})
    assert line_of(fixed) == "team chat 2/3 - MpsShare 1/4 AllReady"
    text = print_top([fixed], None, (), now=NOW)
    assert "REQ/S" not in text, "no column is empty in every line"
    assert "- is not known. Loads and watts are not known: status has them with spec.scaling" in " ".join(text.split())
    both = print_top([fixed, the_row(COUNTS | {"scaling": SCALING})], None, (), now=NOW)
    assert "NAMESPACE NAME READY GPUS SHARING REQ/S CARRIED TOK/S ITL TTFT KV W AGE REASON" in " ".join(both.split())
    assert "team chat 2/3 - MpsShare 1/4 - - - - - - - - AllReady" in " ".join(both.split())
    assert "Loads and watts are not known" not in both


def test_what_is_measured_takes_the_place_of_what_status_told() -> None:
    sample = LoadSample(
        at=NOW - timedelta(seconds=4), reporting=2, arrivals_s=150.4, generation_tok_s=2345.6, itl_s=0.01, kv_usage=0.91, trouble=("ttft_s: why",)
    )  # fmt: skip
    row = the_row(COUNTS | {"scaling": SCALING}, sample=sample)
    assert (
        line_of(row)
        == "team chat 2/3 - MpsShare 1/4 150 20 2,346 10 ms - 91% 350 W (300 to 400) estimate 4s PowerCeiling"
    )
    notes = print_top([row], None, (), now=NOW)
    assert "team/chat: ttft_s: why" in notes
    assert "as status told" not in notes


@pytest.mark.parametrize(
    ("placements", "count"),
    [
        (placed("Exclusive", ("chat-0", "a"), ("chat-1", "a")), GpuCount(count=2, exact=True)),
        (placed("MpsPack of 3", ("chat-0", "a"), ("chat-0", "a"), ("chat-1", "b")), GpuCount(count=2, exact=True)),
        (placed("MpsShare 1/4", *((f"chat-{n}", "a") for n in range(5))), GpuCount(count=2, exact=False)),
        (placed("MigSlice 1g.10gb", ("chat-0", "a"), ("chat-1", "b")), GpuCount(count=2, exact=False)),
        (placed("MigSlice 1g.10gb", *((f"chat-{n}", "a") for n in range(8))), GpuCount(count=2, exact=False)),
        (
            placed("Exclusive", ("chat-0", "a")) + placed("MpsShare 1/2", ("chat-1", "a")),
            GpuCount(count=2, exact=False),
        ),
    ],
)
def test_gpus_are_counted_where_they_can_be(placements: list[Json], count: GpuCount) -> None:
    assert the_row({"replicas": 1, "readyReplicas": 1, "placements": placements}).gpus == count


@pytest.mark.parametrize(
    ("status", "count"),
    [
        ({"readyReplicas": 3, "placements": 5}, None),
        ({"readyReplicas": 0, "replicas": 3, "placements": [{"pod": 1}]}, None),
        ({"readyReplicas": 1, "placements": placed("Exclusive", ("chat-0", ""))}, None),
        ({"readyReplicas": 0, "replicas": 1, "placements": placed("Exclusive", ("chat-0", ""))}, GpuCount(count=0, exact=True)),
        ({"readyReplicas": 0, "replicas": 0}, GpuCount(count=0, exact=True)),
        ({"readyReplicas": 0}, GpuCount(count=0, exact=True)),
        ({}, None),
    ],
)  # fmt: skip
def test_no_gpus_is_said_only_where_that_is_known(status: Json, count: GpuCount | None) -> None:
    assert the_row(status).gpus == count


@pytest.mark.parametrize(("value", "shown"), [("NaN", "-"), (1e999, "-"), ("-Infinity", "-"), (1e300, "1e+300"), (1234567.0, "1.23e+06"), (999999.0, "999,999")])  # fmt: skip
def test_figures_are_numbers_that_can_be_read(value: object, shown: str) -> None:
    names = ("arrivals", "capacity", "itl", "ttftP95", "kvUsage")
    row = the_row({"reason": "X", "scaling": SCALING | {"figures": [{"name": name, "value": value} for name in names]}})
    assert line_of(row).split()[5:7] == [shown, shown]
    text = print_top([row], None, (), now=NOW)
    assert "nan" not in text.lower().splitlines()[1]
    assert "inf" not in text.lower()
    assert max(map(len, text.splitlines()[1].split())) <= 12
    json.dumps(top_to_json([row], None, ()), allow_nan=False)


def test_what_overflows_in_its_unit_is_not_known() -> None:
    figures = [{"name": name, "value": 1.7e308} for name in ("itl", "kvUsage")]
    row = the_row({"reason": "X", "scaling": SCALING | {"figures": figures}})
    assert line_of(row).split()[3:12] == ["-"] * 8 + ["350"]


def test_nobodys_words_break_the_table() -> None:
    row = the_row({"reason": "A\n\x1b[31mB\x9b", "share": "Mps\x1b]0;t\x07\tx\u2028"})
    text = print_top([row, the_row(None)], None, (), now=NOW)
    assert text.splitlines()[3] == "", "one line for each"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]", text)
    assert "A \ufffd[31mB\ufffd" in text


def test_only_what_has_no_status_is_said_to_have_none() -> None:
    rows = [the_row(COUNTS), the_row({"conditions": 5})]
    assert "No operator" not in print_top(rows, None, (), now=NOW)


def test_gpus_of_replicas_that_status_has_no_room_for_are_not_counted() -> None:
    status = {"replicas": 300, "readyReplicas": 300, "placements": placed("Exclusive", ("chat-0", "a"))}
    assert the_row(status).gpus == GpuCount(count=1, exact=False)


def test_watts_are_measured_of_the_replicas_own_gpus_or_at_most_of_their_nodes() -> None:
    whole = {"placements": placed("Exclusive", ("chat-0", "a"), ("chat-1", "b"))}
    others = gpu("a", "GPU-9", 600.0, "team/other")
    own = the_row(
        whole, gpus=(gpu("a", "GPU-0", 310.0, "team/chat-0"), gpu("b", "GPU-1", 290.0, "team/chat-1"), others)
    )
    assert (own.power.text, own.power.basis, own.power.watts, own.power.at_most) == ("310 W", "measured", 310.0, False)
    partly = the_row(whole, gpus=(gpu("a", "GPU-0", 310.0, "team/chat-0"), others))
    assert (partly.power.text, partly.power.at_most) == ("<=600 W", True)
    assert "<= at most" in print_top([partly], None, (), now=NOW)
    elsewhere = the_row(
        whole | {"scaling": SCALING}, gpus=(gpu("c", "GPU-2", 500.0, "team/x"), gpu("a", "GPU-0", None, "team/chat-0"))
    )
    assert (elsewhere.power.basis, elsewhere.power.watts) == ("estimate", None)
    assert the_row(whole).power is None


def test_the_operators_words_about_watts_are_shown_as_they_are() -> None:
    told = "W 350 or so (300 W to 400 W)"
    row = the_row(COUNTS | {"scaling": SCALING | {"power": told}})
    assert (row.power.text, row.power.watts) == (told, None)


def test_an_object_without_metadata_is_no_row() -> None:
    assert make_row({"spec": {}}, loads={}, gpus=()) is None


@pytest.fixture
async def kubeconfig(tmp_path: Path) -> AsyncIterator[str]:
    async with EmbeddedCluster(crds=[build_crd()]) as embedded:
        await embedded.api.create(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
        )
        for node in (
            mps_node("h100", replicas=4),
            a100_mig_node("a100", profiles={"1g.10gb": 4, "3g.40gb": 1}),
            timesliced_node("sliced", replicas=4),
            whole_node("l4", gpus=2),
        ):
            await embedded.api.create("/api/v1/nodes", node)
        for name, ready, arrivals in (("chat", 1, 5.0), ("zed", 0, 9.0), ("anew", None, 0.0)):
            path = "/apis/slmpack.dev/v1alpha1/namespaces/team/slmdeployments"
            await embedded.api.create(
                path, a_cr(name, scaling={"max": 2}) | {"metadata": {"name": name, "namespace": "team"}}
            )
            if ready is None:
                continue
            figures = [{"name": "arrivals", "value": arrivals}]
            status = {
                "placements": placed("Exclusive", ("chat-0", "l4"))[:ready],
                "readyReplicas": ready,
                "desiredReplicas": 2,
                "scaling": SCALING | {"figures": figures},
                "reason": "Starting",
            }
            await embedded.api.patch(f"{path}/{name}/status", {"status": status})
        yield str(embedded.kubeconfig(tmp_path / "kubeconfig"))


async def top(*args: str) -> Any:
    return await asyncio.to_thread(slmpack, "top", *args)


async def test_a_cluster_is_read(kubeconfig: str) -> None:
    result = await top("--kubeconfig", kubeconfig, "-A")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0].startswith("NAMESPACE NAME READY GPUS SHARING REQ/S CARRIED TOK/S ITL TTFT KV W AGE REASON")
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["team", "anew", "-"],
        ["team", "chat", "1/2"],
        ["team", "zed", "0/2"],
    ]
    assert (await top("--kubeconfig", kubeconfig)).stdout == "No SLMDeployments found.\n"
    assert "chat" in (await top("--kubeconfig", kubeconfig, "-n", "team")).stdout


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("name", "anew chat zed"),
        ("ready", "zed chat anew"),
        ("req/s", "zed chat anew"),
        ("REQ/S", "zed chat anew"),
        ("gpus", "chat zed anew"),
        ("tok/s", "anew chat zed"),
    ],
)
async def test_the_highest_comes_first_and_the_unknown_last(kubeconfig: str, by: str, order: str) -> None:
    result = await top("--kubeconfig", kubeconfig, "-A", "--sort-by", by, "-o", "json")
    assert [it["name"] for it in json.loads(result.stdout)["deployments"]] == order.split()


def test_every_sort_is_one_that_there_is() -> None:
    assert ("name", *SORTS) == top_command.SORTS


async def test_nodes_are_shown_as_they_are(kubeconfig: str) -> None:
    result = await top("--kubeconfig", kubeconfig, "-A", "--nodes")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "a100 4 x 1g.10gb NVIDIA-A100-SXM4-80GB nvidia.com/mig-1g.10gb 0 B of 38.0 GiB 0/0 0 free" in lines
    assert any(line.startswith("l4 GPU 1 NVIDIA-L4 nvidia.com/gpu 0 B of ") for line in lines)
    assert any(line.startswith("sliced - ") and "TimeSliced: " in line for line in lines)
    assert not any("UUID" in line for line in lines)


async def test_prometheus_measures(kubeconfig: str) -> None:
    names = MetricNames()
    keys = (Key("team", "anew"), Key("team", "chat"), Key("team", "zed"))
    queries, gpus = EngineQueries(names=names, deployments=keys), gpu_queries(names)
    of_gpu = {names.labels.gpu_uuid: "GPU-7", names.labels.gpu_node[0]: "h100"}
    async with FakePrometheus() as prometheus:
        prometheus.now = SystemClock().now().timestamp()
        chat = {"namespace": "team", DEPLOYMENT: "chat"}
        prometheus.vectors |= {queries.arrivals(): [(chat, 7.5)], queries.generation_rate(): [(chat, 321)]}
        prometheus.vectors |= {gpus["seen"]: [(of_gpu, prometheus.now - 3)], gpus["power_w"]: [(of_gpu, 222)]}
        args = ("--kubeconfig", kubeconfig, "-A", "--nodes", "--prometheus-url", prometheus.url)
        text = (await top(*args)).stdout
        found = json.loads((await top(*args, "-o", "json")).stdout)
    by_name = {it["name"]: it for it in found["deployments"]}
    assert by_name["chat"]["requests_s"]["arriving"] == 7.5
    assert by_name["chat"]["tokens_s"] == 321
    assert by_name["chat"]["loads_from"] == "prometheus"
    assert by_name["zed"]["requests_s"]["arriving"] == 0, "nothing runs that could answer"
    assert [(it["node"], it["uuid"], it["power_w"], it["xid"]) for it in found["gpus"]] == [
        ("h100", "GPU-7", 222, None)
    ]
    assert any(" ".join(line.split()).startswith("h100 GPU-7 222 measured - - - - ") for line in text.splitlines())
    assert {it["node"] for it in found["nodes"]} == {"a100", "h100", "l4", "sliced"}


async def test_a_prometheus_that_does_not_answer_leaves_what_status_told(kubeconfig: str) -> None:
    result = await top(
        "--kubeconfig", kubeconfig, "-A", "--prometheus-url", "http://127.0.0.1:9", "--metrics-timeout", "0.5"
    )
    assert result.exit_code == 0, result.output
    assert result.stderr.count("nothing is measured: ") == 1
    assert result.stderr.count("127.0.0.1:9") == 1
    assert "estimate" in result.stdout
    args = ("--kubeconfig", kubeconfig, "-A", "-o", "json")
    assert json.loads((await top(*args)).stdout)["trouble"] is None
    found = json.loads((await top(*args, "--prometheus-url", "http://127.0.0.1:9", "--metrics-timeout", "0.5")).stdout)
    assert "127.0.0.1:9" in found["trouble"]


async def test_names_are_completed_from_the_cluster(kubeconfig: str) -> None:
    async def answer(*words: str) -> list[str]:
        return await asyncio.to_thread(lambda: list(kubectl_answer(main, words)))

    assert await answer("explain", "--kubeconfig", kubeconfig, "-n", "team", "") == ["anew", "chat", "zed", ":4"]
    assert await answer("explain", "--kubeconfig", kubeconfig, "-n", "team", "c") == ["chat", ":4"]
    assert await answer("explain", "--kubeconfig", kubeconfig, "") == [":4"], "the context's namespace has none"
    assert await answer("top", "--kubeconfig", kubeconfig, "-n", "te") == ["team", ":4"]
    assert await answer("explain", "--kubeconfig", "/nonexistent", "-n", "team", "") == [":4"]


async def test_a_cluster_without_the_crd_says_how_to_get_it(tmp_path: Path) -> None:
    async with EmbeddedCluster() as embedded:
        result = await top("--kubeconfig", str(embedded.kubeconfig(tmp_path / "kubeconfig")))
    assert result.exit_code == 1
    assert "the cluster knows no SLMDeployments" in result.stderr
    assert "slmpack crd | kubectl apply" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("-A", "-n", "team"), "--namespace and --all-namespaces exclude each other"),
        (("--kubeconfig", "none"), "--kubeconfig none: no such file"),
        (("--prometheus-token-file", __file__), "--prometheus-token-file needs --prometheus-url"),
        (("--sort-by", "colour"), "'colour' is not one of"),
    ],
)
def test_what_cannot_be_asked_is_an_error(args: tuple[str, ...], said: str) -> None:
    result = slmpack("top", *args)
    assert result.exit_code == 1
    assert said in result.stderr


def test_the_namespace_is_kubectls(tmp_path: Path) -> None:
    contexts = [
        {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
        {"name": "two", "context": {"cluster": "c", "user": "u"}},
    ]
    path = tmp_path / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": contexts,
                "current-context": "one",
            }
        )
    )
    assert context_namespace(str(path)) == "team"
    assert context_namespace(str(path), "two") == "default"
    assert context_namespace(str(path), "three") == "default"
    assert context_namespace(str(tmp_path / "none")) == "default"
