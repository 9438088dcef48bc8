from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slmpack.domain.engine import FIRST_SUPPORTED, FIRST_UNSUPPORTED, EngineVersion, FlagClass
from slmpack.render.engine_args import engine_command, waits_for_requests
from slmpack.render.pod import render_pod
from tests.support.render_cases import CASES, ENGINES, MPS, SPEC, a_create

if TYPE_CHECKING:
    from slmpack.domain.plan import CreatePod


def command(**changes: Any) -> dict[str, list[str]]:
    timeout = changes.pop("timeout", 35)
    return engine_command(a_create(MPS, **changes), port=8000, shutdown_timeout=timeout)


def args(**changes: Any) -> list[str]:
    return command(**changes)["args"]


def test_the_command_works_with_either_entrypoint_of_the_image() -> None:
    assert command()["command"] == ["vllm", "serve"]
    assert args()[0] == "Qwen/Qwen2.5-1.5B-Instruct"


def test_the_plan_s_bounds() -> None:
    assert args(kv_bytes=7 * 2**30) == [
        "Qwen/Qwen2.5-1.5B-Instruct",
        "--port=8000",
        "--served-model-name=Qwen/Qwen2.5-1.5B-Instruct",
        "--gpu-memory-utilization=0.248",
        "--kv-cache-memory-bytes=7516192768",
        "--max-model-len=8192",
        "--max-num-seqs=128",
        "--max-num-batched-tokens=2048",
        "--shutdown-timeout=35",
    ]


@pytest.mark.parametrize(("kv_bytes", "there"), [(1, True), (None, False)])
def test_kv_bytes_where_the_plan_states_them(kv_bytes: int | None, there: bool) -> None:
    assert any(word.startswith("--kv-cache-memory-bytes=") for word in args(kv_bytes=kv_bytes)) is there


SUPPORTED = [EngineVersion(0, minor) for minor in range(FIRST_SUPPORTED.minor, FIRST_UNSUPPORTED.minor)]


@pytest.mark.parametrize("version", SUPPORTED, ids=str)
@pytest.mark.parametrize("create", [CASES["pod-every-knob"], CASES["pod-exclusive"]], ids=["every-knob", "exclusive"])
def test_every_flag_is_one_of_that_engine(create: CreatePod, version: EngineVersion) -> None:
    changed = replace(create, demand=replace(create.demand, engine_version=version))
    (container,) = render_pod(changed, engines=ENGINES)["spec"]["containers"]
    flags = [word.partition("=")[0] for word in container["args"][1:]]
    assert [flag for flag in flags if not ENGINES.supports(flag, version)] == []
    ours = set(flags) - {flag for flag, _ in create.demand.engine_args} - {"--served-model-name"}
    classes = {flag: known.flag_class for flag in ours if (known := ENGINES.flag(flag))}
    assert set(classes.values()) <= {FlagClass.RESERVED, FlagClass.MODELLED}


@pytest.mark.parametrize(("version", "waits"), [(EngineVersion(0, 15, 1), False), (EngineVersion(0, 20, 2), True)])
def test_whether_the_engine_waits_for_requests(version: EngineVersion, waits: bool) -> None:
    assert waits_for_requests(ENGINES, version=version) is waits


def test_no_shutdown_timeout_without_one() -> None:
    assert not any(word.startswith("--shutdown-timeout") for word in args(timeout=None))


@pytest.mark.parametrize(
    ("source", "model", "served"),
    [
        ("hf://Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("pvc://models", "/slmpack/model", "chat"),
        ("pvc://models/", "/slmpack/model", "chat"),
        ("pvc://models/qwen", "/slmpack/model/qwen", "chat"),
        ("pvc://models/qwen/3/", "/slmpack/model/qwen/3", "chat"),
    ],
)
def test_model_and_its_name(source: str, model: str, served: str) -> None:
    words = args(model_source=source)
    assert words[0] == model
    assert f"--served-model-name={served}" in words


def test_a_revision() -> None:
    template = {"model": {**SPEC["model"], "revision": "v2"}}
    assert "--revision=v2" in args(template=template)


def test_the_user_s_flags_come_last_and_never_twice() -> None:
    given = (
        ("--enforce-eager", None),
        ("--kv-cache-memory-bytes", "5"),
        ("--max-num-seqs", "5"),
        ("--no-enable-prefix-caching", None),
        ("--port", "5"),
        ("--seed", "-1"),
        ("--served-model-name", "mine"),
        ("--shutdown-timeout", "5"),
    )
    words = args(engine_args=given, kv_bytes=7 * 2**30)
    assert words[-4:] == ["--enforce-eager", "--no-enable-prefix-caching", "--seed=-1", "--served-model-name=mine"]
    flags = [word.partition("=")[0] for word in words]
    assert len(flags) == len(set(flags))
    assert not [word for word in words if word.endswith("=5")]


def test_the_kubelet_expands_nothing() -> None:
    words = args(engine_args=(("--seed", "$(SEED)"), ("--chat-template", "a$$b$")))
    assert words[-2:] == ["--seed=$$(SEED)", "--chat-template=a$$$$b$$"]
