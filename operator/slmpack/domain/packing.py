"""Which missing replica goes on which node and resource.

The objective (D7a), lexicographic: most replicas placed, in the order of `wants` (D4b's total order); nothing that runs
moves; an offer that opens no further GPU, then the smallest sufficient one, then by name.

Each want is placed greedily; where it finds no room, replicas placed *in this plan* step aside along the shortest
augmenting path. While GPU units bind, the wants that can be placed together form a transversal matroid, so this places
the lexicographically first possible set. Where CPU or host memory bind as well, it is a heuristic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from slmpack.domain.board import Board, Candidate, Cap, Room, Want
from slmpack.domain.choice import BoundsNotKept
from slmpack.domain.fit import Fit, Kind, fit_pack, fit_share
from slmpack.domain.inventory import GpuNode, Offer, where
from slmpack.domain.quantity import format_bytes
from slmpack.domain.reasons import Problem, Reason
from slmpack.domain.sharing import (
    Exclusive,
    Mode,
    Share,
    describe_share,
    limit_bytes,
    mode_of,
    replicas_in,
)
from slmpack.domain.sizing import Need, nearest_fit, need_bytes, room_in
from slmpack.domain.snapshot import Demand, Key, PodView, Policy, Taint, Toleration
from slmpack.domain.workload import Objective

__all__ = ["GPU_TOLERATION", "Packed", "Packing", "candidates_for", "pack", "unhindered"]

GPU_TOLERATION = Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
CONDITION_TAINTS = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
"""Prefixes of the taints that Kubernetes itself sets and lifts: cordoned, not Ready, under pressure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The result for one want."""

    want: Want
    candidate: Candidate | None
    problem: Problem | None
    """Why it has no room; None if it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """The result for all, and the room as they leave it."""

    packed: tuple[Packed, ...]
    board: Board


_TELLING = (
    Reason.UNKNOWN_GPU,
    Reason.NOT_ADVERTISED,
    Reason.DRA_UNAVAILABLE,
    Reason.TIME_SLICED,
    Reason.MPS_CLIENT_LIMIT,
    Reason.SINGLE_STRATEGY_MIG,
    Reason.NO_MATCHING_GPU,
    Reason.SELECTOR_MISMATCH,
    Reason.UNTOLERATED_TAINT,
    Reason.NODE_UNAVAILABLE,
    Reason.NO_SUPERVISOR_IMAGE,
    Reason.INSUFFICIENT_GPU_MEMORY,
    Reason.BOUNDS_NOT_KEPT,
)
"""From the first check that a node can fail to the last: the later, the nearer it came to fit."""


def candidates_for(demand: Demand, need: Need, nodes: Sequence[GpuNode], policy: Policy) -> Room:
    """Every offer judged by what does not change with occupancy: kind, product, selector, taints, size."""
    candidates: list[Candidate] = []
    rejections: list[Problem] = []
    for node in nodes:
        refused = _refuse_node(demand, node)
        if refused is not None:
            rejections.append(refused)
            continue
        rejections.extend(node.refusals)
        for offer in node.offers:
            for found in _judge_offer(demand, need, node, offer, policy):
                if isinstance(found, Problem):
                    rejections.append(found)
                else:
                    candidates.append(found)
    rejections.sort(key=lambda problem: (-_TELLING.index(problem.reason), problem.message))
    candidates.sort(key=lambda c: (limit_bytes(c.share), c.node, c.offer.resource))
    return Room(candidates=tuple(candidates), rejections=tuple(rejections))


def pack(
    wants: Sequence[Want], rooms: Mapping[Key, Room], nodes: Sequence[GpuNode], pods: Sequence[PodView], policy: Policy
) -> Packing:
    """Place `wants`, first come first served, around the pods that are there. Same order out as in."""
    board = Board(rooms=rooms, nodes=nodes, pods=pods)
    _fill(board, wants, board.place)
    full = _fill(board, wants, board.place_directly)  # replicas that stepped aside may have left CPU or memory behind
    problems = {key: _explain(want, rooms[key], board, pods, policy) for key, want in full.items()}
    packed = tuple(
        Packed(
            want=want,
            candidate=board.placed.get(want.id),
            problem=None if want.id in board.placed else problems[want.deployment],
        )
        for want in wants
    )
    return Packing(packed=packed, board=board)


