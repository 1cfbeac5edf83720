"""Parameters of a finished model in one file: safetensors, named by path, the same bytes for the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np


def save_params(path: Path, params: dict[str, Any]) -> None:
    """Writes a nested dict of arrays; keys are joined by `/`."""
    from safetensors.numpy import save_file  # training needs none

    flat: dict[str, np.ndarray] = {}

    def collect(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key in sorted(node):
                collect(f"{prefix}/{key}" if prefix else key, node[key])
        else:
            flat[prefix] = np.ascontiguousarray(jax.device_get(node))

    collect("", params)
    save_file(flat, path)


def load_params(path: Path) -> dict[str, Any]:
    """The nested dict of numpy arrays that `save_params` wrote."""
    from safetensors.numpy import load_file

    params: dict[str, Any] = {}
    for name, array in load_file(path).items():
        *parents, leaf = name.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return params
