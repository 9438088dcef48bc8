"""The files under gitops/ that follow from health.lua and the scenes: `python -m tests.gitops.generated` writes them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.gitops.scenes import SCENES, play
from tests.support.gitops import Judged, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["CONFIG_MAP", "EXPRESSIONS_FILE", "HEALTH", "expressions", "files", "judged", "stray"]

ROOT = Path(__file__).resolve().parents[2]
CUSTOMIZATION = ROOT / "gitops" / "argocd" / "resource_customizations" / "slmpack.dev" / "SLMDeployment"
HEALTH = CUSTOMIZATION / "health.lua"
CONFIG_MAP = ROOT / "gitops" / "argocd" / "argocd-cm.yaml"
EXPRESSIONS_FILE = ROOT / "examples" / "gitops" / "flux" / "kustomizations.yaml"
BEFORE_THE_SCRIPT = frozenset({"deleting"})
"""Argo CD answers for these without asking the script, in words that differ from version to version."""
APPLICATION = """\
health = {status = "Progressing", message = ""}
if obj.status ~= nil and obj.status.health ~= nil then
  health.status = obj.status.health.status
  health.message = obj.status.health.message
end
return health
"""
"""What Argo CD's manual calls the health of an Application, which it does not judge by itself."""


def expressions() -> list[dict[str, str]]:
    """The healthCheckExprs of Flux' example."""
    documents = yaml.safe_load_all(EXPRESSIONS_FILE.read_text(encoding="utf-8"))
    found: list[dict[str, str]] = next(
        document["spec"]["healthCheckExprs"] for document in documents if "healthCheckExprs" in document["spec"]
    )
    return found


def judged() -> tuple[dict[str, dict[str, Any]], dict[str, Judged]]:
    """The object at the end of each scene, and what each tool says of it."""
    objects = {name: asyncio.run(play(scene)) for name, scene in SCENES.items()}
    health = HEALTH.read_text(encoding="utf-8")
    said = judge(list(objects.values()), health=health, expressions=expressions())
    return objects, dict(zip(objects, said, strict=True))


def files(objects: Mapping[str, Mapping[str, Any]], said: Mapping[str, Judged]) -> dict[Path, str]:
    """Every generated file and its text."""
    shown = [name for name in objects if name not in BEFORE_THE_SCRIPT]
    tests = [
        {
            "healthStatus": {"status": said[name].argo.status, "message": said[name].argo.message},
            "inputPath": f"testdata/{name}.yaml",
        }
        for name in shown
    ]
    found = {CUSTOMIZATION / "testdata" / f"{name}.yaml": _dump(objects[name]) for name in shown}
    return {**found, CUSTOMIZATION / "health_test.yaml": _dump({"tests": tests}), CONFIG_MAP: _config_map()}


def _config_map() -> str:
    scripts = {
        "resource.customizations.health.slmpack.dev_SLMDeployment": HEALTH.read_text(encoding="utf-8"),
        "resource.customizations.health.argoproj.io_Application": APPLICATION,
    }
    lines = [
        "# For kubectl patch configmap argocd-cm -n argocd --patch-file: the health of SLMDeployments, and the health of",
        "# Applications, by which the sync waves of examples/gitops/argocd wait for one another.",
        "data:",
    ]
    for key, script in scripts.items():
        lines += [f"  {key}: |", *(f"    {line}".rstrip() for line in script.splitlines())]
    return "\n".join(lines) + "\n"


def _dump(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=120)


def stray(wanted: Iterable[Path]) -> list[Path]:
    """Files of scenes that are no more."""
    return sorted(set((CUSTOMIZATION / "testdata").iterdir()) - set(wanted))


def main() -> int:
    """Write them."""
    wanted = files(*judged())
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in stray(wanted):
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
