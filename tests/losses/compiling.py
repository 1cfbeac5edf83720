"""Compiling the losses for tests, where compiling takes longer than running."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

_OPTIONS = {"reduce_fn", "axis", "scale", "temperature", "rank_discount", "margin_weight", "symmetric", "chunk_rows"}


def compiled(function: Callable[..., Any], gradient_of: int | tuple[int, ...] | None = None) -> Callable[..., Any]:
    """The function, or its value and gradient, compiled without the costly optimisations."""
    static = tuple(_OPTIONS & inspect.signature(function).parameters.keys())
    if gradient_of is not None:
        function = jax.value_and_grad(function, argnums=gradient_of)
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, static_argnames=static, compiler_options=options)
