from __future__ import annotations

import pytest

from slmpack.domain.checkpoint import CHECKPOINT_KEY, with_checkpoint_bytes
from slmpack.domain.model import ModelProfile, Task, UnknownLayout, parse_model_config
from tests.support.models import a_model_config, a_model_profile

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
GIB = 1024**3


def test_what_agrees_changes_nothing() -> None:
    profile = a_model_profile(LLAMA_8B)
    assert with_checkpoint_bytes(profile, profile.checkpoint_bytes) == profile


def test_a_little_more_is_added_without_a_word() -> None:
    profile = a_model_profile(LLAMA_8B)
    found = with_checkpoint_bytes(profile, profile.checkpoint_bytes + 1_000_000)
    assert (found.weight_bytes, found.weights_note) == (profile.weight_bytes + 1_000_000, None)
    assert found.loading_bytes == found.weight_bytes
    assert found.config_weight_bytes == profile.weight_bytes


def test_much_more_is_used_and_said() -> None:
    profile = a_model_profile(LLAMA_8B)
    found = with_checkpoint_bytes(profile, profile.checkpoint_bytes + 2 * GIB)
    assert found.weight_bytes == profile.weight_bytes + 2 * GIB
    assert found.weights_note is not None
    assert "holds 17.0 GiB, the config says 15.0 GiB" in found.weights_note
    assert "the checkpoint's size" in found.weights_note


@pytest.mark.parametrize(("part", "said"), [(0.9, True), (0.98, False)])
def test_less_is_not_used(part: float, said: bool) -> None:
    profile = a_model_profile(LLAMA_8B)
    found = with_checkpoint_bytes(profile, int(profile.checkpoint_bytes * part))
    assert found.weight_bytes == profile.weight_bytes
    assert (found.weights_note is not None) is said
    assert not said or "the config's size" in str(found.weights_note)


def test_a_float32_checkpoint_is_compared_as_stored_and_added_as_loaded() -> None:
    profile = a_model_profile(LLAMA_8B, torch_dtype="float32")
    assert profile.checkpoint_bytes == 2 * profile.weight_bytes
    assert with_checkpoint_bytes(profile, profile.checkpoint_bytes).weights_note is None
    found = with_checkpoint_bytes(profile, profile.checkpoint_bytes + 4_000_000)
    assert found.weight_bytes == profile.weight_bytes + 2_000_000


def test_a_tied_head_that_is_stored_twice_is_loaded_once() -> None:
    # the Hub says 751632384 parameters of Qwen3-0.6B; 596049920 are loaded
    profile = a_model_profile("Qwen/Qwen3-0.6B")
    found = with_checkpoint_bytes(profile, 751_632_384 * 2)
    assert found.weight_bytes == profile.weight_bytes
    assert "not loaded a second time" in str(found.weights_note)


def test_a_head_that_nobody_reads_is_not_loaded() -> None:
    config = a_model_config("Qwen/Qwen3-Embedding-8B")
    embeds = parse_model_config(config, task=Task.EMBED)
    generates = parse_model_config(config)
    assert isinstance(embeds, ModelProfile)
    assert isinstance(generates, ModelProfile)
    assert with_checkpoint_bytes(embeds, generates.checkpoint_bytes).weight_bytes == embeds.weight_bytes
    assert with_checkpoint_bytes(generates, embeds.checkpoint_bytes).weight_bytes == generates.weight_bytes


def test_a_small_second_head_is_no_warning() -> None:
    profile = a_model_profile(LLAMA_8B, tie_word_embeddings=True, vocab_size=1000)
    found = with_checkpoint_bytes(profile, profile.checkpoint_bytes + 1000 * 4096 * 2)
    assert (found.weight_bytes, found.weights_note) == (profile.weight_bytes, None)


def test_an_untied_model_has_no_second_head_to_drop() -> None:
    profile = a_model_profile(LLAMA_8B)
    found = with_checkpoint_bytes(profile, profile.checkpoint_bytes + 128256 * 4096 * 2)
    assert found.weight_bytes == profile.weight_bytes + 128256 * 4096 * 2


def test_the_config_may_bring_the_size_along() -> None:
    config = a_model_config(LLAMA_8B)
    profile = a_model_profile(LLAMA_8B)
    size = profile.checkpoint_bytes + 3 * GIB
    assert parse_model_config({**config, CHECKPOINT_KEY: size}) == with_checkpoint_bytes(profile, size)
    assert parse_model_config({**config, CHECKPOINT_KEY: 0}) == profile
    unknown = parse_model_config({**config, CHECKPOINT_KEY: "much"})
    assert isinstance(unknown, UnknownLayout)
    assert unknown.key == CHECKPOINT_KEY
