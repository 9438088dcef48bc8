from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.footprint import Footprint
from slmpack.domain.snapshot import Key, ReplicaRecord
from slmpack.render.names import common_labels
from slmpack.render.record import parse_record, record_annotations
from tests.support.render_cases import EXCLUSIVE, MIG, MPS, a_record

BYTES = st.integers(min_value=0, max_value=2**50)
TEXT = st.text(min_size=1, max_size=20)
FOOTPRINTS = st.builds(
    Footprint,
    weights_bytes=BYTES,
    kv_bytes_per_token=BYTES,
    activation_bytes=BYTES,
    non_torch_bytes=BYTES,
    cuda_graph_bytes=BYTES,
    cuda_graphs_inside_budget=st.booleans(),
    context_bytes=BYTES,
    margin_bytes=BYTES,
    basis=st.text(),
    non_kv_low_bytes=st.none() | BYTES,
    non_kv_high_bytes=st.none() | BYTES,
)
RECORDS = st.builds(
    ReplicaRecord,
    deployment=st.builds(Key, namespace=TEXT, name=TEXT),
    owner_uid=TEXT,
    ordinal=st.integers(min_value=0, max_value=10**6),
    spec_hash=TEXT,
    render_version=st.text(max_size=5),
    node=TEXT,
    resource=TEXT,
    share=st.text(),
    starts_alone=st.booleans(),
    footprint=st.none() | FOOTPRINTS,
    max_model_len=st.none() | st.integers(min_value=1, max_value=2**24),
    max_num_seqs=st.none() | st.integers(min_value=1, max_value=2**20),
    attempt=st.integers(min_value=1, max_value=1000),
    replaces=st.text(),
)
KEYS = sorted(record_annotations(a_record(replaces="chat-1")))


def parse(annotations: dict[str, str], **changes: object) -> ReplicaRecord | None:
    given_ = {"namespace": "team-a", "labels": common_labels("chat"), "owner_uid": a_record().owner_uid, **changes}
    return parse_record(annotations=annotations, **given_)  # type: ignore[arg-type]


@given(record=RECORDS)
def test_what_is_written_is_read_back(record: ReplicaRecord) -> None:
    found = parse(
        record_annotations(record),
        namespace=record.deployment.namespace,
        labels={"slmpack.dev/name": record.deployment.name},
        owner_uid=record.owner_uid,
    )
    assert found == record


@pytest.mark.parametrize("share", [EXCLUSIVE, MIG, MPS])
def test_keys_are_ours(share: object) -> None:
    written = record_annotations(a_record(share, replaces="chat-1"))  # type: ignore[arg-type]
    assert len(written) == 12
    assert all(key.startswith("slmpack.dev/") and value for key, value in written.items())


@pytest.mark.parametrize("missing", ["ordinal", "spec-hash", "node", "resource", "starts-alone"])
@pytest.mark.parametrize("value", [None, ""])
def test_no_record_without_what_planning_needs(missing: str, value: str | None) -> None:
    annotations = record_annotations(a_record())
    del annotations[f"slmpack.dev/{missing}"]
    if value is not None:
        annotations[f"slmpack.dev/{missing}"] = value
    assert parse(annotations) is None


def test_no_record_without_owner_or_label() -> None:
    assert parse(record_annotations(a_record()), owner_uid="") is None
    assert parse(record_annotations(a_record()), labels={"app": "chat"}) is None


@pytest.mark.parametrize("ordinal", ["-1", "1.5", "one", "٣", "1" * 19, " 1", "1\n"])
def test_no_record_with_an_ordinal_that_is_none(ordinal: str) -> None:
    assert parse({**record_annotations(a_record()), "slmpack.dev/ordinal": ordinal}) is None


@pytest.mark.parametrize("starts_alone", ["True", "yes", "1"])
def test_no_record_with_another_boolean(starts_alone: str) -> None:
    assert parse({**record_annotations(a_record()), "slmpack.dev/starts-alone": starts_alone}) is None


@pytest.mark.parametrize(
    "footprint",
    ["", "{", "[]", "null", "7", "{}", "[" * 100_000, '{"weights_bytes":1}', "FLOAT", "BOOL", "TEXT"],
)
def test_an_unreadable_footprint_is_unknown(footprint: str) -> None:
    good = record_annotations(a_record())["slmpack.dev/footprint"]
    text = {
        "FLOAT": good.replace("3118000000", "3118000000.5"),
        "BOOL": good.replace("true", "1"),
        "TEXT": good.replace("3118000000", '"3118000000"'),
    }.get(footprint, footprint)
    assert text != good
    found = parse({**record_annotations(a_record()), "slmpack.dev/footprint": text})
    assert found == a_record(footprint=None)


def test_a_footprint_with_a_later_version_s_term_is_read() -> None:
    good = record_annotations(a_record())["slmpack.dev/footprint"]
    found = parse({**record_annotations(a_record()), "slmpack.dev/footprint": good.replace("{", '{"later":1,', 1)})
    assert found == a_record()


def test_a_footprint_of_an_operator_that_wrote_no_interval_is_read() -> None:
    old = record_annotations(a_record())["slmpack.dev/footprint"]
    assert "non_kv" not in old
    assert parse({**record_annotations(a_record()), "slmpack.dev/footprint": old}) == a_record()


@pytest.mark.parametrize("end", ['"7"', "7.5", "true"])
def test_a_footprint_with_an_unreadable_interval_is_unknown(end: str) -> None:
    good = record_annotations(a_record())["slmpack.dev/footprint"]
    text = good.replace("{", f'{{"non_kv_low_bytes":{end},', 1)
    assert parse({**record_annotations(a_record()), "slmpack.dev/footprint": text}) == a_record(footprint=None)


def test_the_rest_has_a_reading_when_absent() -> None:
    annotations = record_annotations(a_record())
    for key in ("render-version", "share", "footprint", "max-model-len", "max-num-seqs", "attempt"):
        del annotations[f"slmpack.dev/{key}"]
    expected = replace(a_record(), render_version="", share="", footprint=None, max_model_len=None, max_num_seqs=None)
    assert parse(annotations) == expected


@given(annotations=st.dictionaries(st.sampled_from(KEYS), st.text()), labels=st.dictionaries(TEXT, st.text()))
def test_reading_never_raises(annotations: dict[str, str], labels: dict[str, str]) -> None:
    parse({**record_annotations(a_record()), **annotations})
    parse(annotations, labels=labels)
