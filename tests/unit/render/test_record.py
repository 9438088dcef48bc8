from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.footprint import Footprint
from slmpack.domain.pack import PackRecord
from slmpack.domain.plan import SetEngines
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import Key, NodePins, ReplicaRecord
from slmpack.render.names import common_labels
from slmpack.render.record import engines_patch, parse_record, record_annotations
from tests.support.render_cases import CASES, EXCLUSIVE, MIG, MPS, PACK, PACKS, a_record

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
RUNNING = st.sets(st.integers(min_value=0, max_value=63)).map(lambda found: tuple(sorted(found)))
PACKED = st.builds(
    lambda more, running: PackRecord(engines=min(64, max(running, default=0) + more), running=running),
    more=st.integers(min_value=1, max_value=64),
    running=RUNNING,
)
PINNED = st.builds(
    NodePins,
    labels=st.dictionaries(TEXT, st.text()).map(lambda found: tuple(sorted(found.items()))),
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
    pins=st.none() | PINNED,
    share=st.text(),
    starts_alone=st.booleans(),
    footprint=st.none() | FOOTPRINTS,
    max_model_len=st.none() | st.integers(min_value=1, max_value=2**24),
    max_num_seqs=st.none() | st.integers(min_value=1, max_value=2**20),
    attempt=st.integers(min_value=1, max_value=1000),
    replaces=st.text(),
    pack=st.none() | PACKED,
)
KEYS = sorted(record_annotations(a_record(PACK, replaces="chat-1")))


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


WAITING = CASES["pod-for-a-share-to-come"].record


def test_a_pod_for_a_node_to_come_says_what_its_node_must_be_like() -> None:
    written = record_annotations(WAITING)
    assert "slmpack.dev/node" not in written
    assert parse(written) == WAITING


@pytest.mark.parametrize("pins", ["no JSON", "[]", "null", "3", "[" * 100_000])
def test_pins_that_cannot_be_read_pin_nothing(pins: str) -> None:
    assert parse({**record_annotations(WAITING), "slmpack.dev/node-labels": pins}) == replace(
        WAITING, pins=NodePins(labels=())
    )


def test_what_is_no_text_in_pins_is_left_out() -> None:
    assert parse({**record_annotations(WAITING), "slmpack.dev/node-labels": '{"a":1,"b":"c"}'}) == replace(
        WAITING, pins=NodePins(labels=(("b", "c"),))
    )


def test_a_pod_for_no_node_that_pins_nothing_is_no_record() -> None:
    written = record_annotations(WAITING)
    del written["slmpack.dev/node-labels"]
    assert parse(written) is None


@pytest.mark.parametrize("share", [EXCLUSIVE, MIG, MPS])
def test_keys_are_ours(share: object) -> None:
    written = record_annotations(a_record(share, replaces="chat-1"))  # type: ignore[arg-type]
    assert len(written) == 12
    assert all(key.startswith("slmpack.dev/") and value for key, value in written.items())


PACK_RECORD = PACKS["pack"].record  # three engines, of which 0 and 2 are to run


def test_a_pack_says_what_it_was_made_for_and_what_is_to_run() -> None:
    written = record_annotations(PACK_RECORD)
    assert (written["slmpack.dev/engines"], written["slmpack.dev/running"]) == ("3", "0,2")
    found = parse(written)
    assert found == PACK_RECORD
    assert found is not None
    assert found.replicas == 2


def test_a_pack_that_runs_none_is_told_from_one_that_cannot_be_read() -> None:
    idle = replace(PACK_RECORD, pack=PackRecord(engines=3, running=()))
    assert parse(record_annotations(idle)) == idle


@pytest.mark.parametrize(
    "running",
    [None, "", "0,", ",0", "0, 2", "2,0", "0,0", "3", "0,3", "-1", "00", "٣", "0;2", "[0,2]", "None", "9" * 30, "0\n"],
)
def test_a_pack_whose_running_engines_cannot_be_read_runs_them_all(running: str | None) -> None:
    annotations = record_annotations(PACK_RECORD)
    del annotations["slmpack.dev/running"]
    if running is not None:
        annotations["slmpack.dev/running"] = running
    assert parse(annotations) == replace(PACK_RECORD, pack=PackRecord(engines=3, running=(0, 1, 2)))


@pytest.mark.parametrize("engines", [None, "", "0", "three", "65", "-3", "9" * 30])
def test_how_many_engines_is_said_twice(engines: str | None) -> None:
    annotations = record_annotations(PACK_RECORD)
    del annotations["slmpack.dev/engines"]
    if engines is not None:
        annotations["slmpack.dev/engines"] = engines
    assert parse(annotations) == PACK_RECORD


@pytest.mark.parametrize(("engines", "share"), [("", ""), ("0", "MpsPack of 0"), ("x", "MpsPack of 65")])
def test_a_pack_that_nowhere_says_how_many_engines_it_has_is_no_record(engines: str, share: str) -> None:
    annotations = {**record_annotations(PACK_RECORD), "slmpack.dev/engines": engines, "slmpack.dev/share": share}
    assert parse(annotations) is None


def test_a_stray_annotation_makes_no_pack() -> None:
    assert parse({**record_annotations(a_record()), "slmpack.dev/running": "0,1"}) == a_record()


@pytest.mark.parametrize("running", [(0, 1, 2), (1,), ()])
def test_a_patch_is_read_back_as_it_was_meant(running: tuple[int, ...]) -> None:
    action = SetEngines(
        pod=Key(namespace="team-a", name="chat-0"),
        uid="5a6a1d7e-6f0b-4f0e-8a53-2e1f5e0c9d10",
        deployment=PACK_RECORD.deployment,
        running=running,
        recorded=False,
        problem=Problem(reason=Reason.SCALED_UP, message="more replicas are wanted"),
    )
    metadata = engines_patch(action)["metadata"]
    assert metadata["uid"] == action.uid
    assert list(metadata["annotations"]) == ["slmpack.dev/running"]
    found = parse({**record_annotations(PACK_RECORD), **metadata["annotations"]})
    assert found == replace(PACK_RECORD, pack=PackRecord(engines=3, running=running))


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
