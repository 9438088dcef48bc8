"""A check: a name, a time limit and what it does; and how one is run so that it always ends and always says how."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.gpu.lab import CannotRunError, Refused, Silent
from tests.gpu.outcome import Outcome, Promise

__all__ = ["Check", "Findings", "Notebook", "TimeOverError", "run_check", "select_checks"]

Json = dict[str, Any]
CLEANING_S = 45
"""A check's own clean-up may take that long after its limit."""


class TimeOverError(BaseException):
    """The check's time limit; no `except Exception` on the way may catch it."""


@dataclass(kw_only=True)
class Findings:
    """What a check notes while it runs: what it noted stays, also where it breaks off later."""

    promises: list[Promise] = field(default_factory=list)
    seen: Json = field(default_factory=dict)

    def promise(self, says: str, *, held: bool, saw: str) -> None:
        self.promises.append(Promise(says=says, held=held, saw=saw))

    def note(self, **figures: object) -> None:
        self.seen.update(figures)


class Notebook(Protocol):
    """The type of a check's function: what it works with is bound to it."""

    def __call__(self, findings: Findings, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a GPU."""

    name: str
    says: str
    """What it looks at, for the page and the list."""
    seconds: int
    """It is broken off after that."""
    run: Notebook


def select_checks(checks: Sequence[Check], words: str) -> list[Check]:
    """Those whose name begins with one of the words, all for an empty string. Raises ValueError where none does."""
    wanted = words.replace(",", " ").split()
    chosen = [check for check in checks if not wanted or check.name.startswith(tuple(wanted))]
    if not chosen:
        names = ", ".join(check.name for check in checks)
        raise ValueError(f"-k {words!r} names no check; there are {names}")
    return chosen


def run_check(
    check: Check, *, now: Callable[[], str], clean: Callable[[], object], say: Callable[[str], None]
) -> Outcome:
    """The outcome; nothing but KeyboardInterrupt and SystemExit comes through."""
    findings, failed, not_run = Findings(), "", ""
    ran_at, began = now(), time.monotonic()
    try:
        with _limit(check.seconds):
            check.run(findings)
    except CannotRunError as error:
        not_run = str(error)
    except TimeOverError:
        failed = f"broken off after {check.seconds} s"
    except (Refused, Silent, RuntimeError, OSError) as error:
        failed = str(error)
    except Exception as error:  # noqa: BLE001 - the other checks are still to be run
        say(traceback.format_exc())
        failed = f"{type(error).__name__}: {error}"
    finally:
        clean()
    return Outcome(
        name=check.name,
        ran_at=ran_at,
        seconds=round(time.monotonic() - began, 1),
        promises=tuple(findings.promises),
        seen=findings.seen,
        failed=failed,
        not_run=not_run,
    )


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise TimeOverError in this (the main) thread after so long, and again if the clean-up hangs."""

    def over(signum: int, frame: object) -> None:
        raise TimeOverError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, CLEANING_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
