"""The parts of a decoder-only language model in Flax NNX: specification, projections, attention, layers.

Llama (Touvron et al. 2023), Qwen2 (which adds biases to query, key and value) and Qwen3 (which normalises every head's
query and key instead). `distill.models.decoder` runs them, and describes the parameters.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Params = dict[str, Any]
FAMILIES = ("llama", "qwen2", "qwen3")


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """Sizes and numerics of a decoder; hashable, so that it may be a static argument of `jax.jit`."""

    family: str
    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    max_positions: int
    rope_theta: float = 10_000.0
    rope_scaling: tuple[float, ...] | None = None  # what each of the head_width / 2 rotary frequencies is divided by
    norm_eps: float = 1e-6
    tied_embeddings: bool = False
    compute_dtype: str = "float32"  # of matrices and their products; norms, biases and all reductions stay float32

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"DecoderSpec.family is {self.family!r}; use one of {', '.join(FAMILIES)}")
        sizes = "vocab_size", "layers", "width", "heads", "kv_heads", "head_width", "mlp_width", "max_positions"
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"DecoderSpec.{name} is {getattr(self, name)}; it must be at least 1")
        if self.heads % self.kv_heads:
            raise ValueError(f"DecoderSpec.heads {self.heads} is no multiple of kv_heads {self.kv_heads}")
        if self.head_width % 2:
            raise ValueError(f"DecoderSpec.head_width is {self.head_width}; rotary positions need an even one")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"DecoderSpec.compute_dtype is {self.compute_dtype!r}; use 'float32' or 'bfloat16'")
        scaling = self.rope_scaling
        if scaling is not None and (len(scaling) != self.head_width // 2 or min(scaling) <= 0):
            raise ValueError(
                f"DecoderSpec.rope_scaling is {scaling}; it needs {self.head_width // 2} positive divisors, "
                "one a rotary frequency"
            )


Rotation = tuple[jax.Array, jax.Array]  # cosines and sines, float32 [R, L, K / 2]
Visible = jax.Array  # bool [R, L, S]: who of L sees whom of S


def rms_norm(width: int, spec: DecoderSpec, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """In float32, whatever its input."""
    return nnx.RMSNorm(width, epsilon=spec.norm_eps, dtype=jnp.float32, rngs=rngs)


def _product(layer: nnx.Linear | nnx.LinearGeneral, inputs: jax.Array, spec: DecoderSpec) -> jax.Array:
    """`inputs` [N, …] · kernel (+ bias): the product in the compute dtype, its sums in float32, as is the result."""
    dtype = jnp.dtype(spec.compute_dtype)
    product = jnp.tensordot(
        inputs.astype(dtype), layer.kernel[...], inputs.ndim - 1, preferred_element_type=jnp.float32
    )
    return product if layer.bias is None else product + layer.bias[...]


def _rotate(heads: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotary positions (Su et al. 2021): heads [R, L, …, K], whose halves hold the two parts of each pair."""
    shape = (*heads.shape[:2], *[1] * (heads.ndim - 3), heads.shape[-1] // 2)
    cosine, sine = (part.reshape(shape) for part in rotation)
    first, second = jnp.split(heads, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


class Attention(nnx.Module):
    """The projections around grouped-query attention (Ainslie et al. 2023)."""

    def __init__(self, spec: DecoderSpec, rngs: nnx.Rngs):
        general = functools.partial(
            nnx.LinearGeneral,
            kernel_init=nnx.initializers.normal(0.02),
            param_dtype=jnp.dtype(spec.compute_dtype),
            rngs=rngs,
        )
        # One product, with the key-value heads on an axis of their own: sharded over it, a device holds whole groups.
        groups = spec.kv_heads, spec.heads // spec.kv_heads + 2, spec.head_width
        self.groups = general(spec.width, groups, use_bias=False)
        if spec.family == "qwen2":
            self.groups.bias = nnx.Param(jnp.zeros(groups, jnp.float32))
        self.output = general((spec.heads, spec.head_width), spec.width, axis=(-2, -1), use_bias=False)
        if spec.family == "qwen3":
            self.query_norm = rms_norm(spec.head_width, spec, rngs)
            self.key_norm = rms_norm(spec.head_width, spec, rngs)
        self.spec = spec

    def project(self, hidden: jax.Array, rotation: Rotation) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[R · L, D] → queries (scaled) [R, L, C, G, K], keys and values [R, L, C, K]."""
        projected = _product(self.groups, hidden, self.spec)
        projected = projected.reshape(*rotation[0].shape[:2], *projected.shape[1:])
        query, key, value = projected[..., :-2, :], projected[..., -2, :], projected[..., -1, :]
        if self.spec.family == "qwen3":
            query, key = self.query_norm(query), self.key_norm(key)
        query = _rotate(query, rotation) * self.spec.head_width**-0.5
        dtype = jnp.dtype(self.spec.compute_dtype)
        return query.astype(dtype), _rotate(key, rotation).astype(dtype), value.astype(dtype)

    def merge(self, mixed: jax.Array) -> jax.Array:
        """[R, L, C, G, K] → [R · L, D]."""
        return _product(self.output, mixed.reshape(-1, self.spec.heads, self.spec.head_width), self.spec)


class Mlp(nnx.Module):
    """SwiGLU (Shazeer 2020): [N, D] → [N, D]."""

    def __init__(self, spec: DecoderSpec, rngs: nnx.Rngs):
        dense = functools.partial(
            nnx.Linear,
            use_bias=False,
            kernel_init=nnx.initializers.normal(0.02),
            param_dtype=jnp.dtype(spec.compute_dtype),
            rngs=rngs,
        )
        self.gate = dense(spec.width, spec.mlp_width)
        self.up = dense(spec.width, spec.mlp_width)
        self.down = dense(spec.mlp_width, spec.width)
        self.spec = spec

    def __call__(self, hidden: jax.Array) -> jax.Array:
        gated = jax.nn.silu(_product(self.gate, hidden, self.spec)) * _product(self.up, hidden, self.spec)
        return _product(self.down, gated, self.spec)


class Layer(nnx.Module):
    """One pre-norm layer: [R · L, D] → [R · L, D] float32; `attend` mixes what `Attention.project` gives."""

    def __init__(self, spec: DecoderSpec, rngs: nnx.Rngs):
        self.attention_norm = rms_norm(spec.width, spec, rngs)
        self.attention = Attention(spec, rngs)
        self.mlp_norm = rms_norm(spec.width, spec, rngs)
        self.mlp = Mlp(spec, rngs)

    def __call__(self, hidden: jax.Array, rotation: Rotation, attend: Callable[..., jax.Array]) -> jax.Array:
        mixed = attend(*self.attention.project(self.attention_norm(hidden), rotation))
        hidden = hidden + self.attention.merge(mixed)
        return hidden + self.mlp(self.mlp_norm(hidden))


_BLOCK = 128  # queries at a time; measured on CPU at rows of 512


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, visible: Visible, prefix: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
    """Grouped-query attention with one float32 softmax over a row's own tokens and a prefix that all rows share.

    `query` (scaled) is [R, L, C, G, K], as is the result; `key` and `value` are [R, S, C, K], those of the prefix
    [P, C, K]: neither is repeated for its G queries, nor the prefix for its R rows. Where S is L nobody may see a token
    after itself, whatever `visible` says, and products with later tokens are left out.
    """
    # Row by row, logits stay in a CPU's cache, and attention takes two thirds of the time; elsewhere rows run at once.
    by_row = attend_at_once if query.shape[0] == 1 else _attend_row_by_row
    return jax.lax.platform_dependent(query, key, value, visible, prefix, cpu=by_row, default=attend_at_once)


def _attend_row_by_row(
    query: jax.Array, key: jax.Array, value: jax.Array, visible: Visible, prefix: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
    def attend_one(row: tuple[jax.Array, jax.Array, jax.Array, Visible]) -> jax.Array:
        query, key, value, visible = (part[None] for part in row)
        return attend_at_once(query, key, value, visible, prefix)[0]

    return jax.lax.map(attend_one, (query, key, value, visible))


def attend_at_once(
    query: jax.Array, key: jax.Array, value: jax.Array, visible: Visible, prefix: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
    """`attend` with all rows in one product, so that they may lie on several devices."""
    length, slots = query.shape[1], key.shape[1]
    # Key-value heads in front, then all products are plain batched ones.
    query, key, value = query.transpose(2, 0, 3, 1, 4), key.transpose(2, 0, 3, 1), value.transpose(2, 0, 1, 3)
    if prefix is not None:
        prefix = prefix[0].transpose(1, 2, 0), prefix[1].transpose(1, 0, 2)
    # Finite, so that padding, which sees nothing, has an even softmax rather than NaN.
    bias = jnp.where(visible, 0.0, -1e9).astype(jnp.float32)[:, None]
    if length != slots:
        mixed = _mix(query, key, value, bias, prefix)
    else:
        size = max(_BLOCK, -(-length // 8))
        blocks = []
        for start in range(0, length, size):
            stop = min(start + size, length)
            block = query[:, :, :, start:stop], key[..., :stop], value[:, :, :stop], bias[:, :, start:stop, :stop]
            blocks.append(_mix(*block, prefix))
        mixed = jnp.concatenate(blocks, axis=3)
    return mixed.transpose(1, 3, 0, 2, 4)


def _mix(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, prefix: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
    """query [C, R, G, L, K], key [C, R, K, S], value [C, R, S, K], bias [R, 1, L, S], prefix [C, K, P], [C, P, K]."""
    groups, rows, size, length, width = query.shape
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    logits = product(query.reshape(groups, rows, size * length, width), key)
    logits = (logits.reshape(groups, rows, size, length, -1) + bias).reshape(logits.shape)
    top = logits.max(-1, keepdims=True)
    if prefix is None:
        weights = jnp.exp(logits - top)
        mixed, total = product(weights.astype(value.dtype), value), weights.sum(-1, keepdims=True)
    else:
        prefix_logits = product(query.reshape(groups, rows * size * length, width), prefix[0])
        top = jnp.maximum(top, prefix_logits.max(-1, keepdims=True).reshape(top.shape))
        weights, prefix_weights = jnp.exp(logits - top), jnp.exp(prefix_logits - top.reshape(groups, -1, 1))
        mixed = product(weights.astype(value.dtype), value)
        mixed += product(prefix_weights.astype(value.dtype), prefix[1]).reshape(mixed.shape)
        total = weights.sum(-1, keepdims=True) + prefix_weights.sum(-1, keepdims=True).reshape(top.shape)
    return (mixed / total).astype(value.dtype).reshape(query.shape)


@functools.lru_cache(maxsize=64)
def graphs(spec: DecoderSpec) -> tuple[Any, Any]:
    """Graph definitions of a layer (all layers share one) and of the last norm."""
    layer = nnx.eval_shape(lambda: Layer(spec, nnx.Rngs(0)))
    norm = nnx.eval_shape(lambda: rms_norm(spec.width, spec, nnx.Rngs(0)))
    return nnx.graphdef(layer), nnx.graphdef(norm)
