"""A process that is not attached to MPS has no limit: what it sees then, and whether the supervisor's probe finds out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from tests.gpu.check import Check, Findings
from tests.gpu.detection import Detect
from tests.gpu.lab import OTHER_UID, CannotRunError, Daemon, Lab, Refused, Silent, unlimited_outside
from tests.gpu.limits import MIB, fill_beyond, judge_fill, limit_env

__all__ = ["attach_checks"]

LIMIT_MIB = 2048
QUEUED_S = 20.0
"""A process that says nothing for so long waits for its turn: opening a GPU takes about a second."""
TURN_S = 60.0


def attach_checks(lab: Lab, detect: Detect) -> Iterator[Check]:
    """The checks of wrong pipe directories, invisible GPUs and user ids."""
    say = "what a process sees and what the supervisor's probe says"
    for name, says, run in (
        ("mps-attach-right", f"the right pipe directory: {say}", _right),
        ("mps-attach-empty", f"a pipe directory without a daemon: {say}", _empty),
        ("mps-attach-missing", f"a pipe directory that does not exist: {say}", _missing),
        ("mps-attach-unset", f"no pipe directory in the environment: {say}", _unset),
        ("mps-attach-invisible", f"a limit that names a GPU which is not visible, too: {say}", _invisible),
        ("mps-uid-queue", "a client of another user id at a daemon that root started", _queue),
        ("mps-uid-closed", "a client whose user id may not enter the pipe directory", _closed),
        ("mps-uid-daemon", "a client of root at a daemon that another user id started", _others_daemon),
    ):
        yield Check(name=name, says=says, seconds=180, run=partial(run, lab, detect))


def _right(lab: Lab, detect: Detect, findings: Findings) -> None:
    with lab.daemon() as daemon:
        env = {**daemon.env, **limit_env(LIMIT_MIB)}
        with lab.process(env) as process:
            process.ask("open")
            judge_fill(findings, who="process", mib=LIMIT_MIB, filled=fill_beyond(process, LIMIT_MIB))
        _expect_detection(lab, daemon, detect, findings, env=env, attached=True)


def _empty(lab: Lab, detect: Detect, findings: Findings) -> None:
    _expect_no_limit(lab, detect, findings, pipe={"CUDA_MPS_PIPE_DIRECTORY": str(lab.new_folder("empty"))})


def _missing(lab: Lab, detect: Detect, findings: Findings) -> None:
    pipe = lab.new_folder("gone") / "no" / "such" / "folder"
    _expect_no_limit(lab, detect, findings, pipe={"CUDA_MPS_PIPE_DIRECTORY": str(pipe)})


def _unset(lab: Lab, detect: Detect, findings: Findings) -> None:
    if not unlimited_outside():
        raise CannotRunError("another MPS daemon has the default pipe directory, so no process runs outside of MPS")
    _expect_no_limit(lab, detect, findings, pipe={})


def _expect_no_limit(lab: Lab, detect: Detect, findings: Findings, *, pipe: Mapping[str, str]) -> None:
    """Beside a daemon with a client, as where one engine of a pack has a wrong environment."""
    env = {**pipe, **limit_env(LIMIT_MIB)}
    with lab.daemon() as daemon, lab.process({**daemon.env, **limit_env(LIMIT_MIB)}) as client:
        client.ask("open")
        _see_no_limit(lab, findings, env=env)
        _expect_detection(lab, daemon, detect, findings, env=env, attached=False)


def _see_no_limit(lab: Lab, findings: Findings, *, env: Mapping[str, str]) -> None:
    exclusive = lab.nvml.compute_mode() == "EXCLUSIVE_PROCESS"
    with lab.process(env) as process:
        try:
            opened = process.ask("open")
        except Refused as error:
            # The facts promise this refusal where the GPU is in EXCLUSIVE_PROCESS mode.
            says = "compute mode EXCLUSIVE_PROCESS: it cannot open the GPU" if exclusive else "it runs, without a limit"
            findings.promise(says, held=exclusive, saw=str(error))
            return
        filled = fill_beyond(process, LIMIT_MIB)
    findings.promise(
        "compute mode EXCLUSIVE_PROCESS: it cannot open the GPU" if exclusive else "it runs, without a limit",
        held=not exclusive and not filled["refused"],
        saw=f"free {opened['free'] // MIB} MiB; {filled['bytes'] // MIB} MiB allocated under a limit of {LIMIT_MIB} MiB",
    )


def _invisible(lab: Lab, detect: Detect, findings: Findings) -> None:
    with lab.daemon() as daemon:
        both = {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={LIMIT_MIB}M,7={LIMIT_MIB}M"}
        for who, limits in (("GPU 0 and a GPU 7", both), ("a GPU 7 alone", limit_env(LIMIT_MIB, device=7))):
            env = {**daemon.env, **limits}
            with lab.process(env) as process:
                opened = process.ask("open")
                filled = fill_beyond(process, LIMIT_MIB)
            findings.promise(
                f"{who} named, one GPU visible: no limit holds",
                held=not filled["refused"],
                saw=f"free {opened['free'] // MIB} MiB, {filled['bytes'] // MIB} MiB allocated {filled['error']}".strip(),
            )
            # A probe that saw the limit is right to call the process attached.
            _expect_detection(lab, daemon, detect, findings, env=env, attached=bool(filled["refused"]))


def _queue(lab: Lab, detect: Detect, findings: Findings) -> None:
    with ExitStack() as stack:
        daemon = stack.enter_context(lab.daemon())
        env = {**daemon.env, **limit_env(LIMIT_MIB)}
        with lab.process(env) as first:
            first.ask("open")
            second = stack.enter_context(lab.process(env, uid=OTHER_UID))
            second.send("open")
            try:
                saw = f"opened at once: free {second.receive(timeout=QUEUED_S)['free'] // MIB} MiB"
                queued = False
            except (Silent, Refused) as error:
                saw, queued = str(error), isinstance(error, Silent)
            findings.promise("it waits while another user id has a client", held=queued, saw=saw)
            if queued:
                _expect_detection(lab, daemon, detect, findings, env=env, attached=False, uid=OTHER_UID)
        if queued:
            opened = second.receive(timeout=TURN_S)
            findings.promise(
                "it gets its turn when that client is gone, and has its limit",
                held=opened["free"] <= LIMIT_MIB * MIB,
                saw=f"free {opened['free'] // MIB} MiB",
            )


def _closed(lab: Lab, detect: Detect, findings: Findings) -> None:
    with lab.daemon(mode=0o700) as daemon, lab.process({**daemon.env, **limit_env(LIMIT_MIB)}) as client:
        client.ask("open")
        env = {**daemon.env, **limit_env(LIMIT_MIB)}
        _record(lab, findings, who="a client that may not enter the pipe directory", env=env, uid=OTHER_UID)
        _expect_detection(lab, daemon, detect, findings, env=env, attached=False, uid=OTHER_UID)


def _others_daemon(lab: Lab, detect: Detect, findings: Findings) -> None:
    with lab.daemon(uid=OTHER_UID) as daemon:
        env = {**daemon.env, **limit_env(LIMIT_MIB)}
        limited = _record(lab, findings, who="root at a daemon of another user id", env=env, uid=None)
        _expect_detection(lab, daemon, detect, findings, env=env, attached=limited)


def _record(lab: Lab, findings: Findings, *, who: str, env: Mapping[str, str], uid: int | None) -> bool:
    """What happens where the facts promise nothing; whether a limit was seen."""
    with lab.process(env, uid=uid) as process:
        try:
            opened = process.ask("open", timeout=QUEUED_S)
        except (Silent, Refused) as error:
            findings.note(**{who: str(error)})
            return False
        filled = fill_beyond(process, LIMIT_MIB)
    limited = bool(filled["refused"])
    saw = f"free {opened['free'] // MIB} MiB, {filled['bytes'] // MIB} MiB allocated"
    findings.note(**{who: f"{saw}, {'a limit' if limited else 'no limit'}"})
    return limited


def _expect_detection(
    lab: Lab,
    daemon: Daemon,
    detect: Detect,
    findings: Findings,
    *,
    env: Mapping[str, str],
    attached: bool,
    uid: int | None = None,
) -> None:
    """That the supervisor's own probe tells the same under the same environment."""
    found = detect(lab, daemon, env=env, limit_mib=LIMIT_MIB, uid=uid)
    says = "attached" if attached else "NotAttached"
    findings.promise(f"the supervisor's probe says {says}", held=found.attached is attached, saw=found.message)
