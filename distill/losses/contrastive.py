"""The clicks task's loss: a clicked keyphrase against the other keyphrases of the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill.losses.reduction import as_float
from distill.parallel.chunks import map_rows, rows_at_once


def info_nce(
    anchors: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    positives: jax.typing.ArrayLike,
    negatives_allowed: jax.typing.ArrayLike,
    temperature: float,
    weights: jax.typing.ArrayLike | None = None,
    symmetric: bool = False,
    logq: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""InfoNCE with several positives an anchor, each against the allowed negatives alone.

    .. math:: \ell_{ap} = -\log \frac{e^{s_{ap}}}{e^{s_{ap}} + \sum_{n \in N(a)} e^{s_{an}}},
              \quad s_{at} = \frac{x_a \cdot y_t}{\tau} - \log q_t

    .. math:: L = \frac{\sum_a w_a \frac{1}{|P(a)|} \sum_{p \in P(a)} \ell_{ap}}{\sum_{a:\, P(a) \ne \emptyset} w_a}

    Source: van den Oord et al. (arXiv 1807.03748); several positives outside the logarithm as in SupCon (2004.11362),
    but never in each other's denominator; log q correction of in-batch sampling from Yi et al. (RecSys 2019).

    A positive is never a negative of its anchor, whatever `negatives_allowed` says. An anchor without positives
    contributes nothing, one without negatives a loss of 0. `symmetric` averages with the other direction, in which
    each target looks for its anchor among the anchors under the transposed masks and equal weights per pair; log q
    belongs to the drawing of targets and is left out there.

    | argument | shape | unit |
    |---|---|---|
    | anchors | [A, D] | unit vectors, so that products are cosines |
    | targets | [T, D] | unit vectors |
    | positives | [A, T] | bool |
    | negatives_allowed | [A, T] | bool; see `allowed_negatives` |
    | weights | [A] | any non-negative number |
    | logq | [T] | log of the chance that a target is in the batch |
    | returns | [] | nats |

    Raises:
      ValueError: temperature is not positive, or a shape does not fit.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature}; pass a positive number")
    anchors, targets = as_float(anchors), as_float(targets)
    positives = jnp.asarray(positives, bool)
    allowed = jnp.asarray(negatives_allowed, bool)
    expected = (anchors.shape[0], targets.shape[0])
    for name, mask in (("positives", positives), ("negatives_allowed", allowed)):
        if mask.shape != expected:
            raise ValueError(f"{name}: shape {mask.shape}; {expected} fits the anchors and targets")
    weights = jnp.ones(expected[0], anchors.dtype) if weights is None else as_float(weights)
    if weights.shape != expected[:1]:
        raise ValueError(f"weights: shape {weights.shape}; {expected[:1]} fits the anchors")

    # Cosines are divided by a small temperature: TF32 or bfloat16 products would show in the loss.
    similarities = jnp.matmul(anchors, targets.T, precision=jax.lax.Precision.HIGHEST) / temperature
    negatives = allowed & ~positives
    counts = jnp.sum(positives, axis=1, keepdims=True)
    pair_weights = jnp.where(positives, weights[:, None] / jnp.maximum(counts, 1), 0.0)
    forward = similarities if logq is None else similarities - as_float(logq)[None, :]
    loss = _softmax_loss(forward, negatives, pair_weights)
    if symmetric:
        loss = 0.5 * (loss + _softmax_loss(similarities.T, negatives.T, pair_weights.T))
    return loss


def in_batch_info_nce(
    anchors: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    positives: jax.typing.ArrayLike,
    where: jax.typing.ArrayLike,
    temperature: float,
    chunk_rows: int | None = None,
) -> jax.Array:
    """`info_nce` with every other target of the batch as a negative, in memory that does not grow with A · T.

    The similarities are made for some anchors at a time, and once more in the backward pass (`map_rows`). Positives
    come as indices, because at 64k anchors a mask alone would take gigabytes.

    | argument | shape | unit |
    |---|---|---|
    | anchors | [A, D] | unit vectors |
    | targets | [T, D] | unit vectors, each keyphrase once |
    | positives | [A, P] | integers into the targets, no two alike in a row; negative is none |
    | where | [T] | bool: the targets that there are |
    | chunk_rows | static | anchors at a time, 0 for all; None takes what fits 64 MiB |
    | returns | [] | nats, the mean over the anchors that have a positive |

    Raises:
      ValueError: temperature is not positive, or a shape does not fit.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature}; pass a positive number")
    anchors, targets = as_float(anchors), as_float(targets)
    positives, where = jnp.asarray(positives), jnp.asarray(where, bool)
    if positives.ndim != 2 or positives.shape[0] != anchors.shape[0]:
        raise ValueError(f"positives: shape {positives.shape}; one row for each of {anchors.shape[0]} anchors")
    count = targets.shape[0]
    if where.shape != (count,):
        raise ValueError(f"where: shape {where.shape}; one entry for each of {count} targets")

    def losses(rows: tuple[jax.Array, jax.Array], _: None) -> jax.Array:
        anchors, positives = rows
        similarities = jnp.matmul(anchors, targets.T, precision=jax.lax.Precision.HIGHEST) / temperature
        real = positives >= 0
        mine = jax.vmap(lambda at: jnp.zeros(count, bool).at[at].set(True, mode="drop"))(
            jnp.where(real, positives, count)
        )
        log_sum = _masked_log_sum(similarities, where & ~mine)
        wanted = jnp.take_along_axis(similarities, jnp.where(real, positives, 0), axis=1)
        values = jnp.where(real, jax.nn.softplus(log_sum - wanted), 0.0)
        return jnp.sum(values, axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1)

    size = rows_at_once(count) if chunk_rows is None else chunk_rows
    values = map_rows(losses, (anchors, positives), size)
    return jnp.sum(values) / jnp.maximum(jnp.sum(jnp.any(positives >= 0, axis=1)), 1)


