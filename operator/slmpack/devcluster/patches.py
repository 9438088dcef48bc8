"""The four patch types of the API server, on plain dicts.

Merge patch is RFC 7386 and JSON patch RFC 6902. Strategic merge knows the list keys below and no others: every other
list is replaced. Apply keeps field ownership for each manager and removes what a manager no longer applies; lists are
owned whole, and nobody ever conflicts (one manager writes a field here).
"""

from __future__ import annotations

from typing import Any

from slmpack.devcluster.errors import StatusError

__all__ = ["apply_merge", "clone", "json_patch", "merge_patch", "owned_fields", "strategic_merge"]

Json = dict[str, Any]

_MERGE_KEYS = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "taints": "key",
    "volumeMounts": "mountPath",
    "volumes": "name",
}


def clone(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Deep copy of JSON, several times faster than copy.deepcopy."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    return [clone(item) for item in value] if isinstance(value, list) else value


def merge_patch(target: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return clone(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _walk(doc: Any, tokens: list[str]) -> Any:  # noqa: ANN401 - JSON
    for token in tokens:
        try:
            doc = doc[int(token)] if isinstance(doc, list) else doc[token]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise StatusError(422, "Invalid", f"the server rejected our request: no such path {token!r}") from error
    return doc


def _edit(doc: Any, tokens: list[str], operation: str, value: object) -> None:  # noqa: ANN401 - JSON
    parent, last = _walk(doc, tokens[:-1]), tokens[-1]
    if operation in {"remove", "replace"}:
        _walk(parent, [last])
    if isinstance(parent, list):
        at = len(parent) if last == "-" else int(last)
        if operation == "add":
            parent.insert(at, value)
        elif operation == "remove":
            del parent[at]
        else:
            parent[at] = value
    elif operation == "remove":
        del parent[last]
    else:
        parent[last] = value


def json_patch(target: Json, operations: list[Json]) -> Json:
    """RFC 6902: add, remove, replace, test, copy, move; a failed test is 422."""
    doc: Json = clone(target)
    for item in operations:
        tokens = [part.replace("~1", "/").replace("~0", "~") for part in str(item["path"]).split("/")[1:]]
        operation, value = item["op"], clone(item.get("value"))
        if operation == "test":
            if _walk(doc, tokens) != value:
                raise StatusError(422, "Invalid", f"testing value {item['path']} failed")
            continue
        if operation in {"copy", "move"}:
            source = [part.replace("~1", "/").replace("~0", "~") for part in str(item["from"]).split("/")[1:]]
            value = clone(_walk(doc, source))
            if operation == "move":
                _edit(doc, source, "remove", None)
            operation = "add"
        _edit(doc, tokens, operation, value)
    return doc


def _list_key(name: str, items: list[Any]) -> str | None:
    if not all(isinstance(item, dict) for item in items):
        return None
    if name == "ports":
        return "containerPort" if any("containerPort" in item for item in items) else "port"
    return _MERGE_KEYS.get(name)


def _merge_list(name: str, old: list[Any], patch: list[Any]) -> list[Any]:
    key = _list_key(name, [*old, *patch])
    if key is None:
        return list(dict.fromkeys([*old, *patch])) if name == "finalizers" else clone(patch)
    result = [clone(item) for item in old]
    for item in patch:
        at = next((i for i, other in enumerate(result) if other.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            result = [other for other in result if other.get(key) != item.get(key)]
        elif item.get("$patch") != "replace" and at is None:
            result.append(strategic_merge({}, item))
        elif at is not None:
            result[at] = strategic_merge(result[at], item)
    return result


def strategic_merge(target: Json, patch: Json) -> Json:
    """Merge as kubectl's client-side apply means it for built-in kinds, with the documented list keys."""
    if patch.get("$patch") == "replace":
        return {key: clone(value) for key, value in patch.items() if key != "$patch"}
    result = dict(target)
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            result[name] = [item for item in result.get(name, []) if item not in value]
        elif key == "$retainKeys":
            result = {name: item for name, item in result.items() if name in value}
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = strategic_merge(result.get(key) or {}, value)
        elif isinstance(value, list):
            result[key] = _merge_list(key, result.get(key) or [], value)
        else:
            result[key] = value
    return result


def owned_fields(applied: Json) -> Json:
    """The `fieldsV1` tree of an applied object: every leaf, a list being one leaf."""
    return {f"f:{key}": owned_fields(value) if isinstance(value, dict) else {} for key, value in applied.items()}


def _drop(target: Json, before: Json, now: Json, others: list[Json]) -> Json:
    """Remove what `before` owned, `now` does not name and none of `others` owns."""
    result = dict(target)
    for field, tree in before.items():
        name = field[2:]
        kept = now.get(name)
        holders = [other[field] for other in others if field in other]
        if name not in result or (kept is not None and not isinstance(kept, dict)):
            continue
        if tree and isinstance(result[name], dict):
            result[name] = _drop(result[name], tree, kept or {}, holders)
            if not result[name] and kept is None and not holders:
                del result[name]
        elif kept is None and not holders:
            del result[name]
    return result


def apply_merge(target: Json, applied: Json, *, before: Json, others: list[Json]) -> Json:
    """Server-side apply: drop this manager's abandoned fields, then merge what it applies now.

    `before` and `others` are `fieldsV1` trees: of this manager's last apply and of the other appliers.
    """
    cleaned: Json = _drop(target, before, applied, others)
    merged: Json = merge_patch(cleaned, applied)
    return merged
