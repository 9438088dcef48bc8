"""Runs inside the engine's environment: answers what the argument parser of `vllm serve` makes of words.

One JSON request a line on standard input, one JSON answer a line on standard output:
  {"ask": "options"}                -> {"--flag": {"spellings": [...], "choices": [...] | null, "kind": "..."}}
  {"ask": "parse", "words": [...]}  -> {"values": {...}} as text, or {"refused": "why"}
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve requests until standard input ends. Only answers go to standard output: vLLM logs there too."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parser = _serve_parser()
    for line in sys.stdin:
        request = json.loads(line)
        answer = _options(parser) if request["ask"] == "options" else _parse(parser, request["words"])
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()


def _serve_parser() -> Any:
    """The parser that `vllm serve` itself uses, validation included."""
    utils = importlib.import_module("vllm.utils.argparse_utils")
    serve = importlib.import_module("vllm.entrypoints.cli.serve")
    root = utils.FlexibleArgumentParser()
    (command,) = serve.cmd_init()
    command.subparser_init(root.add_subparsers(dest="subparser"))
    root.slmpack_validate = command.validate
    return root


def _options(root: Any) -> dict[str, Any]:
    (subparsers,) = (action for action in root._actions if isinstance(action, argparse._SubParsersAction))
    found = {}
    for action in subparsers.choices["serve"]._actions:
        if not action.option_strings or action.dest == "help":
            continue
        name = next(spelling for spelling in action.option_strings if spelling.startswith("--"))
        found[name] = {
            "spellings": action.option_strings,
            "choices": None if action.choices is None else [str(choice) for choice in action.choices],
            "dest": action.dest,
        }
    return found


def _parse(root: Any, words: list[str]) -> dict[str, Any]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            values = root.parse_args(["serve", *words])
            root.slmpack_validate(values)
    except SystemExit:
        return {"refused": said.getvalue().strip().splitlines()[-1]}
    except Exception as error:  # noqa: BLE001 - any error is the answer
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"values": {name: str(value) for name, value in vars(values).items()}}


if __name__ == "__main__":
    main()
