"""The simulated LLM judge: right most of the time, wrong in the ways a real one is."""

from __future__ import annotations

import numpy as np

from distill.data import hashing

# Standard deviations, in grades. Chosen so that on pairs that a search engine showed it agrees with human labels as a
# large LLM does on real listings (same grade .63, quadratic kappa .54).
_PAIR_NOISE = 0.24
_LENIENCY = 0.25  # shared by all pairs of an item
_EASY_NOISE = 0.2  # on pairs from unrelated departments
_MISREAD = 0.38  # share of the other pairs that are misread: any grade, the right one included


def judge(seed: int, truth: np.ndarray, easy: np.ndarray, item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
    """The judge's grades: the true grade plus an item's leniency plus the pair's own noise, rounded.

    A misread pair gets any grade instead.

    Args:
        seed: of the world.
        truth: true grades [N], 0–3.
        easy: bool [N], pairs that anyone sees are unrelated.
        item: indices [N].
        keyphrase: indices [N].

    Returns:
        Grades 0–3, int64 [N]; each depends on its own pair alone.
    """
    noise = np.where(easy, _EASY_NOISE, _PAIR_NOISE) * hashing.normal(seed, 2, item, keyphrase)
    leniency = np.where(easy, 0.5, 1.0) * _LENIENCY * hashing.normal(seed, 3, item)
    grades = np.clip(np.rint(truth + leniency + noise), 0, 3).astype(np.int64)
    misread = ~easy & (hashing.uniform(seed, 4, item, keyphrase) < _MISREAD)
    return np.where(misread, (4 * hashing.uniform(seed, 5, item, keyphrase)).astype(np.int64), grades)
