from __future__ import annotations

import pytest

from slmpack.domain.wording import format_ms, format_number, number_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0173, "17.3 ms"), (0.001, "1.0 ms"), (0.00004, "0.04 ms"), (1e-8, "1e-05 ms"), (3.56, "3560.0 ms")],
)
def test_a_latency_is_never_nothing(seconds: float, text: str) -> None:
    assert format_ms(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(6.66667, "6.67"), (40.0, "40"), (1000.0, "1,000"), (1234.5, "1,234"), (0.0333333, "0.0333"), (99.95, "100")],
)
def test_a_figure_has_three_digits_or_all_of_a_whole_number(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 replicas"), (1, "1 replica"), (2, "2 replicas"), (1000, "1000 replicas")]
)
def test_one_is_one_replica(number: int, text: str) -> None:
    assert number_of(number) == text


def test_other_things_are_counted_alike() -> None:
    assert (number_of(1, "GPU"), number_of(3, "GPU")) == ("1 GPU", "3 GPUs")