def duplicate_mask(ids: jax.typing.ArrayLike) -> jax.Array:
    """True where two different positions hold the same id.

    | argument | shape |
    |---|---|
    | ids | [T] integers |
    | returns | [T, T] bool, diagonal False |
    """
    ids = jnp.asarray(ids)
    return (ids[:, None] == ids[None, :]) & ~jnp.eye(ids.shape[0], dtype=bool)


def allowed_negatives(positives: jax.typing.ArrayLike, target_ids: jax.typing.ArrayLike) -> jax.Array:
    """True where a target is neither a positive of the anchor nor a copy of one (keyphrases repeat in a batch).

    | argument | shape |
    |---|---|
    | positives | [A, T] bool |
    | target_ids | [T] integers, equal for copies of one keyphrase |
    | returns | [A, T] bool |
    """
    positives = jnp.asarray(positives, bool)
    copies = positives.astype(jnp.float32) @ duplicate_mask(target_ids).astype(jnp.float32) > 0
    return ~positives & ~copies


def _softmax_loss(logits: jax.Array, negatives: jax.Array, pair_weights: jax.Array) -> jax.Array:
    """Weighted mean over pairs of log(1 + Σ_negatives exp(s_n - s_p)); rows of [A, T] are the anchors."""
    used = negatives | (pair_weights > 0)
    logits = jnp.where(used, logits, 0.0)
    log_sum = _masked_log_sum(logits, negatives)
    losses = jnp.where(pair_weights > 0, jax.nn.softplus(log_sum - logits), 0.0)
    total = jnp.sum(pair_weights)
    return jnp.sum(pair_weights * losses) / jnp.where(total > 0, total, 1.0)


def _masked_log_sum(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """log Σ exp over the masked entries of each row of [A, T] → [A, 1]; of none, a very low number."""
    lowest = jnp.finfo(logits.dtype).min / 4
    peak = jax.lax.stop_gradient(jnp.max(jnp.where(mask, logits, lowest), axis=1, keepdims=True, initial=lowest))
    terms = jnp.where(mask, jnp.exp(jnp.where(mask, logits - peak, 0.0)), 0.0)
    sums = jnp.sum(terms, axis=1, keepdims=True)
    return jnp.where(sums > 0, peak + jnp.log(jnp.where(sums > 0, sums, 1.0)), lowest)
