"""Losses of single (item, keyphrase) pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from distill.losses.reduction import ReduceFn, as_float, as_mask, check_same_shape, masked_pair, mean, reduce


def soft_cross_entropy(
    logits: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
) -> jax.Array:
    r"""Binary cross-entropy with soft labels, from raw logits.

    .. math:: \ell(s, y) = -y \log \sigma(s) - (1 - y) \log(1 - \sigma(s))

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), two classes.

    | argument | shape | unit |
    |---|---|---|
    | logits | [...] | raw logits, not squashed |
    | targets | [...] | probabilities in [0, 1] |
    | where, weights | [...] | bool; any non-negative number |
    | returns | [] with the default `reduce_fn` | nats |
    """
    logits, targets, mask = masked_pair(logits, targets, where, ("logits", "targets"))
    return reduce(optax.sigmoid_binary_cross_entropy(logits, targets), where=mask, weights=weights, reduce_fn=reduce_fn)


def ordinal_cross_entropy(
    logits: jax.typing.ArrayLike,
    grades: jax.typing.ArrayLike,
    thresholds: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
) -> jax.Array:
    r"""Cross-entropy of ordered grades under a cumulative-link model with one latent logit.

    The probability of a grade above k is :math:`\sigma(s - \theta_k)`; the loss adds up the binary questions
    "is the grade above k?":

    .. math:: \ell(s, g) = \sum_{k=0}^{K-2} \mathrm{BCE}(s - \theta_k,\; 1[g > k])

    Source: CORAL, Cao, Mirjalili and Raschka (arXiv 1901.07884), over McCullagh's proportional-odds model (1980).
    One slope for all thresholds keeps the grades' probabilities ordered, and the latent logit one score to rank by.

    | argument | shape | unit |
    |---|---|---|
    | logits | [...] | raw latent logits |
    | grades | [...] | integers 0 … K-1 |
    | thresholds | [K-1] | logits, ascending |
    | where, weights | [...] | bool; any non-negative number |
    | returns | [] with the default `reduce_fn` | nats, summed over the K-1 questions |
    """
    logits, grades, thresholds = as_float(logits), jnp.asarray(grades), as_float(thresholds)
    check_same_shape(logits=logits, grades=grades)
    if thresholds.ndim != 1:
        raise ValueError(f"thresholds: shape {thresholds.shape}; pass one vector of K-1 thresholds for K grades")
    mask = as_mask(where, logits)
    above = grades[..., None] > jnp.arange(thresholds.shape[0])
    margins = jnp.where(mask, logits, 0.0)[..., None] - thresholds
    values = jnp.sum(optax.sigmoid_binary_cross_entropy(margins, above.astype(margins.dtype)), axis=-1)
    return reduce(values, where=mask, weights=weights, reduce_fn=reduce_fn)


def mse(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
) -> jax.Array:
    r"""Squared error, :math:`\ell(p, t) = (p - t)^2`.

    Source: logit matching, Ba and Caruana, "Do Deep Nets Really Need to be Deep?" (arXiv 1312.6184).

    | argument | shape | unit |
    |---|---|---|
    | predictions, targets | [...] | both logits, or both probabilities: never one of each |
    | where, weights | [...] | bool; any non-negative number |
    | returns | [] with the default `reduce_fn` | the unit squared |
    """
    predictions, targets, mask = masked_pair(predictions, targets, where, ("predictions", "targets"))
    return reduce(jnp.square(predictions - targets), where=mask, weights=weights, reduce_fn=reduce_fn)
