"""A node that advertises more MPS shares than its daemon admits clients gives out only so many, and says why."""

from __future__ import annotations

from slmpack.domain.inventory import free_on, read_nodes
from slmpack.domain.quantity import MIB
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import MpsShare, limit_bytes
from slmpack.domain.snapshot import NodeView
from tests.support.builders import (
    POLICY,
    a_demand,
    a_deployment,
    a_model,
    a_snapshot,
    a_stranger,
    creates,
    mps_node,
    plan,
)

GPU = "nvidia.com/gpu"


def test_more_shares_than_clients_are_not_given_out() -> None:
    (node,) = read_nodes((mps_node("n", gpus=2, replicas=60),), POLICY.gpus)
    (offer,) = node.offers
    (refusal,) = node.refusals
    assert (offer.units, offer.gpus, offer.per_gpu) == (96, 2, 48)
    assert isinstance(offer.share, MpsShare)
    assert offer.share.replicas == 60, "the daemon's limit is still a 60th"
    assert free_on(node, ())[GPU] == 96
    assert free_on(node, (a_stranger("s", "n", count=50),))[GPU] == 46, "whoever holds them"
    assert refusal.reason is Reason.MPS_CLIENT_LIMIT
    assert refusal.message == (
        "node n: 120 nvidia.com/gpu are advertised, but the device plugin's MPS daemon admits 48 clients to a GPU; "
        "set sharing.mps.replicas to at most 48"
    )


def test_as_many_shares_as_clients_are() -> None:
    (node,) = read_nodes((mps_node("n", gpus=2, replicas=48),), POLICY.gpus)
    assert (node.offers[0].units, node.refusals) == (96, ())


def test_a_percentage_is_never_0() -> None:
    (node,) = read_nodes((mps_node("n", replicas=200),), POLICY.gpus)
    share = node.offers[0].share
    assert isinstance(share, MpsShare)
    assert share.active_thread_percentage == 1


def test_a_limit_is_at_most_the_daemons_own() -> None:
    """The daemon's is the GPU's memory / replicas in whole MiB, and a pod's environment can only lower it."""
    for replicas in range(2, 49):
        (node,) = read_nodes((mps_node("n", replicas=replicas),), POLICY.gpus)
        (offer,) = node.offers
        assert limit_bytes(offer.share) <= 81559 // replicas * MIB
        assert limit_bytes(offer.share) % MIB == 0


def test_what_a_node_cannot_serve_is_nobodys_room() -> None:
    demand = a_demand(replicas=60, model=a_model("facebook/opt-125m"), cpu=100, max_per_gpu=60, max_model_len=768)
    node = mps_node("n", product="NVIDIA-H200", replicas=60, cpu=1_000_000)
    found = plan(a_snapshot(deployments=(a_deployment("a", demand),), nodes=(node,)))
    (entry,) = found.deployments
    assert len(creates(found)) + len(entry.waiting) == 48
    assert any("MpsClientLimit" in bar.note for bar in found.bars)


def an_idle(node: NodeView) -> int:
    (read,) = read_nodes((node,), POLICY.gpus)
    return free_on(read, ())[GPU]


def test_a_plugin_that_restarts_offers_nothing_for_a_while() -> None:
    away = mps_node("n", gpus=0)
    (read,) = read_nodes((away,), POLICY.gpus)
    assert (read.offers, read.refusals[0].reason, an_idle(away)) == ((), Reason.NOT_ADVERTISED, 0)
