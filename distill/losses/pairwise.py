"""Losses of the differences between two keyphrases of one list."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill.losses.reduction import ReduceFn, masked_pair, mean, reduce


def margin_mse(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
) -> jax.Array:
    r"""Squared error of the student's signed margins against the teacher's, averaged over all pairs of a list.

    .. math:: \ell(s, t) = \frac{1}{n(n-1)} \sum_{i \ne j} \big((s_i - s_j) - (t_i - t_j)\big)^2
              = \frac{2}{n-1} \sum_i (d_i - \bar d)^2, \quad d = s - t

    Source: Hofstätter et al. (arXiv 2010.02666), for all pairs instead of one (positive, negative). The right-hand
    side is linear in n. A list with fewer than two valid entries is masked out.

    | argument | shape | unit |
    |---|---|---|
    | student, teacher | [..., N] | raw logits both; a teacher squashed to 0–1 has lost its margins |
    | where | [..., N] | bool |
    | weights | [...], one a list | any non-negative number |
    | returns | [] with the default `reduce_fn` | logits squared |
    """
    student, teacher, mask = masked_pair(student, teacher, where, ("student", "teacher"))
    values = _margin_errors(student - teacher, mask)
    return reduce(values, where=jnp.sum(mask, axis=-1) >= 2, weights=weights, reduce_fn=reduce_fn)


def mse_margin_hybrid(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    margin_weight: float = 1.0,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
) -> jax.Array:
    r"""A list's point-wise squared error plus its margin error: absolute level and relative order at once.

    .. math:: \ell(s, t) = \frac{1}{n} \sum_i d_i^2
              + \frac{\alpha}{n(n-1)} \sum_{i \ne j} (d_i - d_j)^2, \quad d = s - t

    Source: DisRanker (arXiv 2411.04539), the hybrid of point-wise and margin MSE. A list of one valid entry has no
    margin and its squared error alone; one of none is masked out.

    | argument | shape | unit |
    |---|---|---|
    | student, teacher | [..., N] | raw logits both |
    | margin_weight | static, α | any non-negative number |
    | where | [..., N] | bool |
    | weights | [...], one a list | any non-negative number |
    | returns | [] with the default `reduce_fn` | logits squared |
    """
    student, teacher, mask = masked_pair(student, teacher, where, ("student", "teacher"))
    difference, count = student - teacher, jnp.sum(mask, axis=-1)
    values = jnp.sum(jnp.square(difference), axis=-1) / jnp.maximum(count, 1)
    values += margin_weight * _margin_errors(difference, mask)
    return reduce(values, where=count >= 1, weights=weights, reduce_fn=reduce_fn)


def ranknet(
    scores: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    rank_discount: bool = True,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
) -> jax.Array:
    r"""Logistic loss of every pair that the teacher orders; pairs high in the teacher's ranking count more.

    .. math:: \ell(s, t) = \frac{\sum_{i, j:\; t_i > t_j} w_{ij} \log(1 + e^{s_j - s_i})}
              {\sum_{i, j:\; t_i > t_j} w_{ij}}, \quad w_{ij} = \frac{1}{r_i + r_j}

    where :math:`r_i` is one plus the number of entries with a higher target; without `rank_discount`, w = 1.

    Source: RankNet (Burges et al. 2005) with the inverse-mean-rank weights of FIRST (arXiv 2406.15657). There the
    loss is a sum; here it is divided by the weights' sum, so that lists of different length have one scale.
    Equal targets form no pair. A list without any pair is masked out. Memory grows with N².

    | argument | shape | unit |
    |---|---|---|
    | scores | [..., N] | raw logits |
    | targets | [..., N] | any; compared, never subtracted |
    | where | [..., N] | bool |
    | weights | [...], one a list | any non-negative number |
    | returns | [] with the default `reduce_fn` | nats |
    """
    scores, targets, mask = masked_pair(scores, targets, where, ("scores", "targets"))
    both = mask[..., :, None] & mask[..., None, :]
    ordered = both & (targets[..., :, None] > targets[..., None, :])
    losses = jax.nn.softplus(scores[..., None, :] - scores[..., :, None])  # at (i, j): s_j - s_i
    rank = 1.0 + jnp.sum(ordered, axis=-2)
    discount = 1.0 / (rank[..., :, None] + rank[..., None, :]) if rank_discount else jnp.ones_like(losses)
    discount = jnp.where(ordered, discount, 0.0)
    normaliser = jnp.sum(discount, axis=(-2, -1))
    has_pairs = normaliser > 0
    values = jnp.sum(discount * losses, axis=(-2, -1)) / jnp.where(has_pairs, normaliser, 1.0)
    return reduce(values, where=has_pairs, weights=weights, reduce_fn=reduce_fn)


def _margin_errors(difference: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared difference over the pairs of each list [..., N] → [...]; of fewer than two entries, 0."""
    count = jnp.sum(mask, axis=-1)
    average = jnp.sum(difference, axis=-1) / jnp.maximum(count, 1)
    centred = jnp.where(mask, difference - average[..., None], 0.0)
    return 2.0 * jnp.sum(jnp.square(centred), axis=-1) / jnp.maximum(count - 1, 1)
