"""`slmpack plan --html` in a real browser: where things are, how wide they are, and who can use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slmpack.domain.sharing import Mode
from slmpack.page.document import Frame, render_body, render_document
from slmpack.page.gather import gather_sheet
from tests.browser.sight import Sight
from tests.support.builders import (
    POLICY,
    a_demand,
    a_deployment,
    a_node,
    a_snapshot,
    a_stranger,
    mig_node,
    mps_node,
    plan,
    whole_node,
)

ROOT = Path(__file__).parents[2]
FILES = (
    "scaling/chat.yaml",
    "mig.yaml",
    "mps.yaml",
    "exclusive.yaml",
    "nodes/a100-h100-l4.yaml",
)
WIDTHS = (400, 800, 1600)
Look = Callable[..., Sight]
LONG = "a-name-of-sixty-three-characters-which-is-all-that-a-label-holds"[:63]


@dataclass(frozen=True)
class Made:
    """A page and what `plan -o json` says of the same."""

    address: str
    gpus: list[dict[str, Any]]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("page") / "plan.html"
    files = [word for name in FILES for word in ("-f", str(ROOT / "examples" / name))]
    loads = ["--loads", str(ROOT / "examples/scaling/loads/chat.yaml")]
    command = [sys.executable, "-m", "slmpack", "plan", *files, *loads, "-o", "json", "--html", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return Made(address=path.as_uri(), gpus=json.loads(done.stdout)["gpus"])


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of the pages of all worlds."""
    folder = tmp_path_factory.mktemp("worlds")
    return {name: _page(folder / f"{number}.html", make()) for number, (name, make) in enumerate(WORLDS.items())}


def _page(path: Path, snapshot: Any) -> str:
    sheet = gather_sheet(plan(snapshot), snapshot, POLICY)
    path.write_text(render_document(render_body(sheet), Frame(title="t", when="now")).html, encoding="utf-8")
    return path.as_uri()


def _large() -> Any:
    """200 GPUs on 25 nodes, more than half of them in use by 30 SLMDeployments."""
    demand = a_demand(replicas=8, mode=Mode.MPS, max_per_gpu=2)
    views = tuple(a_deployment(f"model-{n:02}", demand) for n in range(30))
    nodes = tuple(mps_node(f"gpu-{n:02}", gpus=8, cpu=256_000) for n in range(25))
    return a_snapshot(deployments=views, nodes=nodes)


def _long_names() -> Any:
    views = tuple(
        a_deployment(f"{LONG[:-2]}{n}", a_demand(replicas=3, mode=Mode.MPS), namespace=LONG) for n in range(2)
    )
    nodes = (mps_node(f"{LONG}.{LONG}.example"), mig_node(f"m{LONG[:-1]}"), a_node("odd", product="NVIDIA-None"))
    return a_snapshot(deployments=views, nodes=nodes, pods=(a_stranger(LONG, nodes[0].name),))


WORLDS = {
    "nothing": a_snapshot,
    "one GPU": lambda: a_snapshot(deployments=(a_deployment("qwen", a_demand(replicas=2)),), nodes=(whole_node("n"),)),
    "200 GPUs": _large,
    "long names": _long_names,
}


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(look: Look, example: Made, width: int) -> None:
    sight = look(example.address, width=width)
    sight.open_all()
    assert sight.overflow <= 0


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("world", WORLDS)
def test_any_world_fits_any_window(look: Look, worlds: dict[str, str], world: str, width: int) -> None:
    sight = look(worlds[world], width=width)
    assert sight.overflow <= 0
    sight.open_all()
    assert sight.overflow <= 0
    _assert_blocks_within_bars(sight)


def _assert_blocks_within_bars(sight: Sight) -> None:
    for bar in sight.bars():
        edge = bar.left
        for part in bar.parts:
            assert part.left == pytest.approx(edge, abs=0.1), "one after another, without gap or overlap"
            edge = part.right
            assert bar.top - 0.1 <= part.top
            assert part.bottom <= bar.bottom + 0.1
        assert edge <= bar.right + 1


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_and_blocks_are_as_long_as_their_memory(look: Look, example: Made, width: int) -> None:
    sight = look(example.address, width=width)
    shown = sight.bars()
    assert len(shown) == len(example.gpus)
    longest = max(gpu["usable_bytes"] for gpu in example.gpus)
    for bar, gpu in zip(shown, example.gpus, strict=True):
        gap = 3 if gpu["index"] is None else 0  # between slices that stand side by side
        assert bar.width + gap == pytest.approx(gpu["usable_bytes"] / longest * bar.room, abs=1.0)
        blocks = [part for part in bar.parts if "block" in part.kind]
        assert len(blocks) == len(gpu["blocks"])
        for block, said in zip(blocks, gpu["blocks"], strict=True):
            assert block.width == pytest.approx(said["bytes"] / gpu["usable_bytes"] * bar.width, abs=1.0)
    _assert_blocks_within_bars(sight)


