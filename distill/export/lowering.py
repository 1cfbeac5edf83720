"""The trained encoders as TensorFlow functions of padded tokens: JAX programs lowered for CPU, CUDA and TPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from distill.export.tensorflow_door import load_tensorflow
from distill.models import bi_encoder, cross_encoder
from distill.models.encoder import EncoderSpec, PackedTokens, Params

PLATFORMS = ("cpu", "cuda", "tpu")


def lower_student(spec: EncoderSpec, params: Params, width: int | None = None) -> tuple[Any, Callable[..., Any]]:
    """Unit embeddings.

    Args:
      spec, params: as of `distill.models.bi_encoder`.
      width: a Matryoshka prefix; None is the full width.

    Returns:
      The parameters as `tf.Variable`s, to be kept by the module that is saved, and a function (tokens [r, l],
      lengths [r], first [r]) → float32 [r, width]; r and l are free.
    """

    def embed(spec: EncoderSpec, params: Params, packed: PackedTokens, slots: Any) -> Any:
        return bi_encoder.embed(spec, params, packed, slots, 1, width)

    return _lower(embed, spec, {"encoder": params["encoder"]})


def lower_assistant(spec: EncoderSpec, params: Params) -> tuple[Any, Callable[..., Any]]:
    """Relevance 0–1, the sigmoid of the logit; returns as `lower_student`, with float32 [r]."""

    def relevance(spec: EncoderSpec, params: Params, packed: PackedTokens, slots: Any) -> Any:
        import jax

        return jax.nn.sigmoid(cross_encoder.score(spec, params, packed, slots, 1))

    return _lower(relevance, spec, params)


def _lower(apply: Callable[..., Any], spec: EncoderSpec, params: Params) -> tuple[Any, Callable[..., Any]]:
    import jax
    import jax.numpy as jnp
    from jax.experimental import jax2tf

    tf = load_tensorflow()
    # cuDNN's kernel would tie the program to CUDA.
    spec = dataclasses.replace(spec, attention="matmul", dropout=0.0, remat="none")

    def run(params: Params, tokens: jax.Array, lengths: jax.Array, first: jax.Array) -> jax.Array:
        """One text a row: a special case of packing."""
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        present = places < lengths[:, None]
        packed = PackedTokens(
            tokens=tokens,
            positions=jnp.where(present, places, 0),
            segments=present.astype(jnp.int32),
            types=(present & (places >= first[:, None])).astype(jnp.int32),
        )
        return apply(spec, params, packed, jnp.where(lengths > 0, jnp.arange(tokens.shape[0]), -1))

    variables = jax.tree.map(lambda leaf: tf.Variable(leaf, trainable=False), params)
    converted = jax2tf.convert(
        run,
        polymorphic_shapes=(None, "(r, l)", "(r,)", "(r,)"),
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )
    return variables, lambda tokens, lengths, first: converted(variables, tokens, lengths, first)
