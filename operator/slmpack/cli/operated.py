"""The batch that the operator would run, for `predict` where nobody gives one."""

from __future__ import annotations

from dataclasses import replace

from slmpack.cli.question import Asked, Subject
from slmpack.domain.choice import Ask
from slmpack.domain.cut import Cut
from slmpack.domain.decide import operated
from slmpack.domain.snapshot import Policy
from slmpack.domain.workload import Workload

__all__ = ["as_operated"]


def as_operated(asked: Asked, subject: Subject, cut: Cut, workload: Workload, policy: Policy) -> Subject:
    """The subject with --max-num-seqs as `estimate` would choose it for so many replicas in such parts.

    As it is where --max-num-seqs or --batch is given: who gives a batch asks about that one.
    """
    if asked.max_num_seqs is not None or asked.batch is not None:
        return subject
    ask = Ask(
        engine=subject.engine,
        constants=policy.performance.constants_for(subject.version),
        workload=workload,
        bounds=asked.bounds,
        objective=asked.wanted_most,
    )
    return replace(subject, engine=operated(ask, cut, policy=policy))
