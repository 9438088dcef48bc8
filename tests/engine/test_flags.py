"""The flag table and what we render, against the parser of a real `vllm serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slmpack.adapters.tables import load_engine_table
from slmpack.domain.engine import EngineFlag, FlagClass, FlagType, normalise_args, parse_version
from tests.engine.environment import VERSION
from tests.engine.replica import rendered_pod

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.engine.conftest import Say
    from tests.engine.parser import Option, Parser

TABLE = load_engine_table()
ENGINE = parse_version(VERSION) or pytest.fail(f"{VERSION} is no version")
KNOWN = [flag for flag in TABLE.flags if TABLE.supports(flag.name, ENGINE)]
PASSED = [flag for flag in KNOWN if flag.flag_class in {FlagClass.HARMLESS, FlagClass.MODELLED}]
SAMPLES = {FlagType.INT: "7", FlagType.FLOAT: "0.5", FlagType.STR: "word", FlagType.LIST: "word", FlagType.JSON: "{}"}
"""A value of each type, for flags that take any."""
OWN_SAMPLES = {
    "--allowed-headers": '["x-team"]',
    "--allowed-methods": '["GET"]',
    "--allowed-origins": '["https://example.org"]',
    "--lora-modules": "adapter=/adapters/adapter",
    "--chat-template": "{{ messages }}",  # else a file that must be there
}
NEEDS = {
    "--enable-auto-tool-choice": {"tool-call-parser": "hermes"},
    "--enable-log-outputs": {"enable-log-requests": "true"},
}
"""Flags that vLLM takes only together with another one."""


def samples(flag: EngineFlag, option: Option) -> tuple[str, ...]:
    """Values as a user may write them in engine.args."""
    if flag.type in {FlagType.BOOL, FlagType.SWITCH}:
        return ("true", "false") if flag.type is FlagType.BOOL else ("true",)
    if flag.values or option.choices:
        return flag.values or option.choices
    return (OWN_SAMPLES.get(flag.name, SAMPLES[flag.type]),)


def spelled(flag: EngineFlag, value: str, *, others: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """The flag's value and all words, as the operator passes them on."""
    result = normalise_args({flag.key: value, **others}, ENGINE, TABLE)
    assert result.problems == ()
    words = {name: name if text is None else f"{name}={text}" for name, text in result.args}
    (own,) = [text for name, text in result.args if name in {flag.name, f"--no-{flag.key}"}]
    return own, list(words.values())


def test_the_table_names_exactly_the_flags_of_this_version(parser: Parser, say: Say) -> None:
    options = parser.options()
    assert {flag.name for flag in KNOWN} - {"--help"} == set(options)
    say(f"flags of `vllm serve`: {len(options)}, all in the table and no other; {len(PASSED)} are passed on")


@pytest.mark.parametrize("flag", PASSED, ids=lambda flag: flag.name)
def test_a_flag_that_is_passed_on_is_accepted_and_means_what_was_written(flag: EngineFlag, parser: Parser) -> None:
    option = parser.options()[flag.name]
    for value in samples(flag, option):
        text, words = spelled(flag, value, others=NEEDS.get(flag.name, {}))
        values = parser.parse(["a-model", *words])
        assert isinstance(values, dict), f"{words}: {values}"
        if flag.type in {FlagType.BOOL, FlagType.SWITCH}:
            assert values[option.dest] == value.title(), words
        elif flag.type is not FlagType.JSON:
            assert all(part in values[option.dest] for part in str(text).split("=")), words


@pytest.mark.parametrize("name", NEEDS)
def test_a_flag_that_needs_another_is_refused_alone(name: str, parser: Parser) -> None:
    refused = parser.parse(["a-model", name])
    assert isinstance(refused, str)
    assert all(f"--{other}" in refused for other in NEEDS[name])


@pytest.mark.parametrize("word", ["--no-such-flag", "--dtype=int3", "--max-num-seqs=many"])
def test_the_parser_refuses_what_is_wrong(word: str, parser: Parser) -> None:
    assert isinstance(parser.parse(["a-model", word]), str)


def test_the_rendered_words_are_accepted_as_they_are(parser: Parser, tmp_path: Path, say: Say) -> None:
    (container,) = rendered_pod(tmp_path)["spec"]["containers"]
    assert container["command"] == ["vllm", "serve"]
    values = parser.parse(container["args"])
    assert isinstance(values, dict), f"{container['args']}: {values}"
    for word in container["args"][1:]:
        flag, _, text = word.partition("=")
        assert text.rstrip("0") in values[parser.options()[flag].dest], word
    assert values["model_tag"] == container["args"][0]
    say(f"rendered and accepted: vllm serve {' '.join(container['args'])}")
