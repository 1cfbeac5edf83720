"""What all losses share: dtype, shape checks, masks and the reduction of per-entry values to one number.

Every loss raises ValueError where shapes do not fit, instead of broadcasting.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp


class ReduceFn(Protocol):
    """Turns per-entry losses into what is returned; `where` and `weights` have the shape of `values`."""

    def __call__(self, values: jax.Array, *, where: jax.Array, weights: jax.Array) -> jax.Array: ...


def mean(values: jax.Array, *, where: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean over the valid entries, Σ wℓ / Σ w; 0 where nothing is valid."""
    kept = jnp.where(where, weights, 0.0)
    total = jnp.sum(kept)
    return jnp.sum(kept * values) / jnp.where(total > 0, total, 1.0)


def total(values: jax.Array, *, where: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted sum over the valid entries, Σ wℓ."""
    return jnp.sum(jnp.where(where, weights, 0.0) * values)


def unreduced(values: jax.Array, *, where: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted entries themselves, 0 where invalid."""
    return jnp.where(where, weights, 0.0) * values


def reduce(
    values: jax.Array, *, where: jax.Array, weights: jax.typing.ArrayLike | None, reduce_fn: ReduceFn
) -> jax.Array:
    """Applies `reduce_fn`; values of invalid entries are zeroed first, so that they can never reach the result."""
    filled = jnp.ones_like(values) if weights is None else jnp.asarray(weights, values.dtype)
    if filled.shape != values.shape:
        raise ValueError(f"weights: shape {filled.shape} does not fit losses of shape {values.shape}")
    return reduce_fn(jnp.where(where, values, 0.0), where=where, weights=filled)


def as_float(array: jax.typing.ArrayLike) -> jax.Array:
    """At least float32: sums and variances of bfloat16 lose what the loss is about."""
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def as_mask(where: jax.typing.ArrayLike | None, like: jax.Array) -> jax.Array:
    """The mask as booleans of the shape of `like`; all valid when it is None."""
    if where is None:
        return jnp.ones(like.shape, bool)
    mask = jnp.asarray(where, bool)
    check_same_shape(where=mask, values=like)
    return mask


def check_same_shape(**arrays: jax.Array) -> None:
    """Raises ValueError when shapes differ: [N] against [N, 1] would broadcast to [N, N] without a word."""
    if len({array.shape for array in arrays.values()}) > 1:
        listed = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"shapes differ: {listed}; pass arrays of one shape")


def masked_pair(
    first: jax.typing.ArrayLike,
    second: jax.typing.ArrayLike,
    where: jax.typing.ArrayLike | None,
    names: tuple[str, str],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two float arrays of one shape with invalid entries set to 0, and the mask.

    Zeroing the inputs, not only the outputs, keeps NaN or inf in padding out of the gradients.
    """
    first, second = as_float(first), as_float(second)
    check_same_shape(**dict(zip(names, (first, second))))
    mask = as_mask(where, first)
    return jnp.where(mask, first, 0.0), jnp.where(mask, second, 0.0), mask
