"""Whose turn it is: engines that share a GPU start one at a time, and none stops while another starts.

vLLM profiles the whole device's free memory while it starts: a neighbour that allocates is charged to the one that
starts, and one that frees trips an assertion (vLLM issues 55827, 56830). Which GPU a share sits on is published
nowhere, so the turn is a node's (D5b). Turns are read from the pods, so a restart of the operator loses none.

A start ends when the pod is Ready, fails, or runs out of its budget; a stop when the pod has gone. Who failed least
often is offered a turn first: replicas that never become Ready would else pass the turn among themselves for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from slmpack.domain.inventory import where
from slmpack.domain.plan import DeletePod, Placement
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import starts_alone
from slmpack.domain.snapshot import PodView

__all__ = ["Turns"]


class Turns:
    """The turns of one cycle."""

    def __init__(self, *, pods: Sequence[PodView], ending: Collection[str]) -> None:
        self._pods = {pod.uid: pod for pod in pods}
        self._starting: dict[str, str] = {}
        self._starters: dict[str, set[str]] = {}
        """By uid; of pods that there are already."""
        self._stopping: dict[str, str] = {}
        for pod in sorted(pods, key=lambda p: p.key):
            node = where(pod)
            if node is None or pod.record is None or not pod.record.starts_alone:
                continue
            if not (pod.was_ready or pod.deleting or pod.ended):
                self._starting[node] = str(pod.key)
                self._starters.setdefault(node, set()).add(pod.uid)
            elif pod.deleting or pod.ended or pod.uid in ending:
                self._stopping[node] = str(pod.key)

    def may_end(self, delete: DeletePod) -> bool:
        """Whether this pod may go now: not while a neighbour starts, even one that is to go as well."""
        pod = self._pods[delete.uid]
        shares = pod.record is not None and pod.record.starts_alone
        return not shares or self._starters.get(where(pod) or "", set()) <= {pod.uid}

    def take(self, placement: Placement) -> Problem | None:
        """Take the node's turn for a start there; or who has it."""
        if not starts_alone(placement.share):
            return None
        node = placement.node
        holder = self._starting.get(node) or self._stopping.get(node)
        if holder is None:
            self._starting[node] = "another replica"
            return None
        verb = "starts" if node in self._starting else "stops"
        message = f"replicas that share GPUs start one at a time: {holder} {verb} on node {node}"
        return Problem(reason=Reason.WAITING_FOR_START, message=message)
