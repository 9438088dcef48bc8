"""How many bytes the tensors of a repository's checkpoint take, from its safetensors metadata: never the weights.

A checkpoint in parts has an index file with the total; one in a single file has a header, read by a range request.
Formats: https://huggingface.co/docs/safetensors (8 bytes, little-endian: the length of the JSON header that follows).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from slmpack.domain.checkpoint import MOST_CHECKPOINT_BYTES

__all__ = ["INDEX", "LARGEST_HEADER_BYTES", "SINGLE", "Fetch", "UnreadableError", "checkpoint_bytes"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_HEADER_BYTES = 16 * 1024 * 1024
"""Of a header or an index; that of a model with 90,000 tensors has 9 MB."""
_FIRST_BYTES = 256 * 1024
_LENGTH_BYTES = 8

Fetch = Callable[[str, int], Awaitable[tuple[int, bytes]]]
"""(file name, most bytes) -> HTTP status and the file's first bytes, at most that many."""


class UnreadableError(Exception):
    """The metadata is there, or may be, but does not say how many bytes."""


async def checkpoint_bytes(fetch: Fetch) -> int:
    """Bytes of all tensors; 0 if the repository has no safetensors. Raises UnreadableError and what `fetch` raises."""
    index = await _found(fetch, INDEX, LARGEST_HEADER_BYTES + 1)
    if index is not None:
        return await asyncio.to_thread(_total, index)
    head = await _found(fetch, SINGLE, _FIRST_BYTES)
    if head is None:
        return 0
    needed = _header_end(head)
    if needed > len(head):
        head = await _found(fetch, SINGLE, needed) or b""
    if len(head) < needed:
        raise UnreadableError(f"{SINGLE}: the header has {needed} bytes, {len(head)} came")
    return await asyncio.to_thread(_sum, head[_LENGTH_BYTES:needed])


async def _found(fetch: Fetch, name: str, most: int) -> bytes | None:
    status, content = await fetch(name, most)
    if status == HTTPStatus.NOT_FOUND:
        return None
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise UnreadableError(f"{name}: the answer is {status}")
    return content


def _total(index: bytes) -> int:
    if len(index) > LARGEST_HEADER_BYTES:
        raise UnreadableError(f"{INDEX}: it is larger than {LARGEST_HEADER_BYTES} bytes")
    metadata = _object(INDEX, index).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, float) and total.is_integer():
        total = int(total)
    if isinstance(total, bool) or not isinstance(total, int) or not 0 < total <= MOST_CHECKPOINT_BYTES:
        raise UnreadableError(f"{INDEX}: metadata.total_size is no number of bytes")
    return total


def _header_end(head: bytes) -> int:
    """Length of the header with its own length field."""
    if len(head) < _LENGTH_BYTES:
        raise UnreadableError(f"{SINGLE}: it has {len(head)} bytes")
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if not 0 < length <= LARGEST_HEADER_BYTES:
        raise UnreadableError(f"{SINGLE}: a header of {length} bytes; 1 to {LARGEST_HEADER_BYTES} are read")
    return _LENGTH_BYTES + length


def _sum(header: bytes) -> int:
    tensors = _object(SINGLE, header)
    total = 0
    for name, tensor in tensors.items():
        if name == "__metadata__":
            continue
        match tensor:
            case {"data_offsets": [int(start), int(end)]} if 0 <= start <= end <= MOST_CHECKPOINT_BYTES:
                total += end - start
            case _:
                raise UnreadableError(f"{SINGLE}: a tensor has no data_offsets")
    if not 0 < total <= MOST_CHECKPOINT_BYTES:
        raise UnreadableError(f"{SINGLE}: its tensors have {total} bytes")
    return total


def _object(name: str, content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{name}: it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnreadableError(f"{name}: it is not a JSON object")
    return found
