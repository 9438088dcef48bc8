"""The YAML of the pages: it parses, and what is (a part of) an SLMDeployment is a valid one."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from slmpack.api.parse import parse_slmdeployment
from slmpack.api.v1alpha1 import SLMDeployment, SLMDeploymentSpec
from tests.docs.pages import ROOT, fenced, pages

Json = dict[str, Any]
FIELDS = {field.alias or name for name, field in SLMDeploymentSpec.model_fields.items()}
MODEL = {"model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"}}


def documents() -> list[tuple[str, Any]]:
    """Each document of each YAML block, with where it stands."""
    return [
        (block.where, document)
        for page in pages()
        for block in fenced(page, (ROOT / page).read_text(encoding="utf-8"))
        if block.info == "yaml"
        for document in yaml.safe_load_all(block.text)
    ]


def slmdeployment(document: Any) -> Json | None:
    """The object that a document is, or would be with the least around it; None for anything else."""
    if not isinstance(document, dict):
        return None
    if document.get("kind") == "SLMDeployment":
        return document
    spec = document.get("spec")
    if document.keys() != {"spec"} or not isinstance(spec, dict) or not spec.keys() <= FIELDS:
        return None
    head = {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "metadata": {"name": "x"}}
    return {**head, "spec": {**MODEL, **spec}}


OURS = [(where, found) for where, document in documents() if (found := slmdeployment(document)) is not None]


@pytest.mark.parametrize(("where", "found"), OURS, ids=[where for where, _ in OURS])
def test_an_slmdeployment_of_a_page_is_valid(where: str, found: Json) -> None:
    parsed = parse_slmdeployment(found)
    assert isinstance(parsed, SLMDeployment), f"{where}: {parsed}"


def test_there_are_some() -> None:
    assert len(OURS) >= 3
    assert all(document is not None for _, document in documents())