def _fill(board: Board, wants: Sequence[Want], place: Callable[[Want], bool]) -> dict[Key, Want]:
    """Place what has no place yet; the first that finds none stands for its deployment, whose replicas are alike."""
    full: dict[Key, Want] = {}
    for want in wants:
        if want.id not in board.placed and want.deployment not in full and not place(want):
            full[want.deployment] = want
    return full


def _refuse_node(demand: Demand, node: GpuNode) -> Problem | None:
    view = node.view
    if demand.gpu_products and node.product not in demand.gpu_products:
        wanted = ", ".join(sorted(demand.gpu_products))
        message = f"node {node.name} has {node.product or 'no labelled GPU'}; spec.sharing.gpuProducts allows {wanted}"
        return Problem(reason=Reason.NO_MATCHING_GPU, message=message, field="spec.sharing.gpuProducts")
    missing = [f"{k}={v}" for k, v in sorted(demand.node_selector.items()) if view.labels.get(k) != v]
    if missing:
        message = f"node {node.name} lacks {', '.join(missing)} of spec.pod.nodeSelector"
        return Problem(reason=Reason.SELECTOR_MISMATCH, message=message, field="spec.pod.nodeSelector")
    taints = [t for t in view.taints if not _tolerates((*demand.tolerations, GPU_TOLERATION), t)]
    taint = next((t for t in taints if not t.key.startswith(CONDITION_TAINTS)), None)
    if taint is not None:
        name = f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"
        message = f"node {node.name} has the taint {name}, which spec.sharing.tolerations does not tolerate"
        return Problem(reason=Reason.UNTOLERATED_TAINT, message=message, field="spec.sharing.tolerations")
    if view.unschedulable or not view.ready or taints:
        state = "cordoned" if view.unschedulable else "not Ready" if not view.ready else f"tainted {taints[0].key}"
        return Problem(reason=Reason.NODE_UNAVAILABLE, message=f"node {node.name} is {state}")
    return None


def unhindered(node: GpuNode) -> GpuNode:
    """The node as it is when nothing passing is in the way: uncordoned, Ready, with nothing running on it."""
    lasting = tuple(taint for taint in node.view.taints if not taint.key.startswith(CONDITION_TAINTS))
    return replace(node, view=replace(node.view, unschedulable=False, ready=True, taints=lasting, used_by_others={}))


def _tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    if taint.effect == "PreferNoSchedule":
        return True
    return any(
        (not t.key or t.key == taint.key)
        and (not t.effect or t.effect == taint.effect)
        and (t.operator == "Exists" or (bool(t.key) and t.value == taint.value))
        for t in tolerations
    )


def _judge_offer(
    demand: Demand, need: Need, node: GpuNode, offer: Offer, policy: Policy
) -> tuple[Candidate | Problem, ...]:
    """Every way to use an offer: a whole GPU may be had alone, or as a pack for several replicas."""
    if not isinstance(offer.share, Exclusive):
        return (_judge_unit(demand, need, node, offer, policy),)
    if demand.mode is Mode.MPS_PACK:
        return (_judge_pack(demand, need, node, offer, offer.share, policy),)
    alone = _judge_unit(demand, need, node, offer, policy)
    if demand.mode is not Mode.AUTO or not _packs_by_itself(demand, policy):
        return (alone,)
    pack = _judge_pack(demand, need, node, offer, offer.share, policy)
    useful = isinstance(pack, Candidate) and replicas_in(pack.share) > 1
    return (pack, alone) if useful else (alone,)


def _packs_by_itself(demand: Demand, policy: Policy) -> bool:
    """Whether Auto may turn a whole GPU into a pack: for one replica, or for latency's sake, it keeps GPUs apart."""
    return policy.supervisor_image is not None and demand.replicas > 1 and demand.objective is not Objective.LATENCY


