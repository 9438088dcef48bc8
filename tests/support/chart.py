"""The chart as the real helm renders it, without a cluster."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.chart_files import CHART
from tests.support.helm import helm

__all__ = ["IMAGE", "RELEASE_NAMESPACE", "Rendered", "lint", "notes", "render", "rendering_error"]

IMAGE = "registry.example.com/slmpack"
RELEASE_NAMESPACE = "slmpack-system"
_SET = {"image": {"repository": IMAGE}}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Every object of a release, hooks included."""

    objects: tuple[Json, ...]

    def of(self, kind: str) -> list[Json]:
        """Those of a kind, in their order."""
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Json:
        """The only one of a kind, or of a kind and a name."""
        (found,) = [one for one in self.of(kind) if name is None or one["metadata"]["name"] == name]
        return found

    @property
    def pod(self) -> Json:
        """The operator's pod, as its Deployment makes it."""
        template: Json = self.one("Deployment")["spec"]["template"]
        return template

    @property
    def container(self) -> Json:
        """The operator's container."""
        (container,) = self.pod["spec"]["containers"]
        found: Json = container
        return found

    @property
    def args(self) -> list[str]:
        """What `slmpack` is called with."""
        args: list[str] = self.container["args"]
        return args


def render(
    values: Json | None = None, *, release: str = "slmpack", namespace: str = RELEASE_NAMESPACE, chart: Path = CHART
) -> Rendered:
    """What `helm template` prints for these values and an image, once; AssertionError with helm's words where it fails.

    A chart that changes in between is not seen: give each change its own folder.
    """
    return _render(json.dumps({**_SET, **(values or {})}), release, namespace, chart)


@cache
def _render(values: str, release: str, namespace: str, chart: Path) -> Rendered:
    code, out, err = _run(["template", release, str(chart), "--namespace", namespace], values)
    assert code == 0, err
    return Rendered(objects=tuple(one for one in yaml.load_all(out, yaml.CSafeLoader) if one))


def rendering_error(values: Json, *, chart: Path = CHART) -> str:
    """What helm says to values that it refuses, whatever the image; AssertionError where it takes them."""
    command = ["template", "slmpack", str(chart), "--namespace", RELEASE_NAMESPACE]
    code, out, err = _run(command, json.dumps({**_SET, **values}))
    assert code != 0, out[:500]
    return err


def notes(values: Json | None = None) -> str:
    """What helm prints after an installation with these values."""
    code, out, err = _run(
        ["install", "slmpack", str(CHART), "--namespace", RELEASE_NAMESPACE, "--dry-run=client", "--hide-secret"],
        json.dumps({**_SET, **(values or {})}),
    )
    assert code == 0, err
    return out.partition("NOTES:\n")[2]


def lint(values: Json) -> str:
    """What `helm lint --strict` says; AssertionError where it finds fault."""
    code, out, err = _run(["lint", "--strict", str(CHART)], json.dumps({**_SET, **values}))
    assert code == 0, out + err
    return out


def _run(command: list[str], values: str) -> tuple[int, str, str]:
    with tempfile.TemporaryDirectory(prefix="slmpack-helm-") as home:
        path = Path(home) / "values.json"
        path.write_text(values, encoding="utf-8")
        done = helm(*command, "--values", str(path), home=Path(home))
    return done.returncode, done.stdout, done.stderr
