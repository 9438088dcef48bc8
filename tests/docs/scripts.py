"""A block's commands one by one, each with the output that the page shows; and the programs that a command calls."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.docs.pages import Block

__all__ = ["Command", "SyntaxFault", "calls", "commands"]

SEPARATORS = frozenset({"|", "||", "&&", ";", "&", ";;", "(", ")", "|&", "\n"})
KEYWORDS = frozenset({"if", "then", "else", "elif", "while", "until", "do", "done", "fi", "!", "{", "}", "time"})
REDIRECTION = re.compile(r"^[<>&|]+$")
ASSIGNMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*=")
HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?([^\n]*)\n.*?^\s*\1$", re.DOTALL | re.MULTILINE)
SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")


class SyntaxFault(ValueError):
    """Not a script that bash reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One complete command, as it is typed."""

    text: str
    expected: str | None
    """The lines that the page shows after it; None where it shows none."""


def commands(block: Block) -> list[Command]:
    """The commands of a block in order. Raises SyntaxFault."""
    if block.info == "console":
        return _typed(block)
    return [Command(text=text, expected=None) for text in _complete(block.text.splitlines(), block.where)]


def _typed(block: Block) -> list[Command]:
    found: list[Command] = []
    text: list[str] = []
    shown: list[str] = []

    def end() -> None:
        if text:
            (whole,) = _complete(text, block.where) or [""]
            output = "\n".join(shown).strip("\n")
            found.append(Command(text=whole, expected=output or None))

    for line in block.text.splitlines():
        if line.startswith("$ "):
            end()
            text, shown = [line.removeprefix("$ ")], []
        elif text and not shown and (line.startswith("> ") or not is_complete("\n".join(text))):
            text.append(line.removeprefix("> "))
        elif text:
            shown.append(line)
        elif line.strip():
            raise SyntaxFault(f"{block.where}: a console block begins with `$ `, not with {line!r}")
    end()
    return found


def _complete(lines: list[str], where: str) -> list[str]:
    found: list[str] = []
    text: list[str] = []
    for line in lines:
        if not text and (not line.strip() or line.lstrip().startswith("#")):
            continue
        text.append(line)
        if is_complete("\n".join(text)):
            found.append("\n".join(text))
            text = []
    if text:
        raise SyntaxFault(f"{where}: bash does not read this: {' '.join(text)!r}")
    return found


def is_complete(text: str) -> bool:
    """Whether bash would run this rather than ask for more."""
    if text.endswith("\\"):
        return False
    done = subprocess.run(["bash", "-n"], input=f"{text}\n", capture_output=True, text=True, check=False)
    return done.returncode == 0 and not done.stderr


def calls(text: str) -> list[list[str]]:
    """The simple commands of a script: program and arguments, without redirections and assignments."""
    plain = _without_comments(HEREDOC.sub(r"\2", text)).replace("\\\n", " ")
    inner = [found for match in SUBSTITUTION.finditer(plain) for found in calls(match[1])]
    one_line = SUBSTITUTION.sub("$SUBSTITUTED", plain).replace("\n", " ; ")
    lexer = shlex.shlex(one_line, posix=True, punctuation_chars=True)
    lexer.commenters = ""
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif word in SEPARATORS:
            found.append([])
        elif REDIRECTION.match(word):
            skip = True
        elif found[-1] or not (ASSIGNMENT.match(word) or word in KEYWORDS):
            found[-1].append(word)
    return inner + [_without_descriptor(words) for words in found if words]


def _without_comments(text: str) -> str:
    kept, quote, before = [], "", "\n"
    at = 0
    while at < len(text):
        char = text[at]
        if not quote and char == "#" and before.isspace():
            at = text.find("\n", at)
            if at < 0:
                break
            continue
        if char in "'\"" and quote in {"", char}:
            quote = "" if quote else char
        kept.append(char)
        before = char
        at += 1
    return "".join(kept)


def _without_descriptor(words: list[str]) -> list[str]:
    """`2>&1` is lexed as a word `2` before the redirection."""
    return words[:-1] if len(words) > 1 and words[-1] in {"1", "2"} else words
