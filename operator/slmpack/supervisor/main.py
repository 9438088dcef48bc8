"""The supervisor's process: settings, signals, the last line, the exit code."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from slmpack.supervisor.config import ConfigError
from slmpack.supervisor.launch import adopt_orphans
from slmpack.supervisor.log import say
from slmpack.supervisor.settings import Settings, read_settings
from slmpack.supervisor.states import Ending
from slmpack.supervisor.supervise import Supervisor

__all__ = ["supervise"]

CONFIG_CODE = 78
"""EX_CONFIG of sysexits.h."""


def supervise() -> int:
    """Run until all has ended. 0: asked to; 70: a fatal fault; 78: told nonsense. The last line says why."""
    try:
        settings = read_settings(os.environ)
    except ConfigError as error:
        say(f"cannot start: {error}")
        return CONFIG_CODE
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="slmpack-"))
    try:
        ending = asyncio.run(_run(settings, folder=folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"ended: {ending.reason}")
    sys.stdout.flush()
    os._exit(ending.code)  # a thread may still hang in a request to the API server


async def _run(settings: Settings, *, folder: Path) -> Ending:
    supervisor = Supervisor(settings, folder=folder)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, supervisor.end, f"{sign.name} received")
    return await supervisor.run()
