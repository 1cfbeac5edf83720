"""A BERT encoder (post layer norm, Devlin et al. 2018) in Flax NNX, over packed rows.

Real titles and keyphrases are short and ragged, so several texts share one row of tokens and attention stays within a
text. The modules are split once per specification; parameters travel as pure nested dicts of arrays through plain
`jax.jit`, and are merged back only while a function is traced.

Parameter tree, D width, H heads, K = D / H, M MLP width:

    embeddings/{token,position,type}/embedding [·, D]   embeddings/norm/{scale,bias} [D]
    layers/<i>/attention/qkv/{kernel [D, 3, H, K], bias [3, H, K]}
    layers/<i>/attention/output/{kernel [H, K, D], bias [D]}   layers/<i>/attention_norm/{scale,bias} [D]
    layers/<i>/mlp/up/{kernel [D, M], bias [M]}   layers/<i>/mlp/down/{kernel [M, D], bias [D]}
    layers/<i>/mlp_norm/{scale,bias} [D]
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

Params = dict[str, Any]


class PackedTokens(NamedTuple):
    """Texts packed into rows; every field is int32 [R, L] (numpy or jax)."""

    tokens: Any
    positions: Any  # restart at 0 in every text
    segments: Any  # 0 is padding, else the text's number within its row, from 1
    types: Any  # token type ids (0 for a single text; 0 and 1 for the parts of a pair)


# What a layer keeps for its backward pass beside its input: everything, nothing, or its products with parameters (then
# attention, softmax and GELU are computed again, which costs little and saves most of the memory).
REMAT = {
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """Sizes and numerics of an encoder; hashable, so that it may be a static argument of `jax.jit`."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    mlp_width: int
    max_positions: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    activation: str = "gelu"  # the exact form, through erf
    compute_dtype: str = "float32"  # of matrix products; parameters and all reductions stay float32
    dropout: float = 0.0  # used only where a dropout key is given
    remat: str = "none"  # what the backward pass computes again; see REMAT
    attention: str = "matmul"  # or `cudnn`: its fused kernel where the program runs on CUDA, else the same as `matmul`

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "width", "heads", "mlp_width", "max_positions", "type_vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"EncoderSpec.{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"EncoderSpec.width {self.width} is no multiple of heads {self.heads}")
        if self.activation != "gelu":
            raise ValueError(f"EncoderSpec.activation is {self.activation!r}; only 'gelu' (exact) is supported")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"EncoderSpec.compute_dtype is {self.compute_dtype!r}; use 'float32' or 'bfloat16'")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"EncoderSpec.dropout is {self.dropout}; it must be in [0, 1)")
        if self.remat not in REMAT:
            raise ValueError(f"EncoderSpec.remat is {self.remat!r}; use one of {', '.join(REMAT)}")
        if self.attention not in ("matmul", "cudnn"):
            raise ValueError(f"EncoderSpec.attention is {self.attention!r}; use 'matmul' or 'cudnn'")
        head = self.width // self.heads
        if self.attention == "cudnn" and (self.compute_dtype != "bfloat16" or head % 8 or head > 128):
            raise ValueError(
                f"EncoderSpec.attention is 'cudnn', which needs compute_dtype 'bfloat16' (here {self.compute_dtype!r}) "
                f"and heads of 8, 16, … 128 (here {head})"
            )


