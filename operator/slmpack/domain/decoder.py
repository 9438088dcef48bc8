"""The tensors of a decoder: attention (with heads or latent), MLP or experts, embeddings and head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from slmpack.domain.architectures import Architecture, Mixture, Norms, Shared
from slmpack.domain.model_config import Config, UnknownError
from slmpack.domain.tensors import Matrix, Role, Tensors

__all__ = ["Latent", "Shape", "decoder_tensors", "expert_layers", "head_is_tied", "latent_of", "shape_of", "width_of"]

_MOST_LAYERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What every layer shares."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """The sizes of multi-head latent attention."""

    query_rank: int | None
    """None: queries are projected at once."""
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    @property
    def cached(self) -> int:
        """Numbers that one token leaves in one layer's cache."""
        return self.kv_rank + self.rope_dim


def shape_of(config: Config, architecture: Architecture) -> Shape:
    """The common sizes, checked against one another."""
    hidden = config.number("hidden_size")
    heads = config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise config.unknown("num_key_value_heads", rule=f"it must divide num_attention_heads, {heads}")
    return Shape(
        layers=config.number("num_hidden_layers", largest=_MOST_LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(config, architecture, hidden=hidden, heads=heads),
        intermediate=config.number(architecture.intermediate_key),
        vocab=config.number("vocab_size"),
        positions=config.number("max_position_embeddings"),
    )


def _head_dim(config: Config, architecture: Architecture, *, hidden: int, heads: int) -> int:
    if architecture.latent:
        return config.number("qk_nope_head_dim") + config.number("qk_rope_head_dim")
    if config.has("head_dim") or architecture.head_dim_required:
        return config.number("head_dim")
    if hidden % heads:
        raise config.unknown("num_attention_heads", rule=f"without head_dim it must divide hidden_size, {hidden}")
    return hidden // heads


def latent_of(config: Config, architecture: Architecture) -> Latent | None:
    """The sizes of latent attention; None for attention with heads."""
    if not architecture.latent:
        return None
    return Latent(
        query_rank=config.number("q_lora_rank") if config.has("q_lora_rank") else None,
        kv_rank=config.number("kv_lora_rank"),
        nope_dim=config.number("qk_nope_head_dim"),
        rope_dim=config.number("qk_rope_head_dim"),
        value_dim=config.number("v_head_dim"),
    )


def width_of(shape: Shape, latent: Latent | None) -> int:
    """`AttentionGroup.width`: heads * (score width + value width)."""
    return shape.heads * (2 * shape.head_dim if latent is None else shape.head_dim + latent.value_dim)


def head_is_tied(config: Config, architecture: Architecture) -> bool:
    """Whether the output head is the input embedding."""
    return config.flag("tie_word_embeddings", default=architecture.tied)


def expert_layers(config: Config, mixture: Mixture, layers: int) -> frozenset[int]:
    """Layers that have experts; the others have an MLP."""
    if mixture.stepped:
        step = config.number("decoder_sparse_step", default=1)
        dense = set(config.numbers("mlp_only_layers"))
        return frozenset(index for index in range(layers) if index not in dense and (index + 1) % step == 0)
    if mixture.dense_first:
        first = config.number("first_k_dense_replace", default=0, least=0)
        every = config.number("moe_layer_freq", default=1)
        return frozenset(index for index in range(first, layers) if index % every == 0)
    return frozenset(range(layers))


def decoder_tensors(config: Config, architecture: Architecture, shape: Shape, *, with_head: bool) -> Tensors:
    """All tensors that vLLM loads; `with_head` is false for a model that embeds."""
    latent = latent_of(config, architecture)
    mixture = architecture.mixture
    sparse = expert_layers(config, mixture, shape.layers) if mixture else frozenset[int]()
    matrices: list[Matrix] = []
    for index in range(shape.layers):
        at = f"{architecture.layers_at}.{index}"
        matrices += _latent(shape, latent, at=at) if latent else _attention(config, architecture, shape, at=at)
        if mixture is not None and index in sparse:
            matrices += _experts(config, mixture, shape, at=at)
        else:
            matrices += _mlp(config, architecture, shape, at=at)
    matrices += _surroundings(config, architecture, shape, with_head=with_head)
    vectors = shape.layers * _layer_vectors(architecture, shape, latent) + _final_norm(config, architecture, shape)
    if mixture is not None and mixture.dense_first and config.raw("topk_method") == "noaux_tc":
        vectors += len(sparse) * config.number(mixture.count)
    return Tensors(matrices=tuple(matrices), vectors=vectors)


def _attention(config: Config, architecture: Architecture, shape: Shape, *, at: str) -> Iterator[Matrix]:
    bias = config.holds(architecture.qkv_bias)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for name, outputs in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        yield Matrix(name=f"{at}.self_attn.{name}", inputs=shape.hidden, outputs=outputs, bias=bias)
    yield Matrix(
        name=f"{at}.self_attn.o_proj", inputs=queries, outputs=shape.hidden, bias=config.holds(architecture.output_bias)
    )


def _latent(shape: Shape, latent: Latent, *, at: str) -> Iterator[Matrix]:
    queries = shape.heads * shape.head_dim
    sizes = [
        ("kv_a_proj_with_mqa", shape.hidden, latent.cached),
        ("kv_b_proj", latent.kv_rank, shape.heads * (latent.nope_dim + latent.value_dim)),
        ("o_proj", shape.heads * latent.value_dim, shape.hidden),
    ]
    if latent.query_rank is None:
        sizes.append(("q_proj", shape.hidden, queries))
    else:
        sizes += [("q_a_proj", shape.hidden, latent.query_rank), ("q_b_proj", latent.query_rank, queries)]
    for name, inputs, outputs in sizes:
        yield Matrix(name=f"{at}.self_attn.{name}", inputs=inputs, outputs=outputs)


def _mlp(config: Config, architecture: Architecture, shape: Shape, *, at: str) -> Iterator[Matrix]:
    bias = config.holds(architecture.mlp_bias)
    wide = ("gate_proj", "up_proj") if architecture.gated_mlp else ("up_proj",)
    yield from _gated(shape.hidden, shape.intermediate, at=f"{at}.mlp", names=(*wide, "down_proj"), bias=bias)


def _gated(  # noqa: PLR0913 - one matrix triple, all of its facts
    hidden: int,
    width: int,
    *,
    at: str,
    names: tuple[str, ...],
    bias: bool = False,
    role: Role = Role.DENSE,
    copies: int = 1,
) -> Iterator[Matrix]:
    *wide, narrow = names
    for name in wide:
        yield Matrix(name=f"{at}.{name}", inputs=hidden, outputs=width, bias=bias, role=role, copies=copies)
    yield Matrix(
        name=f"{at}.{narrow}", inputs=width, outputs=hidden, bias=bias, role=role, copies=copies, narrowing=True
    )


def _experts(config: Config, mixture: Mixture, shape: Shape, *, at: str) -> Iterator[Matrix]:
    count, width = config.number(mixture.count), config.number(mixture.width)
    per_token = config.number("num_experts_per_tok")
    if per_token > count:
        raise UnknownError(key="num_experts_per_tok", value=per_token, rule=f"there are only {count} experts")
    yield Matrix(name=f"{at}.{mixture.router}", inputs=shape.hidden, outputs=count, bias=mixture.bias, role=Role.ROUTER)
    inside, *names = mixture.names
    yield from _gated(
        shape.hidden,
        width,
        at=f"{at}.{inside}",
        names=tuple(names),
        bias=mixture.bias,
        role=Role.EXPERT,
        copies=count,
    )
    plain = ("gate_proj", "up_proj", "down_proj")
    if mixture.shared is Shared.GATED:
        shared = config.number("shared_expert_intermediate_size")
        yield from _gated(shape.hidden, shared, at=f"{at}.mlp.shared_expert", names=plain)
        yield Matrix(name=f"{at}.mlp.shared_expert_gate", inputs=shape.hidden, outputs=1, role=Role.ROUTER)
    elif mixture.shared is Shared.COUNTED and config.has("n_shared_experts"):
        shared = config.number("n_shared_experts") * width
        yield from _gated(shape.hidden, shared, at=f"{at}.mlp.shared_experts", names=plain)


def _surroundings(config: Config, architecture: Architecture, shape: Shape, *, with_head: bool) -> Iterator[Matrix]:
    tied = with_head and head_is_tied(config, architecture)
    table = Matrix(
        name="model.embed_tokens",
        inputs=shape.hidden,
        outputs=shape.vocab,
        bias=tied and architecture.head_bias,
        role=Role.HEAD if tied else Role.LOOKUP,
    )
    yield table
    if with_head and not tied:
        yield Matrix(
            name="lm_head", inputs=shape.hidden, outputs=shape.vocab, bias=architecture.head_bias, role=Role.HEAD
        )
    if architecture.learned_positions:
        yield Matrix(name="model.embed_positions", inputs=shape.hidden, outputs=shape.positions + 2, role=Role.LOOKUP)


def _layer_vectors(architecture: Architecture, shape: Shape, latent: Latent | None) -> int:
    count = architecture.norms * shape.hidden * (2 if architecture.norm_bias else 1)
    if architecture.sinks:
        count += shape.heads
    if latent is not None:
        return count + latent.kv_rank + (latent.query_rank or 0)
    match architecture.qk_norm:
        case Norms.NONE:
            return count
        case Norms.HEAD:
            return count + 2 * shape.head_dim
        case Norms.FULL:
            return count + (shape.heads + shape.kv_heads) * shape.head_dim
        case norms:
            assert_never(norms)


def _final_norm(config: Config, architecture: Architecture, shape: Shape) -> int:
    norm = shape.hidden * (2 if architecture.norm_bias else 1)
    if not architecture.learned_positions:
        return norm
    width = config.number("word_embed_proj_dim", default=shape.hidden)
    if width != shape.hidden:
        raise config.unknown("word_embed_proj_dim", rule="only the value of hidden_size is modelled")
    if not config.flag("do_layer_norm_before", default=True):
        raise config.unknown("do_layer_norm_before", rule="only true is modelled")
    return 0 if config.flag("_remove_final_layer_norm", default=False) else norm
