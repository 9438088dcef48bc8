"""MIG profiles: what the name that a node gives an instance means in the catalogue.

Drivers rename profiles (GB200 has 1g.23gb or 1g.24gb) and add variants (`+me`, `+gfx`), so a name is looked up by what
it says: compute slices and memory.
"""

from __future__ import annotations

import re

from slmpack.domain.gpu import GpuModel, MigProfile

__all__ = ["compute_slices", "find_profile", "memory_slices", "plain_profiles"]

_NAME = re.compile(r"(?P<compute>[0-9]+)g\.(?P<gb>[0-9]+)gb(?P<variant>[.+-][a-z.]+)?")


def find_profile(gpu: GpuModel, name: str) -> MigProfile | None:
    """The catalogue's entry for `name`, as nvidia-smi (`+me`) or a resource (`.me`) spells it; None: there is none.

    A name that is not in the table is read: so many compute slices, and so much memory, rounded to memory slices.
    """
    exact = next((p for p in gpu.mig_profiles if name in {p.name, p.name.replace("+", ".")}), None)
    read = _read(name)
    if exact is not None or read is None:
        return exact
    compute, gb = read
    whole = max(plain_profiles(gpu), key=lambda profile: profile.memory_slices, default=None)
    size = None if whole is None else _read(whole.name)
    if whole is None or size is None:
        return None
    slices = round(gb * whole.memory_slices / size[1])
    alike = (p for p in plain_profiles(gpu) if (p.compute_slices, p.memory_slices) == (compute, slices))
    return next(alike, None)


def plain_profiles(gpu: GpuModel) -> tuple[MigProfile, ...]:
    """Those without media engines or graphics, which change neither memory nor multiprocessors."""
    return tuple(profile for profile in gpu.mig_profiles if "+" not in profile.name)


def compute_slices(gpu: GpuModel) -> int:
    """Of the whole GPU: those of its largest profile. The GPU has MIG."""
    return max(profile.compute_slices for profile in gpu.mig_profiles)


def memory_slices(gpu: GpuModel) -> int:
    """Length of the axis on which instances are placed. The GPU has MIG."""
    return max(profile.memory_slices for profile in gpu.mig_profiles)


def _read(name: str) -> tuple[int, int] | None:
    """Compute slices and nominal gigabytes, which is all that a name says."""
    found = _NAME.fullmatch(name)
    return None if found is None else (int(found["compute"]), int(found["gb"]))
