"""One loss on several prefixes of the embeddings, so that a prefix serves as a smaller embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from distill.losses.reduction import as_float


def matryoshka(
    loss_fn: Callable[..., jax.Array],
    embeddings: tuple[jax.Array, ...],
    widths: Sequence[int],
    weights: Sequence[float],
) -> tuple[jax.Array, dict[int, jax.Array]]:
    r"""Weighted mean of `loss_fn` over L2-renormalised prefixes of the embeddings.

    .. math:: L = \sum_m \frac{w_m}{\sum_{m'} w_{m'}}\; \ell\big(\mathrm{norm}(x_{1:m}), \mathrm{norm}(y_{1:m}), …\big)

    Source: Matryoshka representation learning, Kusupati et al. (arXiv 2205.13147).

    | argument | shape |
    |---|---|
    | loss_fn | called as `loss_fn(*prefixes)`, returns [] |
    | embeddings | tuple of [..., D] arrays |
    | widths | W different widths, each between 1 and D |
    | weights | W non-negative numbers, not all 0 |
    | returns | the total [], and width → that width's loss [] |

    Raises:
      ValueError: widths or weights do not fit.
    """
    if len(widths) != len(weights) or not widths:
        raise ValueError(
            f"widths: {tuple(widths)} and weights: {tuple(weights)}; pass one weight a width, at least one"
        )
    if len(set(widths)) != len(widths):
        raise ValueError(f"widths: {tuple(widths)}; pass each width once")
    if min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"weights: {tuple(weights)}; pass non-negative numbers that are not all 0")
    narrowest = min(embedding.shape[-1] for embedding in embeddings)
    if min(widths) < 1 or max(widths) > narrowest:
        raise ValueError(f"widths: {tuple(widths)}; the embeddings hold 1 to {narrowest}")
    per_width = {width: loss_fn(*(unit_prefix(embedding, width) for embedding in embeddings)) for width in widths}
    scale = 1.0 / sum(weights)
    total = sum((scale * weight * per_width[width] for width, weight in zip(widths, weights)), jnp.zeros(()))
    return total, per_width


def unit_prefix(embeddings: jax.Array, width: int) -> jax.Array:
    """The first `width` entries of the last axis scaled to length 1, in at least float32; zero vectors stay zero."""
    prefix = as_float(embeddings[..., :width])
    squares = jnp.sum(jnp.square(prefix), axis=-1, keepdims=True)
    return prefix * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
