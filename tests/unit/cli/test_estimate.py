"""`slmpack estimate`: the sentence, the picture, every GPU at once, and the exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from slmpack.adapters.tables import bundled_config
from slmpack.domain.checkpoint import CHECKPOINT_KEY
from tests.support.cli import slmpack
from tests.unit.cli.test_estimate_json import QWEN, answer

ROOT = Path(__file__).parents[3]
H100 = (QWEN, "--gpu", "h100-sxm5-80gb")


def text(*args: str, code: int = 0, width: int = 100) -> str:
    result = slmpack("estimate", *args, width=width)
    assert result.exit_code == code, result.output
    return result.stdout


def first(*args: str, code: int = 0) -> str:
    return text(*args, code=code, width=300).splitlines()[0]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            (*H100, "--sharing", "none"),
            r"1 replica pays \(whole GPU\); it needs [\d.]+ GiB at least; knee at batch \d+ \(estimate\)",
        ),
        (
            (*H100, "--sharing", "mps", "--in-flight", "300"),
            r"\d replicas pay \(MPS\); each needs [\d.]+ GiB at least; knee at batch \d+ \(estimate\)",
        ),
        (
            (QWEN, "--gpu", "a100-sxm4-40gb", "--mig-profile", "1g.5gb", "--in-flight", "64"),
            r"\d replicas pay \(MIG 1g.5gb\); each needs [\d.]+ GiB at least; knee at batch \d+ \(estimate\)",
        ),
        ((QWEN, "--gpu", "t4"), r"fits, needs [\d.]+ GiB \(estimate\); what pays cannot be told"),
    ],
)
def test_the_first_line_answers_the_question(args: tuple[str, ...], sentence: str) -> None:
    assert re.fullmatch(rf"Qwen2\.5-0\.5B-Instruct on one {re.escape(args[2])}: {sentence}", first(*args))


def test_the_number_of_the_first_line_has_its_row() -> None:
    for args in (H100, (QWEN, "--gpu", "t4"), (QWEN, "--gpu", "l4", "--sharing", "mps", "--replicas", "40")):
        shown = " ".join(slmpack("estimate", *args).stdout.split())
        needs = re.search(r"needs ([\d.]+ GiB)", shown)
        assert needs is not None
        assert f" needed {needs[1]} at least, of the share: with a KV cache of " in shown


def test_weights_that_need_more_while_they_load_are_said_to() -> None:
    small = ("--max-model-len", "64", "--max-num-seqs", "1", "--enforce-eager")
    shown = text("Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "h100-sxm5-80gb", "--quantization", "fp8", *small)
    assert "at least, of the share: while the weights load" in " ".join(shown.split())


def test_what_does_not_fit_is_a_result() -> None:
    args = (QWEN, "--gpu", "l4", "--sharing", "mps", "--replicas", "40")
    assert re.search(r"on one l4: does not fit; a replica needs [\d.]+ GiB \(estimate\)", first(*args, code=2))
    shown = text(*args, code=2)
    assert "KV cache of 8,192 tokens" in shown
    assert "flags:" not in shown, "nobody should start it"


def test_the_sentence_the_picture_and_the_json_agree() -> None:
    args = (*H100, "--sharing", "mps", "--in-flight", "300")
    found, shown = answer("estimate", *args), text(*args)
    assert f"knee at batch {found['knee']['batch']} " in " ".join(shown.split())
    assert f"{found['replicas_per_gpu']} replicas pay" in shown
    (marked,) = re.findall(r"^knee > +(\d+)", shown, re.MULTILINE)
    assert int(marked) == found["knee"]["batch"]
    for reason in found["reasons"]:
        assert reason in " ".join(shown.split())
    for flag, value in found["engine_flags"].items():
        assert f"{flag}={value}" in shown


def test_mps_is_not_verified_and_time_slicing_bounds_nothing() -> None:
    shared = ("--replicas", "2", "--in-flight", "8")
    assert "not verified: the limit is set" in " ".join(text(*H100, "--sharing", "mps", *shared).split())
    assert "no limit" in text(*H100, "--sharing", "timeslice", *shared)
    assert "time-slicing bounds nothing" in text(*H100, "--sharing", "timeslice", *shared)


def test_an_assumed_load_is_called_so_and_a_given_one_is_not() -> None:
    assert "under the assumed load" in text(*H100)
    assert "under the load" in text(*H100, "--batch", "8")


def test_bounds_and_objective_reach_the_choice() -> None:
    load = (*H100, "--sharing", "none", "--in-flight", "128")
    free = answer("estimate", *load)
    tight = answer("estimate", *load, "--itl-ms", str(free["prediction"]["itl_ms"]["value"] * 0.8))
    assert tight["knee"]["binding"] == "ItlBound"
    assert tight["knee"]["batch"] < free["knee"]["batch"]
    wait = answer("estimate", *load, "--ttft-ms", "25")
    assert wait["knee"]["batch"] < free["knee"]["batch"]
    few = (*H100, "--sharing", "none", "--in-flight", "4")
    runs = {name: answer("estimate", *few, "--objective", name)["engine_flags"] for name in ("throughput", "Latency")}
    assert runs["Latency"]["--max-num-seqs"] < runs["throughput"]["--max-num-seqs"]


@pytest.mark.parametrize(("flag", "name"), [("--itl-ms", "ITL"), ("--ttft-ms", "TTFT")])
def test_a_bound_that_no_batch_keeps_is_told_with_what_the_gpu_could(flag: str, name: str) -> None:
    args = (QWEN, "--gpu", "l4", flag, "0.01")
    found = answer("estimate", *args, code=2)
    assert found["fits"] is True
    assert found["knee"] is found["prediction"] is found["carries_load"] is None
    kept = found["bounds_not_kept"]
    assert (kept["bound"], kept["limit_ms"]) == (name.lower(), 0.01)
    alone = answer("estimate", QWEN, "--gpu", "l4", "--in-flight", "1")
    assert alone["bounds_not_kept"] is None
    assert kept["at_one_sequence_ms"] == pytest.approx(alone["prediction"][f"{name.lower()}_ms"]["value"], rel=0.05)
    could = f"{kept['at_one_sequence_ms']:.1f} ms"
    assert first(*args, code=2) == (
        f"Qwen2.5-0.5B-Instruct on one l4: cannot keep the {name} under 0.01 ms; "
        f"at one sequence at a time it is {could} (estimate)"
    )
    shown = text(*args, code=2)
    assert "flags:" not in shown, "nobody should start it"
    assert found["reasons"][0] in " ".join(shown.split())


def test_a_bound_that_some_gpus_keep() -> None:
    alone = answer("estimate", QWEN, "--gpu", "l4", "--in-flight", "1")["prediction"]["itl_ms"]["value"]
    args = (QWEN, "--all-gpus", "--sharing", "none", "--in-flight", "4", "--itl-ms", str(alone * 0.9))
    rows = {row["gpu"]: row for row in answer("estimate", *args)["gpus"]}
    assert (rows["l4"]["knee"], rows["l4"]["fits"]) == (None, True)
    assert "at one sequence at a time it is" in rows["l4"]["reason"]
    assert rows["h100-sxm5-80gb"]["knee"] is not None
    assert re.search(r"^l4 .* no +ITL not kept$", text(*args), re.MULTILINE)
    nobody = (*args[:-1], "0.01", "--dtype", "float16")
    assert text(*nobody).count("ITL not kept") > 20


def test_where_a_bound_decides_what_was_judged_runs() -> None:
    args = ("Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "a100-sxm4-80gb", "--mig-profile", "1g.10gb", "--replicas", "3")
    found = answer("estimate", *args, "--in-flight", "64", "--itl-ms", "20")
    runs = found["engine_flags"]["--max-num-seqs"]
    assert found["knee"]["batch"] < runs
    assert found["prediction"]["effective_batch"]["value"] == pytest.approx(runs, rel=0.05)
    assert found["prediction"]["itl_ms"]["value"] == pytest.approx(20, rel=0.03)
    best = max(found["prediction"]["throughput_tok_s"]["value"], found["runner_up"]["throughput_tok_s"])
    assert found["prediction"]["throughput_tok_s"]["value"] == best


def test_a_token_budget_that_is_given_is_kept_and_caps_the_batch() -> None:
    args = ("Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "l4", "--max-num-batched-tokens", "16", "--in-flight", "64")
    found = answer("estimate", *args)
    flags = found["engine_flags"]
    assert flags["--max-num-batched-tokens"] == 16 >= flags["--max-num-seqs"]
    curve = [
        line.split() for line in text(*args, width=100).splitlines() if re.match(r"(knee >)? +\d+ +[\d,]+ \S", line)
    ]
    at_knee = next(line for line in curve if line[0] == "knee")
    assert max(int(line[2] if line[0] == "knee" else line[0]) for line in curve) == 16
    assert float(at_knee[3].replace(",", "")) == pytest.approx(found["knee"]["throughput_tok_s"], rel=0.01)
    assert found["prediction"]["throughput_tok_s"]["value"] == pytest.approx(
        found["knee"]["throughput_tok_s"], rel=0.02
    )


@pytest.mark.parametrize("gpu", ["h100-sxm5-80gb", "a100-sxm4-80gb", "b200-180gb"])
@pytest.mark.parametrize("more", [(), ("--replicas", "3")])
def test_an_assumed_load_is_never_told_as_given(gpu: str, more: tuple[str, ...]) -> None:
    found = answer("estimate", QWEN, "--gpu", gpu, *more)
    assert found["sharing"] == "mig" or not more, "the case of a MIG profile that beats the whole GPU"
    assert found["workload"]["basis"] == "assumed"
    assert found["reasons"][0].startswith("Nobody said how much load there is: assumed ")
    if found["sharing"] == "mig":
        count = int(more[1]) if more else found["replicas_per_gpu"]
        assert found["workload"]["in_flight"] == count * found["knee"]["batch"]
        assert found["carries_load"] is True


def test_requests_that_come_faster_than_they_are_answered_have_no_mean_wait() -> None:
    args = ("Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "l4", "--request-rate", "40")
    found = answer("estimate", *args)
    assert found["carries_load"] is False
    assert found["prediction"]["ttft_ms"] is found["workload"]["in_flight"] is None
    shown = " ".join(text(*args).split())
    assert "TTFT grows without end" in shown
    answered = found["prediction"]["throughput_tok_s"]["value"] / 256
    assert f"about {answered:.3g} of 40 requests/s are answered, the rest waits." in shown
    assert " in flight" not in shown
    steady = answer("estimate", *args[:-1], "2")
    assert steady["prediction"]["ttft_ms"]["value"] > 0
    assert steady["workload"]["in_flight"] > 0


def test_all_gpus_say_whether_they_carry_a_stated_load() -> None:
    args = ("Qwen/Qwen2.5-1.5B-Instruct", "--all-gpus", "--request-rate", "20")
    rows = {row["gpu"]: row for row in answer("estimate", *args)["gpus"]}
    assert (rows["l4"]["carries_load"], rows["h100-sxm5-80gb"]["carries_load"]) == (False, True)
    assert (rows["t4"]["carries_load"], rows["t4"]["requests_per_s"]) == (None, None)
    rate = rows["l4"]["requests_per_s"]["value"]
    assert rate == pytest.approx(rows["l4"]["throughput_tok_s"]["value"] / 256, rel=0.001)
    assert rows["h100-sxm5-80gb"]["requests_per_s"]["value"] == pytest.approx(20, rel=0.03)
    shown = text(*args, width=80)
    assert re.search(rf"^l4 .* {rate:.3g}/s +whole GPU$", shown, re.MULTILINE)
    assert re.search(r"^h100-sxm5-80gb .* yes +\S", shown, re.MULTILINE)
    waiting = text("Qwen/Qwen2.5-1.5B-Instruct", "--all-gpus", "--in-flight", "2000", width=80)
    assert re.search(r"^l4 .* no +\S", waiting, re.MULTILINE)
    assert "served" not in text(QWEN, "--all-gpus", "--sharing", "none")


def test_mps_has_no_ceiling_unless_one_is_given_and_says_so() -> None:
    args = (*H100, "--sharing", "mps", "--replicas", "4", "--in-flight", "300")
    note = "no SM ceiling assumed; the device plugin sets 100 / replicas %: --sm-percent 25"
    assert note in text(*args)
    assert "SM ceiling" not in text(*args, "--sm-percent", "25")
    assert "SM ceiling" not in text(*H100, "--sharing", "none")


def test_a_model_without_a_kv_cache_has_none() -> None:
    bert = ("--config", str(ROOT / "tests/data/hf_configs/BAAI--bge-base-en-v1.5.json"))
    shown = text(*bert, "--all-gpus", "--input-len", "128")
    assert re.search(r"^l4 +none ", shown, re.MULTILINE)
    assert "none: this model keeps none" in text(*bert, "--gpu", "l4", "--input-len", "128")


def test_a_load_by_replica_and_a_given_number_of_replicas() -> None:
    found = answer("estimate", *H100, "--sharing", "mps", "--batch", "64")
    assert found["replicas_per_gpu"] > 1
    assert found["workload"]["in_flight"] == 64 * found["replicas_per_gpu"]
    loads = [
        answer("estimate", *H100, "--sharing", "mps", "--replicas", str(replicas))["workload"]["in_flight"]
        for replicas in (1, 6)
    ]
    assert loads[1] == 6 * loads[0]


def test_a_request_rate_is_a_load() -> None:
    found = answer("estimate", *H100, "--request-rate", "5", "--output-len", "100")
    assert found["workload"]["request_rate"] == 5.0
    assert found["carries_load"] is True
    assert found["prediction"]["throughput_tok_s"]["value"] == pytest.approx(500, rel=0.02)


def test_the_png_is_written_beside_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    result = slmpack("estimate", *H100, "--png", str(path), "-o", "json")
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"the curve is in {path}" in result.stderr
    assert result.stdout.startswith("{")
    lost = slmpack("estimate", *H100, "--png", str(tmp_path / "none" / "x.png"), width=300)
    assert lost.exit_code == 1
    assert "cannot be written: No such file or directory" in lost.stderr


def test_all_gpus_have_a_row_each() -> None:
    found = answer("estimate", QWEN, "--all-gpus", "--in-flight", "32")["gpus"]
    assert len({row["gpu"] for row in found}) == len(found) > 20
    shown = text(QWEN, "--all-gpus", "--in-flight", "32", width=80)
    for row in found:
        one = answer("estimate", QWEN, "--gpu", row["gpu"], "--in-flight", "32")
        for key in ("sharing", "mig_profile", "kv_cache_tokens", "replicas_per_gpu", "fits"):
            assert row[key] == one[key]
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{row['gpu']} ")]
        assert (str(row["knee"]) in line.split()) if row["knee"] else ("not known" in line)
        assert (row["reason"] is None) == (row["knee"] is not None)


def test_all_gpus_that_can_be_shared_as_asked() -> None:
    found = answer("estimate", QWEN, "--all-gpus", "--sharing", "mig", "--in-flight", "32")["gpus"]
    assert {row["sharing"] for row in found} == {"mig"}
    assert "l4" not in {row["gpu"] for row in found}
    below = " ".join(text(QWEN, "--all-gpus", "--sharing", "mig", "--in-flight", "32").split())
    assert re.search(r"\bt4, .*\bl4, .*: left out: has no MIG", below)
    assert "h200-nvl-141gb, gb200-186gb: left out: the memory of its MIG instances is not in the catalogue" in below
    nobody = slmpack("estimate", QWEN, "--all-gpus", "--sharing", "mig", "--replicas", "50")
    assert nobody.exit_code == 1
    assert "--sharing: rtx-6000-ada has no MIG" in nobody.stderr


def test_all_gpus_that_are_too_small() -> None:
    crowd = (QWEN, "--all-gpus", "--sharing", "mps", "--replicas", "48")
    found = answer("estimate", *crowd)["gpus"]
    small = [row for row in found if not row["fits"]]
    assert small
    assert len(small) < len(found), "some hold 48"
    assert all("needs" in row["reason"] for row in small)
    shown = text(*crowd, width=80)
    assert shown.count("does not fit") == len(small)
    large = ("--config", str(ROOT / "tests/data/hf_configs/deepseek-ai--DeepSeek-V3.json"))
    assert slmpack("estimate", *large, "--all-gpus", "-o", "json").exit_code == 2


def test_the_checkpoints_own_size_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**(bundled_config(QWEN) or {}), CHECKPOINT_KEY: 2 * 10**9}), encoding="utf-8")
    args = ("--config", str(path), "--gpu", "l4")
    assert len(answer("estimate", *args)["warnings"]) == 1
    assert "warning: the checkpoint holds 1.9 GiB" in text(*args)
    assert answer("estimate", QWEN, "--gpu", "l4")["warnings"] == []


@pytest.mark.parametrize(
    ("version", "started"), [("0.10.2", False), ("0.11.0", True), ("0.33.0", True), ("0.34.0", False)]
)
def test_a_version_that_the_operator_does_not_start_is_a_warning(version: str, started: bool) -> None:
    found = answer("estimate", QWEN, "--gpu", "l4", "--engine-version", version)
    assert found["engine_version"] == version
    assert [f"the operator does not start vLLM {version}" in text for text in found["warnings"]] == [True] * (
        not started
    )


def test_ways_that_cannot_be_compared_are_named() -> None:
    why = "as the memory of the instances is not in the catalogue"
    below = " ".join(text(QWEN, "--all-gpus", "--in-flight", "32").split())
    assert f"a100-pcie-40gb, h100-pcie-80gb, h200-nvl-141gb, gb200-186gb: not compared: MIG, {why}" in below
    assert f"h200-sxm-141gb: not compared: MIG 1g.35gb, 3g.71gb, {why}" in below
    gb200 = ("estimate", QWEN, "--gpu", "gb200-186gb")
    assert answer(*gb200)["warnings"] == [f"gb200-186gb: not compared: MIG, {why}"]
    assert answer(*gb200, "--sharing", "none")["warnings"] == []
