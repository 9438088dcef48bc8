"""Model configs for tests, without the network: those that ship with the package and those of tests/data/hf_configs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from slmpack.adapters.tables import bundled_config
from slmpack.domain.model import ModelProfile, parse_model_config

__all__ = ["MODEL_CHECKS", "a_model_config", "a_model_profile"]

_DATA = Path(__file__).parents[1] / "data"
MODEL_CHECKS: dict[str, dict[str, Any]] = yaml.safe_load((_DATA / "model_checks.yaml").read_text(encoding="utf-8"))
"""Expected parameters, KV bytes and weights by model id; the file says where each is from."""


@cache
def _read(model_id: str) -> str:
    bundled = bundled_config(model_id)
    if bundled is not None:
        return json.dumps(bundled)
    return (_DATA / "hf_configs" / f"{model_id.replace('/', '--', 1)}.json").read_text(encoding="utf-8")


def a_model_config(model_id: str = "Qwen/Qwen2.5-0.5B-Instruct", **changes: object) -> dict[str, object]:
    """A model's config.json with keys changed; a change to None removes the key."""
    config: dict[str, object] = {**json.loads(_read(model_id)), **changes}
    return {key: value for key, value in config.items() if value is not None}


def a_model_profile(model_id: str = "Qwen/Qwen2.5-0.5B-Instruct", **changes: object) -> ModelProfile:
    """The profile of `a_model_config`; the config must be of a known layout."""
    profile = parse_model_config(a_model_config(model_id, **changes))
    assert isinstance(profile, ModelProfile), profile
    return profile
