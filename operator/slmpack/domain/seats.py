"""Replicas within pods: a pack has a seat for each engine that it was made for, and some of them are taken.

The plan says which engines are *meant* to run; the pod's annotation records it, and its supervisor makes it so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from slmpack.domain.plan import SetEngines
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.snapshot import PodView

__all__ = ["FEWER", "FOLLOWED", "keep_some", "replicas_of", "seat", "sets", "with_running"]

FEWER = "fewer replicas are wanted"
FOLLOWED = "the spec changed and its successor has its place"


def keep_some(pod: PodView, count: int) -> tuple[int, ...]:
    """The engines that go on: those that are ready first, then by index."""
    running = pod.record.pack.running if pod.record is not None and pod.record.pack is not None else ()
    ready = pod.pack.ready(running) if pod.pack is not None else ()
    return tuple(sorted(sorted(running, key=lambda index: (index not in ready, index))[:count]))


def seat(pods: Sequence[PodView], wanted: int, *, most: int | None) -> tuple[list[PodView], int]:
    """Let idle engines of packs of the present spec run; how many of `wanted` replicas have found a place.

    Packs that answer come first: another may be on a node that is lost.
    `most` is spec.sharing.maxPerGPU, which may have been lowered since a pack was made.
    """
    seated, found = 0, {pod.uid: pod for pod in pods}
    for pod in sorted(pods, key=lambda pod: not pod.ready):
        pack = pod.record.pack if pod.record is not None else None
        idle = [index for index in range(pack.engines) if index not in pack.running] if pack is not None else []
        running = pack.running if pack is not None else ()
        allowed = len(idle) if most is None else max(0, most - len(running))
        taken = idle[: min(wanted - seated, allowed)]
        if taken:
            found[pod.uid] = with_running(pod, tuple(sorted((*running, *taken))))
        seated += len(taken)
    return [found[pod.uid] for pod in pods], seated


def with_running(pod: PodView, running: tuple[int, ...]) -> PodView:
    """The pod as it is meant to be from now on."""
    record = pod.record
    assert record is not None and record.pack is not None  # noqa: S101, PT018 - only packs hold more than one replica
    return replace(pod, record=replace(record, pack=replace(record.pack, running=running)))


def sets(before: Sequence[PodView], after: Sequence[PodView], *, rolled: Collection[str]) -> tuple[SetEngines, ...]:
    """Packs that are meant to run other engines than their annotation says, or than their supervisor runs.

    `rolled` are the pods (by uid) that lose engines because others have the present spec.
    """
    recorded = {pod.uid: pod.record.pack.running for pod in before if pod.record is not None and pod.record.pack}
    return tuple(
        _set_engines(pod, running=pod.record.pack.running, recorded=recorded[pod.uid], rolled=pod.uid in rolled)
        for pod in after
        if pod.record is not None and pod.record.pack is not None and _differs(pod, recorded[pod.uid])
    )


def _differs(pod: PodView, recorded: tuple[int, ...]) -> bool:
    meant = pod.record.pack.running if pod.record is not None and pod.record.pack is not None else ()
    told = pod.pack is None or pod.pack.ending or pod.pack.running == meant
    return meant != recorded or not told


def _set_engines(pod: PodView, *, running: tuple[int, ...], recorded: tuple[int, ...], rolled: bool) -> SetEngines:
    assert pod.record is not None  # noqa: S101 - it has a pack
    if len(running) == len(recorded):
        problem = Problem(reason=Reason.STARTING, message="the supervisor is told again which engines run")
    elif len(running) > len(recorded):
        problem = Problem(reason=Reason.SCALED_UP, message="more replicas are wanted, and the pack has idle engines")
    elif rolled:
        problem = Problem(reason=Reason.ROLLOUT, message=FOLLOWED)
    else:
        problem = Problem(reason=Reason.SCALED_DOWN, message=FEWER)
    return SetEngines(
        pod=pod.key,
        uid=pod.uid,
        deployment=pod.record.deployment,
        running=running,
        recorded=running == recorded,
        problem=problem,
    )


def replicas_of(pods: Sequence[PodView]) -> int:
    """Replicas that the pods are meant to run."""
    return sum(pod.record.replicas if pod.record is not None else 1 for pod in pods)
