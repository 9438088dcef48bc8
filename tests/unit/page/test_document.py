"""The document: parts that depend on the plan, and what is said around them."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest

from slmpack.domain.interval import Basis, Interval
from slmpack.domain.knee_curve import KneeCurve, KneePoint
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import Mode
from slmpack.domain.snapshot import Rejected
from slmpack.page import deployments as shown_deployments
from slmpack.page import nodes as shown_nodes
from slmpack.page.curve import render_curve, ticks
from slmpack.page.document import Frame, render_body, render_document
from slmpack.page.markup import Styles
from slmpack.page.nodes import render_colours, render_legend, render_nodes
from slmpack.page.style import COLOURS, STYLE
from slmpack.page.values import Block, Gpu, Sheet, Total
from tests.support.builders import a_deployment, a_node, a_snapshot, a_stranger, mig_node, mps_node, whole_node
from tests.support.scaling import scaled
from tests.unit.page.worlds import a_reading, a_world, mixed, sheet_of, with_pods

NASTY = '<script>alert("1")</script>\u202e\ud800\x00</style>'


def page_of(sheet: Sheet | None, **frame: object) -> str:
    given = {"title": "t", "when": "now", **frame}
    return render_document(render_body(sheet), Frame(**given)).html  # type: ignore[arg-type]


def _words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def test_no_plan_yet() -> None:
    assert "Nothing has been planned yet." in page_of(None)


def test_the_policy_allows_this_stylesheet_and_nothing_else() -> None:
    document = render_document(render_body(sheet_of(mixed())), Frame(title="t", when="now"))
    (css,) = re.findall(r"<style>(.*?)</style>", document.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert document.policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    assert document.html.count("Content-Security-Policy") == 1
    assert "<script" not in document.html
    assert " style=" not in document.html
    assert not re.search(r"(?:src|href)=\"(?!#|data:|\?)", document.html)


def test_what_a_frame_says_around_it() -> None:
    plain = page_of(None)
    assert 'http-equiv="refresh"' not in plain
    assert "<footer>" not in plain
    page = page_of(
        None, warning="stands by", foot=("a", "b"), refresh_seconds=15, other=("?refresh=no", "stop refreshing")
    )
    assert '<meta http-equiv="refresh" content="15">' in page
    assert '<a href="?refresh=no">stop refreshing</a>' in page
    assert 'role="status"><bdi>stands by</bdi>' in page
    assert "<footer><p>a</p><p>b</p></footer>" in page


def test_nothing_that_a_user_wrote_becomes_markup() -> None:
    sheet = sheet_of(with_pods(a_world(mps_node("n"), replicas=2, mode=Mode.MPS)))
    (node,), (deployment,) = sheet.nodes, sheet.deployments
    block = replace(node.bars[0].blocks[0], name=NASTY, full=NASTY, words=NASTY, share=NASTY)
    bar = replace(node.bars[0], unit=NASTY, free=NASTY, withheld=NASTY, blocks=(block,))
    node = replace(node, name=NASTY, product=NASTY, notes=(NASTY,), flags=(NASTY,), bars=(bar,))
    node = replace(node, gpus=(Gpu(uuid=NASTY, power_w=1.0, fb_used_bytes=None),))
    deployment = replace(
        deployment, name=NASTY, full=NASTY, message=NASTY, what=NASTY, warning=NASTY, offers=(NASTY,), changes=(NASTY,)
    )
    nasty = replace(sheet, nodes=(node,), deployments=(deployment,), notes=(NASTY,), ends=(NASTY,), left_out=(NASTY,))
    page = page_of(nasty, title=NASTY, when=NASTY, warning=NASTY, foot=(NASTY,))
    page.encode()
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert page.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;\u202e\ufffd\ufffd&lt;/style&gt;") > 20


def test_reasons_and_ends_are_linked_and_listed() -> None:
    sheet = sheet_of(mixed())
    page = page_of(sheet)
    assert "What is wrong (" in page
    assert 'href="#d1"' in page
    assert 'id="d1"' in page
    assert "InsufficientGpus" in page
    assert "Rollouts and ends" not in page
    assert "<bdi>an end</bdi>" in page_of(replace(sheet, ends=("an end",)))
    unlinked = replace(sheet, troubles=tuple(replace(trouble, anchor="", count=0) for trouble in sheet.troubles))
    assert 'href="#d1"' not in page_of(unlinked).partition('id="wrong"')[2].partition("</section>")[0]
    assert "What is wrong" not in page_of(replace(sheet, troubles=()))


@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_total_is_wrong_where_that_is_known_whatever_its_words(is_wrong: bool) -> None:
    note = "3 without a place, none with"
    total = Total(name="n", value="1", note=note, is_wrong=is_wrong)
    page = page_of(replace(sheet_of(a_snapshot()), totals=(total,)))
    assert (f'<small class="bad">{note}</small>' in page, f"<small>{note}</small>" in page) == (is_wrong, not is_wrong)


def test_a_world_without_anything() -> None:
    words = _words(page_of(sheet_of(a_snapshot())))
    assert "No node with a GPU is there." in words
    assert "There is no SLMDeployment." in words


def test_what_a_node_adds_up_to_is_said() -> None:
    world = replace(scaled(mps_node("n", gpus=2)).running(2).under(5.0).snapshot, gpus=(a_reading("n", None),))
    sheet = sheet_of(world)
    assert " of 2 GPUs in use · 2 replicas · " in _words(
        page_of(replace(sheet, nodes=(replace(sheet.nodes[0], units_held=0),)))
    )
    node = replace(
        sheet.nodes[0],
        units_held=1,
        ceiling_w=450.0,
        gpus=(*sheet.nodes[0].gpus, Gpu(uuid="GPU-1", power_w=99.6, fb_used_bytes=2**30)),
    )
    words = _words(page_of(replace(sheet, nodes=(node,))))
    assert " of 2 GPUs in use, 1 held · 2 replicas · " in words
    assert "measured: power unknown (GPU-01234567)" in words
    assert "measured: 100 W, 1.0 GiB used (GPU-1)" in words
    assert "ceiling 450 W a GPU" in words
    part = replace(node, power_of=1)
    assert "predicted for 1 of 2" in _words(page_of(replace(sheet, nodes=(part,))))


def test_bars_without_a_size_share_what_there_is() -> None:
    pods = tuple(a_stranger(name, "n", resource="nvidia.com/mig-9g.9gb") for name in ("s", "t"))
    page = page_of(sheet_of(a_world(a_node("n"), replicas=0, pods=pods)))
    assert "limit unknown" in page


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("qwen-0", "<span><bdi>qwen</bdi></span><span><bdi>-0</bdi></span>"),
        ("qwen-0 engine 1", "<span><bdi>qwen-0 engine</bdi></span><span><bdi> 1</bdi></span>"),
        ("a-very-long-ending", "<span><bdi>a-very-long</bdi></span><span><bdi>-ending</bdi></span>"),
        ("ends-in-somethinglong", "<span><bdi>ends-in-somethinglong</bdi></span>"),
        ("plain", "<span><bdi>plain</bdi></span>"),
        ("-0", "<span><bdi>-0</bdi></span>"),
    ],
)
def test_names_keep_their_number(name: str, shown: str) -> None:
    sheet = sheet_of(a_world(mps_node("n"), mode=Mode.MPS))
    bar = sheet.nodes[0].bars[0]
    node = replace(sheet.nodes[0], bars=(replace(bar, blocks=(replace(bar.blocks[0], name=name),)),))
    assert f'<span class="name">{shown}</span>' in page_of(replace(sheet, nodes=(node,)))


def test_many_nodes_fold_but_those_where_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_nodes, "MOST_OPEN", 1)
    sheet = sheet_of(mixed())
    nodes = (replace(sheet.nodes[0], troubled=True, flags=("cordoned",)), *sheet.nodes[1:])
    html = render_nodes(nodes, longest_bytes=sheet.longest_bytes, styles=Styles())
    assert html.count("<details") == 3
    assert html.count('<details class="node panel" open>') == 1
    assert "something fails" in html
    assert "cordoned" in html


def test_a_folded_node_shows_its_gpus_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_nodes, "MOST_OPEN", 0)
    sheet = sheet_of(with_pods(a_world(whole_node("n", gpus=8), replicas=2, mode=Mode.EXCLUSIVE)))
    node = sheet.nodes[0]
    first = replace(node.bars[0], blocks=(replace(node.bars[0].blocks[0], state="failing"),))
    html = render_nodes([replace(node, bars=(first, *node.bars[1:]))], longest_bytes=1, styles=Styles())
    line = html.partition('<svg class="mini"')[2].partition("</svg>")[0]
    assert [line.count(f'class="{kind}"') for kind in ("rail", "failing", "k0")] == [8, 1, 1]
    assert re.search(r'x="125.0" y="0" width="119.0" height="10" class="rail"', line)


def test_watts_are_on_a_scale_up_to_the_tdp() -> None:
    sheet = sheet_of(a_world(mps_node("n"), replicas=3, mode=Mode.MPS))
    (node,) = sheet.nodes
    bar = node.bars[0]
    assert bar.power_w is not None

    def gauge(**changes: object) -> str:
        page = page_of(replace(sheet, nodes=(replace(node, **changes),)))  # type: ignore[arg-type]
        return page.partition('<ul class="bars"')[2].partition('<svg class="gauge"')[2].partition("</svg>")[0]

    assert node.tdp_w == 700.0
    place = round(bar.power_w.expected / 700 * 72, 1)
    assert f'<rect x="{place}" y="0" width="2" height="8" class="now">' in gauge()
    assert 'class="top"' not in gauge()
    assert '<rect x="36.0" y="0" width="2" height="8" class="top">' in gauge(ceiling_w=350.0)
    assert 'class="top"' not in gauge(ceiling_w=9000.0), "beyond the scale"
    assert gauge(tdp_w=None) == ""
    assert gauge(bars=(replace(bar, power_w=None),)) == ""
    hot = replace(bar, power_w=Interval(low=600.0, expected=1400.0, high=1400.0, basis=Basis.MODELLED))
    assert '<rect x="70.0" y="0" width="2" height="8" class="now">' in gauge(bars=(hot,)), "within the picture"


def test_many_deployments_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    assert page_of(sheet_of(mixed())).count('class="deployment panel" id="d0" open') == 1
    monkeypatch.setattr(shown_deployments, "MOST_OPEN", 1)
    assert page_of(sheet_of(mixed())).count('class="deployment panel" id="d0">') == 1


def test_what_is_not_known_is_left_out() -> None:
    sheet = sheet_of(scaled(mps_node("n")).snapshot)
    (deployment,), (node,) = sheet.deployments, sheet.nodes
    assert deployment.scaling is not None
    scaling = replace(deployment.scaling, figures=(), power="100 W (90 to 110)", ceiling_w=None)
    pays = replace(deployment.pays[0], figures=(), curve=None, reasons=(), no_more="", warning="careful")
    bare = replace(deployment, memory=(), pays=(pays,), scaling=scaling, offers=(), replicas=(), changes=())
    html = page_of(replace(sheet, deployments=(bare,), nodes=(replace(node, units=0, power_w=None),)))
    assert "What a replica needs" not in html
    assert "careful" in html
    assert "hottest GPU, an estimate: 100 W (90 to 110)</p>" in html
    assert "numbers behind it" not in html
    assert "in use" not in html.partition('id="n0"')[2].partition("</section>")[0]
    cold = replace(bare, scaling=replace(scaling, power=""))
    assert "hottest GPU" not in page_of(replace(sheet, deployments=(cold,)))
    ceiling = replace(bare, scaling=replace(scaling, ceiling_w=450.0))
    assert "spec.scaling.maxWattsPerGPU is 450 W" in page_of(replace(sheet, deployments=(ceiling,)))


def test_many_replicas_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_deployments, "MOST_REPLICAS", 1)
    assert "3 more are not listed." in page_of(
        sheet_of(a_world(whole_node("n", gpus=4), replicas=4, mode=Mode.EXCLUSIVE))
    )


def test_the_legend_explains_what_is_there_and_no_more() -> None:
    assert render_legend(()) == ""
    legend = _words(render_legend(sheet_of(a_world(mps_node("n"), mode=Mode.MPS)).nodes))
    assert "starts now" in legend
    assert "withheld" in legend
    assert "another's pod" not in legend


def test_more_deployments_than_colours_begin_anew() -> None:
    assert shown_nodes.colour_class(COLOURS + 2) == "k2"
    assert shown_nodes.colour_class(None) == ""
    assert STYLE.count("--c0:") == 2, "a light and a dark one"


def test_a_failing_block_says_why() -> None:
    sheet = sheet_of(a_world(mps_node("n"), mode=Mode.MPS))
    bar = sheet.nodes[0].bars[0]
    block: Block = replace(bar.blocks[0], state="failing", words="OOMKilled: too much", measured_bytes=2**30)
    nodes = (replace(sheet.nodes[0], bars=(replace(bar, blocks=(block,)),)),)
    html = page_of(replace(sheet, nodes=nodes))
    assert '<span class="state">OOMKilled: too much</span>' in html
    assert "1.0 GiB measured" in html


def _curve(*batches: int, knee: int, limit: float | None = None, replicas: int = 1) -> KneeCurve:
    points = tuple(
        KneePoint(
            batch=batch,
            throughput_tok_s=Interval(
                low=90.0 * batch, expected=100.0 * batch, high=120.0 * batch, basis=Basis.MODELLED
            ),
            itl_s=Interval.exactly(0.01, Basis.MODELLED),
        )
        for batch in batches
    )
    return KneeCurve(points=points, replicas=replicas, knee=knee, runs=knee, itl_limit_s=limit)


def test_a_curve_is_a_picture_with_words_and_a_table() -> None:
    html = render_curve(_curve(1, 2, 4, 8, knee=8, limit=0.04, replicas=3), name="x", colour="k1")
    assert 'role="img" aria-labelledby="xt xd"' in html
    assert "3 replicas on one GPU: 800 output tokens/s and 10.0 ms between tokens at the knee, a batch of 8" in html
    assert "bound 40.0 ms" in html
    assert "8 (knee)" in html
    assert "720 to 960" in html


def test_a_knee_at_the_left_has_its_words_at_the_right() -> None:
    assert 'text-anchor="start"' in render_curve(_curve(1, 64, knee=1), name="x", colour="")
    late = render_curve(_curve(1, 64, knee=64), name="x", colour="")
    assert re.search(r'text-anchor="end" class="strong">knee: 64', late)
    assert "bound" not in late


def test_a_curve_of_one_point() -> None:
    html = render_curve(_curve(1, knee=1), name="x", colour="")
    assert "1 replica on one GPU" in html
    assert "nan" not in html


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (0, (0.0, 1.0)),
        (22_000, (0.0, 5_000.0, 10_000.0, 15_000.0, 20_000.0, 25_000.0)),
        (10, (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)),
        (0.07, (0.0, 0.02, 0.04, 0.06, 0.08)),
    ],
)
def test_ticks_are_round_and_hold_the_largest(most: float, expected: tuple[float, ...]) -> None:
    assert ticks(most) == pytest.approx(expected)


def test_the_same_plan_gives_the_same_page() -> None:
    assert page_of(sheet_of(mixed())) == page_of(sheet_of(mixed()))


def test_colours_have_names_where_each_has_one() -> None:
    sheet = sheet_of(mixed())
    legend = render_colours(sheet.deployments, sheet.nodes)
    assert legend.count("<li>") == 2
    assert '<span class="swatch k0" aria-hidden="true"></span><a href="#d0"><bdi>llm/qwen</bdi></a>' in legend
    assert render_colours(sheet.deployments[:1], sheet.nodes).count("<li>") == 1, "only whose names are known"
    assert render_colours(sheet.deployments, ()) == ""
    twin = replace(sheet.deployments[1], colour=COLOURS)
    block = replace(sheet.nodes[0].bars[0].blocks[0], colour=COLOURS)
    node = replace(sheet.nodes[0], bars=(replace(sheet.nodes[0].bars[0], blocks=(block,)),))
    assert render_colours((sheet.deployments[0], twin), (node, *sheet.nodes[1:])) == "", "two look alike"


def test_bars_are_named_by_their_numbers() -> None:
    sheet = sheet_of(a_world(whole_node("n", gpus=8), mig_node("m", slices={"1g.5gb": 7}), replicas=0))
    html = render_nodes(sheet.nodes, longest_bytes=sheet.longest_bytes, styles=Styles())
    assert "<b>1g.<wbr>5gb</b> x 7" in html
    assert "<b>GPU 0 to 7</b>" in html
    one = replace(sheet.nodes[1], bars=(replace(sheet.nodes[1].bars[0], count=1, index=3),))
    assert "<b>GPU 3</b>" in render_nodes((one,), longest_bytes=sheet.longest_bytes, styles=Styles())


def test_a_rejected_spec_says_why_where_its_reasons_are() -> None:
    refused = Rejected(problems=(Problem(reason=Reason.INVALID_SPEC, message="no", field="spec.replicas"),))
    words = _words(page_of(sheet_of(a_snapshot(deployments=(a_deployment("qwen", refused),)))))
    assert "Why it is rejected InvalidSpec: spec.replicas: no" in words
    assert "Where replicas are" not in words
