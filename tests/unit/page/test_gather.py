"""The sheet as a whole: totals, reasons, limits; and that it says what the terminal says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmpack.domain.choice import Choice
from slmpack.domain.interval import describe_interval
from slmpack.domain.plan_words import ASSUMED_INDICES, NO_NODES, WHAT_IF_NOTE, describe_prediction
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.scale_decision import ScalingSpec
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Key, ModelUnknown, Rejected
from slmpack.page import gather
from tests.support.builders import (
    H100,
    PACKS,
    POLICY,
    a_demand,
    a_deployment,
    a_model,
    a_pod,
    a_snapshot,
    creates,
    heard,
    mps_node,
    plan,
    whole_node,
)
from tests.support.scaling import scaled
from tests.unit.page.worlds import a_reading, a_world, deployment_of, mixed, node_of, sheet_of, with_pods

REFUSED = Rejected(problems=(Problem(reason=Reason.INVALID_SPEC, message="no", field="spec.replicas"),))


def test_an_empty_world_says_that_it_is() -> None:
    sheet = sheet_of(a_snapshot())
    assert (sheet.nodes, sheet.deployments, sheet.troubles, sheet.longest_bytes) == ((), (), (), 0)
    assert sheet.notes == (NO_NODES,)
    assert [(fact.name, fact.value) for fact in sheet.totals] == [
        ("Replicas placed", "0 of 0"),
        ("GPUs and slices in use", "0 of 0"),
        ("Memory held", "0 B of 0 B"),
    ]


def test_the_totals_are_the_sums_of_the_nodes() -> None:
    sheet = sheet_of(mixed())
    totals = {fact.name: fact for fact in sheet.totals}
    assert totals["Replicas placed"].value == "7 of 12"
    assert totals["Replicas placed"].note == "5 without a place"
    assert [total.name for total in sheet.totals if total.is_wrong] == ["Replicas placed"]
    used, units = sum(n.units_used for n in sheet.nodes), sum(n.units for n in sheet.nodes)
    held = sum(n.units_held for n in sheet.nodes)
    assert (totals["GPUs and slices in use"].value, totals["GPUs and slices in use"].note) == (
        f"{used} of {units}",
        f"{held} held",
    )
    assert totals["Power, predicted"].note.endswith(f"for {sum(n.power_of for n in sheet.nodes)} of {units}")
    assert ASSUMED_INDICES in sheet.notes


def test_power_that_is_predicted_for_all_says_nothing_of_parts() -> None:
    totals = {fact.name: fact for fact in sheet_of(a_world(mps_node("n"), mode=Mode.MPS)).totals}
    assert " of " not in totals["Power, predicted"].note
    assert totals["Replicas placed"].note == ""


@pytest.mark.parametrize(("count", "note"), [(1, "1 GPU"), (2, "2 GPUs")])
def test_measured_power_is_a_total_of_its_own(count: int, note: str) -> None:
    readings = tuple(replace(a_reading("n"), uuid=f"GPU-{n}") for n in range(count))
    world = replace(a_world(mps_node("n")), gpus=(*readings, a_reading("n", None)))
    fact = sheet_of(world).totals[-1]
    assert (fact.name, fact.value, fact.note) == ("Power, measured", f"{300 * count} W", note)


def test_what_has_no_place_comes_before_what_fails() -> None:
    snapshot = with_pods(a_world(whole_node("n"), replicas=2, mode=Mode.EXCLUSIVE), ready=False)
    failing = replace(snapshot.pods[0], reason="OOMKilled", message="too much")
    sheet = sheet_of(replace(snapshot, pods=(failing,)))
    assert [(t.who, t.count, t.reason, t.anchor) for t in sheet.troubles] == [
        ("llm/qwen", 1, "InsufficientGpus", "d0"),
        ("llm/qwen-0", 0, "OOMKilled", "d0"),
    ]


def test_what_is_blind_says_so() -> None:
    world = replace(a_world(whole_node("n")), blind=Problem(reason=Reason.METRICS_UNKNOWN, message="no source"))
    assert "Nothing is measured: no source" in sheet_of(world).notes


def test_nodes_that_cannot_be_read_are_named_or_counted() -> None:
    unread = tuple(f"node n{number}: cpu: 'x'" for number in range(gather.MOST_UNREAD + 2))
    notes = sheet_of(replace(a_world(whole_node("n")), unread=unread)).notes
    assert "Left out, as it cannot be read: node n0: cpu: 'x'" in notes
    assert "2 more nodes cannot be read; the operator's log has them" in notes
    assert not any("cannot be read" in note for note in sheet_of(a_world(whole_node("n"))).notes)


def test_made_up_nodes_are_shown_where_they_are_used() -> None:
    world = a_world(whole_node("n"), mps_node("m"), replicas=1, mode=Mode.EXCLUSIVE)
    sheet = sheet_of(world, what_if=True)
    assert [node.name for node in sheet.nodes] == ["n"]
    assert sheet.notes[:2] == (WHAT_IF_NOTE, "1 other kinds of GPU in the catalogue stay empty")


def test_only_what_was_asked_about_is_told_of() -> None:
    sheet = sheet_of(mixed(), asked={Key("llm", "qwen")})
    assert [deployment.full for deployment in sheet.deployments] == ["llm/qwen"]
    assert [deployment.name for deployment in sheet_of(mixed()).deployments] == ["llm/qwen", "other/slices"]
    assert sheet.deployments[0].name == "qwen"
    assert node_of(sheet, "a").units_held == 4, "others' replicas take room all the same"


def test_what_there_is_no_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOST_BARS", "MOST_DEPLOYMENTS", "MOST_TROUBLES"):
        monkeypatch.setattr(gather, name, 1)
    world = mixed()
    world = replace(world, deployments=(*world.deployments, a_deployment("x", REFUSED)))
    sheet = sheet_of(world)
    assert [node.name for node in sheet.nodes] == ["a"]
    assert len(sheet.deployments) == len(sheet.troubles) == 1
    assert [words.partition(";")[0] for words in sheet.left_out] == [
        "2 more nodes are counted above, but not drawn",
        "2 more SLMDeployments are not told of",
        "1 more reasons are not listed",
    ]
    assert sheet.troubles[0].anchor == "", "what is not told of cannot be linked to"
    assert sheet.totals[0].value == "7 of 12"


def test_a_deployment_says_what_the_terminal_says() -> None:
    snapshot = a_world(mps_node("n"), replicas=9, mode=Mode.MPS)
    found, (part,) = deployment_of(sheet_of(snapshot)), plan(snapshot).deployments
    fit = part.fits[0].fit
    assert isinstance(fit.choice, Choice)
    assert describe_prediction(fit.choice).startswith(f"{found.pays[0].caption}: ")
    assert {*found.pays[0].reasons, found.pays[0].no_more} == set(fit.reasons)
    assert found.pays[0].no_more.endswith(fit.no_more)
    assert found.memory[-1].name == "needed"
    assert found.memory[-1].note.startswith(f"with {fit.need.max_num_seqs} sequences; ")
    assert found.what.startswith("hf://Qwen/Qwen2.5-1.5B-Instruct on vLLM 0.33.0, 8,192 tokens")
    assert found.pays[0].flags.startswith("--gpu-memory-utilization=0.2")
    assert found.pays[0].figures[0].name == "output of the GPU"
    assert sum(amount.size for amount in found.amounts) == part.needed_bytes
    assert [(r.name, r.words.partition(":")[0]) for r in found.replicas][:2] == [
        ("qwen-0", "starts now"),
        ("(next)", "WaitingForStart"),
    ]


def test_no_wording_of_a_decision_changes_what_is_shown_of_it() -> None:
    snapshot = a_world(mps_node("n"), replicas=9, mode=Mode.MPS)
    found = plan(snapshot)
    (part,) = found.deployments
    choice = part.fits[0].fit.choice
    assert isinstance(choice, Choice)
    odd = replace(choice, reasons=("first: (1)", "why not", "last"), refusal="why not", no_more="first: (1)")
    fits = (replace(part.fits[0], fit=replace(part.fits[0].fit, choice=odd, notes=())),)
    reworded = replace(found, deployments=(replace(part, fits=fits),))
    (pays,) = deployment_of(gather.gather_sheet(reworded, snapshot, POLICY)).pays
    assert (pays.reasons, pays.no_more) == (("first: (1)", "last"), "why not")
    assert pays.figures == deployment_of(sheet_of(snapshot)).pays[0].figures


def test_the_total_of_watts_is_said_in_parts() -> None:
    sheet = sheet_of(a_world(mps_node("n"), mode=Mode.MPS))
    power = sheet.nodes[0].power_w
    assert power is not None
    total = next(total for total in sheet.totals if total.name == "Power, predicted")
    assert f"{total.value} ({total.note.partition(' W, ')[0]})" == describe_interval(power, unit="W")
    assert total.note.endswith(f" W, {power.basis.value}")


def test_the_source_is_as_the_user_wrote_it() -> None:
    sheet = sheet_of(a_world(mps_node("n")), sources={Key("llm", "qwen"): "file://here"})
    assert deployment_of(sheet).what.startswith("file://here on")


def test_without_a_share_that_suits_there_is_a_need_but_no_decision() -> None:
    found = deployment_of(sheet_of(a_world(whole_node("n"), mode=Mode.MIG)))
    assert found.pays == ()
    assert found.memory[-1].note == "the least that a share must hold"


def test_an_unknown_model_has_no_figures_at_all() -> None:
    unknown = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="not there")
    found = deployment_of(sheet_of(a_world(mps_node("n"), model=unknown)))
    assert (found.memory, found.amounts, found.what, found.pays, found.warning) == ((), (), "", (), "")
    assert found.answer.reasons[0][0].reason is Reason.MODEL_UNAVAILABLE


def test_a_model_that_is_known_no_more_keeps_its_need_and_is_predicted_nothing() -> None:
    world = with_pods(a_world(mps_node("n"), replicas=1, mode=Mode.MPS))
    unknown = ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message="not there")
    view = a_deployment("qwen", a_demand(replicas=1, mode=Mode.MPS, model=unknown))
    sheet = sheet_of(replace(world, deployments=(view,)))
    (pays,) = deployment_of(sheet).pays
    assert (pays.curve, pays.caption, pays.figures, pays.no_more) == (None, "", (), "")
    assert sheet.nodes[0].bars[0].power_w is None
    assert sheet.nodes[0].bars[0].blocks[0].amounts == ()


def test_a_warning_about_the_weights_is_passed_on() -> None:
    model = replace(a_model(), weights_note="the file says nothing")
    assert deployment_of(sheet_of(a_world(mps_node("n"), model=model))).warning == "the file says nothing"
    assert deployment_of(sheet_of(a_world(mps_node("n")))).warning == ""


def test_a_load_that_is_too_much_is_a_warning() -> None:
    demand = a_demand(replicas=1, mode=Mode.EXCLUSIVE)
    demand = replace(demand, workload=replace(demand.workload, request_rate=10_000.0))
    world = a_snapshot(deployments=(a_deployment("qwen", demand),), nodes=(whole_node("n"),))
    assert deployment_of(sheet_of(world)).pays[0].warning.startswith("the load is more than")


def test_a_rejected_spec_is_told_of() -> None:
    world = a_snapshot(deployments=(a_deployment("qwen", REFUSED),))
    found = deployment_of(sheet_of(world))
    assert found.answer.wanted is None
    assert found.changes == ("any number: the spec has to be accepted",)


def test_scaling_shows_its_numbers_and_the_hottest_gpu() -> None:
    spec = ScalingSpec(least=1, most=8, max_watts_per_gpu=600.0)
    found = deployment_of(sheet_of(scaled(spec=spec).running(2).under(30.0).snapshot))
    assert found.scaling is not None
    assert found.scaling.line.startswith("scaling: ")
    assert found.scaling.ceiling_w == 600.0
    assert found.scaling.power.endswith(")")
    assert "demand" in [fact.name for fact in found.scaling.figures]
    assert found.changes


def test_scaling_that_knows_no_power_says_none() -> None:
    found = deployment_of(sheet_of(scaled().snapshot))
    assert found.scaling is not None
    assert (found.scaling.power, found.scaling.ceiling_w) == ("", None)


def test_a_pack_says_what_its_engines_hold() -> None:
    view = a_deployment("qwen", a_demand(replicas=1, mode=Mode.MPS_PACK))
    world = a_snapshot(deployments=(view,), nodes=(whole_node("n", product=H100),))
    (create,) = creates(plan(world, PACKS))
    pod = heard(a_pod(create, ready=True))
    assert pod.pack is not None
    engines = tuple(replace(engine, device_bytes=5 * 2**30) for engine in pod.pack.engines)
    pod = replace(pod, pack=replace(pod.pack, engines=engines))
    sheet = sheet_of(replace(world, pods=(pod,)), PACKS)
    assert [(r.name, r.words, r.memory) for r in deployment_of(sheet).replicas] == [
        ("qwen-0 engine 0", "Ready", "5.0 GiB measured")
    ]
    assert sheet.nodes[0].bars[0].blocks[0].measured_bytes == 5 * 2**30


def test_replicas_that_are_there_are_listed_with_their_state() -> None:
    world = with_pods(a_world(whole_node("n", gpus=2), mode=Mode.EXCLUSIVE), ready=False)
    first, second = world.pods
    pods = (replace(first, ready=True, ready_since=world.now, reason=""), replace(second, reason="OOMKilled"))
    found = deployment_of(sheet_of(replace(world, pods=pods)))
    assert [replica.words.partition(":")[0] for replica in found.replicas] == ["Ready", "OOMKilled"]
    starting = deployment_of(sheet_of(replace(world, pods=(first,), now=first.created)))
    assert starting.replicas[0].words.partition(":")[0] == "Starting"
