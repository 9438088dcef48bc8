"""`slmpack predict`: what load means, what is feasible, and unequal replicas from a pack file."""

from __future__ import annotations

import json
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import yaml

from slmpack.adapters.tables import bundled_config
from tests.support.cli import slmpack
from tests.unit.cli.test_estimate_json import QWEN, answer

ROOT = Path(__file__).parents[3]
BIG = "Qwen/Qwen2.5-1.5B-Instruct"
H100 = ("predict", QWEN, "--gpu", "h100-sxm5-80gb")
MPS2 = (*H100, "--sharing", "mps", "--replicas", "2")
GPU_FIGURES = ("throughput_tok_s", "itl_ms", "itl_p99_ms", "ttft_ms", "power_w", "energy_j_per_token")


def a_pack(folder: Path, *tenants: dict[str, Any], **top: Any) -> str:
    body = {"gpu": "h100-sxm5-80gb", "sharing": "mps"} | {key.replace("_", "-"): value for key, value in top.items()}
    path = folder / "pack.yaml"
    path.write_text(yaml.safe_dump(body | {"tenants": list(tenants)}), encoding="utf-8")
    return str(path)


def figures(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in GPU_FIGURES}


def test_batch_is_of_a_replica_and_in_flight_of_the_gpu() -> None:
    by_batch, by_gpu = answer(*MPS2, "--batch", "16"), answer(*MPS2, "--in-flight", "32")
    assert figures(by_batch) == figures(by_gpu)
    assert by_batch["tenants"][0]["workload"] == by_gpu["tenants"][0]["workload"]
    assert by_batch["effective_batch"]["value"] <= 16
    assert by_batch["tenants"][0]["workload"]["in_flight"] == 32


def test_the_gpus_throughput_is_that_of_all_replicas() -> None:
    found = answer(*MPS2, "--batch", "16")
    assert found["throughput_tok_s"]["value"] == pytest.approx(
        2 * found["tenants"][0]["throughput_tok_s"]["value"], rel=1e-3
    )
    assert found["energy_j_per_token"]["value"] == pytest.approx(
        found["power_w"]["value"] / found["throughput_tok_s"]["value"], rel=1e-3
    )


@pytest.mark.parametrize("load", [("--in-flight", "300"), ("--request-rate", "20"), ()])
@pytest.mark.parametrize("more", [("--sharing", "none"), ("--sharing", "mps", "--replicas", "2")])
def test_the_batch_is_the_one_that_estimate_decides(load: tuple[str, ...], more: tuple[str, ...]) -> None:
    args = (*H100[1:], *more, *load)
    predicted, estimated = answer("predict", *args), answer("estimate", *args)
    assert estimated["replicas_per_gpu"] == predicted["replicas"] or load[:1] == ("--request-rate",)
    (tenant,) = predicted["tenants"]
    runs = tenant["max_num_seqs"]
    if estimated["replicas_per_gpu"] == predicted["replicas"]:
        assert runs == estimated["engine_flags"]["--max-num-seqs"]
        assert predicted["throughput_tok_s"]["value"] == pytest.approx(
            estimated["prediction"]["throughput_tok_s"]["value"], rel=0.03
        )
    assert runs == answer("predict", *args, "--max-num-seqs", str(runs))["tenants"][0]["max_num_seqs"] < 512
    assert answer("predict", *args, "--max-num-seqs", "512")["tenants"][0]["max_num_seqs"] == 512
    assert answer("predict", *H100[1:], *more, "--batch", "300")["tenants"][0]["max_num_seqs"] == 512


def test_a_rate_has_three_digits() -> None:
    assert "load: 6.67 requests/s," in slmpack(*H100, "--request-rate", "6.66667", width=200).stdout


@pytest.mark.parametrize("rate", ["2", "20"])
def test_what_arrives_comes_out(rate: str) -> None:
    found = answer(*MPS2, "--request-rate", rate, "--output-len", "100")
    assert found["throughput_tok_s"]["value"] == pytest.approx(float(rate) * 100, rel=0.01)
    assert found["feasible"]["value"] is True
    assert found["tenants"][0]["workload"]["request_rate"] == float(rate)


def test_more_than_can_be_answered_is_not_feasible() -> None:
    found = answer(*H100, "--request-rate", "5000", code=2)
    assert found["feasible"] == {"value": False, "low": False, "high": False, "basis": "modelled"}
    assert found["ttft_ms"] is None
    assert found["throughput_tok_s"]["value"] < 5000 * 256
    assert "requests come faster than they are answered: the GPU answers" in found["reasons"][0]
    text = slmpack(*H100, "--request-rate", "5000")
    assert text.exit_code == 2
    assert "the queue grows without end (estimate); not feasible" in " ".join(text.stdout.split())


