"""What the labels say about a node's MIG instances that are free, and what they cannot say.

Device plugin and GPU feature discovery count instances per node; which GPU holds which is published nowhere. What
follows from the counts and the catalogue's placement rules alone is said here, and no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from slmpack.domain.gpu import GpuModel
from slmpack.domain.inventory import GPU, GPU_SHARED, GpuNode, label_int
from slmpack.domain.mig import compute_slices, find_profile, memory_slices
from slmpack.domain.plan import GpuBar
from slmpack.domain.sharing import MigSlice

__all__ = ["describe_slices", "slice_notes"]


def describe_slices(node: GpuNode, free: Mapping[str, int]) -> str:
    """One or two sentences about the node's instances; empty where it offers none. `free` is by resource."""
    slices = [(offer, offer.share) for offer in node.offers if isinstance(offer.share, MigSlice)]
    if node.gpu is None or not slices:
        return ""
    counts = [f"{max(0, free[o.resource])} of {o.units} {share.profile}" for o, share in slices]
    listed = f"node {node.name} has {_listed(counts)} free"
    gpus = _gpus(node)
    if gpus == 1:
        return f"{listed}, all on its one GPU."
    if gpus is None:
        least = _fewest(node.gpu, [(share.profile, offer.units) for offer, share in slices])
        where = f"at least {least} GPUs" if least > 1 else "one GPU or more"
        return f"{listed}, on {where}; labels do not say how many GPUs are cut, nor which of them holds what."
    used = [(share.profile, offer.units - free[offer.resource]) for offer, share in slices]
    return f"{listed}, on {gpus} GPUs; labels do not say which of them holds what. {_idle(node.gpu, used, gpus)}"


def slice_notes(nodes: Sequence[GpuNode], bars: Sequence[GpuBar]) -> tuple[str, ...]:
    """`describe_slices` of each node in a picture of which a bar a slice does not say everything: several GPUs."""
    taken = Counter((bar.node, bar.resource) for bar in bars if bar.blocks)
    notes = []
    for node in nodes:
        free = {offer.resource: offer.units - taken[node.name, offer.resource] for offer in node.offers}
        text = describe_slices(node, free) if _gpus(node) != 1 else ""
        notes.extend([f"N{text[1:]}"] if text else [])
    return tuple(notes)


def _listed(words: list[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def _gpus(node: GpuNode) -> int | None:
    """GPUs of the node, where they are labelled and none is handed out whole."""
    count = label_int(node.view.labels, "nvidia.com/gpu.count", 0)
    whole = node.view.allocatable.get(GPU, 0) + node.view.allocatable.get(GPU_SHARED, 0)
    return count if count and not whole else None


def _idle(gpu: GpuModel, used: list[tuple[str, int]], gpus: int) -> str:
    """How many GPUs run nothing: each instance in use occupies one GPU at most, all of them as few as can hold them."""
    low, high = max(0, gpus - sum(count for _, count in used)), max(0, gpus - _fewest(gpu, used))
    if low == high:
        return f"By their number, {low} of the GPUs {'has' if low == 1 else 'have'} no instance in use."
    return f"By their number, at least {low} and at most {high} of the GPUs have no instance in use."


def _fewest(gpu: GpuModel, instances: list[tuple[str, int]]) -> int:
    """GPUs that hold so many instances of each profile at least; one of a name nobody knows takes any room."""
    known = [(profile, n) for name, n in instances if (profile := find_profile(gpu, name)) is not None]
    compute = sum(profile.compute_slices * n for profile, n in known)
    memory = sum(profile.memory_slices * n for profile, n in known)
    bounds = [-(-n // profile.max_instances) for profile, n in known]
    if known:
        bounds += [-(-compute // compute_slices(gpu)), -(-memory // memory_slices(gpu))]
    return max([*bounds, min(1, sum(n for _, n in instances))])
