"""`slmpack plan --html`: the plan as one page, in a file or on standard output."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from slmpack import __version__
from slmpack.cli.world import World
from slmpack.domain.plan import ClusterPlan
from slmpack.page.document import Frame, render_body, render_document
from slmpack.page.gather import gather_sheet

__all__ = ["STDOUT", "write_page"]

STDOUT = "-"


def write_page(where: str, plan: ClusterPlan, world: World) -> None:
    """Write the page. click.ClickException where the file cannot be written."""
    sheet = gather_sheet(
        plan, world.snapshot, world.policy, asked=world.asked, sources=world.sources, what_if=world.what_if
    )
    when = f"what would happen, planned {world.snapshot.now:%Y-%m-%d %H:%M:%S %Z}; nothing was changed"
    frame = Frame(title="slmpack plan", when=when, foot=(f"slmpack {__version__}: slmpack plan --html",))
    data = render_document(render_body(sheet), frame).html.encode()
    if where == STDOUT:
        sys.stdout.buffer.write(data)
        return
    try:
        Path(where).write_bytes(data)
    except OSError as error:
        raise click.ClickException(f"--html {where}: cannot be written: {error.strerror or error}") from error
    click.echo(f"the page is in {where}", err=True)
