"""Volumes and mounts in `spec.pod`, as in core/v1, without the paths that GPU sharing needs."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, StrictBool, StrictStr

from slmpack.api.base import ApiModel, FreeObject
from slmpack.api.rules import Rule, Shown, exactly_one, matching, present

__all__ = ["Volume", "VolumeMount"]

MOUNT_PATH = r"^(/([^/:.][^/:]*|[.][^/:.][^/:]*|[.][.][^/:]+))+/?$"
RESERVED_MOUNTS = r"^/(dev|dev/shm(/.*)?|mps(/.*)?|slmpack(/.*)?)/?$"
"""The device plugin mounts its own shm and /mps into pods that share a GPU by MPS; /slmpack holds what we mount."""
VOLUME_SOURCES = (
    "config_map",
    "csi",
    "downward_api",
    "empty_dir",
    "ephemeral",
    "host_path",
    "nfs",
    "persistent_volume_claim",
    "projected",
    "secret",
)


class Volume(ApiModel):
    """A volume of the pod, as in core/v1: a name and exactly one source."""

    name: Annotated[
        StrictStr,
        Field(max_length=63),
        matching(
            r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "'{value}' is no volume name: use lower-case letters, digits and '-'"
        ),
        Rule(
            cel="!self.startsWith('slmpack-')",
            check=lambda name: not name.startswith("slmpack-"),
            message="'{value}' is a name of slmpack's own volumes; choose one that does not begin with slmpack-",
            shown=Shown(cel="self", read=str),
        ),
    ]
    """Name that `volumeMounts` refers to. Example: `templates`."""
    config_map: FreeObject | None = None
    """A ConfigMap, as in core/v1. Default: none. Example: `{name: chat-templates}`."""
    csi: FreeObject | None = None
    """An inline CSI volume, as in core/v1. Default: none."""
    downward_api: Annotated[FreeObject | None, Field(alias="downwardAPI")] = None
    """Fields of the pod as files, as in core/v1. Default: none."""
    empty_dir: FreeObject | None = None
    """An empty directory, as in core/v1. Default: none. Example: `{sizeLimit: 1Gi}`."""
    ephemeral: FreeObject | None = None
    """A claim that lives with the pod, as in core/v1. Default: none."""
    host_path: FreeObject | None = None
    """A path of the node, as in core/v1. Default: none. Example: `{path: /data, type: Directory}`."""
    nfs: FreeObject | None = None
    """An NFS share, as in core/v1. Default: none."""
    persistent_volume_claim: FreeObject | None = None
    """A claim in the namespace, as in core/v1. Default: none. Example: `{claimName: adapters}`."""
    projected: FreeObject | None = None
    """Several sources in one directory, as in core/v1. Default: none."""
    secret: FreeObject | None = None
    """A Secret, as in core/v1. Default: none. Example: `{secretName: tls}`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=exactly_one(
                "configMap csi downwardAPI emptyDir ephemeral hostPath nfs persistentVolumeClaim projected secret"
            ),
            check=lambda it: len(present(it, *VOLUME_SOURCES)) == 1,
            message="volume '{value}' needs exactly one source, for instance configMap or persistentVolumeClaim",
            shown=Shown(cel="self.name", read=lambda it: it.name),
        ),
    )


class VolumeMount(ApiModel):
    """Where the engine sees a volume, as in core/v1."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=63)]
    """Name of one of `volumes`. Example: `templates`."""
    mount_path: Annotated[
        StrictStr,
        Field(max_length=512),
        matching(MOUNT_PATH, "'{value}' must be an absolute path without '.', '..', ':' or '//'"),
        Rule(
            cel=f"!self.matches(r'{RESERVED_MOUNTS}')",
            check=lambda path: re.fullmatch(RESERVED_MOUNTS, path, re.ASCII | re.DOTALL) is None,
            message="'{value}' is taken: /dev/shm and /mps carry the GPU sharing and /slmpack slmpack's own files;"
            " mount it elsewhere",
            shown=Shown(cel="self", read=str),
        ),
    ]
    """Absolute path in the container; not /dev, /dev/shm, /mps or /slmpack. Example: `/templates`."""
    read_only: StrictBool = False
    """Whether the engine may only read it."""
    sub_path: Annotated[StrictStr, Field(max_length=512)] = ""
    """Path within the volume. Default: its root. Example: `chat`."""
