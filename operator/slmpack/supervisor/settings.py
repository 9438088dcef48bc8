"""All of the environment, and the commands of the helpers.

`SLMPACK_PROBE` and `SLMPACK_NVML`, each a JSON list, replace the helpers `probe` and `nvml`, and `SLMPACK_INTERVALS`
the seconds of `intervals`: for tests on machines without a GPU. The operator sets none of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from slmpack.supervisor.config import ConfigError, Pack, Place, parse_pack, parse_place
from slmpack.supervisor.intervals import Intervals, parse_intervals

__all__ = ["Settings", "inherited", "read_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the supervisor is told."""

    pack: Pack
    place: Place
    intervals: Intervals
    launcher: tuple[str, ...]
    probe: tuple[str, ...]
    nvml: tuple[str, ...]


def read_settings(env: Mapping[str, str]) -> Settings:
    """ConfigError names the variable and the field."""
    own = (sys.executable, "-I", sys.argv[0])
    return Settings(
        pack=parse_pack(env.get("SLMPACK_PACK", "")),
        place=parse_place(env),
        intervals=parse_intervals(env.get("SLMPACK_INTERVALS")),
        launcher=(*own, "exec"),
        probe=_command(env, "SLMPACK_PROBE") or (*own, "probe"),
        nvml=_command(env, "SLMPACK_NVML") or (*own, "nvml"),
    )


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """What engines and the daemon get: nothing of the supervisor's, and no MPS setting that would change a limit."""
    return {name: value for name, value in env.items() if not name.startswith(("SLMPACK_", "CUDA_MPS_"))}


def _command(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    if not (text := env.get(name)):
        return ()
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{name}: {text[:100]!r} must be a JSON list of texts")
    return tuple(words)