def test_every_block_says_who_it_is_and_how_it_is(look: Look, example: Made) -> None:
    texts = [box["text"] for box in look(example.address).boxes("ul.bars .block")]
    said = [block for gpu in example.gpus for block in gpu["blocks"]]
    assert len(texts) == len(said)
    for text, block in zip(texts, said, strict=True):
        assert block["replica"].partition("/")[2] in text
        assert block["share"] in text
        assert "limit " in text


def test_what_is_wide_enough_is_not_cut(look: Look, example: Made) -> None:
    cut = look(example.address, width=1600).page.evaluate(
        "[...document.querySelectorAll('.block')].filter(b => b.clientWidth > 110)"
        ".flatMap(b => [...b.querySelectorAll('.name span, .state')]).filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.textContent)"
    )
    assert cut == []


CUT = """
[...document.querySelectorAll('.block:not(.failing)')].flatMap(b =>
  [...b.querySelectorAll('.state, .name span + span')].filter(e => e.getClientRects().length && (
    e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > b.getBoundingClientRect().right + 1))
).concat([...document.querySelectorAll('.slice .head b')].filter(e => e.scrollWidth > e.closest('.slice').clientWidth))
.map(e => e.textContent)
"""


@pytest.mark.parametrize("width", [400, 1280])
def test_what_is_too_small_for_its_words_says_a_number_and_nothing_half(look: Look, example: Made, width: int) -> None:
    sight = look(example.address, width=width)
    assert sight.page.evaluate(CUT) == []
    narrow = [block for block in sight.boxes("ul.bars .slice .block") if block["width"] < 50]
    assert bool(narrow) == (width == 400)
    titles = sight.page.locator("ul.bars .block").evaluate_all("all => all.map(e => e.title)")
    names = [block["replica"] for gpu in example.gpus for block in gpu["blocks"]]
    assert [title.partition(";")[0] for title in titles] == names


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_block_has_the_colour_that_the_legend_gives_its_name(look: Look, example: Made, scheme: str) -> None:
    sight = look(example.address, scheme=scheme)
    keys = sight.page.locator(".legend.colours li").evaluate_all(
        "all => all.map(li => [li.innerText.trim(), getComputedStyle(li.querySelector('.swatch')).backgroundColor])"
    )
    drawn = sight.page.locator("ul.bars .block").evaluate_all(
        "all => all.map(b => [b.title.split(';')[0], getComputedStyle(b.querySelector('.strip .weights')).backgroundColor])"
    )
    assert len(keys) == len({colour for _, colour in keys}) == 4
    colours = dict(keys)
    for name, colour in drawn:
        assert colours[name.partition("/")[2].rpartition("-")[0]] == colour


MARKS = """
[...document.querySelectorAll('figure.curve')].map(figure => ({
  lines: [...figure.querySelectorAll('polyline')].map(line => [...line.points].map(p => [p.x, p.y])),
  dots: [...figure.querySelectorAll('circle')].map(dot => [dot.cx.baseVal.value, dot.cy.baseVal.value]),
  rule: figure.querySelector('line.knee').x1.baseVal.value,
  rows: [...figure.querySelectorAll('tbody th')].map(th => th.textContent),
  words: figure.querySelector('desc').textContent,
}))
"""


def test_the_knee_is_marked_where_the_table_says(look: Look, example: Made) -> None:
    found = look(example.address).page.evaluate(MARKS)
    assert len(found) == 4
    for figure in found:
        (number,) = [number for number, row in enumerate(figure["rows"]) if "(knee)" in row]
        assert f"a batch of {figure['rows'][number].split()[0]} at each" in figure["words"]
        assert len(figure["lines"]) == len(figure["dots"]) == 2
        for line, dot in zip(figure["lines"], figure["dots"], strict=True):
            assert dot == pytest.approx(line[number], abs=0.11)
            assert figure["rule"] == pytest.approx(dot[0], abs=0.11)
        places = [x for x, _ in figure["lines"][0]]
        assert places == sorted(places)


