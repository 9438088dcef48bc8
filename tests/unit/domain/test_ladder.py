"""The decision table of docs/ladder.md against the planner: each row's world is built and planned."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from slmpack.domain.dra import DraDevice
from slmpack.domain.plan import DeploymentPlan
from slmpack.domain.quantity import MIB
from slmpack.domain.sharing import Mode, describe_share
from slmpack.domain.snapshot import NodeView, Policy
from slmpack.domain.workload import Objective
from tests.support.builders import (
    A100_40,
    H100,
    L4,
    PACKS,
    POLICY,
    a_demand,
    a_deployment,
    a_model,
    a_node,
    a_snapshot,
    mig_node,
    mps_node,
    plan,
    whole_node,
)

PAGE = Path(__file__).parents[3] / "docs" / "ladder.md"
PRODUCTS = {"L4": L4, "H100": H100, "A100-40": A100_40}
NODE = re.compile(r"(?P<name>\w+): (?:(?P<gpus>\d+) )?(?P<product>[A-Z][\w-]*)(?: (?P<how>.+))?")
H100_SLICES = {"1g.10gb": 9984}
"""MiB of an instance, as the lowest public capture has it (gpus.yaml)."""
Row = dict[str, str]


def table() -> list[Row]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def _claimable(name: str, product: str, count: int, profile: str) -> NodeView:
    devices = tuple(
        DraDevice(
            name=f"gpu-0-{n}",
            profile=profile,
            memory_bytes=H100_SLICES[profile] * MIB,
            multiprocessors=16,
            product=product,
            parent="GPU-0",
        )
        for n in range(count)
    )
    view = a_node(name, resources={devices[0].resource: count})
    return replace(view, labels={}, devices=devices)


def node_of(text: str) -> NodeView:
    found = NODE.fullmatch(text)
    assert found is not None, text
    name, product, how = found["name"], PRODUCTS[found["product"]], found["how"] or ""
    gpus = int(found["gpus"] or 1)
    if not how:
        return whole_node(name, product=product, gpus=gpus)
    if how.startswith("MPS/"):
        return mps_node(name, product=product, gpus=gpus, replicas=int(how.removeprefix("MPS/")))
    if how.startswith("time-sliced/"):
        view = mps_node(name, product=product, gpus=gpus, replicas=int(how.removeprefix("time-sliced/")))
        return replace(view, labels=dict(view.labels) | {"nvidia.com/gpu.sharing-strategy": "time-slicing"})
    if how.startswith("DRA "):
        count, profile = how.removeprefix("DRA ").split()
        return _claimable(name, product, int(count), profile)
    count, profile = how.split()
    return mig_node(name, product=product, slices={profile: int(count)})


def planned(row: Row) -> DeploymentPlan:
    parts = [part for part in row["cluster"].split("; ") if part not in {"none", "no image"}]
    policy: Policy = POLICY if "no image" in row["cluster"] else PACKS
    replicas, _, limit = row["replicas"].partition(", maxPerGPU ")
    demand = a_demand(
        model=a_model("Qwen/Qwen2.5-0.5B-Instruct"),
        replicas=int(replicas),
        mode=Mode(row["mode"]),
        objective=Objective(row["objective"]),
        max_per_gpu=int(limit) if limit else None,
    )
    world = a_snapshot(deployments=(a_deployment("qwen", demand),), nodes=tuple(node_of(part) for part in parts))
    (entry,) = plan(world, policy).deployments
    return entry


def chosen(entry: DeploymentPlan) -> str:
    """Pods by node and share: those that start now, and those that have room and wait for their turn."""
    placements = [create.placement for create in entry.creates] + [placement for placement, _ in entry.waiting]
    counts = Counter((placement.node, describe_share(placement.share)) for placement in placements)
    return ", ".join(f"{node}: {count} {share}" for (node, share), count in sorted(counts.items()))


def left_over(entry: DeploymentPlan) -> str:
    return ", ".join(f"{unplaced.count} {unplaced.problem.reason.value}" for unplaced in entry.unplaced)


@pytest.mark.parametrize("row", table(), ids=lambda row: f"{row['cluster']} | {row['mode']} | {row['replicas']}")
def test_the_planner_does_what_the_table_says(row: Row) -> None:
    entry = planned(row)
    assert (chosen(entry), left_over(entry)) == (row["chosen"], row["left over"])


def test_the_table_has_every_mode_and_every_kind_of_share() -> None:
    rows = table()
    assert {row["mode"] for row in rows} == {mode.value for mode in Mode}
    text = " ".join(row["chosen"] for row in rows if row["mode"] == "Auto")
    for kind in ("Exclusive", "MigSlice", "MpsShare", "MpsPack", "DraClaim"):
        assert kind in text, f"Auto never chooses {kind}"
