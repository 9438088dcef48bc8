"""How a GPU can be cut into MIG instances, by the placement rules of `data/gpus.yaml`.

An instance is an interval on the memory-slice axis that starts where its profile may. Instances do not overlap, none
comes more often than `max_instances`, and their compute slices are at most the GPU's. Larger ones are placed first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from slmpack.domain.gpu import GpuModel, MigProfile
from slmpack.domain.mig import compute_slices, memory_slices, plain_profiles

__all__ = ["Layout", "Slot", "is_allowed", "layouts_of", "place", "stock_name"]

_CUTTABLE = frozenset({4, 7})
"""Compute slices of the GPUs for which the GPU operator's `all-balanced` is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One instance on the memory-slice axis."""

    profile: MigProfile
    start: int

    @property
    def end(self) -> int:
        """The first memory slice behind it."""
        return self.start + self.profile.memory_slices


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The instances of one GPU in order of their starts; the starts are one way that the rules allow."""

    slots: tuple[Slot, ...]

    @property
    def counts(self) -> tuple[tuple[MigProfile, int], ...]:
        """How many of each profile, the largest first."""
        counted = Counter(slot.profile for slot in self.slots)
        return tuple(sorted(counted.items(), key=lambda entry: _size(entry[0])))

    @property
    def name(self) -> str:
        """For people, such as `1 x 3g.40gb + 4 x 1g.10gb`."""
        return " + ".join(f"{count} x {profile.name}" for profile, count in self.counts)


def is_allowed(gpu: GpuModel, slots: Sequence[Slot]) -> bool:
    """Whether these instances may be on one GPU at once. The GPU has MIG."""
    ordered = sorted(slots, key=lambda slot: slot.start)
    counted = Counter(slot.profile for slot in slots)
    return (
        all(slot.start in slot.profile.placement_starts for slot in slots)
        and all(one.end <= other.start for one, other in pairwise(ordered))
        and all(slot.end <= memory_slices(gpu) for slot in slots)
        and all(count <= profile.max_instances for profile, count in counted.items())
        and sum(slot.profile.compute_slices for slot in slots) <= compute_slices(gpu)
    )


def place(gpu: GpuModel, profiles: Sequence[MigProfile]) -> Layout | None:
    """Starts for instances of these profiles; None: the GPU cannot hold them together."""
    found = _place(gpu, sorted(profiles, key=_size), ())
    return None if found is None else Layout(slots=tuple(sorted(found, key=lambda slot: slot.start)))


@lru_cache(maxsize=64)
def layouts_of(gpu: GpuModel) -> tuple[Layout, ...]:
    """Every layout that no further instance fits into, and those that have a stock name; by name.

    Profiles with media engines or graphics are left out, and those whose memory the catalogue does not know.
    """
    profiles = tuple(p for p in plain_profiles(gpu) if p.memory_mib is not None)
    found: dict[tuple[int, ...], Layout] = {}
    row = [(0,) * len(profiles)]
    while row:
        longer = {_plus(counts, at) for counts in row for at in range(len(profiles))}
        row = []
        for counts in sorted(longer):
            layout = place(gpu, [p for p, n in zip(profiles, counts, strict=True) for _ in range(n)])
            if layout is not None:
                found[counts] = layout
                row.append(counts)
    kept = (
        layout
        for counts, layout in found.items()
        if stock_name(gpu, layout) or not any(_plus(counts, at) in found for at in range(len(profiles)))
    )
    return tuple(sorted(kept, key=lambda layout: layout.name))


def stock_name(gpu: GpuModel, layout: Layout) -> str | None:
    """The name under which the GPU operator's MIG manager knows it (`nvidia.com/mig.config`), if it does.

    NVIDIA/gpu-operator assets/state-mig-manager: all-<profile>, as many as fit, and all-balanced: two of the smallest
    instances, one of two compute slices and, where the GPU has seven, one of three.
    """
    counts = {profile.name: count for profile, count in layout.counts}
    if len(counts) == 1:
        ((profile, count),) = layout.counts
        return f"all-{profile.name}" if count == profile.max_instances else None
    return "all-balanced" if counts == _balanced(gpu) else None


def _balanced(gpu: GpuModel) -> dict[str, int] | None:
    total = compute_slices(gpu)
    if total not in _CUTTABLE:
        return None
    wanted = {1: 2, 2: 1} if total < max(_CUTTABLE) else {1: 2, 2: 1, 3: 1}
    smallest = {slices: _smallest(gpu, slices) for slices in wanted}
    return {profile.name: wanted[slices] for slices, profile in smallest.items() if profile is not None}


def _smallest(gpu: GpuModel, slices: int) -> MigProfile | None:
    alike = [profile for profile in plain_profiles(gpu) if profile.compute_slices == slices]
    return min(alike, key=lambda profile: profile.memory_slices, default=None)


def _size(profile: MigProfile) -> tuple[int, int, str]:
    """Sorts the largest first."""
    return -profile.memory_slices, -profile.compute_slices, profile.name


def _plus(counts: tuple[int, ...], at: int) -> tuple[int, ...]:
    return (*counts[:at], counts[at] + 1, *counts[at + 1 :])


def _place(gpu: GpuModel, left: Sequence[MigProfile], placed: tuple[Slot, ...]) -> tuple[Slot, ...] | None:
    """Depth first, so that a start which leaves no room for the rest is given up; instances alike by rising start."""
    if not left:
        return placed
    after = placed[-1].start if placed and placed[-1].profile == left[0] else -1
    for start in (start for start in left[0].placement_starts if start > after):
        more = (*placed, Slot(profile=left[0], start=start))
        found = _place(gpu, left[1:], more) if is_allowed(gpu, more) else None
        if found is not None:
            return found
    return None
