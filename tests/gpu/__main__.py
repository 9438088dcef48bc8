"""`python -m tests.gpu [run | predict | render] [-k WORDS] ...`: see docs/gpu-checks.md. Standard library only."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "operator"))  # the supervisor's probe and rules, which need nothing but Python

from slmpack import __version__  # noqa: E402
from tests.gpu.attach import attach_checks  # noqa: E402
from tests.gpu.check import Check, run_check, select_checks  # noqa: E402
from tests.gpu.detection import detect  # noqa: E402
from tests.gpu.engines import find_vllm  # noqa: E402
from tests.gpu.figures import compare  # noqa: E402
from tests.gpu.lab import Lab, other_users  # noqa: E402
from tests.gpu.limits import MIB, limit_checks  # noqa: E402
from tests.gpu.nvml import GpuMissingError, Nvml  # noqa: E402
from tests.gpu.outcome import (  # noqa: E402
    CONTRADICTED,
    FAILED,
    NOT_RUN,
    Machine,
    Outcome,
    Results,
    merge,
    read_results,
    write_results,
)
from tests.gpu.page import render  # noqa: E402
from tests.gpu.prediction import Predict, predict_case  # noqa: E402
from tests.gpu.serving import Load, serving_checks  # noqa: E402

__all__ = ["PAGE", "RESULTS", "add_predictions", "main", "read_folder", "scrub", "verdict"]

RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "gpu-checks.md"
GOOD, BAD, NOTHING = 0, 1, 2


def main(argv: Sequence[str], *, say: Callable[[str], None] | None = None) -> int:
    """The exit code: 0 as promised, 1 contradicted or broken off, 2 nothing was checked."""
    say = say or _say
    options = _parse(argv)
    try:
        if options.do == "render":
            return _render(options.results, say)
        if options.do == "predict":
            return _predict(options.results, say)
        return _run(options, say)
    except (GpuMissingError, ValueError) as error:
        say(f"gpu checks: {error}")
        return NOTHING


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    load = Load()
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("do", nargs="?", default="run", choices=("run", "predict", "render"))
    parser.add_argument(
        "-k", dest="words", default="", metavar="WORDS", help="only checks whose name begins with one of them"
    )
    parser.add_argument("--list", action="store_true", help="name the checks and end")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--copy-to", type=Path, metavar="FOLDER", help="put the results file there, too")
    parser.add_argument("--vllm", metavar="PROGRAM", help="the `vllm` program")
    parser.add_argument(
        "--model", default=load.model, help=f"one with a config in the repository; default {load.model}"
    )
    parser.add_argument("--in-flight", type=int, default=load.in_flight, help=f"in total; default {load.in_flight}")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    nvml = Nvml()
    machine = _machine(nvml)
    load = Load(model=options.model, in_flight=options.in_flight)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with Lab.open(nvml) as lab:
        vllm = lambda: find_vllm(options.vllm)  # noqa: E731 - looked for when the first case asks
        checks = [
            *limit_checks(lab),
            *attach_checks(lab, detect),
            *serving_checks(lab, vllm=vllm, predict=predict_case, load=load),
        ]
        chosen = select_checks(checks, options.words)
        if options.list:
            for check in chosen:
                say(f"{check.name:24} {check.says}")
            return GOOD
        say(f"{machine.gpu}, driver {machine.driver}, compute mode {machine.compute_mode}; {len(chosen)} checks")
        outcomes = []
        for check in chosen:
            outcomes.append(_one(check, lab, say))
            _keep(options, machine, outcomes)
    return verdict(outcomes, asked=bool(options.words))


def _one(check: Check, lab: Lab, say: Callable[[str], None]) -> Outcome:
    say(f"{check.name}: {check.says} (at most {check.seconds} s)")
    outcome = run_check(check, now=_now, clean=lab.clean, say=say)
    outcome = replace(
        outcome,
        failed=scrub(outcome.failed, folder=lab.folder),
        not_run=scrub(outcome.not_run, folder=lab.folder),
        promises=tuple(replace(p, saw=scrub(p.saw, folder=lab.folder)) for p in outcome.promises),
    )
    say(f"  {outcome.status}, {outcome.seconds:.1f} s {outcome.failed or outcome.not_run}")
    for promise in outcome.promises:
        say(f"    {'yes' if promise.held else 'NO '} {promise.says}: {promise.saw}")
    if outcome.status in {CONTRADICTED, FAILED}:
        say(lab.daemon_logs())
    return outcome


def _keep(options: argparse.Namespace, machine: Machine, outcomes: Sequence[Outcome]) -> None:
    """Write the results after each check: a run that is killed has lost one check."""
    now = Results(machine=machine, date=_now()[:10], slmpack=__version__, outcomes=tuple(outcomes))
    path = options.results / now.file_name
    options.results.mkdir(parents=True, exist_ok=True)
    before = read_results(path.read_text(encoding="utf-8")) if path.exists() else None
    path.write_text(write_results(merge(before, now)), encoding="utf-8")
    if options.copy_to:
        options.copy_to.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, options.copy_to / path.name)
    if options.results == RESULTS:
        _render(options.results, lambda _: None)


def verdict(outcomes: Sequence[Outcome], *, asked: bool) -> int:
    """0, 1 or 2. vLLM that is not installed is no fault of the machine, unless its checks were asked for by name."""
    bad = [o for o in outcomes if o.status in {CONTRADICTED, FAILED}]
    lacking = [o for o in outcomes if o.status == NOT_RUN and (asked or not o.name.startswith("vllm-"))]
    if all(outcome.status == NOT_RUN for outcome in outcomes):
        return NOTHING
    return BAD if bad or lacking else GOOD


def _machine(nvml: Nvml) -> Machine:
    if nvml.mig_enabled():
        raise GpuMissingError("the first GPU is in MIG mode; the checks need a whole GPU and do not change that")
    return Machine(
        gpu=nvml.name(),
        total_mib=nvml.memory()[0] // MIB,
        driver=nvml.driver(),
        cuda=nvml.cuda(),
        compute_mode=nvml.compute_mode(),
        root=os.geteuid() == 0,
        other_users=other_users(nvml),
    )


def _predict(folder: Path, say: Callable[[str], None]) -> int:
    results = read_folder(folder)
    if not results:
        raise ValueError(f"no results in {folder.name}/; `make test-gpu` makes them")
    for one in results:
        (folder / one.file_name).write_text(write_results(add_predictions(one, predict=predict_case)), encoding="utf-8")
    return _render(folder, say)


def add_predictions(results: Results, *, predict: Predict) -> Results:
    """Predict each vLLM case that has figures and no prediction yet."""

    def done(outcome: Outcome) -> Outcome:
        seen = outcome.seen
        if "measured" not in seen or "error" not in seen.get("predicted", {"error": ""}):
            return outcome
        predicted = predict(seen["case"], seen["load"], gpu=results.machine.gpu, version=seen["vllm"])
        return replace(outcome, seen={**seen, "predicted": predicted, "compared": compare(seen["measured"], predicted)})

    return replace(results, outcomes=tuple(map(done, results.outcomes)))


def _render(folder: Path, say: Callable[[str], None]) -> int:
    PAGE.write_text(render(read_folder(folder)), encoding="utf-8")
    say(f"wrote {PAGE.relative_to(ROOT)}")
    return GOOD


def read_folder(folder: Path) -> list[Results]:
    """All results. Raises ValueError, with the file's name, where one cannot be read."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_results(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
    return found


def scrub(text: str, *, folder: Path) -> str:
    """Without the names of this machine's folders: results are committed."""
    for path, name in ((str(folder), "TMP"), (str(ROOT), "."), (str(Path.home()), "~"), (sys.prefix, "PYTHON")):
        if path != "/":
            text = text.replace(path, name)
    return text


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
