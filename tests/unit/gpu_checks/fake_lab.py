"""A GPU under MPS as the facts describe it, and with one fact changed: what the checks are tried on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tests.gpu.check import Check, Findings
from tests.gpu.detection import Found
from tests.gpu.lab import OTHER_UID, Daemon, Lab, Refused, Silent

MIB = 1024**2
TOTAL = 64 * 1024 * MIB
CONTEXT = 400 * MIB


@dataclass(kw_only=True)
class World:
    """The facts, each of which a test may falsify."""

    enforced: bool = True
    """A limit binds."""
    env_can_raise: bool = False
    """The environment may exceed the daemon's default."""
    default_is_live: bool = False
    """A changed default concerns a running server."""
    total_is_limit: bool = False
    """cuMemGetInfo's total is the limit."""
    free_is_whole: bool = False
    """cuMemGetInfo's free is the GPU's."""
    limits_outside: bool = False
    """A limit binds outside of MPS, too."""
    invisible_is_ignored: bool = False
    """A limit for a GPU that is not visible leaves the others in force."""
    many_users: bool = False
    """One server serves several user ids at once."""
    compute_mode: str = "DEFAULT"
    detects: bool = True
    """The supervisor's probe tells the truth."""


@dataclass(kw_only=True)
class Nvml:
    world: World

    def memory(self) -> tuple[int, int]:
        return TOTAL, 0

    def compute_mode(self) -> str:
        return self.world.compute_mode


@dataclass(kw_only=True)
class FakeDaemon:
    env: dict[str, str]
    users: list[int] = field(default_factory=list)
    """Of the clients that run."""
    served: bool = False
    default: int | None = None
    newest_default: int | None = None
    closed: bool = False

    def ask(self, command: str) -> str:
        name, device, size = command.split()
        assert (name, device) == ("set_default_device_pinned_mem_limit", "0")
        self.newest_default = int(size.removesuffix("M"))
        if not self.served:
            self.default = self.newest_default
        return ""

    def clients(self) -> dict[int, list[int]]:
        return {1: list(range(len(self.users)))}


@dataclass(kw_only=True)
class FakeProcess:
    world: World
    daemon: FakeDaemon | None
    limit: int | None
    uid: int
    alive: bool = False
    taken: int = 0

    def send(self, do: str) -> None:
        assert do == "open"

    def receive(self, *, timeout: float = 0) -> dict[str, Any]:
        return self.ask("open")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "fill":
            return self._fill(arguments["pieces"], arguments["most"])
        if do == "drop":
            self.taken = 0
            return {}
        if do == "open" and not self.alive:
            self._open()
        room = self.limit if self.limit is not None else TOTAL
        free = (TOTAL if self.world.free_is_whole else room) - CONTEXT - self.taken
        total = room if self.world.total_is_limit else TOTAL
        return {"ok": True, "free": free, "total": total, "runtime": {"free": free, "total": total}}

    def _open(self) -> None:
        if self.daemon is None and self.world.compute_mode == "EXCLUSIVE_PROCESS":
            raise Refused("cuInit: CUDA_ERROR_DEVICE_UNAVAILABLE")
        if self.daemon is not None:
            if not self.world.many_users and any(uid != self.uid for uid in self.daemon.users):
                raise Silent("no answer within 20 s")
            self.daemon.users.append(self.uid)
            self.daemon.served = True
        self.alive = True

    def _fill(self, pieces: list[int], most: int) -> dict[str, Any]:
        room = TOTAL if self.limit is None or not self.world.enforced else self.limit
        for piece in pieces:
            while self.taken + piece <= most:
                if self.taken + piece + CONTEXT > room:
                    break
                self.taken += piece
            else:
                continue
            error = "CUDA_ERROR_OUT_OF_MEMORY"
            if piece == pieces[-1]:
                return {"bytes": self.taken, "refused": True, "error": error}
        return {"bytes": self.taken, "refused": False, "error": ""}


@dataclass(kw_only=True)
class FakeLab:
    """`Lab` over a World."""

    folder: Path
    world: World = field(default_factory=World)
    daemons: dict[str, FakeDaemon] = field(default_factory=dict)

    @property
    def nvml(self) -> Nvml:
        return Nvml(world=self.world)

    def new_folder(self, name: str) -> Path:
        return self.folder / f"{name}-{len(self.daemons)}"

    @contextmanager
    def daemon(self, *, uid: int | None = None, mode: int = 0o755) -> Iterator[FakeDaemon]:
        pipe = f"pipe-{len(self.daemons)}"
        self.daemons[pipe] = FakeDaemon(env={"CUDA_MPS_PIPE_DIRECTORY": pipe}, closed=mode == 0o700)
        yield self.daemons[pipe]
        assert self.daemons[pipe].users == [], "a client outlives its daemon"
        del self.daemons[pipe]

    @contextmanager
    def process(self, env: Mapping[str, str], *, uid: int | None = None) -> Iterator[FakeProcess]:
        user = uid if uid is not None else 0
        daemon = self.daemons.get(env.get("CUDA_MPS_PIPE_DIRECTORY", ""))
        if daemon is not None and daemon.closed and user == OTHER_UID:
            daemon = None
        made = FakeProcess(world=self.world, daemon=daemon, limit=self._limit(daemon, env), uid=user)
        yield made
        if daemon is not None and made.alive:
            daemon.users.remove(user)

    def _limit(self, daemon: FakeDaemon | None, env: Mapping[str, str]) -> int | None:
        words = env.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "")
        named = dict(word.removesuffix("M").split("=") for word in words.split(",") if word)
        own = int(named["0"]) if "0" in named else None
        if daemon is None:
            return own * MIB if own is not None and self.world.limits_outside else None
        if set(named) - {"0"} and not self.world.invisible_is_ignored:
            return None
        default = daemon.newest_default if self.world.default_is_live else daemon.default
        known = [limit for limit in (own, default) if limit is not None]
        if not known:
            return None
        return (known[0] if self.world.env_can_raise else min(known)) * MIB

    def detect(self, env: Mapping[str, str], uid: int | None) -> Found:
        """As the supervisor's probe would, or the opposite."""
        with self.process(env, uid=uid) as process:
            try:
                process.ask("open")
            except (Silent, Refused) as error:
                attached, message = False, str(error)
            else:
                attached, message = process.limit is not None and self.world.enforced, "seen"
        return Found(attached=attached is self.world.detects, message=message)


def as_lab(fake: FakeLab) -> Lab:
    return cast("Lab", fake)


def detect(lab: Lab, daemon: Daemon, *, env: Mapping[str, str], limit_mib: int, uid: int | None = None) -> Found:
    return cast("FakeLab", lab).detect(env, uid)


def broken(check: Check) -> set[str]:
    """The promises that were not kept."""
    findings = Findings()
    check.run(findings)
    assert findings.promises, "a check without a promise cannot fail"
    return {promise.says for promise in findings.promises if not promise.held}
