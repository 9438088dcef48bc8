"""Run a page's blocks in order, in one shell, as a user would type them."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.docs.loosely import difference
from tests.docs.pages import blocks
from tests.docs.sandbox import FORWARDED, RUN_PORT, RUNS, Sandbox, switchboard_variables
from tests.docs.scripts import calls, commands
from tests.docs.shell import a_shell
from tests.docs.switchboard import a_switchboard
from tests.docs.world import a_world
from tests.support.control_plane import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.docs.pages import Block, Mark
    from tests.docs.scripts import Command
    from tests.docs.shell import Done, Shell

__all__ = ["counted", "needs_cluster", "play", "why_not_run"]

SECONDS = 240.0
"""The longest that one command may take."""
KUBECTL_WITHOUT = frozenset({"slm", "kustomize", "version", "completion", "plugin", "config"})
HELM_WITH = frozenset({"install", "upgrade", "uninstall", "test", "status", "list", "rollback", "get", "history"})
LEAVE_RUNNING = re.compile(r"#.*\bleave it running\b")


def why_not_run(block: Block, command: Command) -> str:
    """The reason why a command is only parsed; empty where it is run."""
    if block.mark.reason:
        return block.mark.reason
    if any(call[0] == "make" for call in calls(command.text)):
        return "a make target: checked to exist"
    return ""


def counted(page: str) -> tuple[int, list[str]]:
    """How many commands of a page are run; those that are not, each with the reason."""
    run, parsed = 0, []
    for block in blocks(page):
        for command in commands(block):
            if reason := why_not_run(block, command):
                first = command.text.splitlines()[0].split(" #")[0].rstrip()
                parsed.append(f"{first}  [{reason}]")
            else:
                run += 1
    return run, parsed


def needs_cluster(block: Block) -> bool:
    """Whether something that is run speaks to a cluster."""
    run = [it for it in commands(block) if not why_not_run(block, it)]
    return block.mark.cluster or any(_speaks(call) for it in run for call in calls(it.text))


def _speaks(call: list[str]) -> bool:
    program, *args = call
    name = program.rsplit("/", 1)[-1]
    if name == "kubectl" and args[:1] != ["slm"]:
        return bool(args) and args[0] not in KUBECTL_WITHOUT
    if name == "helm":
        return bool(args) and args[0] in HELM_WITH
    ours = args[1:] if name == "kubectl" else args
    if name not in {"slmpack", "kubectl", "kubectl-slm"} or "--help" in ours:
        return False
    return "--cluster" in ours or ours[:1] == ["run"] or (ours[:1] in (["explain"], ["top"]) and "-f" not in ours)


def play(found: Sequence[Block], *, folder: Path, helm: Path, hub: str) -> int:
    """Run all that is to be run; how many commands that were. AssertionError at the first that does not work."""
    sandbox = Sandbox(folder, texts=[block.text for block in found], helm=helm)
    with ExitStack() as stack:
        more = {"HF_ENDPOINT": hub}
        clustered = any(needs_cluster(block) for block in found)
        if clustered:
            control_plane = stack.enter_context(ControlPlane.start())
            nodes = [name for block in found for name in block.mark.nodes]
            world = stack.enter_context(a_world(control_plane, nodes=nodes, hub=hub))
            if any(block.mark.gpu_operator for block in found):
                world.add_cluster_policy()
            if any(block.mark.with_slmpack for block in found):
                world.start_slmpack(sandbox.scratch, applied=[it for block in found for it in block.mark.applied])
            (sandbox.home / ".kube").mkdir()
            (sandbox.home / ".kube" / "config").write_bytes(control_plane.kubeconfig().read_bytes())
            more = switchboard_variables(stack.enter_context(a_switchboard(world.find)), hub)
            if 8000 in sandbox.ports and not any("port-forward" in block.text for block in found):
                raise AssertionError(f"{found[0].page}: localhost:8000 without a port-forward")
        shell = stack.enter_context(a_shell(sandbox.checkout, env=sandbox.environment(more), scratch=sandbox.scratch))
        return sum(_run(block, shell=shell, sandbox=sandbox, loose=clustered) for block in found)


def _run(block: Block, *, shell: Shell, sandbox: Sandbox, loose: bool) -> int:
    count = 0
    for command in commands(block):
        if why_not_run(block, command):
            continue
        count += 1
        text = sandbox.here(command.text)
        if block.mark.leave_running or LEAVE_RUNNING.search(text):
            _start(command, text, shell=shell, sandbox=sandbox)
            continue
        shown = command.expected or ""
        width = max((len(line) for line in shown.splitlines()), default=0)
        done = shell.run(text, seconds=SECONDS, columns=max(80, width))
        where = f"{block.where}: {command.text}"
        assert done.code == block.mark.exit_code, f"{where}\nexit status {done.code}\n{done.output}{done.told}"
        assert "unknown field" not in done.told, f"{where}\n{done.told}"
        _compare(where, command, done, mark=block.mark, loose=loose)
        _wait_forwarded(command, shell=shell, sandbox=sandbox)
    return count


def _compare(where: str, command: Command, done: Done, *, mark: Mark, loose: bool) -> None:
    if command.expected is None or mark.varies:
        return
    differs = [difference(command.expected, text, loose=loose) for text in (done.output, done.told + done.output)]
    assert not all(differs), f"{where}\n{differs[0]}"


def _start(command: Command, text: str, *, shell: Shell, sandbox: Sandbox) -> None:
    """In the background, as in another terminal, until the page ends."""
    log = sandbox.scratch / "left-running.log"
    shell.run(f"{{ {text}\n}} >>'{log}' 2>&1 &", seconds=10)
    if RUNS.search(command.text):
        assert sandbox.is_open(RUN_PORT), f"{command.text}\n{log.read_text(encoding='utf-8')}"
    _wait_forwarded(command, shell=shell, sandbox=sandbox)


def _wait_forwarded(command: Command, *, shell: Shell, sandbox: Sandbox) -> None:
    for port in map(int, FORWARDED.findall(command.text)):
        assert sandbox.is_open(port), f"{command.text}: nothing listens at {port}\n{shell.last_output()}"
