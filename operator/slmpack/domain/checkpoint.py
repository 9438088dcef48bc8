"""What the checkpoint's own metadata says of the weights, beside what the config says."""

from __future__ import annotations

from dataclasses import replace

from slmpack.domain.model_profile import ModelProfile, Task
from slmpack.domain.quantity import format_bytes

__all__ = ["CHECKPOINT_KEY", "MOST_CHECKPOINT_BYTES", "with_checkpoint_bytes"]

CHECKPOINT_KEY = "_slmpack_checkpoint_bytes"
"""Beside the keys of a config.json: bytes of all tensors in the checkpoint, as adapters read them from its metadata."""
MOST_CHECKPOINT_BYTES = 2**50
_NOTED_DIFFERENCE = 0.03
"""Part of the expected size from which a disagreement is a warning."""
_SAME = 0.001
"""Alignment and small buffers."""


def with_checkpoint_bytes(profile: ModelProfile, checkpoint_bytes: int) -> ModelProfile:
    """The profile with its weights checked against the bytes of all tensors in the checkpoint.

    The larger of the two is used: what the checkpoint holds beyond `profile.checkpoint_bytes` is added, converted to
    the dtype that it is loaded as. A head that vLLM does not load is not: it is tied, or the model embeds. A checkpoint
    that holds less changes nothing. `config_weight_bytes` stays what the config says.
    """
    expected = profile.checkpoint_bytes
    surplus = checkpoint_bytes - expected
    apart = abs(surplus) / expected
    shown = f"the checkpoint holds {format_bytes(checkpoint_bytes)}, the config says {format_bytes(expected)}"
    if _has_spare_head(profile) and abs(surplus - _head(profile)) <= _SAME * expected:
        note = f"{shown}: it stores an output head that is not loaded a second time; the config's size is used"
        return replace(profile, weights_note=note if apart > _NOTED_DIFFERENCE else None)
    if surplus <= 0:
        note = f"{shown}: the config's size, the larger, is used"
        return replace(profile, weights_note=note if apart > _NOTED_DIFFERENCE else None)
    added = surplus * profile.dtype_bytes // profile.stored_dtype_bytes
    return replace(
        profile,
        weight_bytes=profile.config_weight_bytes + added,
        loading_bytes=max(profile.loading_bytes, profile.config_weight_bytes + added),
        weights_note=f"{shown}: the checkpoint's size, the larger, is used" if apart > _NOTED_DIFFERENCE else None,
    )


def _head(profile: ModelProfile) -> int:
    """Bytes of an output head as stored."""
    return profile.vocab_size * profile.hidden_size * profile.stored_dtype_bytes


def _has_spare_head(profile: ModelProfile) -> bool:
    """Whether a head in the checkpoint would not be loaded: it is tied to the embedding, or nobody wants logits."""
    table = profile.vocab_size * profile.hidden_size * profile.dtype_bytes
    return profile.task is Task.EMBED or profile.lookup_bytes < table
