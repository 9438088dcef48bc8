"""`slmpack run`'s flags about metrics: what they become, and what is said of those that are wrong."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from slmpack.adapters.loads import LoadPoller
from slmpack.adapters.measuring import MetricsSettings, make_loads
from slmpack.adapters.metric_names import EngineNames, MetricNames
from slmpack.cli.metrics_flags import metrics_options, metrics_settings
from tests.support.cli import slmpack
from tests.support.fake_clock import FakeClock


def _settings(*args: str) -> MetricsSettings:
    found: list[MetricsSettings] = []

    @click.command()
    @metrics_options
    def command(**options: Any) -> None:
        found.append(metrics_settings(options))

    result = CliRunner().invoke(command, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


URL = ("--prometheus-url", "https://prometheus.monitoring:9090/prefix/")


def test_nothing_said() -> None:
    assert _settings() == MetricsSettings()


def test_everything_said(tmp_path: Path) -> None:
    for name, text in (("token", "t"), ("ca", "c"), ("names", "engine: {running: my_running}")):
        (tmp_path / name).write_text(text)
    found = _settings(
        *URL, "--prometheus-token-file", str(tmp_path / "token"), "--prometheus-ca-file", str(tmp_path / "ca"),
        "--prometheus-header", "X-Scope-OrgID: acme", "--metric-names", str(tmp_path / "names"), "--gateway-waiting-query",
        'q{n="$name"}', "--metrics-period", "9", "--metrics-timeout", "1", "--metrics-max-age", "30",
    )  # fmt: skip
    assert found == MetricsSettings(
        url="https://prometheus.monitoring:9090/prefix", token_file=tmp_path / "token", ca_file=tmp_path / "ca",
        headers=(("X-Scope-OrgID", "acme"),), names=MetricNames(engine=EngineNames(running=("my_running",))),
        gateway_query='q{n="$name"}', period=timedelta(seconds=9), timeout=timedelta(seconds=1), max_age=timedelta(seconds=30),
    )  # fmt: skip


def test_a_prometheus_is_asked_more_often_than_replicas_are_scraped() -> None:
    assert (_settings(*URL).period, _settings().period) == (timedelta(seconds=5), timedelta(seconds=15))
    assert _settings("--metrics-period", "7").period == timedelta(seconds=7)


def test_an_empty_query_asks_no_gateway() -> None:
    assert _settings(*URL, "--gateway-waiting-query", "").gateway_query == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--prometheus-url", "prometheus:9090"), "'prometheus:9090' is not the URL of a Prometheus; write for instance http://"),
        (("--prometheus-url", "http://me:secret@prometheus"), "passwords belong in --prometheus-basic-auth-file"),
        (("--prometheus-url", "http://[::1"), "'http://[::1' is not the URL of a Prometheus"),
        (("--prometheus-url", "http://"), "is not the URL of a Prometheus"),
        ((*URL, "--prometheus-header", "nonsense"), "'nonsense' is no header; write for instance 'X-Scope-OrgID: team'"),
        ((*URL, "--prometheus-header", "a b: c"), "is no header"),
        (("--prometheus-header", "a: b"), "--prometheus-header needs --prometheus-url"),
        (("--gateway-waiting-query", "x{n='$name'}"), "--gateway-waiting-query needs --prometheus-url"),
        ((*URL, "--gateway-waiting-query", "sum(up{n='$namespace'})"), "has no $name: it would say the same of every SLMDeployment"),
        ((*URL, "--prometheus-token-file", __file__, "--prometheus-basic-auth-file", __file__), "exclude each other"),
        (("--prometheus-token-file", __file__), "--prometheus-token-file needs --prometheus-url"),
        (("--metric-names", __file__), "test_metrics_flags.py: "),
        (("--metrics-period", "0"), "0.0 is not in the range 1<=x<=60"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(args: tuple[str, ...], words: str) -> None:
    result = slmpack("run", *args)
    assert result.exit_code == 1
    assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9"])
async def test_either_source_can_be_put_together(url: str | None) -> None:
    poller = make_loads(MetricsSettings(url=url), wake=lambda: None, clock=FakeClock())
    assert isinstance(poller, LoadPoller)
    async with poller:
        assert (poller.samples(), poller.gpus(), poller.blind()) == ({}, (), None)
