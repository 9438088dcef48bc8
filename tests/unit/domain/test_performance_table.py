from __future__ import annotations

import pytest

from slmpack.adapters.performance_table import load_performance_table
from slmpack.domain.engine_version import EngineVersion

TABLE = load_performance_table()


@pytest.mark.parametrize(
    ("version", "generation"),
    [
        ((0, 4), "V0"),
        ((0, 6, 3), "V0"),
        ((0, 8), "V1"),
        ((0, 11, 1), "V1"),
        ((0, 14), "V1 async"),
        ((0, 33), "V1 async"),
    ],
)
def test_a_version_belongs_to_the_latest_generation_before_it(version: tuple[int, ...], generation: str) -> None:
    assert TABLE.constants_for(EngineVersion(*version)).generation == generation


def test_generations_are_known_by_name() -> None:
    assert TABLE.generation("V1").chunked_prefill
    with pytest.raises(KeyError):
        TABLE.generation("V2")


def test_power_is_known_where_it_was_measured() -> None:
    power = TABLE.generation("V1").power

    assert power.fit_for("b200-180gb") is not None
    assert power.fit_for("l4") is None
