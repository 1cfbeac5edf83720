"""Indexes over vectors that lie as keyphrases do, shared by the tests of the index."""

import numpy as np
import pytest

from distill.retrieval.scann_index import build_index


def unit(array):
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def embeddings():
    """5,000 vectors in 60 clusters, as keyphrases lie."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 32))
    return unit(centres[rng.integers(60, size=5000)] + 0.5 * rng.normal(size=(5000, 32)))


@pytest.fixture(scope="module")
def queries(embeddings):
    rng = np.random.default_rng(1)
    return unit(embeddings[rng.integers(5000, size=400)] + 0.1 * rng.normal(size=(400, 32)))


@pytest.fixture(scope="module")
def tree(embeddings, queries):
    return build_index(embeddings, brute_force_below=1000, target_recall=0.95, sample_queries=queries[:100], seed=3)


@pytest.fixture(scope="module")
def brute_force(embeddings, queries):
    return build_index(embeddings, brute_force_below=10_000, target_recall=0.95, sample_queries=queries[:100], seed=3)
