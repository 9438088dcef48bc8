"""The status that a kubelet writes for a pod: phase, conditions and the state of each container."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["PodStatus"]

Json = dict[str, Any]
_OWN = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")


class PodStatus:
    """Builds a whole pod status from the state of its main container; the other containers follow it."""

    def __init__(self, pod: Json, *, main: str, ip: str, now: Callable[[], str]) -> None:
        containers = pod["spec"]["containers"]
        self._names = [(container["name"], container.get("image", "")) for container in containers]
        self._probed = {container["name"] for container in containers if "startupProbe" in container}
        self._main, self._ip, self._now = main, ip, now
        self._since: dict[str, tuple[str, str]] = {}
        self.started_at = now()
        self.restarts = 0
        self.last_state: Json = {}

    def waiting(self, reason: str, message: str | None = None) -> Json:
        """Pending or restarting: the main container waits for `reason`."""
        state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        return self._build("Running" if self.last_state else "Pending", state, ready=False)

    def running(self, *, ready: bool) -> Json:
        """The containers run; `ready` is the readiness probe's answer."""
        return self._build("Running", {"running": {"startedAt": self._now()}}, ready=ready)

    def terminated(self, ended: Json, *, phase: str = "Running") -> Json:
        """The containers have ended; `ended` is the `terminated` state of the main one."""
        return self._build(phase, {"terminated": ended}, ready=False)

    def ended(self, *, code: int, reason: str, message: str | None = None) -> Json:
        """A `terminated` state that ends now."""
        state = {"exitCode": code, "reason": reason, "startedAt": self.started_at, "finishedAt": self._now()}
        return state | ({"message": message} if message else {})

    def _build(self, phase: str, state: Json, *, ready: bool) -> Json:
        statuses = []
        for name, image in self._names:
            shown = state
            if name != self._main and "terminated" in state:
                shown = {"terminated": self.ended(code=0, reason="Completed")}
            started = "running" in shown and (ready or name not in self._probed)
            status = {"name": name, "image": image, "imageID": image, "ready": ready, "started": started}
            status |= {"restartCount": self.restarts if name == self._main else 0, "state": shown, "lastState": {}}
            if name == self._main:
                status["lastState"] = self.last_state
            statuses.append(status)
        return {
            "phase": phase,
            "startTime": self.started_at,
            "hostIP": "10.0.0.1",
            "podIP": self._ip,
            "podIPs": [{"ip": self._ip}],
            "containerStatuses": statuses,
            "conditions": self._conditions(ready=ready, sandbox=phase in {"Pending", "Running"}),
        }

    def _conditions(self, *, ready: bool, sandbox: bool) -> list[Json]:
        states = {"PodReadyToStartContainers": sandbox, "Initialized": True, "Ready": ready, "ContainersReady": ready}
        conditions = []
        for kind in _OWN:
            value = "True" if states[kind] else "False"
            old = self._since.get(kind)
            since = old[1] if old and old[0] == value else self._now()
            self._since[kind] = (value, since)
            condition = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": since}
            if value == "False" and kind in {"Ready", "ContainersReady"}:
                names = " ".join(name for name, _ in self._names)
                condition |= {"reason": "ContainersNotReady", "message": f"containers with unready status: [{names}]"}
            conditions.append(condition)
        return conditions

    @staticmethod
    def merged(status: Json, present: Json) -> Json:
        """`status` with the conditions that others wrote (PodScheduled, DisruptionTarget) kept."""
        foreign = [item for item in present.get("conditions", []) if item["type"] not in _OWN]
        return status | {"conditions": [*status["conditions"], *foreign]}
