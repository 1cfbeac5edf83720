"""Which parameter is split along which mesh axis: the first rule whose pattern its path matches."""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

P = PartitionSpec

# Matrices into heads or the MLP split their output over `tensor`, matrices back their input: one reduction a block.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"qkv/kernel$", P("fsdp", None, "tensor", None)),
    (r"qkv/bias$", P(None, "tensor", None)),
    (r"attention/output/kernel$", P("tensor", None, "fsdp")),
    (r"up/kernel$", P("fsdp", "tensor")),
    (r"up/bias$", P("tensor")),
    (r"down/kernel$", P("tensor", "fsdp")),
    (r"token/embedding$", P(None, "fsdp")),
    (r"pooler/kernel$", P("fsdp", None)),
    # The decoder: an axis of key-value heads, each with its queries; vocabularies are large, so they are split too.
    (r"attention/groups/kernel$", P("fsdp", "tensor", None, None)),
    (r"attention/groups/bias$", P("tensor", None, None)),
    (r"gate/kernel$", P("fsdp", "tensor")),
    (r"(tokens|head)/embedding$", P("tensor", "fsdp")),
    (r".*", P()),
)


def path_string(path: tuple) -> str:
    """`('encoder', 'layers', '0', ...)` key path of jax.tree_util as `encoder/layers/0/...`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of one parameter; an axis that does not divide its dimension leaves that dimension replicated."""
    spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
    if len(spec) > len(shape):
        return P()
    kept = [axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(spec, shape)]
    return P(*kept)


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
    """Shardings of any tree whose leaves have shapes: parameters, or optimiser state that mirrors their paths."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_for(path_string(path), leaf.shape, mesh)), tree
    )
