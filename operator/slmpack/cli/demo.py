"""`slmpack demo`: the whole way from apply to Ready, live, without a GPU, a cluster or a network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from slmpack.adapters.resources import SLM_DEPLOYMENTS
from slmpack.cli.operator_process import RunningOperator, running_operator
from slmpack.cli.scene import Onlooker, Scene, render_scene
from slmpack.cli.stages import Stage, embedded_stage, existing_stage, load_examples
from slmpack.domain.wording import number_of
from slmpack.ports import PortError

__all__ = ["DemoOptions", "kubectl_session", "run_demo"]

FAILED, INTERRUPTED = 1, 130
LOOK_SECONDS_OWN, LOOK_SECONDS_OTHERS = 0.3, 3.0
"""A cluster of other people is listed less often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What `slmpack demo` can be told."""

    stays: bool
    """Until Ctrl-C, else until everything is Ready."""
    timeout_seconds: float | None
    kubeconfig: Path | None
    seed: int


class _NotReadyError(Exception):
    """The demo cannot become Ready; the message says why."""


def kubectl_session(name: str) -> tuple[str, ...]:
    """The lines that the demo suggests, for an SLMDeployment of this name with at least one replica."""
    return (
        "get slm",
        "get pods -o wide",
        f"describe slm {name}",
        f"logs {name}-0",
        f"scale slm {name} --replicas=4",
        "get events",
        "explain slmdeployment.spec --recursive",
        f"delete pod {name}-0",
        f"delete slm {name}",
    )


def run_demo(options: DemoOptions) -> int:
    """Play the demo and return the exit code; everything that it made is gone afterwards."""
    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    return asyncio.run(_until_interrupted(_Demo(options, console)))


async def _until_interrupted(demo: _Demo) -> int:
    """The demo's own end, or its orderly end by Ctrl-C; a second Ctrl-C ends it at once."""
    loop = asyncio.get_running_loop()
    playing = asyncio.create_task(demo.play())

    def interrupt(number: int) -> None:
        loop.remove_signal_handler(number)
        playing.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        return await playing
    except asyncio.CancelledError:
        demo.say("the demo has ended")
        return 0 if demo.was_ready else INTERRUPTED


class _Demo:
    def __init__(self, options: DemoOptions, console: Console) -> None:
        self._options, self._console = options, console
        self.was_ready = False

    def say(self, text: str) -> None:
        """One line of progress."""
        self._console.print(Text(text), soft_wrap=True)

    async def play(self) -> int:
        """From nothing to Ready; then until interrupted, if it is to stay."""
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="slmpack-demo-")))
            try:
                stage = await stack.enter_async_context(self._stage(folder))
                flags = ("--bundled-models", *stage.operator_flags)
                operator = await stack.enter_async_context(running_operator(stage.kubeconfig, flags, folder=folder))
                self.say(f"the operator: slmpack run, process {operator.process.pid}, log {operator.log}")
                await self._apply(stage)
                await self._watch(stage, operator)
            except (_NotReadyError, PortError, TimeoutError) as error:
                self.say(f"error: {str(error) or 'the cluster did not answer in time'}")
                return FAILED
            self.was_ready = True
            self.say("\nEverything is Ready.")
            if not self._options.stays:
                self.say("The demo ends here and removes what it made; --stay keeps it until Ctrl-C.")
                return 0
            self._suggest(stage)
            await self._keep_showing(stage, operator)
            self.say(f"error: {operator.obituary()}")
            return FAILED

    def _stage(self, folder: Path) -> AbstractAsyncContextManager[Stage]:
        if self._options.kubeconfig is not None:
            return existing_stage(self._options.kubeconfig, say=self.say)
        return embedded_stage(folder, seed=self._options.seed, say=self.say)

    async def _apply(self, stage: Stage) -> None:
        examples = load_examples()
        if not examples:
            raise _NotReadyError("the examples are not there; run the demo from a checkout or an installed package")
        for example in examples:
            name, count = example["metadata"]["name"], example["spec"].get("replicas", 1)
            made = await stage.create(SLM_DEPLOYMENTS.path(namespace=stage.namespace), example)
            self.say(f"{'applied' if made else 'there already:'} {name}, {number_of(count)}")

    async def _watch(self, stage: Stage, operator: RunningOperator) -> None:
        """Show the cluster until everything is Ready. Raises _NotReadyError once the operator or the time is gone."""
        onlooker = Onlooker(stage.client, namespace=stage.namespace)
        seconds = self._options.timeout_seconds
        deadline = None if seconds is None else time.monotonic() + seconds
        pause = LOOK_SECONDS_OWN if stage.own else LOOK_SECONDS_OTHERS
        with _Screen(self._console) as screen:
            while True:
                scene = await onlooker.look()
                screen.show(scene)
                if scene.all_ready:
                    return
                if (obituary := operator.obituary()) is not None:
                    raise _NotReadyError(obituary)
                if deadline is not None and time.monotonic() > deadline:
                    raise _NotReadyError(f"not everything is Ready after {seconds:.0f} s:\n{scene.shortfall()}")
                await asyncio.sleep(pause)

    async def _keep_showing(self, stage: Stage, operator: RunningOperator) -> None:
        """Whatever the user tries, until the operator ends or Ctrl-C; in a terminal only."""
        onlooker = Onlooker(stage.client, namespace=stage.namespace)
        if not self._console.is_terminal:
            await operator.process.wait()
            return
        with _Screen(self._console) as screen:
            while operator.obituary() is None:
                with contextlib.suppress(PortError, TimeoutError):  # a cluster of others' may be away for a while
                    screen.show(await onlooker.look())
                await asyncio.sleep(LOOK_SECONDS_OWN if stage.own else LOOK_SECONDS_OTHERS)

    def _suggest(self, stage: Stage) -> None:
        kubectl = _kubectl() + ("" if stage.own else f" -n {stage.namespace}")
        self.say("Try, in another terminal:\n")
        self.say(f"  export KUBECONFIG={stage.kubeconfig.resolve()}")
        for line in kubectl_session("qwen2-5-1-5b"):
            self.say(f"  {kubectl} {line}")
        self.say("\nCtrl-C ends the demo and removes everything that it made.")


class _Screen:
    """A live picture in a terminal; elsewhere a line for each change, and the picture at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="ellipsis")
        self._told: dict[str, str] = {}
        self._last: Scene | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.vertical_overflow = "visible"
            self._live.stop()
        elif self._last is not None:
            self._console.print(render_scene(self._last, self._console))

    def show(self, scene: Scene) -> None:
        """Show what is new."""
        self._last = scene
        if self._console.is_terminal:
            self._live.update(render_scene(scene, self._console), refresh=True)
            return
        for line in scene.lines:
            if self._told.get(line.name) != str(line):
                self._told[line.name] = str(line)
                self._console.print(Text(str(line)), soft_wrap=True)


def _kubectl() -> str:
    """The one beside this Python, relative to here where that is shorter; else whatever PATH has."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if found is None:
        return "kubectl"
    return min(found, os.path.relpath(found), key=len)