def _judge_pack(  # noqa: PLR0913, PLR0917 - as its sibling's, and the whole GPU
    demand: Demand, need: Need, node: GpuNode, offer: Offer, whole: Exclusive, policy: Policy
) -> Candidate | Problem:
    if policy.supervisor_image is None:
        message = (
            f"node {node.name} has whole GPUs, but there is no supervisor image, which packs need: give the operator "
            "(and plan) --supervisor-image, as docs/packs.md says, or use another spec.sharing.mode"
        )
        return Problem(reason=Reason.NO_SUPERVISOR_IMAGE, message=message, field="spec.sharing.mode")
    assert node.gpu is not None  # noqa: S101 - a node whose GPU is unknown offers nothing
    if node.gpu.mps_max_clients is None:
        message = f"node {node.name} has {node.gpu.id}, which has no MPS; use another spec.sharing.mode"
        return Problem(reason=Reason.NO_MATCHING_GPU, message=message, field="spec.sharing.mode")
    found = fit_pack(demand, need, whole, node.gpu, policy)
    if found is None:
        message = (
            f"a replica needs {format_bytes(need_bytes(need))} of GPU memory; an MPS pack on node {node.name} has "
            f"{format_bytes(whole.memory_bytes)} less what the MPS server takes"
        )
        return Problem(reason=Reason.INSUFFICIENT_GPU_MEMORY, message=message)
    pack, fit = found
    if isinstance(fit.choice, BoundsNotKept):
        return _bounds_not_kept(pack, node, fit.choice)
    return Candidate(node=node.name, offer=offer, share=pack, fit=fit, cap=_cap(demand, node, offer, fit, pack=True))


def _bounds_not_kept(share: Share, node: GpuNode, broken: BoundsNotKept) -> Problem:
    message = f"{describe_share(share)} on node {node.name}: {broken.reason.rstrip('.')}, by prediction"
    return Problem(reason=Reason.BOUNDS_NOT_KEPT, message=message, field="spec.bounds")


def _judge_unit(demand: Demand, need: Need, node: GpuNode, offer: Offer, policy: Policy) -> Candidate | Problem:
    share = offer.share
    if demand.mode not in {Mode.AUTO, mode_of(share)}:
        message = f"node {node.name} offers {describe_share(share)}; spec.sharing.mode asks for {demand.mode.value}"
        return Problem(reason=Reason.NO_MATCHING_GPU, message=message, field="spec.sharing.mode")
    assert node.gpu is not None  # noqa: S101 - a node whose GPU is unknown offers nothing
    fit = fit_share(demand, need, Kind(share=share, per_gpu=offer.per_gpu, gpu=node.gpu), policy)
    if fit is None:
        message = (
            f"a replica needs {format_bytes(need_bytes(need))} of GPU memory; {describe_share(share)} on node "
            f"{node.name} gives it {format_bytes(room_in(share, need, policy).offered_bytes)} "
            f"of {format_bytes(limit_bytes(share))}"
        )
        return Problem(reason=Reason.INSUFFICIENT_GPU_MEMORY, message=message)
    if isinstance(fit.choice, BoundsNotKept):
        return _bounds_not_kept(share, node, fit.choice)
    return Candidate(node=node.name, offer=offer, share=share, fit=fit, cap=_cap(demand, node, offer, fit, pack=False))


def _cap(demand: Demand, node: GpuNode, offer: Offer, fit: Fit, *, pack: bool) -> Cap | None:
    """What the user allows on a GPU, else what pays there; nothing where every share pays, or is a whole GPU."""
    if isinstance(offer.share, Exclusive) and not pack:
        return None
    if demand.max_per_gpu is not None:
        replicas = demand.max_per_gpu * offer.gpus
        message = f"spec.sharing.maxPerGPU allows {replicas} replicas on the {offer.gpus} GPU(s) of node {node.name}"
        field = "spec.sharing.maxPerGPU"
        return Cap(replicas=replicas, problem=Problem(reason=Reason.MAX_PER_GPU, message=message, field=field))
    pays = fit.pays
    if pays is None or (pays >= offer.per_gpu and not pack):
        return None
    message = (
        f"on a GPU of node {node.name} {pays} {'replica pays' if pays == 1 else 'replicas pay'}; "
        f"{fit.no_more.rstrip('.')}; spec.sharing.maxPerGPU overrules it"
    )
    return Cap(
        replicas=pays * offer.gpus,
        problem=Problem(reason=Reason.DOES_NOT_PAY, message=message, field="spec.sharing.maxPerGPU"),
    )