def test_nobody_said_how_much_load_there_is() -> None:
    found = answer(*MPS2)
    load = found["tenants"][0]["workload"]
    assert load["basis"] == "assumed"
    assert load == answer("estimate", *MPS2[1:])["workload"], "replicas x the knee of one"
    assert load["in_flight"] == 2 * answer("estimate", *MPS2[1:])["knee"]["batch"]
    assert "(assumed: the knee; give" in slmpack(*MPS2, width=300).stdout


@pytest.mark.parametrize(("flag", "key"), [("--itl-ms", "itl_ms"), ("--ttft-ms", "ttft_ms")])
def test_bounds_are_kept_for_certain_perhaps_or_not(flag: str, key: str) -> None:
    load = (*H100, "--batch", "32")
    free = answer(*load)[key]
    for bound, expected in (
        (free["high"] * 1.1, {"value": True, "low": True, "high": True}),
        ((free["value"] + free["high"]) / 2, {"value": True, "low": False, "high": True}),
        ((free["low"] + free["value"]) / 2, {"value": False, "low": False, "high": True}),
        (free["low"] * 0.9, {"value": False, "low": False, "high": False}),
    ):
        found = answer(*load, flag, f"{bound:.6f}", code=0 if expected["value"] else 2)
        assert found["feasible"] == expected | {"basis": "modelled"}
        assert [flag in reason for reason in found["reasons"]] == [True] * (not expected["value"])


def test_what_does_not_fit_has_no_figures_and_a_reason() -> None:
    crowd = ("predict", BIG, "--gpu", "l4", "--sharing", "mps", "--replicas", "20", "--batch", "1")
    found = answer(*crowd, code=2)
    assert figures(found) == dict.fromkeys(GPU_FIGURES)
    assert found["tenants"][0]["fits"] is False
    assert "does not fit: a replica needs" in found["reasons"][0]
    text = slmpack(*crowd)
    assert text.exit_code == 2
    assert text.stdout.startswith("20 x Qwen2.5-1.5B-Instruct on one l4 (MPS): does not fit")


def test_what_cannot_be_predicted_says_why() -> None:
    found = answer("predict", QWEN, "--gpu", "t4", "--batch", "1", code=2)
    assert found["tenants"][0]["fits"] is True
    assert found["reasons"] == [reason for reason in found["reasons"] if "no prediction: gpu t4" in reason] != []
    assert "cannot be predicted" in slmpack("predict", QWEN, "--gpu", "t4", "--batch", "1").stdout


def test_each_mechanism_and_its_limit() -> None:
    held = {}
    for sharing, more in (("none", ("1",)), ("mps", ("3",)), ("timeslice", ("3",))):
        found = answer(*H100, "--sharing", sharing, "--replicas", *more, "--in-flight", "24")
        held[sharing] = found["tenants"][0]["share_limit_bytes"]
        assert found["sharing"] == sharing
    assert held["timeslice"] is None
    assert held["mps"] < held["none"] / 3
    mig = answer(*H100, "--mig-profile", "1g.10gb", "--replicas", "3", "--in-flight", "24")
    assert (mig["sharing"], mig["mig_profile"], mig["replicas"]) == ("mig", "1g.10gb", 3)
    capped = answer(*MPS2, "--sm-percent", "4", "--batch", "64")
    free = answer(*MPS2, "--batch", "64")
    assert capped["sm_percent"] == 4
    assert capped["throughput_tok_s"]["value"] < free["throughput_tok_s"]["value"]


def test_flags_of_the_engine_change_what_they_should() -> None:
    def itl(*more: str) -> float:
        value: float = answer(*H100, "--batch", "8", *more)["itl_ms"]["value"]
        return value

    assert itl("--enforce-eager") > itl()
    assert itl("--cpu-cores", "0.2") > itl("--cpu-cores", "8")
    assert answer(*H100, "--batch", "64", "--max-num-seqs", "16")["effective_batch"]["value"] <= 16
    half = answer(*H100, "--batch", "8", "--gpu-memory-utilization", "0.4")["tenants"][0]["kv_cache_tokens"]
    assert half < answer(*H100, "--batch", "8")["tenants"][0]["kv_cache_tokens"]


def test_prefix_hits_help_and_a_smaller_pool_keeps_fewer() -> None:
    def wait(*args: str) -> float:
        value: float = answer(*args, "--in-flight", "64", "--input-len", "2048")["ttft_ms"]["value"]
        return value

    assert wait(*H100, "--prefix-hit-rate", "0.9") < wait(*H100)
    alone = wait(*H100, "--prefix-hit-rate", "0.9") / wait(*H100)
    shared = wait(*MPS2, "--prefix-hit-rate", "0.9") / wait(*MPS2)
    assert 0.1 < 1 - shared < 0.65 * (1 - alone), "half the pool keeps half the hits"


