"""The picture: no line is wider than the terminal, every replica is in it, and the widths add up."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from slmpack.cli.draw import ASCII, UNICODE, Glyphs, block_widths, draw_bars, glyphs_of
from slmpack.domain.plan import Block, GpuBar
from slmpack.domain.quantity import GIB
from slmpack.domain.snapshot import Key

STATES = ("ready", "starting", "planned", "waiting", "ending", "foreign")


def a_block(number: int, *, size: int = GIB, state: str = "ready") -> Block:
    owner = None if state == "foreign" else Key("llm", f"model-{number % 3}")
    return Block(
        label=f"llm/model-{number % 3}-{number}", deployment=owner, share="MpsShare 1/4", used_bytes=size, state=state
    )


def a_bar(*blocks: Block, usable: int = 80 * GIB, index: int | None = 0, note: str = "") -> GpuBar:
    basis = None if index is None else "assumed"
    resource = "nvidia.com/mig-1g.10gb" if index is None else "nvidia.com/gpu"
    return GpuBar(
        node="node-1", resource=resource, index=index, index_basis=basis, product="NVIDIA-H100-80GB-HBM3",
        usable_bytes=usable, blocks=blocks, note=note, profile="1g.10gb" if index is None else "",
    )  # fmt: skip


def draw(bars: list[GpuBar], *, width: int, glyphs: Glyphs = UNICODE) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(draw_bars(bars, width=width, glyphs=glyphs))
    return capture.get().splitlines()


blocks = st.lists(
    st.builds(
        a_block,
        st.integers(min_value=0, max_value=99),
        size=st.integers(min_value=1, max_value=90 * GIB),
        state=st.sampled_from(STATES),
    ),
    max_size=60,
    unique_by=lambda block: block.label,
)
bars = st.lists(
    st.builds(
        lambda found, usable, index: a_bar(*found, usable=usable, index=index),
        blocks,
        st.integers(min_value=1, max_value=200 * GIB),
        st.sampled_from([None, 0, 1]),
    ),
    max_size=3,
)


@given(bars=bars, width=st.integers(min_value=12, max_value=160), glyphs=st.sampled_from([UNICODE, ASCII]))
def test_any_picture_fits_and_names_everyone(bars: list[GpuBar], width: int, glyphs: Glyphs) -> None:
    lines = draw(bars, width=width, glyphs=glyphs)
    assert max((cell_len(line) for line in lines), default=0) <= width
    text = "".join(line.strip() for line in lines).replace(" ", "")
    for bar in bars:
        for block in bar.blocks:
            assert block.label.partition("/")[2] in text


@given(
    found=blocks, usable=st.integers(min_value=1, max_value=200 * GIB), cells=st.integers(min_value=60, max_value=120)
)
def test_widths_add_up(found: list[Block], usable: int, cells: int) -> None:
    bar = a_bar(*found, usable=usable)
    widths = block_widths(bar, cells)
    assert len(widths) == len(found)
    assert all(width >= 1 for width in widths)
    assert sum(widths) <= cells
    used = sum(block.used_bytes for block in found)
    if found and used >= usable:
        assert sum(widths) == cells


def test_widths_are_proportional() -> None:
    bar = a_bar(a_block(0, size=20 * GIB), a_block(1, size=40 * GIB), usable=80 * GIB)
    assert block_widths(bar, 80) == (20, 40)


@pytest.mark.parametrize(
    ("glyphs", "line"),
    [
        (UNICODE, "  ▐█ model-0-0 █████▌▐░ model-1-1 ░░░░░▌······································"),
        (ASCII, "  [# model-0-0 #####][- model-1-1 -----]......................................"),
    ],
)
def test_one_bar(glyphs: Glyphs, line: str) -> None:
    bar = a_bar(a_block(0, size=20 * GIB), a_block(1, size=20 * GIB, state="waiting"))
    title, size, drawn, legend = draw([bar], width=78, glyphs=glyphs)
    assert title == "node-1  NVIDIA-H100-80GB-HBM3"
    assert size == "  GPU 0 (assumed)  40.0 GiB of 80.0 GiB"
    assert drawn == line
    assert "starts later, one at a time" in legend


def test_a_slice_is_one_line() -> None:
    lines = draw([a_bar(a_block(0, size=10 * GIB), usable=10 * GIB, index=None)], width=70)
    assert lines[1] == "  slice 1g.10gb  ▐█ model-0-0 █████████████████▌  10.0 GiB of 10.0 GiB"


def test_a_node_that_offers_nothing_says_why() -> None:
    text = " ".join(line.strip() for line in draw([a_bar(note="TimeSliced: it bounds nothing")], width=40))
    assert "offers nothing: TimeSliced: it bounds nothing" in text


@pytest.mark.parametrize(("encoding", "glyphs"), [("utf-8", UNICODE), ("ascii", ASCII), ("latin-1", ASCII)])
def test_plain_characters_where_the_output_has_no_others(encoding: str, glyphs: Glyphs) -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert glyphs_of(console) is glyphs


def test_colours_tell_deployments_apart_and_are_not_needed() -> None:
    bar = a_bar(a_block(0, size=20 * GIB), a_block(1, size=20 * GIB))
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", highlight=False)
    with console.capture() as capture:
        console.print(draw_bars([bar], width=80, glyphs=UNICODE))
    assert "\x1b[36m▐█ model-0-0" in capture.get()
    assert "\x1b[32m▐█ model-1-1" in capture.get()
