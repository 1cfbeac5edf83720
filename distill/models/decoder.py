"""A decoder-only language model in Flax NNX: Llama (Touvron et al. 2023), Qwen2 and Qwen3, over branched rows.

A judge asks one model about many keyphrases of one listing under one rubric. The rubric is a prefix whose keys and
values are computed once; a row then holds a listing's tokens, once, and after them the tokens of each of its
keyphrases as branches that do not see each other. One forward pass scores them all, exactly as if every prompt had
been run alone.

Every layer runs the same compiled program, so thirty compile as fast as one. These functions may also be called within
`jax.jit`.

Parameter tree; D width, H heads in G groups per key-value head (C of those), K head width, M MLP width, V vocabulary:

    tokens/embedding [V, D]    norm/scale [D]    head/embedding [V, D] (unless tied to the tokens')
    layers/<i>/attention_norm/scale [D]    layers/<i>/mlp_norm/scale [D]
    layers/<i>/attention/groups/{kernel [D, C, G + 2, K], bias [C, G + 2, K] (Qwen2)}: a group's queries, key and value
    layers/<i>/attention/{query_norm,key_norm}/scale [K] (Qwen3)    layers/<i>/attention/output/kernel [H, K, D]
    layers/<i>/mlp/{gate,up}/kernel [D, M]    layers/<i>/mlp/down/kernel [M, D]
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.models.decoder_layers import (
    DecoderSpec,
    Layer,
    Params,
    Rotation,
    Visible,
    attend,
    graphs,
    rms_norm,
)


class BranchedTokens(NamedTuple):
    """Prompts packed into rows; every field is int32 [R, L] (numpy or jax).

    A token sees the tokens of its own group at or before it in the row that are shared or of its own branch.
    """

    tokens: Any
    positions: Any  # absolute: those of a prefix come before; every branch goes on where its listing ends
    groups: Any  # 0 is padding, else the listing's number within its row, from 1
    branches: Any  # 0 for the listing's shared tokens, else the keyphrase's number within its listing, from 1


class KeyValues(NamedTuple):
    """Keys (rotated) and values of P tokens: [layers, P, key-value heads, head width], in the compute dtype."""

    keys: jax.Array
    values: jax.Array


def _pure(module: nnx.Module) -> Params:
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def init_decoder(spec: DecoderSpec, seed: int) -> Params:
    """Random parameters: normal(0.02) matrices, zero biases, unit scales; a function of (spec, seed)."""
    rngs = nnx.Rngs(seed)

    def table() -> Params:
        shape = spec.vocab_size, spec.width
        return {"embedding": nnx.initializers.normal(0.02)(rngs.params(), shape, jnp.dtype(spec.compute_dtype))}

    params: Params = {
        "tokens": table(),
        "layers": {str(i): _pure(Layer(spec, rngs)) for i in range(spec.layers)},
        "norm": _pure(rms_norm(spec.width, spec, rngs)),
    }
    return params if spec.tied_embeddings else params | {"head": table()}


@functools.partial(jax.jit, static_argnums=0)
def _embed(spec: DecoderSpec, table: jax.Array, tokens: jax.Array, positions: jax.Array) -> tuple[jax.Array, Rotation]:
    """Token vectors float32 [R · L, D] and the rotation; NaN where a token or position is beyond the model's."""
    frequencies = spec.rope_theta ** -(np.arange(0, spec.head_width, 2) / spec.head_width)
    if spec.rope_scaling is not None:
        frequencies = frequencies / np.array(spec.rope_scaling)
    angles = positions[..., None].astype(jnp.float32) * frequencies.astype(np.float32)
    angles = jnp.where(((positions >= 0) & (positions < spec.max_positions))[..., None], angles, jnp.nan)
    vectors = jnp.take(table, tokens.reshape(-1), axis=0, mode="fill", fill_value=jnp.nan)
    return vectors.astype(jnp.float32), (jnp.cos(angles), jnp.sin(angles))


@jax.jit
def _visible(groups: jax.Array, branches: jax.Array) -> Visible:
    """Who sees whom within rows of `BranchedTokens`: bool [R, L, L]."""
    same = (groups[:, :, None] == groups[:, None, :]) & (groups[:, None, :] > 0)
    reachable = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    return same & reachable & jnp.tri(groups.shape[1], dtype=bool)


