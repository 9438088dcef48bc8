from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.adapters.tables import load_engine_table
from slmpack.domain.engine import (
    DEFAULT_IMAGE,
    ArgsResult,
    EngineProblem,
    EngineVersion,
    FlagClass,
    check_env,
    kv_element_bytes,
    normalise_args,
    parse_engine_version,
    parse_version,
)

TABLE = load_engine_table()
V11 = EngineVersion(0, 11)
V33 = EngineVersion(0, 33)


@pytest.mark.parametrize(
    ("image", "version", "expected"),
    [
        (None, None, V33),
        (DEFAULT_IMAGE, None, V33),
        ("vllm/vllm-openai:v0.33.0", None, V33),
        ("vllm/vllm-openai:0.20.2", None, EngineVersion(0, 20, 2)),
        ("vllm/vllm-openai:v0.15.1-cu129", None, EngineVersion(0, 15, 1)),
        ("vllm/vllm-openai:v0.12.0.post1-x86_64-ubuntu2404", None, EngineVersion(0, 12)),
        ("registry.example:5000/ai/vllm:v0.33.0@sha256:0123", None, V33),
        ("registry.example/ai/vllm@sha256:0123", "0.33.0", V33),
        ("vllm/vllm-openai:latest", "v0.33.0", V33),
        ("vllm/vllm-openai:v0.11.0", "0.33", V33),
        ("vllm/vllm-openai:v0.11.0", None, V11),
    ],
)
def test_the_version_is_the_stated_one_or_the_tags(
    image: str | None, version: str | None, expected: EngineVersion
) -> None:
    assert parse_engine_version(image, version) == expected


@pytest.mark.parametrize(
    ("image", "version", "field", "message"),
    [
        ("vllm/vllm-openai:latest", None, "spec.engine.image", "'latest'"),
        ("vllm/vllm-openai:nightly", None, "spec.engine.image", "set engine.version, for example 0.33.0"),
        ("vllm/vllm-openai:v0.33.0rc1", None, "spec.engine.image", "no released vLLM version"),
        ("vllm/vllm-openai:v0.33.0-rc1", None, "spec.engine.image", "no released vLLM version"),
        ("vllm/vllm-openai:v0.33.0-", None, "spec.engine.image", "no released vLLM version"),
        ("registry.example:5000/vllm", None, "spec.engine.image", "has no tag"),
        ("registry.example/vllm@sha256:0123", None, "spec.engine.image", "has no tag"),
        ("", None, "spec.engine.image", "has no tag"),
        (
            "vllm/vllm-openai:v0.10.2",
            None,
            "spec.engine.image",
            "vLLM 0.10.2 (from 'vllm/vllm-openai:v0.10.2') is not supported",
        ),
        ("vllm/vllm-openai:v0.33.0", "0.34.0", "spec.engine.version", "use 0.11.0 or later, before 0.34.0"),
        ("vllm/vllm-openai:v0.33.0", "newest", "spec.engine.version", "'newest' is no released vLLM version"),
        (None, "", "spec.engine.version", "'' is no released"),
    ],
)
def test_a_version_that_nothing_states_fails_closed(
    image: str | None, version: str | None, field: str, message: str
) -> None:
    problem = parse_engine_version(image, version)
    assert isinstance(problem, EngineProblem)
    assert problem.field == field
    assert message in problem.message


def test_versions_are_ordered_and_print_in_full() -> None:
    assert EngineVersion(0, 9, 2) < EngineVersion(0, 11) < EngineVersion(0, 11, 2) < EngineVersion(0, 20)
    assert str(parse_version("v0.33")) == "0.33.0"


def normalise(args: Mapping[str, object], version: EngineVersion = V33) -> ArgsResult:
    return normalise_args(args, version, TABLE)


def test_accepted_args_are_canonical_and_sorted() -> None:
    result = normalise(
        {
            "--seed": 7,
            "served_model_name": "qwen",
            "enable-prefix-caching": False,
            "enforce_eager": "true",
            "aggregate-engine-logging": True,
            "disable-fastapi-docs": "false",
            "kv-cache-metrics-sample": "0.50",
            "max-num-seqs": "0064",
            "max_num_batched_tokens": 4096,
            "override-generation-config": {"top_p": 0.9, "temperature": 1},
            "default-chat-template-kwargs": '{"enable_thinking": false}',
            "dtype": "bfloat16",
            "chat-template": "--enable-lora",
        }
    )
    assert result.problems == ()
    assert result.args == (
        ("--aggregate-engine-logging", None),
        ("--chat-template", "--enable-lora"),
        ("--default-chat-template-kwargs", '{"enable_thinking":false}'),
        ("--dtype", "bfloat16"),
        ("--enforce-eager", None),
        ("--kv-cache-metrics-sample", "0.5"),
        ("--max-num-batched-tokens", "4096"),
        ("--max-num-seqs", "64"),
        ("--no-disable-fastapi-docs", None),
        ("--no-enable-prefix-caching", None),
        ("--override-generation-config", '{"temperature":1,"top_p":0.9}'),
        ("--seed", "7"),
        ("--served-model-name", "qwen"),
    )


