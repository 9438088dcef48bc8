"""docs/models.md says what the code knows."""

from __future__ import annotations

import re
from pathlib import Path

from slmpack.domain.model import supported_architectures
from slmpack.domain.quantization_config import METHODS
from tests.support.models import MODEL_CHECKS

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_every_architecture_is_named_once() -> None:
    section = PAGE.partition("## Quantised weights")[0]
    named = re.findall(r"`([A-Z]\w+(?:ForCausalLM|Model))`", section)
    assert sorted(named) == list(supported_architectures())


def test_every_quantisation_has_its_row() -> None:
    assert sorted(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, flags=re.MULTILINE)) == sorted(METHODS)


def test_the_number_of_counted_models_is_true() -> None:
    counted = sum(check["parameters"] is not None for check in MODEL_CHECKS.values())
    published = sum("counted_by" in check for check in MODEL_CHECKS.values())
    assert f"the tests compare {counted} models, {published} with counts that others published" in PAGE
