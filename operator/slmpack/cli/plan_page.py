"""`slmpack plan --html`: the plan as one page, in a file or on standard output."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

import click

from slmpack import __version__
from slmpack.cli.world import World
from slmpack.domain.plan import ClusterPlan
from slmpack.page.document import Frame, render_body, render_document
from slmpack.page.gather import gather_sheet

__all__ = ["STDOUT", "check_place", "write_page"]

STDOUT = "-"


def check_place(where: str) -> None:
    """Look, before anything is planned, whether the page can be written there. Raises click.ClickException."""
    if not where.strip():
        raise click.ClickException("--html: the name is empty; name a file, or - for standard output")
    if where == STDOUT:
        return
    try:
        path = _target(where)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(None, "it is there and may not be changed")
        if _is_replaced(path):
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except (OSError, ValueError) as error:
        raise _unwritable(where, error) from error


def write_page(where: str, plan: ClusterPlan, world: World) -> None:
    """Write the page. click.ClickException where the file cannot be written."""
    sheet = gather_sheet(
        plan, world.snapshot, world.policy, asked=world.asked, sources=world.sources, what_if=world.what_if
    )
    when = f"what would happen, planned {world.snapshot.now:%Y-%m-%d %H:%M:%S %Z}; nothing was changed"
    frame = Frame(title="slmpack plan", when=when, foot=(f"slmpack {__version__}: slmpack plan --html",))
    data = render_document(render_body(sheet), frame).html.encode()
    if where == STDOUT:
        click.echo(data, nl=False)
        return
    try:
        _write(_target(where), data)
    except OSError as error:
        raise _unwritable(where, error) from error
    click.echo(f"the page is in {where}", err=True)


def _target(where: str) -> Path:
    """A link is followed: what it points to is replaced, not the link."""
    return Path(where).resolve()


def _is_replaced(path: Path) -> bool:
    """Files are; a pipe or a device is written to."""
    return path.is_file() or not path.exists()


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing: whoever reads the file meanwhile has the old page whole."""
    if not _is_replaced(path):
        path.write_bytes(data)
        return
    part = path.with_name(f".slmpack-{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        if path.exists():
            part.chmod(path.stat().st_mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _unwritable(where: str, error: Exception) -> click.ClickException:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return click.ClickException(
        f"--html {where}: cannot be written: {why}; name a file in a folder that you may change"
    )
