from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.lora import lora_bytes
from slmpack.domain.model import Task
from tests.support.models import a_model_profile


def test_every_linear_layer_has_its_pair_in_every_slot() -> None:
    llama = a_model_profile("meta-llama/Llama-3.2-1B-Instruct")
    attention = (2048 + 2048) + 2 * (2048 + 512) + (2048 + 2048)
    layer = attention + 3 * (2048 + 8192)
    tables = 2 * (128256 + 2048)
    assert lora_bytes(llama, max_loras=4, max_rank=16, dtype_bytes=2) == 4 * 16 * 2 * (16 * layer + tables)


def test_each_expert_has_its_own_pair() -> None:
    mixtral = a_model_profile("mistralai/Mixtral-8x7B-v0.1")
    layer = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 8 * 3 * (4096 + 14336) + (4096 + 8)
    assert lora_bytes(mixtral, max_loras=1, max_rank=1, dtype_bytes=1) == 32 * layer + 2 * (32000 + 4096)


def test_without_a_head_there_is_one_table() -> None:
    llama = a_model_profile("meta-llama/Llama-3.2-1B-Instruct")
    embeds = replace(llama, task=Task.EMBED)
    one = {"max_loras": 1, "max_rank": 1, "dtype_bytes": 1}
    assert lora_bytes(llama, **one) - lora_bytes(embeds, **one) == 128256 + 2048


@pytest.mark.parametrize("rank", [8, 64])
def test_memory_grows_with_rank_and_slots(rank: int) -> None:
    llama = a_model_profile()
    one = lora_bytes(llama, max_loras=1, max_rank=rank, dtype_bytes=2)
    assert lora_bytes(llama, max_loras=3, max_rank=2 * rank, dtype_bytes=2) == 6 * one > 0
