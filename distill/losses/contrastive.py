"""The clicks task's loss: a clicked keyphrase against the other keyphrases of the batch."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from distill.losses.reduction import ReduceFn, as_float, mean, reduce
from distill.parallel.chunks import map_rows, rows_at_once

MAX_LOG_SCALE = math.log(100.0)


def info_nce(
    anchors: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    positives: jax.typing.ArrayLike,
    negatives_allowed: jax.typing.ArrayLike,
    temperature: float | jax.Array,
    weights: jax.typing.ArrayLike | None = None,
    log_q: jax.typing.ArrayLike | None = None,
    symmetric: bool = False,
) -> jax.Array:
    r"""InfoNCE with several positives an anchor, each against the allowed negatives alone.

    .. math:: \ell_{ap} = -\log \frac{e^{s_{ap}}}{e^{s_{ap}} + \sum_{n \in N(a)} e^{s_{an} - \log q_n}},
              \quad s_{at} = \frac{x_a \cdot y_t}{\tau}

    .. math:: L = \frac{\sum_a \frac{1}{|P(a)|} \sum_{p \in P(a)} w_{ap} \ell_{ap}}
              {\sum_a \frac{1}{|P(a)|} \sum_{p \in P(a)} w_{ap}}

    Source: van den Oord et al. (arXiv 1807.03748); several positives outside the logarithm as in SupCon (2004.11362),
    but never in each other's denominator. Correction of in-batch sampling by log q: Yi et al. (RecSys 2019), of the
    negatives alone, because the positive is always there (Khrylchenko et al., arXiv 2507.09331): the sum then
    estimates that over all targets. Weights of 1 / propensity make the loss that of all shown pairs (Joachims et al.,
    arXiv 1608.04468), normalised by their sum (Swaminathan and Joachims, NeurIPS 2015).

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
    | temperature | [] | of cosines: a positive number, or an array that is taken to be one |
    | weights | [A, T], read at the positives | any non-negative number |
    | log_q | [T] | log of the chance that a target is in the batch |
    | returns | [] | nats |

    Raises:
      ValueError: temperature is not positive, or a shape does not fit.
    """
    _check_temperature(temperature)
    anchors, targets = as_float(anchors), as_float(targets)
    expected = (anchors.shape[0], targets.shape[0])
    positives = _of_shape("positives", positives, expected).astype(bool)
    allowed = _of_shape("negatives_allowed", negatives_allowed, expected).astype(bool)
    weights = 1.0 if weights is None else as_float(_of_shape("weights", weights, expected))

    # Cosines are divided by a small temperature: TF32 or bfloat16 products would show in the loss.
    similarities = jnp.matmul(anchors, targets.T, precision=jax.lax.Precision.HIGHEST) / temperature
    negatives = allowed & ~positives
    counts = jnp.sum(positives, axis=1, keepdims=True)
    pair_weights = jnp.where(positives, weights / jnp.maximum(counts, 1), 0.0)
    log_q = None if log_q is None else as_float(_of_shape("log_q", log_q, expected[1:]))
    loss = _softmax_loss(similarities, negatives, pair_weights, log_q)
    if symmetric:
        loss = 0.5 * (loss + _softmax_loss(similarities.T, negatives.T, pair_weights.T))
    return loss


def in_batch_info_nce(
    anchors: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    positives: jax.typing.ArrayLike,
    where: jax.typing.ArrayLike,
    temperature: float | jax.Array,
    anchor_where: jax.typing.ArrayLike | None = None,
    ignored: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    log_q: jax.typing.ArrayLike | None = None,
    symmetric: bool = False,
    reduce_fn: ReduceFn = mean,
    chunk_rows: int | None = None,
) -> jax.Array:
    """`info_nce` with every other target of the batch as a negative, in memory that does not grow with A · T.

    The similarities are made for some anchors at a time, and once more in the backward pass (`map_rows`);
    `symmetric` makes them for some targets at a time too. Positives come as indices, because at 64k anchors a mask
    alone would take gigabytes. A hard negative is one more target.

    | argument | shape | unit |
    |---|---|---|
    | anchors | [A, D] | unit vectors; finite where there is none |
    | targets | [T, D] | unit vectors, each keyphrase once; finite where there is none |
    | positives | [A, P] | integers into the targets, no two alike in a row; negative is none |
    | where | [T] | bool: the targets that there are |
    | temperature | [] | of cosines: a positive number, or an array that is taken to be one |
    | anchor_where | [A] | bool: the anchors that there are; None is all |
    | ignored | [A, I] | integers into the targets that are no negatives of the anchor; negative is none |
    | weights | [A, P], one a pair | any non-negative number |
    | log_q | [T] | log of the chance that a target is in the batch |
    | chunk_rows | static | anchors, and targets, at a time, 0 for all; None takes what fits 64 MiB |
    | returns | [] with the default `reduce_fn`, which reads one value an anchor | nats |

    Raises:
      ValueError: temperature is not positive, or a shape does not fit.
    """
    _check_temperature(temperature)
    anchors, targets, positives = as_float(anchors), as_float(targets), jnp.asarray(positives)
    anchor_count, count = anchors.shape[0], targets.shape[0]
    for name, indices in (("positives", positives), ("ignored", ignored)):
        shape = (anchor_count, 0) if indices is None else jnp.shape(indices)
        if len(shape) != 2 or shape[0] != anchor_count:
            raise ValueError(f"{name}: shape {shape}; one row for each of {anchor_count} anchors")
    others = positives if ignored is None else jnp.concatenate([positives, jnp.asarray(ignored)], axis=1)
    where = _of_shape("where", where, (count,)).astype(bool)
    there = jnp.ones(anchor_count, bool) if anchor_where is None else jnp.asarray(anchor_where, bool)
    real = (positives >= 0) & _of_shape("anchor_where", there, (anchor_count,))[:, None]
    weights = jnp.ones(real.shape) if weights is None else as_float(_of_shape("weights", weights, real.shape))
    weights = jnp.where(real, weights, 0.0)
    log_q = None if log_q is None else as_float(_of_shape("log_q", log_q, (count,)))

    def similar(some: jax.Array, all_others: jax.Array) -> jax.Array:
        return jnp.matmul(some, all_others.T, precision=jax.lax.Precision.HIGHEST) / temperature

    def target_sums(rows: tuple[jax.Array, jax.Array], _: None) -> jax.Array:
        targets, at = rows
        mine = jnp.any(at[:, None, None] == others, axis=-1)
        return _masked_log_sum(similar(targets, anchors), there & ~mine)[:, 0]

    def losses(rows: tuple[jax.Array, ...], _: None) -> jax.Array:
        anchors, positives, others, real, weights = rows
        similarities = similar(anchors, targets)
        mine = jax.vmap(lambda at: jnp.zeros(count, bool).at[at].set(True, mode="drop"))(
            jnp.where(others >= 0, others, count)
        )
        corrected = similarities if log_q is None else similarities - log_q
        log_sum = _masked_log_sum(corrected, where & ~mine)
        at = jnp.where(real, positives, 0)
        wanted = jnp.take_along_axis(similarities, at, axis=1)
        values = jax.nn.softplus(log_sum - wanted)
        if symmetric:
            values = 0.5 * (values + jax.nn.softplus(sums_by_target[at] - wanted))
        total = jnp.sum(weights, axis=1)
        return jnp.sum(weights * jnp.where(real, values, 0.0), axis=1) / jnp.where(total > 0, total, 1.0)

    if symmetric:
        size = rows_at_once(anchor_count) if chunk_rows is None else chunk_rows
        sums_by_target = map_rows(target_sums, (targets, jnp.arange(count)), size)
    size = rows_at_once(count) if chunk_rows is None else chunk_rows
    values = map_rows(losses, (anchors, positives, others, real, weights), size)
    per_anchor = jnp.sum(weights, axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1)
    return reduce(values, where=jnp.any(real, axis=1), weights=per_anchor, reduce_fn=reduce_fn)


def learnt_temperature(log_scale: jax.typing.ArrayLike) -> jax.Array:
    r"""The temperature :math:`\tau = e^{-\mathrm{clip}(\theta, 0, \log 100)}` of a learnt logarithm θ of its inverse.

    Source: CLIP (Radford et al., arXiv 2103.00020), which learns θ and sets it back into these bounds after each step.
    Here its gradient vanishes at a bound where it leads outward, and where it leads inward it is kept: no step is
    needed outside the loss, and θ is never stuck.

    | argument | shape | unit |
    |---|---|---|
    | log_scale | [] | log of the inverse temperature |
    | returns | [] | 0.01 to 1 |
    """
    return jnp.exp(-_bounded(as_float(log_scale)))


@jax.custom_vjp
def _bounded(log_scale: jax.Array) -> jax.Array:
    return jnp.clip(log_scale, 0.0, MAX_LOG_SCALE)


def _bounded_forward(log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _bounded(log_scale), log_scale


def _bounded_backward(log_scale: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # Descent moves against the gradient.
    outward = ((log_scale >= MAX_LOG_SCALE) & (gradient < 0)) | ((log_scale <= 0.0) & (gradient > 0))
    return (jnp.where(outward, 0.0, gradient),)


_bounded.defvjp(_bounded_forward, _bounded_backward)


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


def _check_temperature(temperature: float | jax.Array) -> None:
    """A learnt temperature has no value yet while it is traced."""
    if not isinstance(temperature, jax.Array) and not temperature > 0:
        raise ValueError(f"temperature: {temperature}; pass a positive number")


def _of_shape(name: str, array: jax.typing.ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    array = jnp.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name}: shape {array.shape}; {shape} fits the anchors, targets and positives")
    return array


def _softmax_loss(
    logits: jax.Array, negatives: jax.Array, pair_weights: jax.Array, log_q: jax.Array | None = None
) -> jax.Array:
    """Weighted mean over pairs of log(1 + Σ_negatives exp(s_n - log q_n - s_p)); rows of [A, T] are the anchors."""
    used = negatives | (pair_weights > 0)
    logits = jnp.where(used, logits, 0.0)
    log_sum = _masked_log_sum(logits if log_q is None else logits - log_q, negatives)
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
