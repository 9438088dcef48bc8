"""Flags that cannot be used: each message names the flag, the value, the rule and what works; the exit code is 1."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from slmpack.adapters.tables import bundled_config
from slmpack.api.translate import DEFAULT_CPU_MILLICORES
from slmpack.cli import main
from slmpack.cli.question import DEFAULT_CPU_CORES
from tests.support.cli import slmpack

QWEN = "Qwen/Qwen2.5-0.5B-Instruct"
L4 = (QWEN, "--gpu", "l4")

BOTH: list[tuple[tuple[str, ...], str]] = [
    ((QWEN,), "--gpu is missing; name a GPU of the catalogue, for example --gpu l4"),
    (("--gpu", "l4"), "MODEL or --config is missing; write for example Qwen/Qwen2.5-0.5B-Instruct"),
    ((QWEN, "--gpu", "h100"), "--gpu: 'h100' is not in the catalogue; the nearest are: h100-sxm5-80gb, h100-pcie-80gb"),
    ((QWEN, "--gpu", "NVIDIA-L44"), "--gpu: 'NVIDIA-L44' is not in the catalogue; the nearest are: l4"),
    ((QWEN, "--gpu", "zzzz"), "--gpu: 'zzzz' is not in the catalogue; the nearest are: t4, a2, a10"),
    ((*L4, "--batch", "0"), "'--batch': '0': a whole number of 1 or more is needed; write for example 64"),
    ((*L4, "--batch", "10000000000"), "'10000000000': a whole number from 1 to 1,000,000,000 is needed; write for"),
    ((*L4, "--in-flight", "1e10"), "'--in-flight': '1e10': a number of more than 0, at most 1,000,000,000 is needed"),
    ((*L4, "--max-model-len", "1"), "'--max-model-len': '1': a whole number of 2 or more is needed; write for"),
    ((*L4, "--batch", "2.5"), "'--batch': '2.5': a whole number of 1 or more is needed"),
    (
        (*L4, "--sm-percent", "101"),
        "'--sm-percent': '101': a whole number from 1 to 100 is needed; write for example 50",
    ),
    ((*L4, "--in-flight", "nan"), "'--in-flight': 'nan': a number of more than 0 is needed; write for example 128"),
    ((*L4, "--request-rate", "-1"), "'--request-rate': '-1': a number of more than 0 is needed"),
    ((*L4, "--prefix-hit-rate", "1.1"), "'--prefix-hit-rate': '1.1': a number of 0 or more and at most 1 is needed"),
    ((*L4, "--itl-ms", "soon"), "'--itl-ms': 'soon': a number of more than 0 is needed; write for example 30"),
    (
        (*L4, "--ttft-ms", "inf"),
        "'--ttft-ms': 'inf': a number of more than 0, at most 1,000,000,000 is needed; write for example 500",
    ),
    ((*L4, "--gpu-memory-utilization", "1.5"), "'1.5': a number of more than 0, at most 1 is needed"),
    ((*L4, "--sharing", "vgpu"), "'--sharing': 'vgpu' is not one of 'none', 'mig', 'mps', 'timeslice'"),
    ((*L4, "--objective", "fame"), "'--objective': 'fame' is not one of 'throughput', 'latency', 'energy'"),
    ((*L4, "--batch", "8", "--in-flight", "8"), "--batch and --in-flight exclude each other: each says how much load"),
    (
        (*L4, "--batch", "8", "--in-flight", "8", "--request-rate", "1"),
        "--batch and --in-flight and --request-rate exclude each other",
    ),
    ((*L4, "--mig-profile", "1g.5gb", "--sharing", "mps"), "--mig-profile needs --sharing mig, not mps"),
    ((*L4, "--sm-percent", "50", "--sharing", "none"), "--sm-percent needs --sharing mps, not none"),
    ((*L4, "--mig-profile", "1g.5gb"), "--sharing: l4 has no MIG; use none, mps or timeslice"),
    ((QWEN, "--gpu", "a30", "--mig-profile", "9g.1gb"), "--mig-profile: a30 has no profile '9g.1gb'; it has 1g.6gb"),
    (
        (QWEN, "--gpu", "a100-sxm4-40gb", "--mig-profile", "3g.20gb", "--replicas", "3"),
        "--replicas: a100-sxm4-40gb holds 2 instances of 3g.20gb at most",
    ),
    ((*L4, "--sharing", "mps", "--replicas", "60"), "--replicas: l4 admits 48 MPS clients at most"),
    ((*L4, "--sharing", "none", "--replicas", "2"), "--replicas: 2 replicas cannot have a whole GPU each"),
    ((*L4, "--engine-version", "latest"), "--engine-version: 'latest' is no released vLLM version; write for example"),
    ((*L4, "--engine-version", "0.1"), "--engine-version: '0.1': no memory constants for vLLM 0.1.0; "),
    ((*L4, "--dtype", "int9"), "--dtype: dtype is 'int9': use auto or one of half, float16"),
    ((*L4, "--quantization", "awq"), "--quantization: quantization is 'awq': this checkpoint is not quantised"),
    ((*L4, "--kv-cache-dtype", "int4"), "--kv-cache-dtype: 'int4' is not modelled; use one of auto, bfloat16, fp8"),
    ((*L4, "--max-model-len", "40000"), "--max-model-len: 40000 is more than the model's 32768 positions; at most"),
    ((*L4, "--input-len", "30000", "--output-len", "9000"), "a request of 30000 tokens in and 9000 out is longer than"),
    ((*L4, "--max-model-len", "512", "--input-len", "512"), "is longer than the 512 tokens that the engine takes"),
    (
        (*L4, "--max-num-seqs", "64", "--max-num-batched-tokens", "32"),
        "--max-num-batched-tokens: 32 is less than --max-num-seqs 64; at least that many are needed",
    ),
    ((*L4, "--config", "x.json"), f"MODEL '{QWEN}' and --config exclude each other; keep one of them"),
    (("--config", "none.json", "--gpu", "l4"), "--config: none.json cannot be read: No such file or directory; name a"),
    (("qwen", "--gpu", "l4"), "MODEL 'qwen' is no id of the Hub; write owner/name, for example"),
    ((*L4, "--bogus"), "No such option '--bogus'"),
]


@pytest.mark.parametrize("command", ["estimate", "predict"])
@pytest.mark.parametrize(("args", "message"), BOTH, ids=[" ".join(args)[:60] for args, _ in BOTH])
def test_a_wrong_flag_is_named(command: str, args: tuple[str, ...], message: str) -> None:
    result = slmpack(command, *args, width=400)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not result.stdout


ONE: list[tuple[str, tuple[str, ...], str]] = [
    ("estimate", (QWEN,), "for example --gpu l4; or compare all of them with --all-gpus"),
    ("estimate", (QWEN, "--gpu", "l4", "--all-gpus"), "--all-gpus and --gpu exclude each other; keep one of them"),
    ("estimate", (QWEN, "--png", "x.png", "--all-gpus"), "--all-gpus and --png exclude each other; keep one of them"),
    ("estimate", (QWEN, "--mig-profile", "1g.5gb", "--all-gpus"), "--all-gpus and --mig-profile exclude each other"),
    ("estimate", (QWEN, "--gpu", "t4", "--png", "x.png"), "--png x.png: there is no curve to draw"),
    ("estimate", (*L4, "--replicas", "99"), "--replicas: l4 admits 48 MPS clients at most"),
    ("predict", (*L4, "--replicas", "2"), "2 replicas need --sharing mig, mps or timeslice; add one of them"),
    ("predict", (QWEN, "--gpu", "a30", "--sharing", "mig"), "--mig-profile: mig needs a profile; a30 has 1g.6gb"),
    ("predict", (QWEN, "--pack", "x.yaml"), "--pack names the models; leave MODEL and --config out"),
    ("predict", ("--pack", "none.yaml"), "--pack none.yaml: cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("command", "args", "message"), ONE, ids=[" ".join(args)[:60] for _, args, _ in ONE])
def test_a_flag_of_one_command_is_named(command: str, args: tuple[str, ...], message: str) -> None:
    result = slmpack(command, *args, width=400)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("command", ["estimate", "predict"])
def test_a_config_file_or_the_folder_it_is_in(tmp_path: Path, command: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(bundled_config(QWEN)), encoding="utf-8")
    known, *others = (
        slmpack(command, *model, "--gpu", "l4", "--batch", "4", "-o", "json")
        for model in ((QWEN,), ("--config", str(tmp_path)), ("--config", str(tmp_path / "config.json")))
    )
    for other in others:
        assert other.exit_code == 0, other.output
        mine, theirs = json.loads(other.stdout), json.loads(known.stdout)
        for answer in (mine, theirs):
            answer.pop("model", None)
            for tenant in answer.get("tenants", ()):
                tenant.pop("model")
        assert mine == theirs
    hint = slmpack(command, str(tmp_path / "config.json"), "--gpu", "l4")
    assert hint.exit_code == 1
    assert "is a file here; write --config" in hint.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply; name a model's config.json"),
        ('{"architectures": ["Nope"]}', "architectures is ['Nope']"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    result = slmpack("estimate", "--config", str(path), "--gpu", "l4", width=400)
    assert result.exit_code == 1
    assert message in result.stderr
    assert str(path) in result.stderr


def test_a_model_that_does_not_ship_is_asked_for_or_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = slmpack("estimate", "nobody/nothing", "--gpu", "l4", width=400)
    assert offline.exit_code == 1
    assert "config.json of nobody/nothing: slmpack is offline (HF_HUB_OFFLINE)" in offline.stderr
    assert "download the model's config.json and give --config FILE" in offline.stderr
    assert "operator" not in offline.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1:9")  # TEST-NET: nobody answers
    began = time.monotonic()
    slow = slmpack("estimate", "nobody/nothing", "--gpu", "l4", "--model-timeout", "0.2", width=400)
    assert slow.exit_code == 1
    assert "give --config FILE" in slow.stderr
    assert time.monotonic() - began < 5


def test_a_product_label_and_capitals_name_a_gpu_too() -> None:
    for name in ("L4", " l4 ", "NVIDIA-L4", "NVIDIA-L4-SHARED"):
        result = slmpack("estimate", QWEN, "--gpu", name, "-o", "json")
        assert json.loads(result.stdout)["gpu"] == "l4"


def test_a_hub_scheme_before_the_model_is_taken() -> None:
    assert slmpack("estimate", f"hf://{QWEN}", "--gpu", "l4").exit_code == 0


def test_the_cores_of_a_replica_are_those_that_it_asks_for() -> None:
    assert DEFAULT_CPU_CORES * 1000 == DEFAULT_CPU_MILLICORES


def test_both_commands_take_the_same_flags() -> None:
    estimate, predict = (
        {option for param in main.commands[name].params for option in param.opts} for name in ("estimate", "predict")
    )
    assert estimate - predict == {"--all-gpus", "--png"}
    assert predict - estimate == {"--pack"}
    wanted = (
        "config gpu mig-profile sharing sm-percent replicas batch in-flight request-rate input-len output-len"
        " prefix-hit-rate itl-ms ttft-ms objective engine-version dtype quantization kv-cache-dtype max-model-len"
        " max-num-seqs max-num-batched-tokens gpu-memory-utilization enforce-eager cpu-cores"
    )
    assert {f"--{name}" for name in wanted.split()} <= estimate & predict
