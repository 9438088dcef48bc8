"""What the chart holds that is made from elsewhere: `python -m tests.support.chart_files` writes it (`make chart`).

| file | from |
|---|---|
| templates/crd.yaml | the API's models |
| templates/_rules.tpl | the permission table |
| files/rules/*.yaml | monitoring/rules |
| README.md, the table of values | values.yaml |
| values.schema.json, its descriptions and what it requires | values.yaml |
| values.schema.json, the names of metrics and labels | what the file of --metric-names may hold |

The dashboards in files/dashboards are written by their own generator.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel

from slmpack.adapters.metric_names import GROUPS, LABEL, METRIC
from slmpack.api.crd import render_crd
from slmpack.permissions import PERMISSIONS, Permission, Scope

__all__ = ["CHART", "OPEN", "Value", "chart_files", "documented_values", "may_be_null"]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "slmpack"
RULES = ROOT / "monitoring" / "rules"
CRD_METADATA = """\
metadata:
  name: slmdeployments.slmpack.dev
  labels:
    {{- include "slmpack.labels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""
VALUES = "<!-- What follows is written from values.yaml by `make chart`. -->"
OPEN = {
    "affinity", "commonLabels", "metrics.dashboards.annotations", "metrics.dashboards.labels", "nodeSelector", "podSecurityContext",
    "prometheus.metricNames", "resources", "securityContext", "tolerations",
}  # fmt: skip
"""Mappings that are one value each: what is in them is Kubernetes'."""
KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(?: +(.*))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value that values.yaml explains."""

    path: tuple[str, ...]
    text: str
    default: object

    @property
    def name(self) -> str:
        """As `--set` writes it."""
        return ".".join(self.path)


def chart_files() -> dict[Path, str]:
    """The text of each generated file."""
    return {
        CHART / "templates" / "crd.yaml": _crd(),
        CHART / "templates" / "_rules.tpl": _rules(),
        CHART / "README.md": _readme(),
        CHART / "values.schema.json": _schema(),
        **{CHART / "files" / "rules" / path.name: path.read_text(encoding="utf-8") for path in RULES.glob("*.yaml")},
    }


def documented_values() -> list[Value]:
    """What values.yaml explains by `# --`, in its order. ValueError for an explanation that no key follows."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    found: list[Value] = []
    above: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            said = [stripped.removeprefix("# -- ")]
        elif said and stripped.startswith("# "):
            said.append(stripped.removeprefix("# "))
        elif match := KEY.match(line):
            depth = len(match[1])
            above = [*(one for one in above if one[0] < depth), (depth, match[2])]
            if said:
                path = tuple(name for _, name in above)
                found.append(Value(path=path, text=" ".join(said), default=_at(defaults, path)))
            said = []
        elif said:
            raise ValueError(f"values.yaml: no key follows {' '.join(said)!r}, but {line!r}")
    return found


def may_be_null(name: str, default: object) -> bool:
    """Whether null for this value means what its default means, or, for a mapping that is Kubernetes', an empty one.

    Helm takes a key whose value is null out of the values before it asks the schema.
    """
    return not default or name in OPEN


def _at(values: object, path: tuple[str, ...]) -> object:
    for name in path:
        assert isinstance(values, dict)
        values = values[name]
    return values


def _crd() -> str:
    text = render_crd()
    if "{{" in text:
        raise ValueError("the CRD holds {{, which Helm would take for its own: escape it here")
    plain = "metadata:\n  name: slmdeployments.slmpack.dev\n"
    before, found, after = text.partition(plain)
    if not found:
        raise ValueError(f"the CRD does not begin as expected: {plain!r} is not in it")
    return f"{{{{- if .Values.crds.install }}}}\n{before}{CRD_METADATA}{after}{{{{- end }}}}\n"


def _rules() -> str:
    head = "{{- /* Generated from operator/slmpack/permissions.py by `make chart`. Do not edit. */ -}}\n"
    return head + "".join(_rules_of(scope) for scope in Scope)


def _rules_of(scope: Scope) -> str:
    rows = [row for row in PERMISSIONS if row.scope is scope]
    always = "".join(_rule(row) for row in rows if not row.for_packs)
    for_packs = "".join(_rule(row) for row in rows if row.for_packs)
    packs = f'{{{{- if include "slmpack.packs" . }}}}\n{for_packs}{{{{- end }}}}\n' if for_packs else ""
    return f'{{{{- define "slmpack.rules.{scope.value}" -}}}}\n{always}{packs}{{{{- end }}}}\n'


def _rule(row: Permission) -> str:
    names = f"  resourceNames: [{', '.join(row.names)}]\n" if row.names else ""
    verbs = ", ".join(row.verbs)
    return f'# {row.why}\n- apiGroups: ["{row.group}"]\n  resources: [{row.resource}]\n{names}  verbs: [{verbs}]\n'


def _readme() -> str:
    text = (CHART / "README.md").read_text(encoding="utf-8")
    head, found, _ = text.partition(VALUES)
    if not found:
        raise ValueError(f"the chart's README.md has lost the line {VALUES!r}, below which its values are written")
    rows = [f"| `{value.name}` | {_default(value.default)} | {_cell(value.text)} |\n" for value in documented_values()]
    return f"{head}{VALUES}\n\n| value | default | what |\n|---|---|---|\n{''.join(rows)}"


def _schema() -> str:
    """The schema is written by hand, but for what is required, metrics' names, and the descriptions, which editors show.

    What two values share has no description.
    """
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for value in documented_values():
        node = schema
        for name in value.path:
            node = node.get("properties", {}).get(name, {})
        if node:
            node["description"] = value.text
    schema["properties"]["prometheus"]["properties"]["metricNames"]["properties"] = _metric_names()
    for kind, wanted in (("metricName", METRIC), ("labelName", LABEL)):
        form = {"pattern": f"^{wanted.pattern}$"}
        one = {"$ref": f"#/definitions/{kind}"}
        schema["definitions"][kind] = {"type": "string", **form}
        schema["definitions"][f"{kind}s"] = {"type": ["string", "array"], **form, "minItems": 1, "items": one}
    _require(schema, schema, yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))
    return json.dumps(schema, indent=2) + "\n"


def _metric_names() -> dict[str, Any]:
    """What the file of --metric-names may hold: a name that the program does not know would end it at its start."""
    return {group: _names(model, "labelName" if group == "labels" else "metricName") for group, model in GROUPS.items()}


def _names(model: type[BaseModel], one: str) -> dict[str, Any]:
    several = {key for key, field in model.model_fields.items() if get_origin(field.annotation) is tuple}
    fields = {key: {"$ref": f"#/definitions/{one}{'s' * (key in several)}"} for key in model.model_fields}
    return {"type": "object", "additionalProperties": False, "properties": fields}


def _require(schema: dict[str, Any], node: dict[str, Any], values: dict[str, Any], where: str = "") -> None:
    """Write into a mapping's node, and those below, which keys it cannot do without; what two share is for both."""
    names = {name: f"{where}.{name}".lstrip(".") for name in values}
    required = [name for name in values if not may_be_null(names[name], values[name])]
    if "$ref" in node:
        node = schema["definitions"][node["$ref"].rpartition("/")[2]]
    shape, own = (schema["definitions"]["monitor"], node["allOf"][1]) if "allOf" in node else (node, node)
    if required:
        own["required"] = required
    for name in required:
        if isinstance(values[name], dict) and where != "probes":
            _require(schema, shape["properties"][name], values[name], names[name])


def _default(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write them all."""
    for path, text in chart_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
