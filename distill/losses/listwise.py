"""Losses of a whole candidate list as one distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill.losses.reduction import ReduceFn, masked_pair, mean, reduce


def kl_divergence(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    temperature: float = 1.0,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: ReduceFn = mean,
) -> jax.Array:
    r"""Divergence of the student's top-one distribution from the teacher's.

    .. math:: \ell(s, t) = T^2 \sum_i p_i (\log p_i - \log q_i),
              \quad p = \mathrm{softmax}(t / T),\; q = \mathrm{softmax}(s / T)

    Source: ListNet (Cao et al. 2007), whose cross-entropy differs by the teacher's entropy alone; temperature and the
    factor T², which keeps the gradient's size, from Hinton et al. (arXiv 1503.02531). A list with fewer than two
    valid entries has only one distribution and is masked out.

    | argument | shape | unit |
    |---|---|---|
    | student, teacher | [..., N] | raw logits both |
    | where | [..., N] | bool |
    | weights | [...], one a list | any non-negative number |
    | returns | [] with the default `reduce_fn` | nats times T² |

    Raises:
      ValueError: temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature}; pass a positive number")
    student, teacher, mask = masked_pair(student, teacher, where, ("student", "teacher"))
    student_log, teacher_log = (_masked_log_softmax(logits / temperature, mask) for logits in (student, teacher))
    terms = jnp.where(mask, jnp.exp(teacher_log) * (teacher_log - student_log), 0.0)
    values = temperature**2 * jnp.sum(terms, axis=-1)
    return reduce(values, where=jnp.sum(mask, axis=-1) >= 2, weights=weights, reduce_fn=reduce_fn)


def _masked_log_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Log-probabilities over the valid entries; finite everywhere, so that no gradient meets inf - inf."""
    lowest = jnp.finfo(logits.dtype).min / 4
    return jax.nn.log_softmax(jnp.where(mask, logits, lowest), axis=-1)
