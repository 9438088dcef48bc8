from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml

from slmpack.adapters import performance_table
from slmpack.adapters.performance_table import load_performance_table
from slmpack.domain.performance_table import Spread

TABLE: dict[str, Any] = yaml.safe_load((resources.files("slmpack") / "data" / "performance.yaml").read_text("utf-8"))


def leaves(node: object) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [leaf for child in node for leaf in leaves(child)]
    if not isinstance(node, dict):
        return []
    if {"value", "low", "active"} & set(node):
        return [node]
    return [leaf for child in node.values() for leaf in leaves(child)]


def test_every_constant_names_its_source_and_its_spread() -> None:
    found = leaves(TABLE)

    assert len(found) > 25
    for leaf in found:
        assert leaf["source"], leaf
        assert "spread" in leaf or "low" in leaf, leaf


def test_times_are_seconds_and_generations_share_what_they_share() -> None:
    table = load_performance_table()
    constants = [each for _, each in table.generations]

    assert [each.generation for each in constants] == ["V0", "V1", "V1 async"]
    assert all(1e-5 < each.layer_s < 1e-3 for each in constants)
    assert all(1e-6 < each.sequence_s < 1e-3 for each in constants)
    assert len({each.weight_efficiency for each in constants}) == 1
    assert sorted(since for since, _ in table.generations) == [since for since, _ in table.generations]


@pytest.mark.parametrize("name", ["itl", "throughput", "ttft"])
def test_intervals_hold_what_is_expected_and_calibration_never_widens(name: str) -> None:
    constants = load_performance_table().generation("V1")
    plain: Spread = getattr(constants.spreads, name)
    calibrated: Spread = getattr(constants.calibrated, name)

    assert plain.low <= calibrated.low <= 1.0 <= calibrated.high <= plain.high


def test_a_since_that_is_no_version_is_a_bug() -> None:
    with pytest.raises(ValueError, match="since 'latest'"):
        performance_table._version("latest")
