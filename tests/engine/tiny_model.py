"""A tiny random Qwen2 with a byte tokenizer, written as files that vLLM loads: nothing is downloaded.

Standard library only: safetensors is eight bytes of length, a JSON header and the tensors one after another.
"""

from __future__ import annotations

import json
import random
import struct
from typing import TYPE_CHECKING, Any

from tests.gpu.model_folder import byte_tokenizer, spelled_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["CONFIG", "write_tiny_model"]

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 256 + len(SPECIAL_TOKENS),
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
    "initializer_range": 0.02,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "torch_dtype": "bfloat16",
}

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def write_tiny_model(folder: Path, *, seed: int = 20261121) -> None:
    """Write config.json, the weights and the tokenizer into `folder`; the same seed gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2), encoding="utf-8")
    tokenizer = byte_tokenizer(spelled_bytes(), special=SPECIAL_TOKENS)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_tokenizer_config(), indent=2), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(_weights(random.Random(seed)))


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the config, as the Hub's Qwen2 checkpoints name them."""
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    key_value = hidden // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    yield "model.embed_tokens.weight", (CONFIG["vocab_size"], hidden)
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q", hidden), ("k", key_value), ("v", key_value)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (rows, hidden)
            yield f"{prefix}.self_attn.{name}_proj.bias", (rows,)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, inner)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)


def _weights(source: random.Random) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, shape in _shapes():
        count = 1
        for size in shape:
            count *= size
        values = [1.0] * count if "norm" in name else [source.gauss(0.0, 0.05) for _ in range(count)]
        begin = len(body)
        body += _bfloat16(values)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, len(body)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def _bfloat16(values: list[float]) -> bytes:
    """The upper halves of the values as float32, rounded towards zero."""
    single = struct.pack(f"<{len(values)}f", *values)
    upper = bytearray(2 * len(values))
    upper[0::2], upper[1::2] = single[2::4], single[3::4]
    return bytes(upper)


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[3],
        "model_max_length": CONFIG["max_position_embeddings"],
        "chat_template": CHAT_TEMPLATE,
    }
