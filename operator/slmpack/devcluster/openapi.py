"""Discovery and OpenAPI v3 documents: as much as kubectl asks for to apply, explain and validate."""

from __future__ import annotations

from typing import Any

from slmpack.devcluster.errors import StatusError
from slmpack.devcluster.resources import Registry, Resource

__all__ = ["api_groups", "api_resources", "core_versions", "openapi_document", "openapi_index", "version_info"]

Json = dict[str, Any]


def version_info() -> Json:
    """GET /version. The minor is the release whose behaviour this server imitates."""
    return {"major": "1", "minor": "36", "gitVersion": "v1.36.0+slmpack.devcluster", "platform": "linux/amd64"}


def core_versions() -> Json:
    """GET /api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def api_groups(registry: Registry) -> Json:
    """GET /apis."""
    groups = []
    for group, versions in registry.group_versions().items():
        if group:
            listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
            groups.append({"name": group, "versions": listed, "preferredVersion": listed[0]})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _entries(item: Resource) -> list[Json]:
    base: Json = {
        "name": item.plural,
        "singularName": item.kind.lower(),
        "namespaced": item.namespaced,
        "kind": item.kind,
    }
    base |= {"verbs": list(item.verbs), "shortNames": list(item.short_names), "categories": list(item.categories)}
    entries = [base]
    for name in item.subresources:
        entry: Json = {
            "name": f"{item.plural}/{name}",
            "singularName": "",
            "namespaced": item.namespaced,
            "kind": item.kind,
        }
        entry["verbs"] = ["get", "patch", "update"]
        if name == "scale":
            entry |= {"kind": "Scale", "group": "autoscaling", "version": "v1"}
        elif name == "eviction":
            entry |= {"kind": "Eviction", "group": "policy", "version": "v1", "verbs": ["create"]}
        entries.append(entry)
    return entries


def api_resources(registry: Registry, group: str, version: str) -> Json:
    """GET /api/v1 or /apis/GROUP/VERSION; 404 for a version that is not served."""
    served = [item for item in registry if (item.group, item.version) == (group, version)]
    if not served:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    entries = [entry for item in served for entry in _entries(item)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": served[0].api_version, "resources": entries}


def openapi_index(registry: Registry) -> Json:
    """GET /openapi/v3."""
    paths = {}
    for group, versions in registry.group_versions().items():
        for version in versions:
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}"}
    return {"paths": paths}


def _schema(item: Resource) -> Json:
    schema: Json = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if item.version_spec is not None:
        schema = dict(item.version_spec.get("schema", {}).get("openAPIV3Schema", schema))
    gvk = {"group": item.group, "version": item.version, "kind": item.kind}
    return schema | {"x-kubernetes-group-version-kind": [gvk]}


def _paths(item: Resource, schema_name: str) -> Json:
    prefix = f"/apis/{item.group}/{item.version}" if item.group else f"/api/{item.version}"
    collection = f"{prefix}/namespaces/{{namespace}}/{item.plural}" if item.namespaced else f"{prefix}/{item.plural}"
    gvk = {"group": item.group, "version": item.version, "kind": item.kind}
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema_name}"}}}
    answer = {"responses": {"200": {"description": "OK", "content": content}}, "x-kubernetes-group-version-kind": gvk}
    # kubectl takes the server for one that validates fields itself when it finds this parameter.
    checked = answer | {"parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]}
    one = {"get": answer, "put": checked, "patch": checked, "delete": answer}
    return {collection: {"get": answer, "post": checked}, f"{collection}/{{name}}": one}


def openapi_document(registry: Registry, group: str, version: str) -> Json:
    """GET /openapi/v3/api/v1 or /openapi/v3/apis/GROUP/VERSION."""
    schemas: Json = {}
    paths: Json = {}
    for item in registry:
        if (item.group, item.version) == (group, version):
            reversed_group = ".".join(reversed((item.group or "core.api.k8s.io").split(".")))
            name = f"{reversed_group}.{item.version}.{item.kind}"
            schemas[name] = _schema(item)
            paths |= _paths(item, name)
    info = {"title": "slmpack devcluster", "version": version}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}