def test_equal_tenants_of_a_pack_are_replicas(tmp_path: Path) -> None:
    one = {"model": QWEN, "batch": 16}
    split = answer("predict", "--pack", a_pack(tmp_path, one, one))
    together = answer("predict", "--pack", a_pack(tmp_path, one | {"replicas": 2}))
    assert figures(split) == figures(together) == figures(answer(*MPS2, "--batch", "16"))
    assert [tenant["replicas"] for tenant in split["tenants"]] == [1, 1]


def test_a_pack_has_its_own_models_loads_and_limits(tmp_path: Path) -> None:
    path = a_pack(
        tmp_path,
        {"model": QWEN, "in-flight": 4, "memory-gib": 10, "max-model-len": 2048, "enforce-eager": True},
        {"model": BIG, "request-rate": 3, "input-len": 1000, "replicas": 2},
        sm_percent=60,
    )
    found = answer("predict", "--pack", path)
    small, large = found["tenants"]
    assert (small["model"], large["model"], found["replicas"], found["sm_percent"]) == (QWEN, BIG, 3, 60)
    assert small["share_limit_bytes"] == 10 * 2**30
    assert large["share_limit_bytes"] > 25 * 2**30
    assert (small["workload"]["in_flight"], large["workload"]["request_rate"]) == (4.0, 3.0)
    assert large["workload"]["input_tokens"] == 1000
    total = small["throughput_tok_s"]["value"] + 2 * large["throughput_tok_s"]["value"]
    assert found["throughput_tok_s"]["value"] == pytest.approx(total, rel=1e-3)
    itls = sorted(tenant["itl_ms"]["value"] for tenant in (small, large))
    assert itls[0] < found["itl_ms"]["value"] < itls[1], "the mean over tokens"
    assert found["itl_p99_ms"]["value"] == max(tenant["itl_p99_ms"]["value"] for tenant in (small, large))


def test_a_tenants_key_then_a_flag_then_the_files_top(tmp_path: Path) -> None:
    own = {"model": QWEN, "input-len": 300, "prefix-hit-rate": 0.0}
    path = a_pack(tmp_path, own, {"model": BIG}, in_flight=5, input_len=100, prefix_hit_rate=0.5)
    found = answer("predict", "--pack", path, "--gpu", "a100-sxm4-80gb", "--input-len", "200", "--batch", "3")
    assert found["gpu"] == "a100-sxm4-80gb"
    assert [tenant["workload"]["input_tokens"] for tenant in found["tenants"]] == [300, 200]
    assert [tenant["workload"]["in_flight"] for tenant in found["tenants"]] == [3, 3]
    assert [tenant["workload"]["prefix_hit_rate"] for tenant in found["tenants"]] == [0.0, 0.5]


def test_a_pack_may_time_slice_and_name_configs_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(bundled_config(QWEN)), encoding="utf-8")
    path = a_pack(
        tmp_path,
        {"config": "mine.json", "batch": 4, "prefix-hit-rate": 0.0},
        {"model": BIG, "batch": 4},
        sharing="timeslice",
    )
    found = answer("predict", "--pack", path)
    assert [tenant["share_limit_bytes"] for tenant in found["tenants"]] == [None, None]
    assert found["tenants"][0]["model"].endswith("mine.json")


