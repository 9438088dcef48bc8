"""The picture of throughput and latency against batch, as text and as PNG."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slmpack.cli.curve_picture import CurvePicture, PictureError, PicturePoint, draw_curve, write_png
from slmpack.domain.interval import Basis, Interval

OPT = (
    (1, 277, 3.62),
    (2, 531, 3.7),
    (4, 1018, 3.9),
    (8, 1741, 4.57),
    (16, 2925, 5.4),
    (32, 4160, 7.51),
    (64, 5908, 10.4),
    (96, 6553, 13.9),
    (128, 6897, 17.4),
    (256, 7842, 29.3),
    (512, 8128, 52.1),
)


def spread(value: float) -> Interval:
    return Interval(low=value * 0.8, expected=value, high=value * 1.2, basis=Basis.MODELLED)


def a_picture(knee: int | None = 96, *, points: tuple[tuple[int, float, float], ...] = OPT) -> CurvePicture:
    return CurvePicture(
        title="OPT-1.3B on one H100",
        points=tuple(
            PicturePoint(batch=batch, throughput_tok_s=spread(tok), itl_ms=spread(itl)) for batch, tok, itl in points
        ),
        knee=knee,
        itl_limit_ms=15.0,
    )


def test_the_picture_reads_without_colour_and_without_blocks() -> None:
    assert draw_curve(a_picture(points=OPT[5:9]), width=64, unicode=False) == [
        "        batch  output tokens/s           ITL ms",
        "           32  4,160 ###########          7.5 ########",
        "           64  5,908 ###############     10.4 ###########",
        "knee >     96  6,553 #################   13.9 ##############",
        "          128  6,897 ##################  17.4 ##################",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, unicode: bool) -> None:
    lines = draw_curve(a_picture(), width=width, unicode=unicode)
    assert len(lines) == len(OPT) + 1
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) >= width - 6, "the room is used"


def test_bars_are_as_long_as_their_values() -> None:
    lines = draw_curve(a_picture(points=((1, 100, 1), (2, 50, 4))), width=80, unicode=False)
    full, half = (line.split()[2] for line in lines[1:])
    assert len(full) == pytest.approx(2 * len(half), abs=1)
    quarter, whole = (line.split()[4] for line in lines[1:])
    assert len(whole) == pytest.approx(4 * len(quarter), abs=2)


def test_the_knee_is_marked_once_and_only_where_there_is_one() -> None:
    marked = [line for line in draw_curve(a_picture(), width=80, unicode=True) if "knee" in line]
    assert len(marked) == 1
    assert marked[0].startswith("knee >     96  6,553 ")
    assert not any("knee" in line for line in draw_curve(a_picture(None), width=80, unicode=True))


@pytest.mark.parametrize("knee", [1, 96, 512, None])
def test_the_png_is_a_picture(tmp_path: Path, knee: int | None) -> None:
    path = tmp_path / "curve.png"
    write_png(a_picture(knee), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert (width, height) == (1200, 930)
    assert len(content) > 20_000, "an empty page is smaller"


def test_a_knee_changes_the_png(tmp_path: Path) -> None:
    for name, knee in (("a", 96), ("b", None), ("c", 96)):
        write_png(a_picture(knee), tmp_path / name)
    first, without, again = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again, "the same curve gives the same file"
    assert first != without


def test_a_png_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"--png .*none/a\.png: cannot be written: No such file or directory"):
        write_png(a_picture(), tmp_path / "none" / "a.png")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PictureError, match="--png needs matplotlib, slmpack's optional extra `plots`"):
        write_png(a_picture(), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
