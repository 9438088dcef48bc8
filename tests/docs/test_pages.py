"""Every command of the pages: run as a user would, or parsed, with the reason why, and its flags known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.known import OTHERS, faults
from tests.docs.pages import ROOT, blocks, pages, unmarked_commands
from tests.docs.running import counted, play
from tests.docs.sandbox import programs
from tests.docs.scripts import calls, commands

WITH_COMMANDS = [page for page in pages() if blocks(page)]
INLINE = re.compile(r"(?<!`)(?<!not )`((?:slmpack|kubectl|helm|make) [^`\n]+)`(?!`)")
FENCED = re.compile(r"^ *(```+|~~~+).*?^ *\1", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"<[a-z-]+>|\.\.\.|\||…|\[|\]")


@pytest.mark.parametrize("page", pages())
def test_commands_say_that_they_are(page: str) -> None:
    assert unmarked_commands(page) == []


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_is_known(page: str, helm: Path) -> None:
    wrong = [
        f"{block.where}: {command.text}: {fault}"
        for block in blocks(page)
        for command in commands(block)
        for call in calls(command.text)
        for fault in faults(call, programs=programs(helm))
    ]
    assert wrong == []


def test_no_program_is_known_that_no_page_uses() -> None:
    found = [command for page in pages() for block in blocks(page) for command in commands(block)]
    assert {program for command in found for program, *_ in calls(command.text)} & OTHERS == OTHERS


@pytest.mark.parametrize("page", pages())
def test_every_command_in_a_sentence_is_known(page: str, helm: Path) -> None:
    text = FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    wrong = [
        f"{page}: {found}: {fault}"
        for found in INLINE.findall(text)
        if not PLACEHOLDER.search(found)
        for call in calls(found)
        for fault in faults(call, programs=programs(helm))
    ]
    assert wrong == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_of_a_page_work(page: str, tmp_path: Path, helm: Path, hub: str) -> None:
    count = play(blocks(page), folder=tmp_path, helm=helm, hub=hub)
    assert count == counted(page)[0]