def dropout(values: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout on [..., D]; the identity without a key.

    One random byte an element, four from each 32-bit draw: the generator is what dropout costs on a CPU. The rate is
    rounded to 1/256 and the scale follows the rounded rate, so the expectation is exact.
    """
    threshold = round(rate * 256)
    if key is None or threshold == 0:
        return values
    *batch, width = values.shape
    words = jax.random.bits(key, (*batch, -(-width // 4)), jnp.uint32)
    drawn = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*batch, -1)[..., :width]
    return jnp.where(drawn >= threshold, values * (256 / (256 - threshold)), 0).astype(values.dtype)


_ONE_HOT_BELOW = 700_000  # entries of a table; measured on CPU, where a scatter costs 14 µs a row


def _rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    # Not `nnx.Embed.__call__`: what it does with an index beyond its table differs between Flax releases.
    return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)


@jax.custom_vjp
def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of a table: [V, D], int [R, L] → [R, L, D], with the gradient as a product with one-hot rows.

    The usual gradient, a scatter-add, runs row by row on a CPU and took half of a small encoder's training step.
    """
    return _rows(table, ids)


def _lookup_forward(table: jax.Array, ids: jax.Array) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return _rows(table, ids), (ids, table.shape[0])


def _lookup_backward(saved: tuple[jax.Array, int], cotangent: jax.Array) -> tuple[jax.Array, None]:
    ids, rows = saved
    one_hot = jax.nn.one_hot(ids.reshape(-1), rows, dtype=cotangent.dtype, axis=0)
    return one_hot @ cotangent.reshape(-1, cotangent.shape[-1]), None


lookup.defvjp(_lookup_forward, _lookup_backward)


class Embeddings(nnx.Module):
    """Sum of token, position and type embeddings, normalised: [R, L] → [R, L, D]."""

    def __init__(self, spec: EncoderSpec, rngs: nnx.Rngs):
        table = functools.partial(
            nnx.Embed, features=spec.width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.token = table(spec.vocab_size)
        self.position = table(spec.max_positions)
        self.type = table(spec.type_vocab_size)
        self.norm = _layer_norm(spec, rngs)
        self.spec = spec

    def __call__(self, packed: PackedTokens, key: jax.Array | None) -> jax.Array:
        pairs = ((self.token, packed.tokens), (self.position, packed.positions), (self.type, packed.types))
        summed = sum(
            (lookup if table.embedding.size < _ONE_HOT_BELOW else _rows)(table.embedding[...], ids)
            for table, ids in pairs
        )
        return dropout(self.norm(summed), self.spec.dropout, key)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, same_text: jax.Array) -> jax.Array:
    """softmax(query · keyᵀ) · value with the softmax in float32.

    `query` (scaled), `key` and `value` are [R, L, H, K], as is the result; `same_text` [R, L, L] says who sees whom.
    Heads in front and batched `matmul`: on CPU 1.3–2 times as fast as `jax.nn.dot_product_attention`.
    """
    query, key, value = (part.swapaxes(1, 2) for part in (query, key, value))
    # Finite, so that a row of nothing but padding has an even softmax rather than NaN.
    bias = jnp.where(same_text, 0.0, -1e9)[:, None].astype(jnp.float32)
    logits = jnp.matmul(query, key.swapaxes(-1, -2), preferred_element_type=jnp.float32) + bias
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.matmul(weights, value).swapaxes(1, 2)


def _attend_cudnn(query: jax.Array, key: jax.Array, value: jax.Array, same_text: jax.Array) -> jax.Array:
    """`attend` by cuDNN's fused kernel, which never writes the [R, H, L, L] weights out.

    It lowers for CUDA alone: to export one program for several platforms, give the spec `attention="matmul"`.
    """
    return jax.nn.dot_product_attention(query, key, value, mask=same_text[:, None], scale=1.0, implementation="cudnn")


def linear(layer: nnx.Linear | nnx.LinearGeneral, inputs: jax.Array, dtype: Any) -> jax.Array:
    """`inputs` [N, …] · kernel + bias, with the product in `dtype`.

    The bias is added in float32, so that its gradient, a sum over all tokens, is one of float32 numbers. The product's
    result stays `dtype`: were it float32, so were its gradient, and the backward products would lose their speed.
    """
    kernel, bias = layer.kernel[...], layer.bias[...]  # type: ignore[index]
    product = jnp.tensordot(inputs.astype(dtype), kernel.astype(dtype), inputs.ndim - 1)
    return (product.astype(jnp.float32) + bias).astype(dtype)


class Attention(nnx.Module):
    """Multi-head self-attention [R · L, D] → [R · L, D]; `same_text` [R, L, L] says who sees whom."""

    def __init__(self, spec: EncoderSpec, rngs: nnx.Rngs):
        head = spec.width // spec.heads
        general = functools.partial(nnx.LinearGeneral, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
        # One product for query, key and value; heads keep an axis of their own so that it can be sharded.
        self.qkv = general(spec.width, (3, spec.heads, head))
        self.output = general((spec.heads, head), spec.width, axis=(-2, -1))
        self.dtype, self.scale = jnp.dtype(spec.compute_dtype), head**-0.5
        # Elsewhere than on a machine with CUDA, cuDNN cannot even be traced.
        self.fused = spec.attention == "cudnn" and jax.default_backend() == "gpu"

    def __call__(self, hidden: jax.Array, same_text: jax.Array) -> jax.Array:
        rows, length = same_text.shape[:2]
        projected = linear(self.qkv, hidden, self.dtype)
        heads = projected.reshape(rows, length, *projected.shape[1:])
        parts = heads[:, :, 0] * self.scale, heads[:, :, 1], heads[:, :, 2], same_text
        mixed = jax.lax.platform_dependent(*parts, cuda=_attend_cudnn, default=attend) if self.fused else attend(*parts)
        return linear(self.output, mixed.reshape(hidden.shape[0], *mixed.shape[2:]), self.dtype)


class Mlp(nnx.Module):
    """Two-layer perceptron with exact GELU: [R · L, D] → [R · L, D]."""

    def __init__(self, spec: EncoderSpec, rngs: nnx.Rngs):
        dense = functools.partial(nnx.Linear, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.up = dense(spec.width, spec.mlp_width)
        self.down = dense(spec.mlp_width, spec.width)
        self.dtype = jnp.dtype(spec.compute_dtype)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        raised = jax.nn.gelu(linear(self.up, hidden, self.dtype), approximate=False)
        return linear(self.down, raised, self.dtype)


class Layer(nnx.Module):
    """One post-norm transformer layer: [R · L, D] → [R · L, D]."""

    def __init__(self, spec: EncoderSpec, rngs: nnx.Rngs):
        self.attention = Attention(spec, rngs)
        self.attention_norm = _layer_norm(spec, rngs)
        self.mlp = Mlp(spec, rngs)
        self.mlp_norm = _layer_norm(spec, rngs)
        self.spec = spec

    def __call__(self, hidden: jax.Array, same_text: jax.Array, key: jax.Array | None) -> jax.Array:
        attention_key, mlp_key = (None, None) if key is None else jax.random.split(key)
        attended = dropout(self.attention(hidden, same_text), self.spec.dropout, attention_key)
        hidden = self.attention_norm(hidden + attended)
        return self.mlp_norm(hidden + dropout(self.mlp(hidden), self.spec.dropout, mlp_key))


def _layer_norm(spec: EncoderSpec, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Reduces in float32 whatever its input; its output is in the compute dtype."""
    return nnx.LayerNorm(
        spec.width,
        epsilon=spec.layer_norm_eps,
        dtype=jnp.dtype(spec.compute_dtype),
        use_fast_variance=False,
        rngs=rngs,
    )


@functools.lru_cache(maxsize=64)
def _graphs(spec: EncoderSpec) -> tuple[Any, Any]:
    """Graph definitions of the embeddings and of a layer (all layers share one)."""
    abstract = [nnx.eval_shape(lambda kind=kind: kind(spec, nnx.Rngs(0))) for kind in (Embeddings, Layer)]
    return nnx.graphdef(abstract[0]), nnx.graphdef(abstract[1])


def _pure(module: nnx.Module) -> Params:
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def init_encoder(spec: EncoderSpec, seed: int) -> Params:
    """Random parameters: normal(0.02) matrices as in BERT, zero biases, unit scales; a function of (spec, seed)."""
    rngs = nnx.Rngs(seed)
    embeddings = _pure(Embeddings(spec, rngs))
    return {"embeddings": embeddings, "layers": {str(i): _pure(Layer(spec, rngs)) for i in range(spec.layers)}}


def encode(
    spec: EncoderSpec, params: Params, packed: PackedTokens, *, dropout_key: jax.Array | None = None
) -> jax.Array:
    """Contextual token vectors of packed rows.

    Args:
      spec: the encoder's sizes; static.
      params: as of `init_encoder`.
      packed: int32 [R, L] fields. A position or token beyond its table gives NaN, not a wrong vector.
      dropout_key: a PRNG key turns dropout on (embeddings, attention output, MLP output; not attention weights).

    Returns:
      float32 [R, L, D]. At padding the values are finite and mean nothing.
    """
    embeddings_graph, layer_graph = _graphs(spec)
    packed = PackedTokens(*(jnp.asarray(field) for field in packed))
    same_text = (packed.segments[:, :, None] == packed.segments[:, None, :]) & (packed.segments[:, None, :] > 0)

    def run_layer(layer_params: Params, hidden: jax.Array, key: jax.Array | None) -> jax.Array:
        return nnx.merge(layer_graph, layer_params)(hidden, same_text, key)

    if spec.remat != "none":
        run_layer = jax.checkpoint(run_layer, policy=REMAT[spec.remat])
    keys = [None] * (spec.layers + 1) if dropout_key is None else list(jax.random.split(dropout_key, spec.layers + 1))
    hidden = nnx.merge(embeddings_graph, params["embeddings"])(packed, keys[0])
    # Tokens on one axis: on CPU, gradients of products over [R, L, D] run at 60 % of the speed of [R · L, D].
    shape, hidden = hidden.shape, hidden.reshape(-1, hidden.shape[-1])
    for i in range(spec.layers):
        hidden = run_layer(params["layers"][str(i)], hidden, keys[i + 1])
    return hidden.reshape(shape).astype(jnp.float32)