def test_a_switch_that_is_off_is_not_passed() -> None:
    assert normalise({"aggregate-engine-logging": False}) == ArgsResult(args=(), problems=())


REFUSED: list[tuple[str, Any, str]] = [
    # what the operator sets
    ("host", "0.0.0.0", "--host is set by the operator"),
    ("port", 9000, "--port is set by the operator"),
    ("model", "x", "the model comes from spec.model"),
    ("config", "/x.yaml", "--config is set by the operator: every flag must be seen by the plan"),
    ("max-model-len", 4096, "set spec.engine.maxModelLen"),
    ("gpu-memory-utilization", 0.9, "the plan bounds the engine"),
    ("device-memory-utilization", 0.9, "--gpu-memory-utilization is set by the operator"),
    ("kv_cache_memory_bytes", 1, "--kv-cache-memory-bytes is set by the operator"),
    ("-tp", 2, "--tensor-parallel-size is set by the operator: a replica is one engine on one GPU"),
    ("hf-token", "secret", "set spec.model.tokenSecret"),
    # what is not modelled
    ("lora-dtype", "float16", "--lora-dtype is refused: of LoRA only"),
    ("q", "gguf", "'gguf' is not modelled; --quantization may be awq"),
    ("speculative-config", {}, "a draft model"),
    ("compilation-config.level", 3, "--compilation-config is refused"),
    ("O", 3, "--compilation-config is refused"),
    ("api-key", "secret", "VLLM_API_KEY"),
    ("ssl-keyfile", "/k", "plain HTTP"),
    # spelling
    (
        "override-generation-config.top_p",
        1,
        "dotted keys are not taken; write override-generation-config with one JSON value",
    ),
    ("max-num-se", 8, "abbreviations are not taken; write max-num-seqs in full"),
    ("no-enable-prefix-caching", True, 'write enable-prefix-caching: "false" instead'),
    ("no-such-thing", True, "not a flag of `vllm serve` that is known for 0.33.0"),
    ("sede", 1, "did you mean seed?"),
    ("seed=1", 1, "did you mean seed?"),
    ("", 1, "not a flag"),
    ("--", 1, "not a flag"),
    # versions
    (
        "max-long-partial-prefills",
        2,
        "vLLM 0.33.0 does not have --max-long-partial-prefills (known from 0.11.0 to 0.26)",
    ),
    # values
    ("seed", True, "True is not taken; --seed needs a whole number, written out"),
    ("seed", "1k", "'1k' is not taken"),
    ("seed", 1.5, "1.5 is not taken"),
    ("seed", None, "None is not taken"),
    ("seed", 10**5000, "a number of more than 18 digits is not taken"),
    ("seed", [1], "a list is not taken"),
    ("seed", "x" * 200, f"'{'x' * 76}... is not taken"),
    ("max-num-seqs", 0, "0 is too small; --max-num-seqs needs 1 or more"),
    ("max-num-seqs", -5, "-5 is too small"),
    ("dtype", "int8", "'int8' is not modelled; --dtype may be auto, half"),
    ("kv-cache-dtype", "nvfp4", "may be auto, bfloat16, fp8, fp8_e4m3, fp8_e5m2"),
    ("enforce-eager", 1, "1 is not taken; --enforce-eager needs true or false"),
    ("enforce-eager", "yes", "needs true or false"),
    ("kv-cache-metrics-sample", "much", "needs a number"),
    ("kv-cache-metrics-sample", float("nan"), "needs a number"),
    ("kv-cache-metrics-sample", "inf", "needs a number"),
    ("kv-cache-metrics-sample", 10**400, "needs a number"),
    ("kv-cache-metrics-sample", {}, "needs a number"),
    ("override-generation-config", "{", "needs a JSON object or list"),
    ("override-generation-config", "3", "needs a JSON object or list"),
    ("override-generation-config", {"a": float("nan")}, "needs a JSON object or list"),
    ("override-generation-config", {"a": object()}, "needs a JSON object or list"),
    ("served-model-name", ["a", "b"], "one word (lists are not taken)"),
    ("served-model-name", "", "one word"),
    ("tokenizer", float("inf"), "needs a text"),
    ("tokenizer", 10**30, "needs a text"),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_passed_is_named_with_what_works(key: str, value: object, message: str) -> None:
    result = normalise({key: value})
    assert result.args == ()
    assert [problem.field for problem in result.problems] == [f"spec.engine.args[{key}]"]
    assert message in result.problems[0].message


def test_a_flag_that_is_newer_than_the_engine_is_refused() -> None:
    result = normalise({"max-num-queued-reqs": 8}, EngineVersion(0, 28))
    assert "vLLM 0.28.0 does not have --max-num-queued-reqs (known since 0.29.0)" in result.problems[0].message


def test_two_spellings_of_one_flag_are_a_problem() -> None:
    result = normalise({"max-num-seqs": 8, "max_num_seqs": 16})
    assert result.args == (("--max-num-seqs", "8"),)
    assert "--max-num-seqs, which 'max-num-seqs' sets already" in result.problems[0].message


def test_words_may_be_numbers() -> None:
    assert normalise({"served-model-name": 4}).args == (("--served-model-name", "4"),)


def test_nested_values_beyond_what_json_holds_are_refused() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert normalise({"override-generation-config": deep}).problems
    assert normalise({"override-generation-config": "[" * 100_000}).problems
    while deep:  # taken apart by hand: the collector would recurse
        deep = deep[0]  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("flag", "version", "expected"),
    [
        ("shutdown-timeout", EngineVersion(0, 15, 1), False),
        ("--shutdown-timeout", EngineVersion(0, 20, 2), True),
        ("kv-cache-memory-bytes", V11, True),
        ("max-num-queued-reqs", V33, True),
        ("swap-space", EngineVersion(0, 17, 1), True),
        ("swap-space", EngineVersion(0, 18, 1), False),
        ("rope-theta", V11, True),
        ("rope-theta", EngineVersion(0, 11, 2), False),
        ("nothing", V33, False),
    ],
)
def test_the_table_knows_which_version_has_a_flag(flag: str, version: EngineVersion, expected: bool) -> None:
    assert TABLE.supports(flag, version) is expected


