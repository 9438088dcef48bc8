"""CPU time to estimate and to decide one model on every GPU of the catalogue, beside a look at the footprint alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from slmpack.adapters.policy import load_policy
from slmpack.cli.estimated import estimate_on
from slmpack.cli.question import Asked, read_subject
from slmpack.domain.choice import Choice
from slmpack.domain.cut import CannotCut, Cut
from slmpack.domain.decide import ways_of
from slmpack.domain.part import part_at
from slmpack.domain.prediction import Sharing
from slmpack.domain.snapshot import Policy

MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "facebook/opt-1.3b", "meta-llama/Llama-3.2-1B-Instruct")
LOADS = {"no load given": Asked(), "64 in flight": Asked(in_flight=64), "20 requests/s": Asked(request_rate=20)}
BATCH = 32
RUNS = 9


def main() -> None:
    policy = load_policy()
    everything = _rows(policy, None)
    count = sum(len(row) for rows in everything for row in rows)
    print(f"  one model on {len(everything)} GPUs; CPU milliseconds, the config parsed as well, best of {RUNS}")
    print(
        f"  in brackets: GPUs that it fits, GPUs on which more than one replica pays ({count} ways to cut them in all)"
    )
    for name in MODELS:
        for load, asked in LOADS.items():
            figures = [
                _line(asked, name, policy, _rows(policy, sharing), label)
                for sharing, label in ((None, "all mechanisms"), (Sharing.MPS, "MPS"), (Sharing.NONE, "whole"))
            ]
            print(f"  {name:34} {load:14} {'   '.join(figures)}")
        print(f"  {name:34} baseline: the footprint at batch {BATCH} only {_footprints(name, policy, everything):6.1f}")


def _rows(policy: Policy, sharing: Sharing | None) -> list[tuple[tuple[Cut, ...], ...]]:
    found = [ways_of(gpu, sharing) for gpu in policy.gpus.models]
    return [rows for rows in found if not isinstance(rows, CannotCut)]


def _line(asked: Asked, name: str, policy: Policy, rows: list[tuple[tuple[Cut, ...], ...]], label: str) -> str:
    asked = Asked(model=name, in_flight=asked.in_flight, request_rate=asked.request_rate)

    def work() -> list[Choice]:
        subject = read_subject(asked, policy)
        decisions = [estimate_on(asked, subject, ways, policy).decision for ways in rows]
        return [decision.choice for decision in decisions if isinstance(decision.choice, Choice)]

    choices = work()
    packed = sum(choice.replicas_per_gpu > 1 for choice in choices)
    return f"{label} {_milliseconds(work):6.1f} ({len(choices)}, {packed})"


def _footprints(name: str, policy: Policy, everything: list[tuple[tuple[Cut, ...], ...]]) -> float:
    def work() -> int:
        engine = read_subject(Asked(model=name), policy).engine
        cuts = [cut for rows in everything for row in rows for cut in row]
        return sum(part_at(engine, cut, BATCH, kv_tokens=engine.max_model_len, policy=policy).fits for cut in cuts)

    return _milliseconds(work)


def _milliseconds(work: Callable[[], object]) -> float:
    def once() -> float:
        start = time.process_time()
        work()
        return (time.process_time() - start) * 1000

    return min(once() for _ in range(RUNS))
