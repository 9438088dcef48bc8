"""The pages, their fenced blocks with commands, and what a mark before a block says of it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["ROOT", "SHELLS", "Block", "Mark", "MarkError", "blocks", "pages", "parse_mark", "unmarked_commands"]

ROOT = Path(__file__).parents[2]
SHELLS = ("sh", "console", "bash")
NOT_PAGES = ("CHANGELOG.md", "benchmarks/data/", "tests/")
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<info>[^`]*)$")
COMMENT = re.compile(r"^\s*<!-- docs-test: (.+?) -->\s*$")
LOOKS_LIKE_A_COMMAND = re.compile(r"^(\$ |(kubectl|slmpack|helm|make|pip|git|curl|docker|buildah|argocd|flux) )")
PARSED = ("needs ", "takes ")


class MarkError(ValueError):
    """A mark that nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What the comment before a block says."""

    reason: str = ""
    """Why it is parsed only; empty: it is run."""
    cluster: bool = False
    nodes: tuple[str, ...] = ()
    """Files of Nodes for the page's cluster."""
    with_slmpack: bool = False
    """An operator runs there already ..."""
    applied: tuple[str, ...] = ()
    """... and these files are applied and Ready."""
    gpu_operator: bool = False
    """There is a ClusterPolicy, which nobody acts on."""
    exit_code: int = 0
    varies: bool = False
    """The output shown is an example."""
    leave_running: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    """Relative to the root."""
    line: int
    info: str
    text: str
    mark: Mark = field(default_factory=Mark)

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"


def parse_mark(text: str) -> Mark:
    """The mark of `<!-- docs-test: TEXT -->`; parts are divided by semicolons. Raises MarkError."""
    found: dict[str, object] = {}
    parts = [it.strip() for it in text.split(";")]
    for at, part in enumerate(parts):
        words = part.split()
        if part.startswith(PARSED) and len(words) > 1:
            found["reason"] = "; ".join(it for it in parts[at:] if it != "parsed only")
            break
        match words:
            case ["cluster", *nodes]:
                found |= {"cluster": True, "nodes": tuple(nodes)}
            case ["with", "slmpack", *applied]:
                found |= {"cluster": True, "with_slmpack": True, "applied": tuple(applied)}
            case ["with", "the", "GPU", "operator"]:
                found |= {"cluster": True, "gpu_operator": True}
            case ["exit", code] if code.isdigit():
                found["exit_code"] = int(code)
            case ["output", "varies"]:
                found["varies"] = True
            case ["leave", "running"]:
                found["leave_running"] = True
            case _:
                raise MarkError(f"unknown mark {part!r} in {text!r}; docs/developing.md has those that there are")
    return Mark(**found)  # type: ignore[arg-type]


@cache
def pages() -> tuple[str, ...]:
    """Every Markdown page that tells users something, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return tuple(sorted(name for name in names if not name.startswith(NOT_PAGES) and (ROOT / name).is_file()))


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """All blocks of a page whose info string is a shell's. Raises MarkError."""
    return tuple(block for block in fenced(page, (ROOT / page).read_text(encoding="utf-8")) if block.info in SHELLS)


def unmarked_commands(page: str) -> list[str]:
    """Blocks that look like commands and do not say so in their info string, so that nobody would run them."""
    return [
        f"{block.where}: write ```sh or ```console"
        for block in fenced(page, (ROOT / page).read_text(encoding="utf-8"))
        if not block.info and any(LOOKS_LIKE_A_COMMAND.match(line) for line in block.text.splitlines())
    ]


def fenced(page: str, text: str) -> list[Block]:
    """Every fenced block of a page's text."""
    found: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        if opened is None:
            at += 1
            continue
        end = next(
            (n for n in range(at + 1, len(lines)) if lines[n].strip() == opened["fence"]),
            len(lines),
        )
        indent = len(opened["indent"])
        body = "\n".join(line[indent:] if not line[:indent].strip() else line for line in lines[at + 1 : end])
        before = COMMENT.match(lines[at - 1]) if at else None
        mark = parse_mark(before[1]) if before else Mark()
        info = opened["info"].strip()
        found.append(Block(page=page, line=at + 1, info=info, text=f"{body}\n", mark=mark))
        at = end + 1
    return found
