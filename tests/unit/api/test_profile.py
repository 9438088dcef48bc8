"""The profile file: what can be read, and what is said of what cannot."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from slmpack.api.profile import (
    PROFILE_KEY,
    ProfileDocument,
    parse_profile,
    read_document,
    write_document,
)
from slmpack.domain.knee import Knee
from slmpack.domain.prediction import Sharing
from slmpack.domain.profile import Profile, judge
from slmpack.domain.profile_faults import Fault

EXAMPLE = Path(__file__).parents[3] / "examples" / "profiles" / "opt-1.3b-h100.yaml"
SMALLEST: dict[str, Any] = {
    "apiVersion": "slmpack.dev/v1alpha1",
    "kind": "Profile",
    "model": "Qwen/Qwen2.5-1.5B-Instruct",
    "input_tokens": 512,
    "output_tokens": 256,
    "points": [
        {"concurrency": 1, "throughput_tok_s": 80.5, "itl_s": 0.0124},
        {"concurrency": 64, "throughput_tok_s": 2100, "itl_s": 0.0304},
    ],
}


def smallest(**other: Any) -> dict[str, Any]:
    return copy.deepcopy(SMALLEST) | other


def point(number: int, **other: Any) -> dict[str, Any]:
    found = smallest()
    found["points"][number] |= other
    return found


def wrong(obj: object) -> tuple[str, ...]:
    found = parse_profile(yaml.safe_dump(obj))
    assert isinstance(found, tuple), found
    return found


def test_two_points_by_hand_are_a_profile() -> None:
    found = parse_profile(yaml.safe_dump(SMALLEST))
    assert isinstance(found, Profile)
    assert (found.model, found.gpu, found.replicas, found.sharing) == ("Qwen/Qwen2.5-1.5B-Instruct", None, 1, None)
    assert [(entry.concurrency, entry.throughput_tok_s, entry.itl_s) for entry in found.points] == [
        (1, 80.5, 0.0124),
        (64, 2100, 0.0304),
    ]


def test_everything_else_is_read_too() -> None:
    text = yaml.safe_dump(
        smallest(gpu="l4", sharing="mps", replicas=2, max_num_seqs=64, kv_cache_tokens=9000, max_model_len=4096)
    )
    found = parse_profile(text)
    assert isinstance(found, Profile)
    assert (found.gpu, found.sharing, found.replicas) == ("l4", Sharing.MPS, 2)
    assert (found.max_num_seqs, found.kv_cache_tokens, found.max_model_len) == (64, 9000, 4096)


def test_json_is_yaml() -> None:
    document = read_document(yaml.safe_dump(SMALLEST))
    assert isinstance(document, ProfileDocument)
    assert read_document(document.model_dump_json()) == document


def test_points_are_put_in_order() -> None:
    found = parse_profile(yaml.safe_dump(smallest(points=SMALLEST["points"][::-1])))
    assert isinstance(found, Profile)
    assert [entry.concurrency for entry in found.points] == [1, 64]


def test_what_is_written_can_be_read() -> None:
    obj = smallest(gpu="ü", sharing="none", refusal={"concurrency": 4, "faults": ["Cap"], "message": "a: b"})
    obj["points"][1]["faults"] = [{"fault": "Cap", "message": "at most 8"}]
    document = read_document(yaml.safe_dump(obj))
    assert isinstance(document, ProfileDocument)
    assert document.points[1].faults[0].fault is Fault.CAP
    assert read_document(write_document(document)) == document


def test_the_example_is_a_profile_with_its_knee() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    profile, document = parse_profile(text), read_document(text)
    assert isinstance(profile, Profile)
    assert isinstance(document, ProfileDocument)
    assert document.knee is not None
    knee = judge(profile)
    assert isinstance(knee, Knee)
    assert (knee.batch, knee.binding.value) == (document.knee.concurrency, document.knee.binding)
    assert knee.explanation == document.knee.explanation


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (smallest(apiVersion="v1"), "apiVersion: input should be 'slmpack.dev/v1alpha1', got 'v1'"),
        (smallest(model=""), "model: string should have at least 1 character, got ''"),
        (smallest(engine_version=0.32), "engine_version: must be text (in quotes), got 0.32"),
        (smallest(modle="x"), "modle: is not a field of a profile; remove it"),
        (smallest(input_tokens=0), "input_tokens: must be 1 or more, got 0"),
        (smallest(output_tokens=None), "output_tokens: must be a whole number, got None"),
        (smallest(points=None), "points: must be a list, got None"),
        (smallest(sharing="half"), "sharing: input should be 'none', 'mig', 'mps' or 'timeslice', got 'half'"),
        (point(1, itl_s=float("nan")), "points[1].itl_s: must be a finite number, got nan"),
        (point(1, ttft_s=float("inf")), "points[1].ttft_s: must be a finite number, got inf"),
        (point(1, throughput_tok_s=-3), "points[1].throughput_tok_s: must be more than 0.0, got -3"),
        (point(1, itl_s=0), "points[1].itl_s: must be more than 0.0, got 0"),
        (point(1, errors=-1), "points[1].errors: must be 0 or more, got -1"),
        (point(1, concurrency=1), "points: there are two points of concurrency 1; keep one"),
        (point(1, faults=[{"fault": "Bad"}]), "points[1].faults[0].fault: input should be"),
        (
            smallest(points=[]),
            "points: 0 can be used; two are enough: one request in flight and one large number of them",
        ),
        (
            point(1, faults=[{"fault": "Cap"}]),
            "points: 1 can be used (1 more are spoilt, see their faults); two are enough: one request in flight and one",
        ),
        (
            point(0, concurrency=2),
            "points: none of concurrency 1 can be used, which the knee's rule compares with; measure it",
        ),
        (
            point(1, itl_s=1e-7),
            "points[1]: 2100 tokens/s at 1e-07 s for each token of a request are 3.28e-06 times the stated concurrency",
        ),
        (
            point(1, itl_s=30.4),
            "points[1]: 2100 tokens/s at 30.4 s for each token of a request are 998 times the stated concurrency of 64",
        ),
        (
            point(1, ttft_s=0.1, itl_s=30.4),
            "points[1]: 2100 tokens/s at 30.2816 s for each token of a request (the first one included) are 994 times",
        ),
    ],
)
def test_each_mistake_is_named(obj: dict[str, Any], message: str) -> None:
    found = wrong(obj)
    assert len(found) == 1, found
    assert found[0].startswith(message)


def test_every_mistake_is_named() -> None:
    obj = smallest(points=[{"concurrency": 1}], kind=None)
    del obj["model"]
    assert [message.partition(":")[0] for message in wrong(obj)] == [
        "kind",
        "model",
        "points[0].throughput_tok_s",
        "points[0].itl_s",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", f"{PROFILE_KEY}: is not YAML: "),
        ("", f"{PROFILE_KEY}: must be an object, got None"),
        ("- 1", f"{PROFILE_KEY}: must be an object, got a list"),
        ("[" * 5000, f"{PROFILE_KEY}: has more than 32 brackets within each other"),
        ("- " * 5000, f"{PROFILE_KEY}: is not YAML: "),
        ("a" * 131_073, f"{PROFILE_KEY}: has 131073 characters, no profile has more than 131072"),
        ("date: 2026-99-99", f"{PROFILE_KEY}: is not YAML: "),
    ],
)
def test_text_that_is_no_profile(text: str, message: str) -> None:
    found = parse_profile(text)
    assert isinstance(found, tuple)
    assert found[0].startswith(message)


def test_aliases_that_multiply_are_not_written_out() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    found = parse_profile("\n".join([*lines, "model: *a59"]))
    assert isinstance(found, tuple)
    assert "model: must be text (in quotes), got a list" in found


def test_long_values_are_cut() -> None:
    assert wrong(smallest(kind="x" * 200)) == (f"kind: input should be 'Profile', got '{'x' * 79}...",)
