"""The stand-in engine's arithmetic, and its reading of the command line."""

from __future__ import annotations

from random import Random

import pytest

from slmpack.devcluster import nodes
from slmpack.devcluster.devices import Gpu, NodeDevices
from slmpack.devcluster.engine import Container, Device, EngineFailureError, engine_command, start_engine
from slmpack.devcluster.flags import UsageError, parse_command_line

GIB = 2**30
MODEL = "Qwen/Qwen2.5-1.5B-Instruct"
L4 = Device(total_bytes=22 * GIB, free_bytes=22 * GIB, context_bytes=GIB // 4)


def engine(*arguments: str, image: str = "vllm/vllm-openai:v0.33.0", **annotations: str) -> Container:
    named = {f"devcluster.slmpack.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return Container(image=image, arguments=list(arguments), environment={}, annotations=named)


def resident_gib(container: Container, device: Device = L4) -> float:
    return round(start_engine(container, device).resident_bytes / GIB, 2)


@pytest.mark.parametrize(
    ("container", "gib"),
    [
        # utilisation x total, the context outside, graphs inside the budget since 0.21 and outside before
        (engine(MODEL, "--gpu-memory-utilization=0.5"), 11.25),
        (engine(MODEL, "--gpu-memory-utilization=0.5", image="vllm/vllm-openai:v0.20.2"), 11.71),
        (engine(MODEL, "--gpu-memory-utilization=0.5", "--enforce-eager"), 11.25),
        # no flag: 0.92, and 0.90 up to 0.15
        (engine(MODEL), 20.49),
        (engine(MODEL, "--enforce-eager", image="vllm/vllm-openai:v0.15.1"), 20.05),
        # context 0.25 + weights 2.8875 + 0.05 + activations 0.90 x 256/192 x 151936/128256 + graphs 0.46 + cache 2
        (engine(MODEL, "--kv-cache-memory-bytes=2G", "--gpu-memory-utilization=0.3"), 7.07),
        (engine("/models/mine", "--kv-cache-memory-bytes=2G", "--gpu-memory-utilization=0.3", model=MODEL), 7.07),
        (engine("/models/mine", "--kv-cache-memory-bytes=2G", "--gpu-memory-utilization=0.3", weights_gib="1"), 4.96),
    ],
)
def test_device_memory_of_a_started_engine(container: Container, gib: float) -> None:
    assert resident_gib(container) == gib


def test_what_others_hold_of_the_gpu_is_not_free() -> None:
    crowded = Device(total_bytes=22 * GIB, free_bytes=10 * GIB, context_bytes=GIB // 4)
    message = r"Free memory on device cuda:0 \(9.75/22.00 GiB\) on startup is less than .* \(0.5, 11.00 GiB\)"
    with pytest.raises(EngineFailureError, match=message):
        start_engine(engine(MODEL, "--gpu-memory-utilization=0.5"), crowded)
    assert resident_gib(engine(MODEL, "--gpu-memory-utilization=0.4"), crowded) == 9.05


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    usual = start_engine(engine(MODEL, "--kv-cache-memory-bytes=1G"), L4).log
    halved = start_engine(engine(MODEL, "--kv-cache-memory-bytes=1G", "--kv-cache-dtype=fp8"), L4).log
    assert "37,449 tokens" in usual
    assert "74,898 tokens" in halved


def test_a_quantised_run_needs_a_row_of_its_own() -> None:
    with pytest.raises(EngineFailureError, match=r"no logged run for model .* with --quantization fp8"):
        start_engine(engine(MODEL, "--quantization=fp8"), L4)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["m", "--max-model-len", "4096"], {"max-model-len": ["4096"]}),
        (["m", "--max_model_len=4k"], {"max-model-len": ["4k"]}),
        (["m", "--max-model-l=1"], {"max-model-len": ["1"]}),
        (["m", "--enforce-eager", "--no-enforce-eager"], {}),
        (["m", "-tp", "1"], {"tensor-parallel-size": ["1"]}),
        (["m", "--speculative-config.model=x"], {"speculative-config": ["x"]}),
    ],
)
def test_options_in_every_spelling_argparse_takes(words: list[str], options: dict[str, list[str]]) -> None:
    line = parse_command_line(words)
    assert (line.model, line.options) == ("m", options)


def test_the_model_may_be_an_option() -> None:
    assert parse_command_line(["--model", "m"]).model == "m"


def test_a_switch_takes_no_value() -> None:
    with pytest.raises(UsageError, match="ignored explicit argument 'yes'"):
        parse_command_line(["m", "--enforce-eager=yes"])


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"image": "vllm/vllm-openai:v0.33.0", "args": ["m"]}, ["m"]),
        ({"image": "own", "command": ["vllm", "serve"], "args": ["m"]}, ["m"]),
        (
            {"image": "own", "command": ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "m"]},
            ["--model", "m"],
        ),
        ({"image": "nginx", "args": ["m"]}, None),
    ],
)
def test_which_container_is_an_engine(container: dict[str, object], words: list[str] | None) -> None:
    assert engine_command(container) == words


@pytest.mark.parametrize(
    ("node", "resource", "shapes"),
    [
        (nodes.whole_node("n", gpus=2), "nvidia.com/gpu", [(22563, 1, None)] * 2),
        (nodes.mps_node("n", replicas=4), "nvidia.com/gpu", [(81082, 4, 20389)]),
        (nodes.mps_node("n", replicas=4, rename=True), "nvidia.com/gpu.shared", [(81082, 4, 20389)]),
        (nodes.timesliced_node("n", replicas=4), "nvidia.com/gpu", [(81082, 4, None)]),
        (nodes.a100_mig_node("n", profiles={"3g.40gb": 2}), "nvidia.com/mig-3g.40gb", [(40192, 1, None)] * 2),
        (nodes.mig_single_node("n", profile="1g.10gb", count=2), "nvidia.com/gpu", [(9728, 1, None)] * 2),
    ],
)
def test_devices_follow_from_labels_and_allocatable(
    node: dict[str, object], resource: str, shapes: list[object]
) -> None:
    def shape(gpu: Gpu) -> object:
        return gpu.total_bytes >> 20, gpu.slots, gpu.limit_bytes and gpu.limit_bytes >> 20

    assert [shape(gpu) for gpu in NodeDevices(node, chooser=Random(0))._gpus[resource]] == shapes


def test_a_taint_is_added_on_request() -> None:
    node = nodes.tainted(nodes.whole_node("n"))
    assert node["spec"]["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
