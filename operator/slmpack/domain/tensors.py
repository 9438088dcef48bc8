"""The tensors of a model, as far as their sizes matter: weight matrices by module, and everything else by number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from slmpack.domain.model_profile import LinearGroup

__all__ = ["Matrix", "Role", "Tensors"]


class Role(Enum):
    """What a matrix does; only DENSE and EXPERT matrices are quantised by default."""

    DENSE = "dense"
    EXPERT = "expert"
    ROUTER = "router"
    """Chooses experts; engines keep it unquantised."""
    LOOKUP = "lookup"
    """Rows are picked, never multiplied."""
    HEAD = "head"
    """The output head, or the one matrix of tied embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A weight matrix of one module."""

    name: str
    """The module's path in the checkpoint; expert 0 stands for all experts of its layer."""
    inputs: int
    outputs: int
    role: Role = Role.DENSE
    bias: bool = False
    copies: int = 1
    """Experts of this shape in the layer."""
    narrowing: bool = False
    """Whether it leads from an MLP's width back to hidden_size."""

    @property
    def weights(self) -> int:
        """Numbers of one copy, without its bias."""
        return self.inputs * self.outputs

    @property
    def biases(self) -> int:
        """Numbers of one copy's bias."""
        return self.outputs if self.bias else 0

    @property
    def parameters(self) -> int:
        """Numbers of one copy."""
        return self.weights + self.biases


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """All tensors of a model."""

    matrices: tuple[Matrix, ...]
    vectors: int
    """Numbers in normalisations and the like, which are never quantised."""

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.vectors + sum(matrix.copies * matrix.parameters for matrix in self.matrices)

    @property
    def lookup_parameters(self) -> int:
        """That a step looks up and does not multiply."""
        return sum(matrix.parameters for matrix in self.matrices if matrix.role is Role.LOOKUP)

    @property
    def linears(self) -> tuple[LinearGroup, ...]:
        """The linear layers of the transformer layers, by shape."""
        counts: Counter[tuple[int, int]] = Counter()
        for matrix in self.matrices:
            if matrix.role in {Role.DENSE, Role.EXPERT, Role.ROUTER}:
                counts[matrix.inputs, matrix.outputs] += matrix.copies
        return tuple(
            LinearGroup(inputs=inputs, outputs=outputs, count=count) for (inputs, outputs), count in counts.items()
        )
