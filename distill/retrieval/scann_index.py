"""Building the keyphrase index on ScaNN: a tree tuned by measuring, or exact search where that is better.

Source: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization" (arXiv 1908.10396).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from distill.retrieval import scann_native
from distill.retrieval.index_settings import (
    DTYPES,
    MOST_VECTORS,
    SMALLEST_TREE,
    IndexSettings,
    TreeSettings,
    default_tree,
)
from distill.retrieval.index_tuning import choose_by_recall, tune
from distill.retrieval.keyphrase_index import KeyphraseIndex, seconds_a_query, share_found
from distill.retrieval.subset_search import score_candidates
from distill.retrieval.vectors import check_vectors, hash_vectors, prefix

__all__ = ["KeyphraseIndex", "build_index"]

_MOST_RESCORE = 16  # candidates that the full width scores again, as a multiple of the neighbours asked for
_EXACT_UP_TO = 50_000  # vectors; of more, exact search is several times slower than a tree


def build_index(
    embeddings: np.ndarray,
    *,
    brute_force_below: int,
    target_recall: float,
    sample_queries: np.ndarray,
    seed: int,
    width: int = 0,
    recall_at: int = 100,
    dtype: str = "float32",
    tune_seconds: float = 0.0,
    model: str = "",
    keyphrases_sha256: str = "",
) -> KeyphraseIndex:
    """Builds the index and chooses its settings by measuring recall on the sample queries.

    Below `brute_force_below` vectors every search is exact. Above, a tree of about 2·√N cells with 4-bit codes finds
    candidates that are scored by the vectors themselves; the cells to search are the fewest that meet the target on
    the sample. With `tune_seconds`, `distill.retrieval.index_tuning` looks for the fastest tree, and
    takes exact search where that is as fast. Where even all cells miss the target the index falls back to brute force.
    A note in `describe()` says so.

    Brute force is the same to the bit each time. A tree is not: ScaNN's training of it is seeded but rounds differently
    from build to build, and tuning follows the clock.

    Args:
      embeddings: [N, D] float32 unit vectors; may be memory-mapped, and must stay as they are while the index lives.
      brute_force_below: number of vectors.
      target_recall: wanted share of the exact `recall_at` best, in (0, 1].
      sample_queries: [Q, D] float32, like those to come; a few hundred at least, or the recall is a guess.
      seed: of the clustering.
      width: Matryoshka prefix that ScaNN holds and searches; what it finds is ordered again by the full width. 0: D.
      recall_at: the K of the target.
      dtype: what ScaNN keeps of the vectors to score candidates: `float32`, `bfloat16` or `int8`.
      tune_seconds: budget for trying other trees, beyond the first, which takes its time; 0: none.
      model: hash or name of what made the embeddings; kept, so that `load` can check it.
      keyphrases_sha256: of the texts; kept likewise.

    Raises:
      ValueError: an argument does not fit.
      ImportError: scann is not installed.
    """
    embeddings = check_vectors("embeddings", embeddings, unit=True)
    count, full_width = embeddings.shape
    if count > MOST_VECTORS:
        raise ValueError(f"embeddings: {count} rows; an index holds {MOST_VECTORS} at most: split them")
    sample_queries = check_vectors("sample_queries", sample_queries, width=full_width)
    for name, value, right, words in (
        ("target_recall", target_recall, 0 < target_recall <= 1, "a share above 0 and at most 1"),
        ("seed", seed, 0 <= seed < 2**31, "0 to 2**31 - 1"),
        ("width", width, 0 <= width <= full_width, f"1 to {full_width}, or 0 for that"),
        ("recall_at", recall_at, isinstance(recall_at, int) and recall_at >= 1, "a whole number of at least 1"),
        ("dtype", dtype, dtype in DTYPES, f"one of {', '.join(DTYPES)}"),
        ("tune_seconds", tune_seconds, 0 <= tune_seconds < math.inf, "a number of seconds, or 0 for no tuning"),
    ):
        if not right:
            raise ValueError(f"{name}: {value!r}; pass {words}")
    k = min(recall_at, count)
    settings = IndexSettings(
        method="brute_force",
        count=count,
        width=full_width,
        full_width=full_width,
        normalisation="unit",
        dtype=dtype,
        leaves=0,
        dims_per_block=0,
        soar_lambda=0.0,
        leaves_to_search=0,
        reorder=0,
        rescore=0,
        seed=seed,
        recall_at=recall_at,
        target_recall=float(target_recall),
        recall=0.0,
        recall_at_100=0.0,
        sample_queries=len(sample_queries),
        tuned=False,
        note="",
        model=model,
        keyphrases_sha256=keyphrases_sha256,
        embeddings_sha256=hash_vectors(embeddings),
    )
    kth = scann_native.exact_top(sample_queries, embeddings, k)[1][:, -1]
    index, note = None, ""
    if count >= max(brute_force_below, SMALLEST_TREE):
        index, note = _tree_index(embeddings, settings, sample_queries, kth, width or full_width, tune_seconds)
    elif count >= brute_force_below:
        note = f"{count} vectors are too few for a tree: brute force"
    if index is None:
        index = _brute_force_index(embeddings, dataclasses.replace(settings, note=note), sample_queries, kth)
    at_100 = index.settings.recall if k == min(100, count) else index.measure_recall(100)
    return index.with_settings(recall_at_100=at_100)


def _brute_force_index(
    embeddings: np.ndarray, settings: IndexSettings, queries: np.ndarray, kth: np.ndarray
) -> KeyphraseIndex:
    """Exact search; in float32 where the target is missed by what `dtype` rounds."""
    k = min(settings.recall_at, settings.count)
    index = KeyphraseIndex(scann_native.build(embeddings, settings), settings, embeddings, queries)
    recall = share_found(index, queries, k, kth)
    if recall < settings.target_recall and settings.dtype != "float32":
        note = f"{settings.note}; " if settings.note else ""
        note += f"{settings.dtype} gave recall@{k} {recall:.4f} of {settings.target_recall}: float32"
        settings = dataclasses.replace(settings, dtype="float32", note=note)
        return _brute_force_index(embeddings, settings, queries, kth)
    return index.with_settings(recall=recall)


def _tree_index(
    embeddings: np.ndarray,
    settings: IndexSettings,
    queries: np.ndarray,
    kth: np.ndarray,
    width: int,
    tune_seconds: float,
) -> tuple[KeyphraseIndex | None, str]:
    """A tree that meets the target, or None; and what the settings' note says."""
    k, count, target, note = min(settings.recall_at, settings.count), settings.count, settings.target_recall, ""
    plain, rescored = settings, 0
    if width < settings.full_width:
        rescored, best = _prefix_candidates(embeddings, queries, kth, k, width, target)
        if not rescored:
            note = f"prefix {width} gave recall@{k} {best:.4f} with {_MOST_RESCORE * k} candidates: full width"
            width = settings.full_width
    settings = dataclasses.replace(settings, width=width, rescore=rescored, tuned=tune_seconds > 0, note=note)
    searched = prefix(embeddings, width) if rescored else embeddings

    def build(tree: TreeSettings) -> _Trial:
        built = settings.with_tree(tree)
        return _Trial(KeyphraseIndex(scann_native.build(searched, built), built, embeddings, queries), kth, k)

    def exact() -> _Trial:
        return _Trial(_brute_force_index(embeddings, plain, queries, kth), kth, k)

    candidates, first = rescored or k, default_tree(count, width)
    if tune_seconds:
        few = exact if count <= _EXACT_UP_TO else None
        tuned = tune(
            build, first, k=candidates, count=count, width=width, target=target, seconds=tune_seconds, exact=few
        )
    else:
        tuned = choose_by_recall(build(first), k=candidates, count=count, target=target)
    if tuned.trial is None:
        missed = f"all {first.leaves} leaves gave recall@{k} {tuned.best_recall:.4f} of {target}"
        return None, f"{note}; {missed}: brute force" if note else f"{missed}: brute force"
    assert isinstance(tuned.trial, _Trial)
    index = tuned.trial.index
    index.curve = tuple(point.as_dict() for point in tuned.curve)
    if not index.settings.leaves:
        note = f"{index.settings.note}; " if index.settings.note else ""
        return index.with_settings(tuned=True, note=f"{note}no tree was faster than exact search"), ""
    return index.with_settings(
        leaves_to_search=tuned.leaves_to_search, reorder=tuned.reorder, recall=tuned.recall
    ), note


