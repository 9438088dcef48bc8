"""The hash that decides whether a replica runs the present spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

__all__ = ["spec_hash"]

_NOT_HASHED = frozenset({"replicas", "scaling", "service", "workload", "objective", "bounds", "profileRef"})
"""Fields of a spec that no pod is made from, or that only guide what is placed from then on: a change of theirs
replaces nothing."""
_NOT_HASHED_OF_SHARING = frozenset({"maxPerGPU", "whenFull"})


def spec_hash(spec: Mapping[str, object]) -> str:
    """Twelve hex digits of SHA-256 over the canonical JSON of what the user wrote and a pod is made from (D4a)."""
    hashed = {key: value for key, value in spec.items() if key not in _NOT_HASHED}
    sharing = spec.get("sharing")
    if isinstance(sharing, Mapping):
        hashed["sharing"] = {key: value for key, value in sharing.items() if key not in _NOT_HASHED_OF_SHARING}
        if not hashed["sharing"]:
            del hashed["sharing"]
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:12]
