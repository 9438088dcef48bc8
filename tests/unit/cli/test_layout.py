"""`slmpack plan --propose-layout`: the picture, the command, and the MIG manager's configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from slmpack.cli.layout import NO_CAPABLE
from slmpack.devcluster.nodes import H100, a100_mig_node, mig_single_node, tainted, whole_node
from tests.support.cli import Json, a_cr, slmpack, write

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/mig.md"
EXAMPLE = re.compile(r"```console\n\$ slmpack ([^\n]+)\n(.*?)```", re.DOTALL)
LABEL = re.compile(r"kubectl label node (\S+) nvidia\.com/mig\.config=(\S+) --overwrite")


def proposed(folder: Path, *objects: object, width: int = 100, output: str = "text") -> str:
    """What the flag adds to the plan; in JSON, the whole."""
    files = write(folder, "all.yaml", *objects)
    result = slmpack("plan", "-f", files, "--propose-layout", "-o", output, width=width)
    assert result.exit_code in {0, 2}, result.output
    return result.stdout if output == "json" else result.stdout.partition("Proposed MIG layouts")[2]


def as_json(folder: Path, *objects: object) -> Json:
    found: Json = json.loads(proposed(folder, *objects, output="json"))["proposed_layouts"]
    return found


def config(text: str) -> Json:
    """The mig-parted configuration that is printed."""
    lines = text.partition("ConfigMap:\n")[2].splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("    "))
    found: Json = yaml.safe_load("\n".join(lines[:end]))
    return found


def test_a_stock_layout_is_one_label(tmp_path: Path) -> None:
    text = proposed(tmp_path, a_cr(replicas=7), whole_node("h100", product=H100))
    assert "default/qwen: 7 of 7 replicas have an instance" in text
    assert "GPU 0: 7 x 1g.10gb" in text
    assert LABEL.findall(text) == [("h100", "all-1g.10gb")]
    assert (
        "The device plugin's MIG strategy (mig.strategy in the ClusterPolicy) is none; set it to mixed or single."
        in (" ".join(text.split()))
    )
    assert "slmpack never changes a layout" in text
    assert "mig-configs" not in text


def test_other_layouts_are_a_configuration_of_the_mig_manager(tmp_path: Path) -> None:
    text = proposed(tmp_path, a_cr(replicas=8), whole_node("h100", product=H100, gpus=4))
    assert LABEL.findall(text) == [("h100", "slmpack-1")]
    assert config(text) == {
        "version": "v1",
        "mig-configs": {
            "slmpack-1": [
                {"devices": [0, 1], "mig-enabled": True, "mig-devices": {"1g.10gb": 7}},
                {"devices": [2, 3], "mig-enabled": False},
            ]
        },
    }
    assert "GPU 3: no replica needs it; it stays whole" in text
    assert "Or cut all GPUs of the node alike: all-1g.10gb instead of slmpack-1." in text


def test_nodes_alike_share_a_configuration(tmp_path: Path) -> None:
    large = a_cr("large", replicas=1, workload={"inFlight": 90, "inputTokens": 3000, "outputTokens": 1000})
    small = a_cr("small", replicas=8)
    found = as_json(tmp_path, large, small, *(whole_node(f"n{n}", product=H100) for n in range(3)))
    configs = [node["config"] for node in found["nodes"]]
    assert configs[0] == "slmpack-1"
    assert found["nodes"][0]["stock"] is False


def test_the_json_says_what_the_picture_shows(tmp_path: Path) -> None:
    found = as_json(tmp_path, a_cr(replicas=8), whole_node("h100", product=H100, gpus=3))
    (node,) = found["nodes"]
    assert found["deployments"] == [{"namespace": "default", "name": "qwen", "wanted": 8, "placed": 8, "reason": None}]
    assert (node["node"], node["product"], node["config"], node["stock"], node["is_there"]) == (
        "h100",
        H100,
        "slmpack-1",
        False,
        False,
    )
    assert node["gpus"][2] is None
    assert [slot["deployment"] for slot in node["gpus"][1]] == ["default/qwen"] + [None] * 6
    assert node["gpus"][1][0] == {
        "profile": "1g.10gb",
        "start": 0,
        "memory_slices": 1,
        "deployment": "default/qwen",
        "sufficient": True,
    }
    assert node["gpus"][1][1]["sufficient"] is None


def test_without_the_flag_nothing_is_proposed(tmp_path: Path) -> None:
    files = write(tmp_path, "all.yaml", a_cr(), whole_node("h100", product=H100))
    assert "Proposed" not in slmpack("plan", "-f", files).stdout
    assert "proposed_layouts" not in json.loads(slmpack("plan", "-f", files, "-o", "json").stdout)


def test_a_layout_that_is_there_needs_no_command(tmp_path: Path) -> None:
    text = proposed(tmp_path, a_cr(replicas=7), a100_mig_node("n", profiles={"1g.10gb": 7}, product=H100))
    assert "The node has just these instances already." in text
    assert LABEL.findall(text) == []
    assert "Nothing was changed" not in text


def test_a_single_strategy_node_may_keep_it_while_all_instances_are_alike(tmp_path: Path) -> None:
    node = mig_single_node("n", profile="3g.40gb", count=2, product=H100)
    text = proposed(tmp_path, a_cr(replicas=7), node)
    assert LABEL.findall(text) == [("n", "all-1g.10gb")]
    assert "MIG strategy" not in text
    assert "it may have more" in text
    load = {"inFlight": 90, "inputTokens": 3000, "outputTokens": 1000}
    mixed = proposed(tmp_path, a_cr("large", workload=load), a_cr("small", replicas=4), node)
    assert "is single; set it to mixed." in " ".join(mixed.split())


def test_who_can_have_no_instance_is_told_why_and_nodes_without_mig_are_named(tmp_path: Path) -> None:
    text = proposed(tmp_path, a_cr(sharing={"mode": "MPS"}), whole_node("h100", product=H100))
    assert "0 of 1 replicas have an instance; NoMatchingGpu: node h100 offers MigSlice 7g.80gb" in " ".join(
        text.split()
    )
    assert NO_CAPABLE in " ".join(proposed(tmp_path, a_cr(), whole_node("l4")).split())
    taint = proposed(tmp_path, a_cr(), tainted(whole_node("h100", product=H100)))
    assert LABEL.findall(taint) == [("h100", "all-balanced")]


def test_instances_of_unknown_memory_are_said_so(tmp_path: Path) -> None:
    node = whole_node("g", product=H100)
    node["metadata"]["labels"]["nvidia.com/gpu.product"] = "NVIDIA-GB200"
    assert "node g: the memory of its instances is not in the catalogue" in proposed(tmp_path, a_cr(), node)


def test_an_instance_that_does_not_suffice_is_marked(tmp_path: Path) -> None:
    load = {"inFlight": 400, "inputTokens": 3000, "outputTokens": 1000}
    text = proposed(tmp_path, a_cr(replicas=2, workload=load), whole_node("h100", product=H100))
    assert "(holds less than its knee or its load)" in text


@pytest.mark.parametrize("width", [20, 40, 80, 160])
def test_the_picture_is_as_wide_as_its_memory_and_no_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    text = proposed(tmp_path, a_cr(replicas=2), whole_node("h100", product=H100), width=width)
    bars = [line.strip() for line in text.splitlines() if line.strip().startswith(("▐", "["))]
    assert len(bars) == 1
    assert len(bars[0]) == min(width - 2, 96) // 8 * 8


def printed(command: str) -> str:
    args = [str(ROOT / word) if word.startswith("examples/") else word for word in command.split()]
    result = slmpack(*args, width=100)
    assert result.exit_code in {0, 2}, result.output
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.partition("Proposed")[2].splitlines())


def test_the_page_shows_what_is_printed(request: pytest.FixtureRequest) -> None:
    """The last part of it, from the proposal on."""
    page = PAGE.read_text(encoding="utf-8")
    wanted = EXAMPLE.sub(lambda found: f"```console\n$ slmpack {found[1]}\n...\nProposed{printed(found[1])}```", page)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert len(EXAMPLE.findall(page)) == 1
    assert PAGE.read_text(encoding="utf-8") == wanted


def test_nobodys_names_steer_a_terminal_or_a_shell(tmp_path: Path) -> None:
    text = proposed(tmp_path, a_cr(replicas=7), whole_node("h100\x1b[31m; reboot\n", product=H100), width=200)
    assert "h100\ufffd[31m; reboot   NVIDIA-H100" in text
    assert "  kubectl label node 'h100\ufffd[31m; reboot ' nvidia.com/mig.config=all-1g.10gb --overwrite\n" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
