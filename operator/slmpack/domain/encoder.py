"""The tensors of a bidirectional encoder of the BERT family: no KV cache, no output head, learned positions."""

from __future__ import annotations

from collections.abc import Iterator

from slmpack.domain.architectures import Architecture
from slmpack.domain.decoder import Shape
from slmpack.domain.model_config import Config
from slmpack.domain.tensors import Matrix, Role, Tensors

__all__ = ["encoder_tensors", "usable_positions"]

_NORM = 2
"""Weight and bias."""


def encoder_tensors(config: Config, shape: Shape) -> Tensors:
    """All tensors of the checkpoint, with the pooler, which vLLM may leave out."""
    if config.text("position_embedding_type", default="absolute") != "absolute":
        raise config.unknown("position_embedding_type", rule="only absolute is modelled")
    types = config.number("type_vocab_size", default=2)
    matrices = [
        _lookup("word_embeddings", rows=shape.vocab, hidden=shape.hidden),
        _lookup("position_embeddings", rows=shape.positions, hidden=shape.hidden),
        _lookup("token_type_embeddings", rows=types, hidden=shape.hidden),
    ]
    for index in range(shape.layers):
        matrices += _layer(shape, at=f"encoder.layer.{index}")
    matrices.append(Matrix(name="pooler.dense", inputs=shape.hidden, outputs=shape.hidden, bias=True))
    return Tensors(matrices=tuple(matrices), vectors=(1 + 2 * shape.layers) * _NORM * shape.hidden)


def usable_positions(config: Config, architecture: Architecture, rows: int) -> int:
    """The longest input: RoBERTa counts positions from pad_token_id + 1."""
    if not architecture.padded_positions:
        return rows
    left = rows - config.number("pad_token_id", default=1, least=0) - 1
    if left < 1:
        raise config.unknown("pad_token_id", rule=f"it leaves no position of max_position_embeddings, {rows}")
    return left


def _lookup(name: str, *, rows: int, hidden: int) -> Matrix:
    return Matrix(name=f"embeddings.{name}", inputs=hidden, outputs=rows, role=Role.LOOKUP)


def _layer(shape: Shape, *, at: str) -> Iterator[Matrix]:
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        yield Matrix(name=f"{at}.attention.{name}", inputs=shape.hidden, outputs=shape.hidden, bias=True)
    yield Matrix(name=f"{at}.intermediate.dense", inputs=shape.hidden, outputs=shape.intermediate, bias=True)
    yield Matrix(name=f"{at}.output.dense", inputs=shape.intermediate, outputs=shape.hidden, bias=True)
