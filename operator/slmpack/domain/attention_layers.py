"""Which layers look back on a window only, and what that makes of caches and attention work."""

from __future__ import annotations

from collections import Counter
from typing import assert_never

from slmpack.domain.architectures import Architecture, Windows
from slmpack.domain.model_config import Config

__all__ = ["windows_of"]

_SLIDING = "sliding_attention"
_FULL = "full_attention"
_QWEN_MAX_WINDOW_LAYERS = 28
"""transformers' default in the configurations of the Qwen families."""
_GEMMA_PATTERN = 6


def windows_of(config: Config, architecture: Architecture, layers: int) -> tuple[tuple[int | None, int], ...]:
    """(window in tokens, number of layers with it) for each window that occurs; None: all tokens."""
    window = _window(config, architecture)
    sliding = _stated(config, layers)
    if sliding is None:
        sliding = _by_rule(config, architecture, layers) if window is not None else 0
    elif sliding and window is None:
        raise config.unknown("sliding_window", rule=f"layer_types has {_SLIDING} layers: the window is needed")
    counts = Counter({window: sliding, None: layers - sliding}) if window is not None else Counter({None: layers})
    return tuple((tokens, count) for tokens, count in counts.items() if count)


def _window(config: Config, architecture: Architecture) -> int | None:
    opt_in = architecture.windows is Windows.LATE
    if not config.flag("use_sliding_window", default=not opt_in):
        return None
    if not config.has("sliding_window"):
        return architecture.window_by_default
    return config.number("sliding_window")


def _stated(config: Config, layers: int) -> int | None:
    kinds = config.raw("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list | tuple) or not all(kind in {_SLIDING, _FULL} for kind in map(str, kinds)):
        raise config.unknown("layer_types", rule=f"only a list of {_FULL} and {_SLIDING} is modelled")
    if len(kinds) != layers:
        raise config.unknown("layer_types", rule=f"one entry a layer is needed, {layers}")
    return kinds.count(_SLIDING)


def _by_rule(config: Config, architecture: Architecture, layers: int) -> int:
    match architecture.windows:
        case Windows.ALL:
            return layers
        case Windows.LATE:
            first = config.number("max_window_layers", default=_QWEN_MAX_WINDOW_LAYERS, least=0)
            return max(0, layers - first)
        case Windows.ALTERNATE:
            return -(-layers // 2)
        case Windows.PATTERN:
            return layers - layers // config.number("sliding_window_pattern", default=_GEMMA_PATTERN)
        case rule:
            assert_never(rule)
