"""What the demo shows: the packing as the planner sees it, and each SLMDeployment's status as the operator wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from slmpack.adapters.clock import SystemClock
from slmpack.adapters.kube import KubeClient
from slmpack.adapters.observe import Observer, Scope
from slmpack.adapters.policy import load_policy
from slmpack.adapters.resources import SLM_DEPLOYMENTS
from slmpack.cli.draw import draw_bars, glyphs_of
from slmpack.cli.world import Bundled
from slmpack.domain.answer import with_names
from slmpack.domain.plan import GpuBar
from slmpack.domain.planner import plan_cluster

__all__ = ["Line", "Onlooker", "Scene", "render_scene"]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One SLMDeployment."""

    name: str
    ready: bool
    """Whether all its replicas are, by a status that is up to date."""
    count: str
    share: str
    reason: str
    message: str

    @classmethod
    def read(cls, raw: Json) -> Self:
        """From the object as the API server has it."""
        meta, status = raw["metadata"], raw.get("status") or {}
        condition: Json = next((entry for entry in status.get("conditions") or () if entry["type"] == "Ready"), {})
        current = status.get("observedGeneration") == meta.get("generation")
        return cls(
            name=meta["name"],
            ready=current and condition.get("status") == "True",
            count=status.get("ready") or "",
            share=status.get("share") or "",
            reason=condition.get("reason") or "no status yet",
            message=condition.get("message") or "",
        )

    def __str__(self) -> str:
        parts = (self.name, f"{self.count} ready" if self.count else "", self.share, self.reason)
        return "  ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The cluster at one moment."""

    bars: tuple[GpuBar, ...]
    lines: tuple[Line, ...]

    @property
    def all_ready(self) -> bool:
        """Whether there is something, and all of it is Ready."""
        return bool(self.lines) and all(line.ready for line in self.lines)

    def shortfall(self) -> str:
        """Why not everything is Ready, one line for each that is not."""
        return "\n".join(f"{line}  {line.message}".rstrip() for line in self.lines if not line.ready)


class Onlooker:
    """Looks at a cluster as the planner does, and changes nothing."""

    def __init__(self, client: KubeClient, *, namespace: str) -> None:
        self._client, self._namespace = client, namespace
        self._policy = load_policy()
        self._observer = Observer(
            client, scope=Scope(), models=Bundled(), engines=self._policy.engines, clock=SystemClock()
        )

    async def look(self) -> Scene:
        """The cluster now. Raises PortError."""
        self._observer.suspect()
        await self._observer.refresh()
        plan = with_names(plan_cluster(self._observer.snapshot(), self._policy))
        raw, _ = await self._client.list(SLM_DEPLOYMENTS.path(namespace=self._namespace))
        lines = tuple(Line.read(entry) for entry in sorted(raw, key=lambda entry: str(entry["metadata"]["name"])))
        return Scene(bars=plan.bars, lines=lines)


def render_scene(scene: Scene, console: Console) -> RenderableType:
    """Status above, picture below."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("SLMDEPLOYMENT", "READY", "SHARE", "REASON"):
        table.add_column(title, overflow="fold")
    for line in scene.lines:
        style = "green" if line.ready else "yellow"
        table.add_row(line.name, line.count, line.share, Text(line.reason, style=style))
    picture = draw_bars(scene.bars, width=console.width, glyphs=glyphs_of(console))
    return Group(table, Text(), picture)
