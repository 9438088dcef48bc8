"""`slmpack simulate` as a user calls it, and that docs/simulate.md shows what it prints (`--update-golden` writes it)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from tests.support.cli import slmpack

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/simulate.md"
EXAMPLE = re.compile(r"```console\n\$ slmpack ([^\n]+)\n(.*?)```", re.DOTALL)
CR, NODES, TRACE = (ROOT / "examples/simulate" / name for name in ("two-tenants.yaml", "nodes.yaml", "trace.csv"))


def simulate(*more: str, files: tuple[Path, ...] = (CR, NODES), trace: Path = TRACE) -> Result:
    given = [word for path in files for word in ("-f", str(path))]
    return slmpack("simulate", *given, "--trace", str(trace), *more)


def test_the_page_shows_what_is_printed(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text(encoding="utf-8")
    ((command, text),) = EXAMPLE.findall(page)
    args = [str(ROOT / word) if word.startswith("examples/") else word for word in command.split()]
    result = slmpack(*args, width=80)
    assert result.exit_code == 0, result.output
    printed = "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page.replace(f"{command}\n{text}```", f"{command}\n{printed}```"), encoding="utf-8")
    else:
        assert text == printed


def test_json_has_the_figures_of_each_policy() -> None:
    result = simulate("--policy", "slmpack", "--policy", "fixed", "--target", "2", "--to", "900", "-o", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == ["policies"]
    assert list(found["policies"]) == ["slmpack", "fixed"]
    for figures in found["policies"].values():
        assert list(figures) == [
            "slo_attainment", "worst_tenant_slo", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "gpu_hours",
            "slot_hours", "energy_kwh", "j_per_token", "scale_events", "reversals", "cold_starts", "rejected",
        ]  # fmt: skip
        assert 0.0 <= figures["worst_tenant_slo"] <= figures["slo_attainment"] <= 1.0
    fixed = found["policies"]["fixed"]
    assert fixed["slot_hours"] == pytest.approx(4 * (900 - 180) / 3600, rel=0.02)


@pytest.mark.parametrize("policy", ["hpa", "keda", "kpa", "kubeai", "aibrix", "wva", "dynamo", "oracle"])
def test_every_policy_takes_a_target(policy: str) -> None:
    result = simulate("--policy", policy, "--target", "0.5", "--to", "300", "-o", "json")
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["policies"]) == [policy]


def test_the_oracle_is_swept_and_has_a_bound_beside_it() -> None:
    def oracle(*more: str) -> dict[str, float]:
        result = simulate("--policy", "oracle", "--to", "600", "--rate-multiplier", "40", "-o", "json", *more)
        figures: dict[str, float] = json.loads(result.stdout)["policies"]["oracle"]
        return figures

    swept, roomy = oracle(), oracle("--target", "0.2")
    assert min(swept["slo_attainment"], roomy["slo_attainment"]) >= 0.995
    assert swept["gpu_hours"] < roomy["gpu_hours"]
    text = simulate("--policy", "oracle", "--to", "600", "--rate-multiplier", "40", "--target", "0.2").stdout
    bound = float(text.rsplit("attains: ", 1)[1].split(" ", 1)[0])
    assert 0.0 < bound < swept["gpu_hours"]


def test_our_placement_of_a_peer_takes_fewer_gpus() -> None:
    def hours(placement: str) -> float:
        result = simulate("--policy", "fixed", "--target", "2", "--to", "900", "--placement", placement, "-o", "json")
        return float(json.loads(result.stdout)["policies"]["fixed"]["gpu_hours"])

    assert hours("ours") < 0.7 * hours("kubernetes")


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "over-time.png"
    result = simulate("--policy", "fixed", "--to", "600", "--png", str(picture))
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_nothing_but_the_answer_is_on_standard_output() -> None:
    result = simulate("--policy", "fixed", "--to", "300", "-o", "json")
    assert result.stdout.startswith("{")
    assert not result.stderr


def trace_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_tenant_that_nobody_knows(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, "arrival_s,input_tokens,output_tokens,tenant\n1,10,10,chat\n2,10,10,other\n")
    result = simulate(trace=trace)
    assert result.exit_code == 1
    assert (
        "tenant 'other' of the trace: no SLMDeployment of this name is given; there are chat, drafts" in result.stderr
    )


def test_a_trace_without_tenants_for_two_deployments(tmp_path: Path) -> None:
    result = simulate(trace=trace_of(tmp_path, "arrival_s,input_tokens,output_tokens\n1,10,10\n"))
    assert result.exit_code == 1
    assert "no tenant column, and there are 2 SLMDeployments" in result.stderr


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, "arrival_s,input_tokens,output_tokens,tenant\n1,10,10,chat\n2,-3,10,chat\n")
    result = simulate(trace=trace)
    assert result.exit_code == 1
    assert "line 3" in result.stderr
    assert "input_tokens" in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--from", "600", "--to", "300"), "--to 300 must be more than --from 600"),
        (("--policy", "slmpack", "--target", "2"), "--target 2 is for the peers: slmpack has none"),
        (("--policy", "fixed", "--target", "1.5"), "fixed takes a whole number of replicas"),
        (("--to", "300", "--warm-up", "300"), "--warm-up 300 must be less than the"),
        (("--policy", "best"), "'best' is not one of"),
    ],
)
def test_flags_that_cannot_be(more: tuple[str, ...], message: str) -> None:
    result = simulate(*more)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_nodes_are_needed() -> None:
    result = simulate(files=(CR,))
    assert result.exit_code == 1
    assert "no node is given" in result.stderr


def test_a_rejected_spec_is_named(tmp_path: Path) -> None:
    body = next(iter(yaml.safe_load_all(CR.read_text(encoding="utf-8"))))
    body["spec"]["engine"]["args"] = {"max-num-seqs": "-1"}
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    result = simulate(files=(path, NODES), trace=trace_of(tmp_path, "arrival_s,input_tokens,output_tokens\n1,10,10\n"))
    assert result.exit_code == 1
    assert "SLMDeployment default/chat" in result.stderr


def test_without_numpy_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['numpy'] = None; from slmpack.cli import main; main()"
    args = ["simulate", "-f", str(CR), "-f", str(NODES), "--trace", str(TRACE)]
    result = subprocess.run([sys.executable, "-c", code, *args], check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert "pip install '.[simulate]'" in result.stderr


def test_help_does_not_import_the_simulator() -> None:
    code = (
        "import sys; from slmpack.cli import main; assert not {'numpy', 'numba', 'slmpack.simulate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
