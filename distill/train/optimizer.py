"""AdamW with linear warm-up, cosine decay, global-norm clipping and a weight-decay mask."""

from __future__ import annotations

import re
from typing import Any

import jax
import optax

from distill.config import OptimizerConfig
from distill.parallel.partition import path_string

NO_DECAY = re.compile(r"(bias|scale)$")


def decay_mask(params: Any) -> Any:
    """True where weight decay applies: matrices and tables, not biases, layer norms or learnt scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim >= 2 and not NO_DECAY.search(path_string(path)), params
    )


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate at each step: linear from 0 over `warmup_share` of `steps`, then cosine to 0."""
    warmup = min(max(1, round(config.warmup_share * steps)), max(1, steps - 1))
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) after clipping by global norm (Pascanu et al. 2013)."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask
        ),
    )