GOOD = {"model": QWEN, "batch": 2}
BAD_PACKS: list[tuple[str, dict[str, Any], list[Any], str]] = [
    ("no tenants", {}, [], "pack.yaml: tenants must be a list of replicas with a model each; add one"),
    ("a text for a tenant", {}, ["qwen"], "pack.yaml: tenants[0] is not an object; write keys such as model"),
    ("an unknown key", {}, [GOOD, GOOD | {"btach": 3}], "pack.yaml: tenants[1].btach: not a key; known are batch, "),
    ("an unknown key at the top", {"gpus": "l4"}, [GOOD], "pack.yaml.gpus: not a key; known are batch, "),
    (
        "a key of the GPU",
        {},
        [GOOD | {"gpu": "l4"}],
        "tenants[0].gpu: it is the same for the whole GPU; write it beside",
    ),
    ("a bad number", {}, [{"model": QWEN, "batch": 0}], "tenants[0].batch: '0': a whole number of 1 or more is needed"),
    ("a list for a number", {}, [{"model": QWEN, "batch": [1]}], "tenants[0].batch: [1] is not a value of this key"),
    ("a text for true", {}, [GOOD | {"enforce-eager": "yes"}], "tenants[0].enforce-eager: 'yes' is not a value of"),
    ("true for a number", {}, [{"model": QWEN, "batch": True}], "tenants[0].batch: True is not a value of this key"),
    ("two loads", {}, [GOOD | {"in-flight": 3}], "--batch and --in-flight exclude each other"),
    ("no model", {}, [{"batch": 3}], "MODEL or --config is missing"),
    ("an unknown GPU", {"gpu": "l5"}, [GOOD], "--gpu: 'l5' is not in the catalogue; the nearest are: "),
    ("no sharing", {"sharing": "none"}, [GOOD, GOOD], "2 replicas cannot have a whole GPU each"),
    ("limits too large", {}, [GOOD | {"memory-gib": 50}, GOOD | {"memory-gib": 50}], "make them smaller"),
    (
        "a limit for MIG",
        {"mig-profile": "1g.10gb", "sharing": "mig"},
        [GOOD | {"memory-gib": 5}],
        "leave the memory out",
    ),
    ("a limit of nothing", {}, [GOOD | {"memory-gib": 0}], "tenants[0].memory-gib: '0': a number of more than 0"),
    ("two versions", {}, [GOOD | {"engine-version": "0.20.0"}, GOOD], "run one --engine-version; write it once"),
]


@pytest.mark.parametrize(
    ("top", "tenants", "message"), [row[1:] for row in BAD_PACKS], ids=[row[0] for row in BAD_PACKS]
)
def test_a_pack_that_cannot_be_used_is_named(
    tmp_path: Path, top: dict[str, Any], tenants: list[Any], message: str
) -> None:
    path = tmp_path / "pack.yaml"
    body = {"gpu": "h100-sxm5-80gb", "sharing": "mps"} | top | {"tenants": tenants}
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    result = slmpack("predict", "--pack", str(path), width=400)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not result.stdout


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe", b"- a\n", b"[" * 5000, b"{a: " * 5000])
def test_a_pack_that_is_no_object(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pack.yaml"
    path.write_bytes(content)
    result = slmpack("predict", "--pack", str(path), width=400)
    assert result.exit_code == 1
    assert str(path) in result.stderr


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("gpu: l4\nsharing: mps\ngpu: l40s\ntenants: [{model: Q, batch: 1}]\n", "gpu"),
        ("gpu: l4\ntenants:\n- model: Q\n  batch: 1\n  batch: 64\n", "batch"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, content: str, key: str) -> None:
    path = tmp_path / "pack.yaml"
    path.write_text(content, encoding="utf-8")
    result = slmpack("predict", "--pack", str(path), width=400)
    assert result.exit_code == 1
    assert f"the key '{key}' is there twice; leave one of them out" in result.stderr
    assert "line " in result.stderr


def test_a_limit_under_a_mebibyte_is_a_limit(tmp_path: Path) -> None:
    path = a_pack(tmp_path, {"model": QWEN, "batch": 1, "memory-gib": 0.00001}, sharing="mps")
    result = slmpack("predict", "--pack", path, "-o", "json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["tenants"][0]["share_limit_bytes"] == 0
    assert not found["tenants"][0]["fits"]
    assert found["throughput_tok_s"] is None


def test_24_replicas_of_two_kinds_take_no_time(tmp_path: Path) -> None:
    one = {"model": QWEN, "request-rate": 1, "input-len": 128, "output-len": 32}
    tenants = [one | {"replicas": 12}, one | {"replicas": 12, "output-len": 64}]
    start = process_time()
    found = answer("predict", "--pack", a_pack(tmp_path, *tenants, sharing="mps"))
    assert process_time() - start < 5
    assert [tenant["replicas"] for tenant in found["tenants"]] == [12, 12]
    assert all(tenant["throughput_tok_s"]["value"] > 0 for tenant in found["tenants"])


def test_what_does_not_fit_is_not_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("slmpack.cli.scenario.settle", settle)
    path = a_pack(tmp_path, {"model": BIG, "batch": 1, "memory-gib": 3}, sharing="mps")
    assert slmpack("predict", "--pack", path).exit_code == 2


@pytest.mark.parametrize("load", ["--in-flight", "--request-rate"])
def test_next_to_no_load_has_finite_figures(load: str) -> None:
    text = slmpack(*H100, load, "5e-324", "-o", "json").stdout
    assert json.loads(text)["throughput_tok_s"]["value"] > 0
    assert "NaN" not in text
    assert "Infinity" not in text


@pytest.mark.parametrize("path", sorted((ROOT / "examples/packs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_feasible(path: Path) -> None:
    found = answer("predict", "--pack", str(path))
    assert found["feasible"]["value"] is True
    assert len(found["tenants"]) > 1
