from __future__ import annotations

import pytest

from slmpack.domain.model import UnknownLayout, parse_model_config
from tests.support.models import a_model_config, a_model_profile

Groups = list[tuple[int, int | None]]


@pytest.mark.parametrize(
    ("model_id", "changes", "expected"),
    [
        ("google/gemma-2-2b-it", {}, [(13, 4096), (13, None)]),
        ("google/gemma-2-2b-it", {"num_hidden_layers": 27}, [(14, 4096), (13, None)]),
        ("google/gemma-2-2b-it", {"sliding_window": None}, [(13, 4096), (13, None)]),
        ("google/gemma-2-2b-it", {"layer_types": ["full_attention"] * 26}, [(26, None)]),
        ("google/gemma-3-1b-it", {"sliding_window_pattern": None}, [(22, 512), (4, None)]),
        ("google/gemma-3-1b-it", {"sliding_window_pattern": 2}, [(13, 512), (13, None)]),
        ("openai/gpt-oss-20b", {}, [(12, 128), (12, None)]),
        ("openai/gpt-oss-20b", {"layer_types": None}, [(12, 128), (12, None)]),
        ("intfloat/e5-mistral-7b-instruct", {}, [(32, 4096)]),
        ("intfloat/e5-mistral-7b-instruct", {"sliding_window": None}, [(32, None)]),
        ("Qwen/Qwen2.5-0.5B-Instruct", {}, [(24, None)]),
        ("Qwen/Qwen2.5-0.5B-Instruct", {"use_sliding_window": True}, [(24, None)]),
        ("Qwen/Qwen2.5-0.5B-Instruct", {"use_sliding_window": True, "max_window_layers": 21}, [(3, 32768), (21, None)]),
        ("Qwen/Qwen2.5-0.5B-Instruct", {"use_sliding_window": True, "max_window_layers": 0}, [(24, 32768)]),
        ("deepseek-ai/DeepSeek-V2-Lite", {}, [(27, None)]),
    ],
)
def test_layers_by_window(model_id: str, changes: dict[str, object], expected: Groups) -> None:
    profile = a_model_profile(model_id, **changes)
    assert [(group.layers, group.window) for group in profile.cache] == expected
    assert [(group.layers, group.window) for group in profile.attention] == expected
    assert profile.kv_layers == profile.layers


@pytest.mark.parametrize(
    ("model_id", "changes", "key"),
    [
        ("google/gemma-2-2b-it", {"layer_types": ["full_attention"] * 25}, "layer_types"),
        ("google/gemma-2-2b-it", {"layer_types": ["chunked_attention"] * 26}, "layer_types"),
        ("google/gemma-2-2b-it", {"layer_types": [7] * 26}, "layer_types"),
        ("google/gemma-2-2b-it", {"layer_types": "full_attention"}, "layer_types"),
        ("Qwen/Qwen2.5-0.5B-Instruct", {"layer_types": ["sliding_attention"] * 24}, "sliding_window"),
        ("Qwen/Qwen2.5-0.5B-Instruct", {"use_sliding_window": True, "max_window_layers": -1}, "max_window_layers"),
        ("google/gemma-3-1b-it", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
    ],
)
def test_what_is_not_understood_names_its_key(model_id: str, changes: dict[str, object], key: str) -> None:
    unknown = parse_model_config(a_model_config(model_id, **changes))
    assert isinstance(unknown, UnknownLayout)
    assert unknown.key == key
