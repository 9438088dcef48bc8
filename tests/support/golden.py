"""Golden files: manifests as reviewed YAML. `make golden` rewrites them; a review of the diff is the test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FOLDER", "Golden"]

FOLDER = Path(__file__).parent.parent / "data" / "golden"


class _WrittenOut(yaml.SafeDumper):
    """Without anchors: a reader wants each probe whole."""

    @override
    def ignore_aliases(self, data: object) -> bool:
        return True


@dataclass(frozen=True)
class Golden:
    """The folder of golden files; with `update` a check writes the file and passes."""

    update: bool

    def check(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Compare a manifest with `name`.yaml, to the byte."""
        path = FOLDER / f"{name}.yaml"
        text = yaml.dump(dict(manifest), Dumper=_WrittenOut, sort_keys=False, allow_unicode=True, width=1000)
        if self.update:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path.name} is missing; run: make golden"
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; if that is right, run: make golden"
