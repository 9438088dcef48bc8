"""A folder that `vllm serve --load-format dummy` takes for a checkpoint: a public config.json and a tokenizer of its size.

The tokenizer is synthetic: every id of the vocabulary has a text, so every generated token can be decoded. Prompts are sent as
token ids. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["CONFIGS", "byte_tokenizer", "read_config", "spelled_bytes", "tokenizer", "write_model_folder"]

CONFIGS = Path(__file__).parents[2] / "operator" / "slmpack" / "data" / "configs"
END = "<|end|>"


def read_config(model: str) -> dict[str, Any]:
    """config.json of a model that is carried in the repository. Raises ValueError if it is not."""
    path = CONFIGS / f"{model.replace('/', '--')}.json"
    if not path.is_file():
        known = ", ".join(sorted(path.stem.replace("--", "/", 1) for path in CONFIGS.glob("*.json")))
        raise ValueError(f"--model is {model!r}; carried here are {known}")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_model_folder(folder: Path, *, config: dict[str, Any]) -> None:
    """Write config.json and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    size = int(config["vocab_size"])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": int(config.get("max_position_embeddings", 2048)),
    }
    for name, document in (
        ("config.json", config),
        ("tokenizer.json", tokenizer(size)),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(document), encoding="utf-8")


def tokenizer(size: int) -> dict[str, Any]:
    """tokenizer.json with `size` ids: the bytes, fillers, and one special token."""
    spelled = spelled_bytes()
    if size <= len(spelled):
        raise ValueError(f"vocab_size is {size}; a byte tokenizer needs more than {len(spelled)}")
    fillers = [f"t{n}" for n in range(len(spelled), size - 1)]
    return byte_tokenizer([*spelled, *fillers], special=[END])


def spelled_bytes() -> list[str]:
    """Each byte in the spelling of byte-level BPE, by its value."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def byte_tokenizer(vocabulary: Sequence[str], *, special: Sequence[str]) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE without merges; the special tokens' ids follow the vocabulary's."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": text, "special": True, **flags}
            for number, text in enumerate(special, start=len(vocabulary))
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: number for number, text in enumerate(vocabulary)},
            "merges": [],
        },
    }