_NEAREST = (
    Reason.INSUFFICIENT_GPUS,
    Reason.DOES_NOT_PAY,
    Reason.MAX_PER_GPU,
    Reason.INSUFFICIENT_PODS,
    Reason.INSUFFICIENT_MEMORY,
    Reason.INSUFFICIENT_CPU,
)
"""From the scarcest thing that an offer can lack to the one that is easiest to give it."""


def _explain(want: Want, room: Room, board: Board, pods: Sequence[PodView], policy: Policy) -> Problem:
    """Why a want has no room: the constraint that binds where it came nearest, and what would fit."""
    if not room.candidates:
        return _explain_no_candidate(room, want, policy)
    blockers = [blocker for c in room.candidates if (blocker := board.blocker(want, c)) is not None]
    nearest = max(blockers, key=lambda problem: (_NEAREST.index(problem.reason), problem.message))
    if nearest.reason is not Reason.INSUFFICIENT_GPUS:
        return nearest
    units = sum({(c.node, c.offer.resource): c.offer.units for c in room.candidates}.values())
    smallest = room.candidates[0].share
    message = (
        f"every GPU or share that holds the {format_bytes(need_bytes(want.need))} that a replica needs at least is "
        f"taken ({units} in all); each needs one more: {describe_share(smallest)} "
        f"({format_bytes(limit_bytes(smallest))}) or larger"
    )
    return Problem(
        reason=Reason.INSUFFICIENT_GPUS,
        message="; ".join((message, *_made_for_fewer(want, room, pods), *_slices(room, board))),
    )


def _made_for_fewer(want: Want, room: Room, pods: Sequence[PodView]) -> tuple[str, ...]:
    """The first of its own pods that would be made for more replicas now; none is replaced for that alone (D4a)."""
    now: dict[tuple[str | None, str], int] = {}
    for candidate in room.candidates:
        spot = candidate.node, candidate.offer.resource
        now[spot] = max(now.get(spot, 0), replicas_in(candidate.share))
    for pod in sorted(pods, key=lambda pod: pod.key):
        record = pod.record
        if record is None or record.deployment != want.deployment:
            continue
        then, would = record.pack.engines if record.pack is not None else 1, now.get((where(pod), record.resource), 0)
        if would > then:
            key = pod.key
            text = f"pod {key.name} was made for {then}, and one made now could be for {would}"
            return (f"{text}: kubectl delete pod -n {key.namespace} {key.name}, which ends what it runs",)
    return ()


def _slices(room: Room, board: Board) -> tuple[str, ...]:
    """What the labels tell of MIG instances that are free, on the first node that has any."""
    nodes = sorted({candidate.node for candidate in room.candidates})
    told = [text.removesuffix(".") for node in nodes if (text := board.slices(node))]
    others = len(told) - 1
    more = (f"{others} more {'node has' if others == 1 else 'nodes have'} MIG instances",) if others > 0 else ()
    return (*told[:1], *more)


def _explain_no_candidate(room: Room, want: Want, policy: Policy) -> Problem:
    fits = f"{nearest_fit(want.need, policy)} would hold a replica ({format_bytes(need_bytes(want.need))})"
    if not room.rejections:
        return Problem(reason=Reason.NO_GPU_NODES, message=f"the cluster has no node with NVIDIA GPUs; {fits}")
    nearest = room.rejections[0]
    others = len({problem.message for problem in room.rejections}) - 1
    more = f" (and {others} more offers that do not suit)" if others else ""
    tail = "" if nearest.reason in _NO_QUESTION_OF_SIZE else f"; {fits}"
    return Problem(reason=nearest.reason, field=nearest.field, message=f"{nearest.message}{more}{tail}")


_NO_QUESTION_OF_SIZE = frozenset({Reason.NO_SUPERVISOR_IMAGE, Reason.DRA_UNAVAILABLE})
