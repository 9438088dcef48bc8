"""What status says of moves that would free GPUs: worked out when the world has changed, and cheaply."""

from __future__ import annotations

import logging
from dataclasses import replace

from slmpack.domain.case import World
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.repack import Repack, advise_repack, is_calm
from slmpack.domain.snapshot import Policy, Snapshot

__all__ = ["Advisor"]

logger = logging.getLogger(__name__)

MOST_PODS = 64
"""In a larger cluster only `slmpack plan --repack` looks: a look costs as much as some plans."""
TRIES = 16


class Advisor:
    """Remembers its last answer, which holds while nothing changes."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._seen: object = None
        self._repack: Repack | None = None

    def told(self, plan: ClusterPlan, snapshot: Snapshot) -> ClusterPlan:
        """The plan with a sentence for each SLMDeployment whose pods would move."""
        if not is_calm(plan) or len(snapshot.pods) > MOST_PODS:
            return plan
        seen = snapshot.pods, snapshot.nodes, tuple(part.deployment.demand for part in plan.deployments)
        if seen != self._seen:
            self._seen, self._repack = seen, None
            try:
                self._repack = advise_repack(plan, World.read(snapshot, self._policy), tries=TRIES)
            except Exception:  # advice must not keep the status from being written
                logger.exception("no repack advice")
        if self._repack is None:
            return plan
        movers = {move.deployment for move in self._repack.moves}
        parts = (
            replace(part, repack=self._repack.sentence) if part.deployment.key in movers else part
            for part in plan.deployments
        )
        return replace(plan, deployments=tuple(parts))
