"""A replica's pod: one vLLM engine, or a pack of them, bound to the node and the share that the plan chose."""

from __future__ import annotations

from typing import Any, assert_never

from slmpack.domain.engine import EngineTable
from slmpack.domain.plan import CreatePod
from slmpack.domain.sharing import DraClaim, Exclusive, MigSlice, MpsPack, MpsShare
from slmpack.render.engine_args import PORT, engine_command, waits_for_requests
from slmpack.render.lifecycle import drain_within, pre_stop, probes
from slmpack.render.pack import pack_body
from slmpack.render.pod_parts import Body, grace_seconds, pod_manifest

__all__ = ["CONTAINER", "PORT", "render_pod"]

CONTAINER = "engine"


def render_pod(
    create: CreatePod, *, engines: EngineTable, supervisor_image: str | None = None, token_hash: str = ""
) -> dict[str, Any]:
    """The pod's manifest. The same input gives the same manifest, and none of it names a GPU (D5b).

    A pack needs the image that brings its supervisor, and the SHA-256, in hex, of the token that it answers to;
    ValueError without them.
    """
    share = create.placement.share
    waits = waits_for_requests(engines, version=create.demand.engine_version)
    match share:
        case Exclusive() | MigSlice() | MpsShare() | DraClaim():
            return pod_manifest(create, _body(create, waits=waits))
        case MpsPack():
            body = pack_body(create, share, waits=waits, supervisor_image=supervisor_image, token_hash=token_hash)
            return pod_manifest(create, body)
        case _:
            assert_never(share)


def _body(create: CreatePod, *, waits: bool) -> Body:
    drain = drain_within(grace_seconds(create.demand), waits=waits)
    return Body(
        container=CONTAINER,
        command=engine_command(create, port=PORT, shutdown_timeout=drain.shutdown_timeout_seconds),
        ports=[{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        watch={**probes(create.demand.startup_budget), **pre_stop(drain)},
    )