def _prefix_candidates(
    embeddings: np.ndarray, queries: np.ndarray, kth: np.ndarray, k: int, width: int, target: float
) -> tuple[int, float]:
    """How many of the prefix's nearest the full width must score again, and the recall that these can give.

    Half of the misses that the target allows are left to the tree. (0, recall) where even the most are too few.
    """
    most = min(len(embeddings), _MOST_RESCORE * k)
    found = scann_native.exact_top(prefix(queries, width), embeddings, most)[0]
    good = score_candidates(queries, embeddings, found) >= kth[:, None] - 1e-5
    recall = np.minimum(np.cumsum(good, axis=1), k).mean(axis=0) / k  # by number of candidates
    wanted = 1 - (1 - target) / 2
    enough = np.flatnonzero(recall[k - 1 :] >= wanted)
    return (k + int(enough[0]), float(recall[k - 1 + enough[0]])) if len(enough) else (0, float(recall[-1]))


class _Trial:
    """A built tree under `distill.retrieval.index_tuning`: recall and time of searches by other parameters."""

    def __init__(self, index: KeyphraseIndex, kth: np.ndarray, k: int):
        self.index, self.tree = index, index.settings.tree
        self._k, self._kth = k, kth
        self._known: dict[tuple[int, int], float] = {}

    def recall(self, leaves_to_search: int, reorder: int) -> float:
        key = leaves_to_search, reorder
        if key not in self._known:
            parameters = self._parameters(leaves_to_search, reorder)
            self._known[key] = share_found(self.index, self.index.sample, self._k, self._kth, **parameters)
        return self._known[key]

    def seconds(self, leaves_to_search: int, reorder: int, at_least: float) -> float:
        parameters = self._parameters(leaves_to_search, reorder)
        return seconds_a_query(self.index, self.index.sample, self._k, at_least, **parameters)

    def _parameters(self, leaves_to_search: int, reorder: int) -> dict[str, int]:
        return {"leaves_to_search": leaves_to_search, "reorder": reorder} if self.tree.leaves else {}
