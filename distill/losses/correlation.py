"""Losses of agreement in order and proportion, free of the teacher's scale: Pearson and CoSENT."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill.losses.reduction import ReduceFn, masked_pair, mean, reduce


def pearson_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
    axis: int = -1,
) -> jax.Array:
    r"""One minus Pearson's correlation, list by list.

    .. math:: \ell(s, t) = 1 - \frac{\sum_i (s_i - \bar s)(t_i - \bar t)}
              {\sqrt{\sum_i (s_i - \bar s)^2} \sqrt{\sum_i (t_i - \bar t)^2}}

    Source: the distillation loss of LLMDistill4Ads (arXiv 2508.03628); as a loss, Huang et al., DIST (2205.10536).

    A list with fewer than two valid entries, or in which either side is constant up to rounding, has no correlation:
    it is masked out of the reduction and its gradient is 0.

    | argument | shape | unit |
    |---|---|---|
    | student, teacher | [..., N], N along `axis` | any: cosines against logits is fine |
    | where | [..., N] | bool |
    | weights | [...], one a list | any non-negative number |
    | returns | [] with the default `reduce_fn` | 0 (proportional) to 2 (opposed) |
    """
    student, teacher, mask = masked_pair(student, teacher, where, ("student", "teacher"))
    student_unit, student_varies = _standardise(student, mask, axis)
    teacher_unit, teacher_varies = _standardise(teacher, mask, axis)
    values = 1.0 - jnp.sum(student_unit * teacher_unit, axis=axis)
    return reduce(values, where=student_varies & teacher_varies, weights=weights, reduce_fn=reduce_fn)


def global_pearson_loss(
    student: jax.typing.ArrayLike, teacher: jax.typing.ArrayLike, *, where: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """`pearson_loss` of all valid entries as one list, whatever the shape; 0 where no correlation is defined.

    | argument | shape | unit |
    |---|---|---|
    | student, teacher, where | [...] | as in `pearson_loss` |
    | returns | [] | 0 (proportional) to 2 (opposed) |
    """
    student, teacher, mask = masked_pair(student, teacher, where, ("student", "teacher"))
    return pearson_loss(student.reshape(-1), teacher.reshape(-1), where=mask.reshape(-1))


def listwise_cosent_loss(
    cosines: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    scale: float = 20.0,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
) -> jax.Array:
    r"""CoSENT within each list: every pair that the student orders against the targets costs.

    .. math:: \ell(c, t) = \log\Big(1 + \sum_{i, j:\; t_i > t_j} e^{\lambda (c_j - c_i)}\Big)

    Source: CoSENT (Su 2022, kexue.fm/archives/8847), λ = 20 as there. Only the order of the targets matters; equal
    targets form no pair. A list without any pair is masked out. Memory grows with N².

    | argument | shape | unit |
    |---|---|---|
    | cosines | [..., N] | cosines (or scores of like range; `scale` makes them logits) |
    | targets | [..., N] | any; compared, never subtracted |
    | where | [..., N] | bool |
    | weights | [...], one a list | any non-negative number |
    | returns | [] with the default `reduce_fn` | nats |
    """
    cosines, targets, mask = masked_pair(cosines, targets, where, ("cosines", "targets"))
    both = mask[..., :, None] & mask[..., None, :]
    ordered = both & (targets[..., :, None] > targets[..., None, :])
    logits = scale * (cosines[..., None, :] - cosines[..., :, None])  # at (i, j): c_j - c_i
    # The peak includes the 1 (a logit of 0), so that no exponential overflows.
    peak = jax.lax.stop_gradient(jnp.max(jnp.where(ordered, logits, 0.0), axis=(-2, -1), initial=0.0))
    shifted = jnp.where(ordered, logits - peak[..., None, None], 0.0)
    terms = jnp.sum(jnp.where(ordered, jnp.exp(shifted), 0.0), axis=(-2, -1))
    values = peak + jnp.log(jnp.exp(-peak) + terms)
    return reduce(values, where=jnp.any(ordered, axis=(-2, -1)), weights=weights, reduce_fn=reduce_fn)


def cosent_loss(
    cosines: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    scale: float = 20.0,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """`listwise_cosent_loss` of all valid entries as one list, whatever the shape; 0 where no pair is ordered.

    Memory grows with the square of the number of entries: fine up to a few thousand.

    | argument | shape | unit |
    |---|---|---|
    | cosines, targets, where | [...] | as in `listwise_cosent_loss` |
    | returns | [] | nats |
    """
    cosines, targets, mask = masked_pair(cosines, targets, where, ("cosines", "targets"))
    return listwise_cosent_loss(cosines.reshape(-1), targets.reshape(-1), scale=scale, where=mask.reshape(-1))


def _standardise(values: jax.Array, mask: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Centred to mean 0 and scaled to length 1 over the valid entries, and whether the list varies at all."""
    count = jnp.sum(mask, axis=axis, keepdims=True)
    average = jnp.sum(values, axis=axis, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(mask, values - average, 0.0)
    squares = jnp.sum(jnp.square(centred), axis=axis, keepdims=True)
    # Rounding of the mean leaves a "variance" in a constant list; below that level a correlation is noise.
    resolution = 10 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), axis=axis, keepdims=True, initial=0.0)
    floor = jnp.maximum(jnp.square(resolution) * count, jnp.finfo(values.dtype).tiny)
    varies = (count >= 2) & (squares > floor)
    unit = jnp.where(varies, centred, 0.0) * jax.lax.rsqrt(jnp.where(varies, squares, 1.0))
    return unit, jnp.squeeze(varies, axis)
