"""Checks and cuts of unit vectors, block by block: the arrays may be memory-mapped and larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK_BYTES = 64 << 20
_UNIT_TOLERANCE = 1e-3


def blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, rows) of [N, D] in blocks of about 64 MiB, at least one row each."""
    rows = max(1, BLOCK_BYTES // max(1, vectors[:1].nbytes))
    for start in range(0, len(vectors), rows):
        yield start, vectors[start : start + rows]


def check_vectors(
    name: str,
    vectors: np.ndarray,
    *,
    width: int | None = None,
    may_be_empty: bool = False,
    unit: bool = False,
) -> np.ndarray:
    """The array itself when it is C-contiguous, aligned float32 [N, D] of finite numbers, else such a copy of it.

    Args:
      name: of the argument, for the error.
      vectors: [N, D].
      width: the D that is wanted.
      may_be_empty: whether N may be 0.
      unit: whether every row must have length 1.

    Raises:
      ValueError: anything that would abort the process inside ScaNN, or give wrong results in silence.
    """
    if not isinstance(vectors, np.ndarray):
        vectors = np.asarray(vectors)
    if vectors.dtype != np.float32:
        raise ValueError(f"{name}: dtype {vectors.dtype}; pass float32")
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(f"{name}: shape {vectors.shape}; pass [N, D]")
    if width is not None and vectors.shape[1] != width:
        raise ValueError(f"{name}: width {vectors.shape[1]}; the embeddings have width {width}")
    if not may_be_empty and not len(vectors):
        raise ValueError(f"{name}: empty; pass at least one vector")
    for start, block in blocks(vectors):
        squares = np.einsum("nd,nd->n", block, block)
        if not np.isfinite(squares).all():
            row = start + int(np.argmin(np.isfinite(squares)))
            raise ValueError(f"{name}: row {row} holds NaN or an infinite value")
        if unit:
            worst = int(np.argmax(np.abs(np.sqrt(squares) - 1)))
            if abs(np.sqrt(squares[worst]) - 1) > _UNIT_TOLERANCE:
                length = np.sqrt(squares[worst])
                raise ValueError(f"{name}: row {start + worst} has length {length:.4g}; pass unit vectors")
    return vectors if vectors.flags.c_contiguous and vectors.flags.aligned else vectors.copy("C")


def prefix(vectors: np.ndarray, width: int) -> np.ndarray:
    """The first `width` coordinates of unit vectors [N, D], normalised again: a Matryoshka embedding, [N, width]."""
    if not 0 < width <= vectors.shape[1]:
        raise ValueError(f"width: {width}; the vectors have {vectors.shape[1]} coordinates")
    result = np.empty((len(vectors), width), vectors.dtype)
    for start, block in blocks(vectors):
        cut = block[:, :width]
        result[start : start + len(block)] = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return result


def hash_vectors(vectors: np.ndarray) -> str:
    """SHA-256 of the little-endian float32 bytes of [N, D]."""
    digest = hashlib.sha256()
    for _, block in blocks(vectors):
        digest.update(np.ascontiguousarray(block, "<f4").data)
    return digest.hexdigest()


def save_vectors(path: Path, vectors: np.ndarray) -> None:
    """Writes [N, D] as .npy, block by block."""
    output = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=vectors.shape)
    for start, block in blocks(vectors):
        output[start : start + len(block)] = block
    output.flush()