def test_cuda_graphs_lie_inside_the_budget_since_0_20_2() -> None:
    inside = {
        text: TABLE.runtime_for(EngineVersion(*text)).cuda_graphs_inside_budget
        for text in [(0, 11, 0), (0, 20, 1), (0, 20, 2), (0, 33, 0)]
    }
    assert list(inside.values()) == [False, False, True, True]


def test_a_version_without_logs_has_no_constants() -> None:
    with pytest.raises(LookupError, match=r"vLLM 0\.4\.3"):
        TABLE.runtime_for(EngineVersion(0, 4, 3))


@pytest.mark.parametrize(
    ("name", "dtype_bytes", "expected"), [(None, 2, 2), ("auto", 4, 4), ("fp8_e5m2", 2, 1), ("bfloat16", 4, 2)]
)
def test_bytes_of_a_cache_element(name: str | None, dtype_bytes: int, expected: int) -> None:
    assert kv_element_bytes(name, model_dtype_bytes=dtype_bytes) == expected


def test_reserved_environment_is_named_and_the_rest_passes() -> None:
    problems = check_env(
        [
            "VLLM_API_KEY",
            "HF_HOME",
            "VLLM_LOGGING_LEVEL",
            "VLLM_PORT",
            "NVIDIA_VISIBLE_DEVICES",
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
            "SLMPACK_BIND",
            "VLLM_PORT",
        ]
    )
    assert [problem.field for problem in problems] == [
        "spec.pod.env[CUDA_MPS_PINNED_DEVICE_MEM_LIMIT]",
        "spec.pod.env[HF_HOME]",
        "spec.pod.env[NVIDIA_VISIBLE_DEVICES]",
        "spec.pod.env[SLMPACK_BIND]",
        "spec.pod.env[VLLM_PORT]",
    ]
    assert problems[4].message == "VLLM_PORT may not be set: the operator decides addresses and ports"


_KEYS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            name
            for flag in TABLE.flags
            for name in (flag.name, flag.key, flag.key.replace("-", "_"), *flag.aliases, flag.key[:-2], f"{flag.key}.x")
        ]
    ),
)
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
)
_VERSIONS = st.builds(EngineVersion, st.just(0), st.integers(11, 33), st.integers(0, 2))


@given(st.dictionaries(_KEYS, _VALUES, max_size=6), _VERSIONS)
def test_only_known_passable_flags_come_out(args: dict[str, object], version: EngineVersion) -> None:
    result = normalise(args, version)
    assert list(result.args) == sorted(result.args, key=lambda item: item[0])
    names = [name if TABLE.flag(name) else f"--{name.removeprefix('--no-')}" for name, _ in result.args]
    assert len(set(names)) == len(names)
    for name in names:
        flag = TABLE.flag(name)
        assert flag is not None
        assert flag.flag_class in {FlagClass.HARMLESS, FlagClass.MODELLED}
        assert TABLE.supports(name, version)
    assert all(problem.message for problem in result.problems)


@given(st.one_of(st.none(), st.text()), st.one_of(st.none(), st.text()))
def test_any_image_and_version_give_a_supported_version_or_a_problem(image: str | None, version: str | None) -> None:
    found = parse_engine_version(image, version)
    assert isinstance(found, EngineProblem) or V11 <= found <= EngineVersion(0, 33, 9999)
