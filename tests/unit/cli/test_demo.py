"""The demo as a process: it becomes Ready, its kubectl session works, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.demo import a_demo, check_session, run_session

pytestmark = pytest.mark.timeout(240)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_session_that_the_demo_prints(tmp_path: Path) -> None:
    with a_demo("--stay", "--seed", "1", folder=tmp_path) as demo:
        demo.wait_for("Ctrl-C ends the demo")
        operator = int(re.search(r"process (\d+)", demo.text)[1])  # type: ignore[index]
        assert _is_alive(operator)
        assert "█ qwen2-5-1-5b-0" in demo.text
        check_session(run_session(demo), name="qwen2-5-1-5b")
        assert demo.interrupt() == 0, demo.text
    assert not _is_alive(operator)
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_it_ends_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    with a_demo(folder=tmp_path) as demo:
        assert demo.finish() == 0, demo.text
    assert "Everything is Ready." in demo.text
    assert "The demo ends here and removes what it made; --stay keeps it until Ctrl-C." in demo.text
    assert "in another terminal" not in demo.text
    assert list(tmp_path.iterdir()) == []


def test_in_a_terminal_it_stays_until_interrupted_and_says_so(tmp_path: Path) -> None:
    with a_demo(folder=tmp_path, terminal=True) as demo:
        demo.wait_for("Ctrl-C ends the demo and removes everything that it made.")
        assert demo.process.poll() is None
        assert demo.interrupt() == 0, demo.text
    assert list(tmp_path.iterdir()) == []


def test_once_that_cannot_be_ready_in_time_says_what_is_missing(tmp_path: Path) -> None:
    with a_demo("--once", "--timeout", "1", folder=tmp_path) as demo:
        demo.wait_for("error: not everything is Ready after 1 s")
        assert demo.finish() == 1
        assert "qwen3-0-6b" in demo.text.split("error: ")[1]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_start_leaves_nothing(tmp_path: Path) -> None:
    with a_demo(folder=tmp_path) as demo:
        demo.wait_for("applied")
        assert demo.interrupt() == 130, demo.text
    assert list(tmp_path.iterdir()) == []
