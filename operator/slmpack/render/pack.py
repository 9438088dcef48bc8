"""A pack's pod: one whole GPU, and in its one container our supervisor with several engines of the user's image.

`slmpack.supervisor` is the program; the variable SLMPACK_PACK tells it what to run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from slmpack.domain.pack import CONTROL_PORT
from slmpack.domain.plan import CreatePod
from slmpack.domain.quantity import MIB
from slmpack.domain.sharing import MpsPack
from slmpack.render.engine_args import PORT, engine_command
from slmpack.render.lifecycle import Drain, drain_within, probes
from slmpack.render.names import pack_account_name, slice_name
from slmpack.render.pod_parts import Body, grace_seconds

__all__ = ["CONTROL", "PROGRAM", "engine_port", "pack_body"]

Json = dict[str, Any]

CONTROL = "control"
"""Name of the supervisor's port."""
PROGRAM = "/slmpack/supervisor.pyz"

_CONTAINER = "pack"
_FOLDER, _, _FILE = PROGRAM.rpartition("/")
_ACCOUNT_PATH = "/var/run/secrets/slmpack"
_PROGRAM_VOLUME, _ACCOUNT_VOLUME = "slmpack-supervisor", "slmpack-account"
_TOKEN_SECONDS = 3600
"""The kubelet renews a token at 80 % of its time; the API server grants no less than 600."""
_KILL_SECONDS = 3
"""Of the time to exit: for the supervisor to end what is left itself, before the kubelet kills them all."""
_FIELDS = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
    "POD_IP": "status.podIP",
    "NODE_NAME": "spec.nodeName",
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def engine_port(index: int) -> int:
    """Where an engine of a pack listens."""
    return PORT + index


def pack_body(create: CreatePod, share: MpsPack, *, waits: bool, supervisor_image: str | None, token_hash: str) -> Body:
    """What a pack's pod has beside what every replica's has. ValueError for what no pack can be made from.

    An engine image that is the supervisor's image as well (`images/pack`) has the program in its place: none is
    installed.
    """
    demand = create.demand
    image = _checked(supervisor_image, token_hash=token_hash)
    installed = image != demand.engine_image
    drain = drain_within(grace_seconds(demand), waits=waits)
    settings = _settings(create, share, drain=drain, token_hash=token_hash)
    return Body(
        container=_CONTAINER,
        command={"command": ["python3", "-I", PROGRAM]},
        ports=_ports(len(share.limits_bytes)),
        # No preStop hook: on SIGTERM the supervisor withdraws its endpoints, and then waits itself.
        watch=probes(demand.startup_budget, port=CONTROL, ready="/readyz", alive="/livez"),
        env=_env(settings),
        mounts=[*([_program_mount()] if installed else []), _account_mount()],
        volumes=[*([{"name": _PROGRAM_VOLUME, "emptyDir": {}}] if installed else []), _account_volume()],
        init_containers=[_installer(image)] if installed else [],
        account=pack_account_name(create.deployment.key.name),
    )


def _checked(supervisor_image: str | None, *, token_hash: str) -> str:
    if not supervisor_image:
        raise ValueError("supervisor_image is not set: no pack can be made without; start with --supervisor-image")
    if not _SHA256.fullmatch(token_hash):
        raise ValueError(f"token_hash is {token_hash!r}; it must be a SHA-256 as 64 lower-case hexadecimal digits")
    return supervisor_image


def _settings(create: CreatePod, share: MpsPack, *, drain: Drain, token_hash: str) -> Json:
    """What the supervisor runs. Of the grace period it gets all but what the kubelet needs to see it gone."""
    record, count = create.record.pack, len(share.limits_bytes)
    if record is None or record.engines != count:
        raise ValueError(f"record.pack is {record}; it must be of {count} engines, as many as the share has limits")
    after_requests = grace_seconds(create.demand) - drain.pre_stop_seconds - (drain.shutdown_timeout_seconds or 0)
    return {
        "version": 1,
        "command": _command(create, index=0, drain=drain)["command"],
        "engines": [
            {
                "port": engine_port(index),
                "limitMiB": limit // MIB,
                # A ceiling on multiprocessors idles what another engine leaves free: only where the spec asks for one.
                "smPercent": share.sm_percent,
                "args": _command(create, index=index, drain=drain)["args"],
                "slice": slice_name(create.name, engine=index),
            }
            for index, limit in enumerate(share.limits_bytes)
        ],
        "running": list(record.running),
        "controlPort": CONTROL_PORT,
        "tokenSHA256": token_hash,
        "startSeconds": -(-create.demand.startup_budget // timedelta(seconds=1)),
        "endpointSeconds": drain.pre_stop_seconds,
        "drainSeconds": drain.shutdown_timeout_seconds or 0,
        "exitSeconds": after_requests - min(_KILL_SECONDS, after_requests // 3),
    }


def _command(create: CreatePod, *, index: int, drain: Drain) -> dict[str, list[str]]:
    return engine_command(create, port=engine_port(index), shutdown_timeout=drain.shutdown_timeout_seconds)


def _env(settings: Mapping[str, Any]) -> dict[str, Json]:
    # The kubelet expands $(NAME) in a variable as it does in args, and the words of a command are safe from both.
    text = json.dumps(settings, separators=(",", ":"))
    return {
        **{name: {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in _FIELDS.items()},
        "SLMPACK_PACK": {"name": "SLMPACK_PACK", "value": text},
    }


def _ports(engines: int) -> list[Json]:
    """None is named http, so that a Service never takes a pack for one endpoint: each engine is one of its own."""
    named = {**{f"engine-{index}": engine_port(index) for index in range(engines)}, CONTROL: CONTROL_PORT}
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in named.items()]


def _installer(image: str) -> Json:
    """The init container that lays the program where every user id may read it."""
    # Limits equal to requests, so that a pack whose owner wants cores of its own (QoS Guaranteed) still gets them.
    resources = {"cpu": "250m", "memory": "64Mi"}
    return {
        "name": "install",
        "image": image,
        "command": ["python3", "-m", "slmpack.supervisor.install", _FOLDER],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": _PROGRAM_VOLUME, "mountPath": _FOLDER}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _program_mount() -> Json:
    """The one file: caches are mounted beside it, for which no runtime could make folders in a read-only volume."""
    return {"name": _PROGRAM_VOLUME, "mountPath": PROGRAM, "subPath": _FILE, "readOnly": True}


def _account_mount() -> Json:
    return {"name": _ACCOUNT_VOLUME, "mountPath": _ACCOUNT_PATH, "readOnly": True}


def _account_volume() -> Json:
    """What the supervisor writes endpoints with; not at the usual path, where any library in an engine finds it."""
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]
    return {"name": _ACCOUNT_VOLUME, "projected": {"sources": sources}}
