"""A saved keyphrase index as TensorFlow ops, so that a SavedModel can search it. TensorFlow must be importable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from distill.retrieval.index_settings import IndexSettings
from distill.retrieval.index_store import ASSETS
from distill.retrieval.scann_native import tree_config
from distill.retrieval.vectors import prefix

# In the order in which ScaNN's op hands them out: the file that a saved index has of each, and its type.
_ASSETS = (
    ("scann_config.pb", bytes),
    ("serialized_partitioner.pb", bytes),
    ("datapoint_to_token.npy", np.int32),
    ("ah_codebook.pb", bytes),
    ("hashed_dataset.npy", np.uint8),
    ("int8_dataset.npy", np.int8),
    ("int8_multipliers.npy", np.float32),
    ("dp_norms.npy", np.float32),
    ("dataset.npy", np.float32),
)


def fits_graph(settings: IndexSettings) -> bool:
    """Whether ScaNN's ops can hold the index as it is: they know neither SOAR nor bfloat16."""
    return not settings.soar_lambda and settings.dtype != "bfloat16"


def load_state(directory: Path) -> Any:
    """What ScaNN holds of an index saved in `directory`, as a `tf.Module` of variables for `search`.

    Raises:
      ImportError: scann, or the TensorFlow that it was built for, is not installed.
    """
    scann_ops = scann_ops_module()

    def read(name: str, kind: Any) -> Any:
        path = directory / ASSETS / name
        if kind is bytes:
            return [path.read_bytes()] if path.exists() else b""
        return np.load(path) if path.exists() else kind(0)

    return scann_ops.ScannState([read(name, kind) for name, kind in _ASSETS])


def build_state(vectors: np.ndarray, settings: IndexSettings) -> tuple[Any, IndexSettings]:
    """A tree that fits the ops, of as many leaves and dimensions a block, and its settings; for what `fits_graph` not.

    Args:
      vectors: [N, D] float32 unit vectors, the full width.
      settings: of the index that it stands in for.
    """
    scann = scann_ops_module()
    settings = dataclasses.replace(settings, soar_lambda=0.0, dtype="float32")
    searched = prefix(vectors, settings.width) if settings.width < settings.full_width else np.asarray(vectors)
    builder = scann.builder(searched, min(settings.recall_at, settings.count), "dot_product")
    if not settings.leaves:
        return builder.score_brute_force().build().serialize_to_module(), settings
    return scann.create_searcher(searched, tree_config(builder, settings)).serialize_to_module(), settings


def search(
    state: Any, queries: Any, k: int, *, leaves_to_search: int | None = None, reorder: int | None = None
) -> tuple[Any, Any]:
    """The search of `scann_native.search` as ops.

    Args:
      state: of `load_state` or `build_state`.
      queries: float32 [Q, width], Q at least 1.
      k: at most N.
      leaves_to_search, reorder: trees only.

    Returns:
      rows int32 [Q, k] and inner products float32 [Q, k]: as ScaNN gives them, with NaN where fewer were found.
    """
    searcher = scann_ops_module().searcher_from_module(state)
    return searcher.search_batched(
        queries, final_num_neighbors=k, leaves_to_search=leaves_to_search, pre_reorder_num_neighbors=reorder
    )


def scann_ops_module() -> Any:
    from scann.scann_ops.py import scann_ops

    return scann_ops
