"""Asks the argument parser of `vllm serve`, which runs in the engine's own environment."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Option", "Parser"]

SERVICE = Path(__file__).parent / "parser_service.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of `vllm serve`."""

    spellings: tuple[str, ...]
    choices: tuple[str, ...]
    """Empty where any value is taken."""
    dest: str
    """Its name among the parsed values."""


@dataclass(frozen=True, slots=True)
class Parser:
    """The parser, one question at a time."""

    process: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def of(cls, programs: Path) -> Iterator[Parser]:
        """Start it (vLLM's imports take a minute on a busy machine)."""
        # -P: no module of this folder stands in the way of one that vLLM imports.
        command = [str(programs / "python"), "-P", str(SERVICE)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield cls(process)

    def options(self) -> dict[str, Option]:
        """All options but --help, by their long name."""
        return {
            name: Option(spellings=tuple(o["spellings"]), choices=tuple(o["choices"] or ()), dest=o["dest"])
            for name, o in self._ask({"ask": "options"}).items()
        }

    def parse(self, words: Sequence[str]) -> dict[str, str] | str:
        """The parsed values as text, or why the words of `vllm serve` are refused."""
        answer = self._ask({"ask": "parse", "words": list(words)})
        refused: str | None = answer.get("refused")
        values: dict[str, str] = answer.get("values", {})
        return values if refused is None else refused

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps(question)}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the parser ended with {self.process.wait()}; its message is above"
        answer: dict[str, Any] = json.loads(line)
        return answer
