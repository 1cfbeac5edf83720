"""Calls into ScaNN, whose arguments the callers have checked: it aborts the process on bad ones."""

from __future__ import annotations

import contextlib
import importlib.abc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distill.retrieval.index_settings import ANISOTROPIC, CODEBOOK_ROWS, ROWS_PER_LEAF, IndexSettings
from distill.retrieval.scann_avx2 import use_avx2
from distill.retrieval.subset_search import merge
from distill.retrieval.vectors import prefix

_MOST_BATCH = 512  # queries that a thread takes at a time
_EXACT_BYTES = 256 << 20  # of vectors that are searched exactly at a time


def build(vectors: np.ndarray, settings: IndexSettings) -> Any:
    """A searcher over [N, width] float32, which copies them."""
    scann = _scann()
    builder = scann.builder(vectors, min(settings.recall_at, settings.count), "dot_product")
    if not settings.leaves:
        return builder.score_brute_force(_reorder_type(settings.dtype)).build()
    return scann.create_searcher(vectors, tree_config(builder, settings))


def tree_config(builder: Any, settings: IndexSettings) -> str:
    """The configuration of a tree by either of ScaNN's builders, that of arrays and that of TensorFlow ops."""
    builder = builder.tree(
        num_leaves=settings.leaves,
        num_leaves_to_search=settings.leaves,
        training_sample_size=min(settings.count, max(CODEBOOK_ROWS, ROWS_PER_LEAF * settings.leaves)),
        # Cells are searched by the inner products of their centres. A mean of unit vectors is the shorter the wider
        # its cell is, and would let tight cells come first.
        spherical=True,
        soar_lambda=settings.soar_lambda or None,
    )
    builder = builder.score_ah(
        settings.dims_per_block,
        anisotropic_quantization_threshold=ANISOTROPIC,
        training_sample_size=min(settings.count, CODEBOOK_ROWS),
    )
    reorder = min(settings.recall_at, settings.count), _reorder_type(settings.dtype)
    # The builders have no argument for the seed, the configuration has.
    return (
        builder.reorder(*reorder)
        .create_config()
        .replace("partitioning {", f"partitioning {{ clustering_seed: {settings.seed}", 1)
    )


def save(searcher: Any, directory: Path) -> None:
    searcher.serialize(str(directory), relative_path=True)


def load(directory: Path) -> Any:
    return _scann().load_searcher(str(directory))


def search(
    searcher: Any, queries: np.ndarray, k: int, *, leaves_to_search: int | None = None, reorder: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """indices [Q, k] int32 and scores [Q, k] float32; -1 and -inf where fewer were found. k is at most N."""
    if not len(queries):
        return np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)
    options = {
        "final_num_neighbors": k,
        "leaves_to_search": leaves_to_search,
        "pre_reorder_num_neighbors": reorder,
    }
    batch = min(_MOST_BATCH, -(-len(queries) // _processors()))
    if batch < len(queries):
        found, scores = searcher.search_batched_parallel(queries, batch_size=batch, **options)
    else:
        found, scores = searcher.search_batched(queries, **options)
    found = found.astype(np.int32)
    # Where the searched leaves hold too few vectors, ScaNN fills up with index 0 and NaN.
    if (missing := np.isnan(scores)).any():
        return np.where(missing, -1, found), np.where(missing, -np.inf, scores)
    return found, scores


def exact_top(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The exact k best of [N, D], block by block: they may be memory-mapped and larger than memory.

    Args:
      queries: [Q, width] float32.
      vectors: [N, D] float32 unit vectors; where `width` is below D, their Matryoshka prefixes are searched.
      k: at most N.

    Returns:
      indices [Q, k] int32 and scores [Q, k] float32.
    """
    scann, width = _scann(), queries.shape[1]
    rows = _EXACT_BYTES // (4 * vectors.shape[1])
    best = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(vectors), rows):
        block = vectors[start : start + rows]
        block = prefix(block, width) if width < block.shape[1] else np.ascontiguousarray(block)
        searcher = scann.builder(block, min(k, len(block)), "dot_product").score_brute_force().build()
        found, scores = search(searcher, queries, min(k, len(block)))
        best = merge(k, best, (np.where(found < 0, -1, found + start), scores))
    return best


def _processors() -> int:
    """Those that this process may use, where the system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Without(importlib.abc.MetaPathFinder):
    """A finder of modules that finds no `package`, for one thread, and knows nothing of others."""

    def __init__(self, package: str):
        self._package, self._thread = package, threading.get_ident()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == self._package and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Imports of a package that is not loaded yet fail in this thread, as where it is not installed."""
    finder = _Without(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _scann() -> Any:
    # `import scann` imports TensorFlow for its ops and goes on without it: five seconds of a processor that searching
    # does not need. Whoever wants the ops (scann_graph) imports them by their own name.
    try:
        with _without("tensorflow"):
            from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise ImportError(
            "the keyphrase index needs scann, which exists for Linux only: `pip install scann`, or search with "
            f"distill.retrieval.exact ({error})"
        ) from error
    use_avx2(scann_ops_pybind.scann_pybind.__file__)
    return scann_ops_pybind


def _reorder_type(dtype: str) -> Any:
    _scann()
    from scann.scann_ops.py.scann_builder import ReorderType

    return ReorderType[dtype.upper()]
