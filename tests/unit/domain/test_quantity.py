from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.quantity import GIB, MIB, format_bytes, parse_bytes, parse_count, parse_millicores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16Gi", 16 * GIB),
        ("500M", 500_000_000),
        ("512Mi", 512 * MIB),
        ("1.5Ki", 1536),
        ("1e9", 10**9),
        ("1E9", 10**9),
        ("1E", 10**18),
        ("12e-1", 2),
        ("100m", 1),
        ("0", 0),
        ("+3k", 3000),
        (".5Gi", GIB // 2),
        ("5.", 5),
        (17179869184, 16 * GIB),
        (0.5, 1),
    ],
)
def test_bytes_follow_the_rules_of_kubernetes(text: object, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("500m", 500), ("2", 2000), (2.5, 2500), ("0.1", 100), ("1u", 1), (3, 3000)]
)
def test_millicores(text: object, expected: int) -> None:
    assert parse_millicores(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("4", 4), (8, 8), ("1k", 1000), ("1000m", 1)])
def test_counts(text: object, expected: int) -> None:
    assert parse_count(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1Gi",
        "1 Gi",
        "Gi",
        "1gi",
        "0x10",
        "1e999",
        "½",
        True,
        None,
        [],
        {},
        -3,
        float("nan"),
        float("inf"),
        10**30,
        "9" * 5000,
    ],
)
def test_anything_else_is_refused_by_value_with_what_works(value: object) -> None:
    with pytest.raises(ValueError) as error:
        parse_bytes(value)
    assert "write for example 16Gi" in str(error.value)
    assert len(str(error.value)) < 250


def test_a_quantity_beyond_what_the_api_server_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than the API server's largest quantity"):
        parse_bytes("9999999Ei")


def test_half_a_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'0\.5' is not a whole number"):
        parse_count("0.5")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (13207024435, "12.3 GiB"),
        (512 * MIB, "512 MiB"),
        (2048, "2 KiB"),
        (100, "100 B"),
        (0, "0 B"),
        (-GIB, "-1.0 GiB"),
        (-5, "-5 B"),
    ],
)
def test_bytes_for_people(value: int, expected: str) -> None:
    assert format_bytes(value) == expected


@given(
    st.one_of(
        st.text(),
        st.integers(),
        st.floats(),
        st.none(),
        st.booleans(),
        st.from_regex(r"[0-9.]{1,6}([KMGTPE]i?|[numk]|e[0-9]{1,3})?", fullmatch=True),
    )
)
def test_parsing_gives_a_size_or_says_why_not(value: object) -> None:
    try:
        assert 0 <= parse_bytes(value) < 2**63
    except ValueError:
        return


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_a_plain_number_is_itself(value: int) -> None:
    assert parse_bytes(str(value)) == value == parse_bytes(value)