@functools.partial(jax.jit, static_argnums=0)
def _branched_layer(
    spec: DecoderSpec,
    params: Params,
    hidden: jax.Array,
    rotation: Rotation,
    visible: Visible,
    prefix: KeyValues | None,
    index: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Layer `index`: its output [R · L, D], and its keys and values [R, L, C, K]."""
    kept = []

    def mix(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        kept.extend((key, value))
        return attend(
            query, key, value, visible, None if prefix is None else (prefix.keys[index], prefix.values[index])
        )

    hidden = nnx.merge(graphs(spec)[0], params)(hidden, rotation, mix)
    return hidden, *kept


@functools.partial(jax.jit, static_argnums=0)
def _last_norm(spec: DecoderSpec, params: Params, hidden: jax.Array) -> jax.Array:
    return nnx.merge(graphs(spec)[1], params)(hidden)


def hidden_states(
    spec: DecoderSpec, params: Params, packed: BranchedTokens, prefix: KeyValues | None = None
) -> jax.Array:
    """Final hidden states of branched rows.

    Args:
      spec: the decoder's sizes; static.
      params: as of `init_decoder` or `load_decoder`.
      packed: int32 [R, L] fields. Shared tokens must stand before the branches that see them.
      prefix: what `prefill` gave for tokens that stand before every group; positions then start at its length.

    Returns:
      float32 [R, L, D], after the last norm. At padding the values are finite and mean nothing. A token or position
      beyond the model's vocabulary or `max_positions` gives NaN, not a wrong score.
    """
    packed = BranchedTokens(*(jnp.asarray(field) for field in packed))
    hidden, rotation = _embed(spec, params["tokens"]["embedding"], packed.tokens, packed.positions)
    visible = _visible(packed.groups, packed.branches)
    for i in range(spec.layers):
        hidden, _, _ = _branched_layer(spec, params["layers"][str(i)], hidden, rotation, visible, prefix, i)
    return _last_norm(spec, params["norm"], hidden).reshape(*packed.tokens.shape, spec.width)


def prefill(spec: DecoderSpec, params: Params, tokens: Any) -> KeyValues:
    """Keys and values of a prefix, int32 [P], P ≥ 1, at positions 0 … P - 1."""
    tokens = jnp.asarray(tokens)[None]
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise ValueError(f"prefill: tokens have shape {tokens.shape[1:]}; a prefix is one row of at least one token")
    positions = jnp.arange(tokens.shape[1])[None]
    hidden, rotation = _embed(spec, params["tokens"]["embedding"], tokens, positions)
    visible = _visible(jnp.ones_like(tokens), jnp.zeros_like(tokens))
    kept = []
    for i in range(spec.layers):
        hidden, key, value = _branched_layer(spec, params["layers"][str(i)], hidden, rotation, visible, None, i)
        kept.append((key[0], value[0]))
    keys, values = zip(*kept)
    return KeyValues(jnp.stack(keys), jnp.stack(values))


def token_logits(spec: DecoderSpec, params: Params, hidden: jax.Array, token_ids: Any = None) -> jax.Array:
    """Logits of the next token.

    Args:
      spec, params: as of `hidden_states`.
      hidden: float32 [N, D], rows of what `hidden_states` gave.
      token_ids: int32 [A], the tokens to score; None scores the whole vocabulary.

    Returns:
      float32 [N, A], or [N, V]. An id beyond the vocabulary gives NaN.
    """
    table = params["tokens" if spec.tied_embeddings else "head"]["embedding"]
    return _logits(hidden, table, None if token_ids is None else jnp.asarray(token_ids))


@jax.jit
def _logits(hidden: jax.Array, table: jax.Array, token_ids: jax.Array | None) -> jax.Array:
    if token_ids is not None:
        table = jnp.take(table, token_ids, axis=0, mode="fill", fill_value=jnp.nan)
    return jnp.matmul(hidden.astype(table.dtype), table.T, preferred_element_type=jnp.float32)


def empty_cache(spec: DecoderSpec, capacity: int) -> KeyValues:
    """Zeroed keys and values for one sequence of at most `capacity` tokens, to be filled by `extend`."""
    if not 1 <= capacity <= spec.max_positions:
        raise ValueError(
            f"empty_cache: capacity is {capacity}; it must be 1 … {spec.max_positions}, the model's positions"
        )
    shape = spec.layers, capacity, spec.kv_heads, spec.head_width
    return KeyValues(jnp.zeros(shape, spec.compute_dtype), jnp.zeros(shape, spec.compute_dtype))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=5)
def _cached_layer(
    spec: DecoderSpec,
    params: Params,
    hidden: jax.Array,
    rotation: Rotation,
    visible: Visible,
    cache: KeyValues,
    index: int,
    position: jax.Array,
) -> tuple[jax.Array, KeyValues]:
    updated = []

    def mix(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        for buffer, part in zip(cache, (key, value)):
            updated.append(jax.lax.dynamic_update_slice(buffer, part, (index, position, 0, 0)))
        return attend(query, updated[0][index][None], updated[1][index][None], visible, None)

    hidden = nnx.merge(graphs(spec)[0], params)(hidden, rotation, mix)
    return hidden, KeyValues(*updated)


def extend(
    spec: DecoderSpec, params: Params, cache: KeyValues, tokens: Any, position: int | jax.Array
) -> tuple[jax.Array, KeyValues]:
    """Runs the next tokens of one sequence.

    Buffers have fixed sizes, so a server compiles two programs, one for chunks of a prompt and one for single tokens.
    The last chunk of a prompt may end in padding: go on at the real length, and padding is overwritten unseen.

    Args:
      cache: of `empty_cache` or of the last call; it is consumed, so use the one that comes back.
      tokens: int32 [T].
      position: of the first token; all before it must be in the cache. NaN comes back where position + T is more than
        the cache's capacity.

    Returns:
      Final hidden states float32 [T, D] (see `token_logits`), and the cache.
    """
    hidden, rotation, visible = _next_tokens(
        spec, params["tokens"]["embedding"], jnp.asarray(tokens), position, cache.keys.shape[1]
    )
    for i in range(spec.layers):
        hidden, cache = _cached_layer(spec, params["layers"][str(i)], hidden, rotation, visible, cache, i, position)
    return _last_norm(spec, params["norm"], hidden), cache


@functools.partial(jax.jit, static_argnums=(0, 4))
def _next_tokens(
    spec: DecoderSpec, table: jax.Array, tokens: jax.Array, position: jax.Array, capacity: int
) -> tuple[jax.Array, Rotation, Visible]:
    positions = position + jnp.arange(tokens.shape[0])[None]
    # What does not fit becomes NaN through a position that no model has; an update would move it to other slots.
    fits = position + tokens.shape[0] <= capacity
    hidden, rotation = _embed(spec, table, tokens[None], jnp.where(fits, positions, -1))
    return hidden, rotation, jnp.arange(capacity) <= positions[..., None]
