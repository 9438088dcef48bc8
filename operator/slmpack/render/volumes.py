"""The pod's volumes: the model, caches that any user id may write, /dev/shm, and the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmpack.domain.sharing import Share, replicas_in
from slmpack.render.gpu import SHM_BYTES, mounts_own_shm
from slmpack.render.template import items, mapping

__all__ = ["CACHE_ENV", "model_path", "volume_mounts", "volumes"]

MODEL_PATH = "/slmpack/model"
CACHE_PATH = "/slmpack/cache"
HUB_PATH = "/slmpack/huggingface"

CACHE_ENV = {
    "HF_HOME": HUB_PATH,
    "VLLM_CACHE_ROOT": f"{CACHE_PATH}/vllm",
    "VLLM_CONFIG_ROOT": f"{CACHE_PATH}/config",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE_PATH}/inductor",
    "TRITON_CACHE_DIR": f"{CACHE_PATH}/triton",
}
"""Where libraries write that else write below the home directory, which only root has in the engine's image."""

_MODEL, _CACHE, _HUB, _SHM = "slmpack-model", "slmpack-cache", "slmpack-huggingface", "slmpack-shm"
_PVC = "pvc://"


def model_path(source: str) -> str | None:
    """Where a pvc:// source's model lies in the container; None for a model that vLLM fetches from the Hub."""
    if not source.startswith(_PVC):
        return None
    _, _, path = source.removeprefix(_PVC).partition("/")
    return f"{MODEL_PATH}/{path}".rstrip("/")


def volumes(template: Mapping[str, Any], *, source: str, share: Share) -> list[dict[str, Any]]:
    """The pod's `volumes`, ours first."""
    ours: list[dict[str, Any]] = [
        {"name": _CACHE, "emptyDir": {}},
        {"name": _HUB, **_hub_source(mapping(template, "model", "cache"))},
    ]
    if model_path(source) is not None:
        claim, _, _ = source.removeprefix(_PVC).partition("/")
        ours.append({"name": _MODEL, "persistentVolumeClaim": {"claimName": claim}})
    if mounts_own_shm(share):
        size = SHM_BYTES * replicas_in(share)
        ours.append({"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}})
    return [*ours, *items(template, "pod", "volumes")]


def volume_mounts(template: Mapping[str, Any], *, source: str, share: Share) -> list[dict[str, Any]]:
    """The container's `volumeMounts`, ours first. A model's claim is mounted whole: its files may be symbolic links."""
    ours: list[dict[str, Any]] = [
        {"name": _CACHE, "mountPath": CACHE_PATH},
        {"name": _HUB, "mountPath": HUB_PATH},
    ]
    if model_path(source) is not None:
        ours.append({"name": _MODEL, "mountPath": MODEL_PATH, "readOnly": True})
    if mounts_own_shm(share):
        ours.append({"name": _SHM, "mountPath": "/dev/shm"})  # noqa: S108  the container's, not ours
    return [*ours, *items(template, "pod", "volumeMounts")]


def _hub_source(cache: Mapping[str, Any]) -> dict[str, Any]:
    if claim := cache.get("persistentVolumeClaim"):
        return {"persistentVolumeClaim": {"claimName": claim["claimName"]}}
    if host_path := cache.get("hostPath"):
        return {"hostPath": {"path": host_path["path"], "type": "DirectoryOrCreate"}}
    return {"emptyDir": {}}
