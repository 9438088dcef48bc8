"""What a replica's pod says of its own placement, as annotations, and how that is read back after a restart (D2)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from slmpack.domain.footprint import Footprint
from slmpack.domain.pack import MOST_ENGINES, PackRecord
from slmpack.domain.plan import SetEngines
from slmpack.domain.snapshot import Key, NodePins, ReplicaRecord
from slmpack.render.names import NAME_LABEL, PREFIX

__all__ = ["engines_patch", "parse_record", "record_annotations"]

ORDINAL = f"{PREFIX}ordinal"
SPEC_HASH = f"{PREFIX}spec-hash"
RENDER_VERSION = f"{PREFIX}render-version"
NODE = f"{PREFIX}node"
NODE_LABELS = f"{PREFIX}node-labels"
RESOURCE = f"{PREFIX}resource"
SHARE = f"{PREFIX}share"
STARTS_ALONE = f"{PREFIX}starts-alone"
FOOTPRINT = f"{PREFIX}footprint"
MAX_MODEL_LEN = f"{PREFIX}max-model-len"
MAX_NUM_SEQS = f"{PREFIX}max-num-seqs"
ATTEMPT = f"{PREFIX}attempt"
REPLACES = f"{PREFIX}replaces"
ENGINES = f"{PREFIX}engines"
RUNNING = f"{PREFIX}running"

_NUMBER = re.compile(r"[0-9]{1,18}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")
_NONE_RUNS = "none"
_PACK_SHARE = re.compile(r"MpsPack of ([0-9]{1,18})")
"""As `describe_share` says it."""


def record_annotations(record: ReplicaRecord) -> dict[str, str]:
    """The annotations of a replica's pod; what is unknown or empty is left out."""
    written = {
        ORDINAL: str(record.ordinal),
        SPEC_HASH: record.spec_hash,
        RENDER_VERSION: record.render_version,
        NODE: record.node,
        RESOURCE: record.resource,
        SHARE: record.share,
        STARTS_ALONE: "true" if record.starts_alone else "false",
        ATTEMPT: str(record.attempt),
        REPLACES: record.replaces,
    }
    if record.pins is not None:
        written[NODE_LABELS] = json.dumps(dict(record.pins.labels), sort_keys=True, separators=(",", ":"))
    if record.footprint is not None:
        written[FOOTPRINT] = json.dumps(_stated(record.footprint), sort_keys=True, separators=(",", ":"))
    if record.max_model_len is not None:
        written[MAX_MODEL_LEN] = str(record.max_model_len)
    if record.max_num_seqs is not None:
        written[MAX_NUM_SEQS] = str(record.max_num_seqs)
    if record.pack is not None:
        written[ENGINES] = str(record.pack.engines)
        written[RUNNING] = _indexes(record.pack.running)
    return {key: value for key, value in written.items() if value}


def engines_patch(action: SetEngines) -> dict[str, Any]:
    """The merge patch that records which engines of a pack are to run; of another pod of that name, a conflict."""
    return {"metadata": {"uid": action.uid, "annotations": {RUNNING: _indexes(action.running)}}}


def parse_record(
    *, namespace: str, labels: Mapping[str, str], annotations: Mapping[str, str], owner_uid: str
) -> ReplicaRecord | None:
    """The record of a pod, or None if it is not one of ours or lacks what planning cannot do without.

    Never raises. An unreadable footprint or length reads as unknown, which freezes the replica, rather than as no
    record, which would let another one take its place. For the same reason a pack whose running engines cannot be read
    runs them all. A pack that nowhere says how many engines it has is no record.
    """
    name = labels.get(NAME_LABEL, "")
    node = annotations.get(NODE, "") or annotations.get(NODE_LABELS, "")
    needed = (name, owner_uid, node, *(annotations.get(key, "") for key in (SPEC_HASH, RESOURCE)))
    ordinal = _number(annotations.get(ORDINAL, ""))
    starts_alone = {"true": True, "false": False}.get(annotations.get(STARTS_ALONE, ""))
    pack, told = _pack(annotations)
    if not all((*needed, told)) or ordinal is None or starts_alone is None:
        return None
    return ReplicaRecord(
        deployment=Key(namespace=namespace, name=name),
        owner_uid=owner_uid,
        ordinal=ordinal,
        spec_hash=annotations[SPEC_HASH],
        render_version=annotations.get(RENDER_VERSION, ""),
        node=annotations.get(NODE, ""),
        pins=_pins(annotations.get(NODE_LABELS, "")),
        resource=annotations[RESOURCE],
        share=annotations.get(SHARE, ""),
        starts_alone=starts_alone,
        footprint=_footprint(annotations.get(FOOTPRINT, "")),
        max_model_len=_number(annotations.get(MAX_MODEL_LEN, "")),
        max_num_seqs=_number(annotations.get(MAX_NUM_SEQS, "")),
        attempt=_number(annotations.get(ATTEMPT, "")) or 1,
        replaces=annotations.get(REPLACES, ""),
        pack=pack,
    )


def _pins(text: str) -> NodePins | None:
    """None where there are none; what cannot be read pins nothing, so that the plan makes the pod anew."""
    if not text:
        return None
    try:
        labels = {key: value for key, value in json.loads(text).items() if isinstance(value, str)}
    except (ValueError, AttributeError, RecursionError):
        return NodePins(labels=())
    return NodePins(labels=tuple(sorted(labels.items())))


def _pack(annotations: Mapping[str, str]) -> tuple[PackRecord | None, bool]:
    """The pack, None for a pod that is none; and whether that could be told.

    How many engines it has is annotated, and the share's description says it too.
    """
    share = _PACK_SHARE.fullmatch(annotations.get(SHARE, ""))
    if ENGINES not in annotations and share is None:
        return None, True
    stated = (_number(annotations.get(ENGINES, "")), _number(share[1]) if share else None)
    count = next((number for number in stated if number is not None and 1 <= number <= MOST_ENGINES), None)
    if count is None:
        return None, False
    return PackRecord(engines=count, running=_running(annotations.get(RUNNING, ""), count)), True


def _running(text: str, engines: int) -> tuple[int, ...]:
    """Rising indexes as we write them; anything else reads as all of them."""
    if text == _NONE_RUNS:
        return ()
    words = text.split(",")
    found = tuple(int(word) for word in words if _INDEX.fullmatch(word))
    rising = len(found) == len(words) and list(found) == sorted(set(found))
    return found if rising and found[-1] < engines else tuple(range(engines))


def _indexes(running: tuple[int, ...]) -> str:
    return ",".join(str(index) for index in running) or _NONE_RUNS


def _number(text: str) -> int | None:
    """A whole number as we write it: ASCII digits only."""
    return int(text) if _NUMBER.fullmatch(text) else None


def _footprint(text: str) -> Footprint | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    values: dict[str, Any] = {}
    for field in fields(Footprint):
        # Field annotations are strings here, which is what makes them comparable with a value's type.
        kind, _, optional = str(field.type).partition(" | ")
        value = found.get(field.name)
        if value is None and optional:
            continue  # a record of an operator that did not write it
        if type(value).__name__ != kind:
            return None
        values[field.name] = value
    return Footprint(**values)


def _stated(footprint: Footprint) -> dict[str, object]:
    return {name: value for name, value in asdict(footprint).items() if value is not None}
