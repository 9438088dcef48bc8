"""The check before each start of an engine: its port, and its limit as a process in its environment sees it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence

from slmpack.supervisor.attachment import judge_probe, parse_probe
from slmpack.supervisor.config import EngineConfig
from slmpack.supervisor.device import DeviceReading
from slmpack.supervisor.helper import POLL_SECONDS, HelperError
from slmpack.supervisor.mps import MpsDaemon
from slmpack.supervisor.processes import Family
from slmpack.supervisor.states import Reason, Verdict
from slmpack.supervisor.timeouts import TooLateError, within

__all__ = ["Preflight"]


class Preflight:
    """What the checks of all engines share."""

    def __init__(self, probe: Sequence[str], *, daemon: MpsDaemon, family: Family, limit: float, host: str) -> None:
        self._probe = probe
        self._daemon = daemon
        self._family = family
        self._limit = limit
        self._host = host

    async def check(self, config: EngineConfig, *, env: Mapping[str, str], device: DeviceReading | None) -> Verdict:
        """NONE and what was seen, or why the engine may not start. Cancelling it ends the probe."""
        if problem := _port_in_use(config.port, host=self._host):
            return Verdict(reason=Reason.PORT_IN_USE, message=problem)
        try:
            process = self._family.start(
                [*self._probe, str(config.limit_bytes)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            return Verdict(reason=Reason.START_FAILED, message=f"cannot start the probe: {error.strerror}")
        try:
            return await self._judge(config, process=process, device=device)
        except TooLateError:
            return Verdict(
                reason=Reason.NOT_ATTACHED,
                message=f"the probe could not use the GPU within {self._limit:g} s; "
                f"an MPS server serves one user ID at a time and lets others wait; this one is {os.getuid()}",
            )
        except (HelperError, ValueError) as error:
            return Verdict(reason=Reason.NOT_ATTACHED, message=str(error))
        finally:
            await _end(process, family=self._family)

    async def _judge(
        self, config: EngineConfig, *, process: subprocess.Popen[bytes], device: DeviceReading | None
    ) -> Verdict:
        result = parse_probe(await within(self._limit, _first_line(process)))
        view = await self._daemon.look(now=asyncio.get_running_loop().time())
        listed = view.server_of({process.pid}) is not None
        free = None if device is None else device.total_bytes - device.used_bytes
        seen = judge_probe(result, limit_bytes=config.limit_bytes, listed=listed, device_free=free)
        return Verdict(reason=Reason.NONE if seen.attached else Reason.NOT_ATTACHED, message=seen.message)


def _port_in_use(port: int, *, host: str) -> str:
    """What is wrong with listening there, empty if nothing; as the engine would, with SO_REUSEADDR. No host: all."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"port {port}: {error.strerror}"
    return ""


async def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    if process.stdout is None:
        return b""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    try:
        return await reader.readline()
    finally:
        transport.close()


async def _end(process: subprocess.Popen[bytes], *, family: Family) -> None:
    """Let the probe close its context, which it does when its input ends; kill it if it does not."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        for _ in range(round(2.0 / POLL_SECONDS)):
            if process.poll() is not None:
                break
            await asyncio.sleep(POLL_SECONDS)
    finally:
        family.abandon(process)
