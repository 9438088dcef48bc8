"""What a kubelet gives a container beside its image: files of its volumes, and values of its variables."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from tests.support.control_plane import ApiError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control_plane import ControlPlane

    Json = dict[str, Any]

__all__ = ["PodVolumes"]


class PodVolumes:
    """The volumes of a pod's first container as folders below `folder`."""

    def __init__(self, pod: Json, *, folder: Path, control_plane: ControlPlane) -> None:
        self._pod, self._folder, self._control_plane = pod, folder, control_plane
        self._namespace: str = pod["metadata"]["namespace"]
        container = pod["spec"]["containers"][0]
        self._mounts: dict[str, str] = {it["mountPath"]: it["name"] for it in container.get("volumeMounts", ())}

    def path(self, mount_path: str) -> Path:
        """Where the folder of a mount is; one that is not there where the container does not mount it."""
        return self._folder / self._mounts.get(mount_path, "not-mounted")

    def translated(self, text: str) -> str:
        """The text with the paths of mounts as they are here."""
        paths = "|".join(re.escape(path) for path in sorted(self._mounts, key=len, reverse=True))
        return re.sub(rf"(?<![\w/.])(?:{paths})(?![\w.-])", lambda there: str(self.path(there[0])), text)

    def fill(self) -> None:
        """Write the files. A missing Secret or ConfigMap is an error, as it keeps a container from starting."""
        for volume in self._pod["spec"].get("volumes", ()):
            folder = self._folder / volume["name"]
            folder.mkdir(exist_ok=True)
            for source in (volume, *volume.get("projected", {}).get("sources", ())):
                for name, content in self._files(source).items():
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.touch(mode=0o600)
                    target.write_bytes(content)

    def _files(self, source: Json) -> dict[str, bytes]:
        if (token := source.get("serviceAccountToken")) is not None:
            return {token["path"]: self._token(token).encode()}
        if (config := source.get("configMap")) is not None:
            data = self._data("configmaps", config["name"])
            return _chosen({key: value.encode() for key, value in data.items()}, config.get("items"))
        if (secret := source.get("secret")) is not None:
            data = self._data("secrets", secret.get("secretName") or secret["name"])
            return _chosen({key: base64.b64decode(value) for key, value in data.items()}, secret.get("items"))
        items = source.get("downwardAPI", {}).get("items", ())
        return {item["path"]: self._field(item["fieldRef"]["fieldPath"], ip="").encode() for item in items}

    def _token(self, wanted: Json) -> str:
        """A token that is good as long as the pod is there."""
        meta, account = self._pod["metadata"], self._pod["spec"].get("serviceAccountName", "default")
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        body = {"spec": {"expirationSeconds": wanted.get("expirationSeconds", 3600), "boundObjectRef": bound}}
        token: str = self._control_plane.request("POST", path, body=body)["status"]["token"]
        return token

    def value(self, source: Json, *, ip: str) -> str | None:
        """What a variable's `valueFrom` gives; None where it is optional and not there."""
        if (field := source.get("fieldRef")) is not None:
            return self._field(field["fieldPath"], ip=ip)
        kind, plural = ("secretKeyRef", "secrets") if "secretKeyRef" in source else ("configMapKeyRef", "configmaps")
        wanted = source[kind]
        try:
            found: str = self._data(plural, wanted["name"])[wanted["key"]]
        except (ApiError, KeyError):
            if wanted.get("optional"):
                return None
            raise
        return base64.b64decode(found).decode() if plural == "secrets" else found

    def _data(self, plural: str, name: str) -> dict[str, str]:
        found = self._control_plane.request("GET", f"/api/v1/namespaces/{self._namespace}/{plural}/{name}")
        data: dict[str, str] = found.get("data", {})
        return data

    def _field(self, path: str, *, ip: str) -> str:
        if path == "status.podIP":
            return ip
        group, name = path.split(".")
        return str(self._pod[group][name])


def _chosen(data: dict[str, bytes], items: list[Json] | None) -> dict[str, bytes]:
    return data if items is None else {item["path"]: data[item["key"]] for item in items}
