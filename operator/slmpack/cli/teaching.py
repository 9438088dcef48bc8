"""Help that teaches: examples before the options, options under headings, exit codes last."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click
from typing_extensions import override

__all__ = ["SECTIONS", "Taught", "print_exit_codes", "print_sections"]

SECTIONS = {
    "Before you apply": ("estimate", "predict", "plan", "profile", "simulate"),
    "What runs": ("top", "explain"),
    "The operator": ("crd", "run"),
    "First steps": ("demo", "completion"),
}
"""Every command, once, under what it is for."""
MEASURING = {"Measuring": ("prometheus_", "metric_", "metrics_", "gateway_")}
"""Options that any command may have; their names begin so."""
_PROGRAM = re.compile(r"(^|\| )slmpack ")


class Taught(click.Command):
    """A command that shows how it is used. An example is what it is for, and the line as `slmpack` would be called."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's own
        examples: Sequence[tuple[str, str]],
        exit_codes: Sequence[str],
        headings: Mapping[str, Sequence[str]] | None = None,
        **extra: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **extra)
        self.examples = tuple(examples)
        self.exit_codes = tuple(exit_codes)
        self.headings = {**(headings or {}), **MEASURING}

    @override
    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self._format_examples(ctx, formatter)
        self.format_options(ctx, formatter)
        print_exit_codes(formatter, self.exit_codes)

    @override
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Options", *self.headings)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                found[self._heading(param.name or "")].append(record)
        for heading, records in found.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def _heading(self, name: str) -> str:
        """Of an option; `headings` has the beginnings of names."""
        return next((it for it, starts in self.headings.items() if name.startswith(tuple(starts))), "Options")

    def _format_examples(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        program = ctx.find_root().info_name or "slmpack"
        with formatter.section("Examples"):
            for number, (what_for, line) in enumerate(self.examples):
                if number:
                    formatter.write_paragraph()
                command = _PROGRAM.sub(lambda found: f"{found[1]}{program} ", line)
                formatter.write(f"{'':>{formatter.current_indent}}# {what_for}\n")
                formatter.write(f"{'':>{formatter.current_indent}}{command}\n")


def print_exit_codes(formatter: click.HelpFormatter, codes: Sequence[str]) -> None:
    """One line each, as they are."""
    with formatter.section("Exit codes"):
        for code in codes:
            formatter.write(f"{'':>{formatter.current_indent}}{code}\n")


def print_sections(group: click.Group, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The group's commands, by what they are for."""
    width = formatter.width - 6 - max(map(len, group.commands))
    for heading, names in SECTIONS.items():
        commands = [(name, command) for name in names if (command := group.get_command(ctx, name)) is not None]
        with formatter.section(heading):
            formatter.write_dl([(name, command.get_short_help_str(width)) for name, command in commands])