@pytest.mark.parametrize("width", [400, 1600])
def test_text_in_a_curve_can_be_read(look: Look, example: Made, width: int) -> None:
    heights = [box["bottom"] - box["top"] for box in look(example.address, width=width).boxes("figure.curve text")]
    assert heights
    assert min(heights) >= 9, "CSS pixels, whatever the picture is scaled to"


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1600, "dark")])
def test_no_rule_of_accessibility_is_broken(look: Look, example: Made, width: int, scheme: str) -> None:
    sight = look(example.address, width=width, scheme=scheme)
    sight.open_all()
    assert sight.violations() == []


@pytest.mark.parametrize("width", [400, 500, 640])
def test_words_of_a_table_stay_whole_in_a_narrow_window(look: Look, example: Made, width: int) -> None:
    rows = look(example.address, width=width).boxes(".facts tr")
    assert rows
    assert max(row["bottom"] - row["top"] for row in rows) < 120


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("world", WORLDS)
def test_no_world_breaks_a_rule_of_accessibility(look: Look, worlds: dict[str, str], world: str, scheme: str) -> None:
    assert look(worlds[world], scheme=scheme).violations() == []


def test_dark_is_dark_and_light_is_light(look: Look, example: Made) -> None:
    light, dark = look(example.address), look(example.address, scheme="dark")
    assert min(light.colour("body", "backgroundColor")) > 230
    assert max(dark.colour("body", "backgroundColor")) < 40
    assert min(dark.colour("body", "color")) > 200


def test_the_states_differ_by_more_than_colour(look: Look, example: Made) -> None:
    styles = look(example.address).page.evaluate(
        "['ready', 'planned', 'waiting'].map(s => { const c = getComputedStyle(document.querySelector('.bars .' + s));"
        " return c.borderTopStyle + c.borderLeftStyle; })"
    )
    assert len(set(styles)) == 3


def test_the_keyboard_reaches_and_unfolds_everything(look: Look, example: Made) -> None:
    sight = look(example.address)
    sight.page.keyboard.press("Tab")
    assert sight.page.evaluate("document.activeElement.textContent") == "Skip to the picture"
    assert sight.boxes(".skip")[0]["left"] >= 0, "it shows itself"
    folded = sight.page.locator("details:not([open]) > summary").first
    folded.focus()
    sight.page.keyboard.press("Enter")
    assert sight.page.evaluate("document.activeElement.parentElement.open")
    stops = sight.page.evaluate("[...document.querySelectorAll('a, summary')].every(e => e.tabIndex >= 0)")
    assert stops


def test_a_reader_of_the_screen_finds_landmarks_headings_and_lists(look: Look, example: Made) -> None:
    page = look(example.address).page
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("region", name="GPUs").count() == 1
    bar = page.get_by_role("list", name="GPU 0: 58.6 GiB of 79.2 GiB; 1 share of 19.5 GiB free")
    assert bar.get_by_role("listitem").count() == 5, "three replicas, free room, what is withheld"
    assert page.get_by_role("img").count() == 4


def test_many_gpus_fold_into_nodes_with_their_sums(look: Look, worlds: dict[str, str]) -> None:
    sight = look(worlds["200 GPUs"], width=1600)
    assert len(sight.boxes(".node")) == 25
    assert sight.page.locator("details.node[open]").count() == 0
    summaries = sight.boxes(".node summary")
    assert len(summaries) == 25
    assert all("of 8 GPUs in use" in box["text"] for box in summaries)
    assert sight.page.evaluate("document.documentElement.outerHTML.length") < 3_000_000


def test_what_users_write_stays_text(look: Look, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script><img src=x onerror=alert(1)>\u202e\u0000\"'"
    view = a_deployment("qwen", a_demand(replicas=1), namespace=nasty)
    sight = look(_page(tmp_path / "page.html", a_snapshot(deployments=(view,), nodes=(whole_node(nasty),))))
    assert sight.page.locator("script, img:not([role])").count() == 0
    assert any("<script>alert(1)</script>" in box["text"] for box in sight.boxes("h3"))


def test_printed_it_is_light_and_unfolded(look: Look, example: Made) -> None:
    sight = look(example.address, scheme="dark")
    folded = sight.page.locator("details:not([open]) table").first
    assert not folded.is_visible()
    sight.page.emulate_media(media="print", color_scheme="dark")
    assert sight.colour("body", "backgroundColor") == (255, 255, 255)
    assert max(sight.colour("body", "color")) < 60
    assert folded.is_visible()
