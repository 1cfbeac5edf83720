"""The train/holdout split of items, by clusters of twin titles, so that no held-out listing has a twin in training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from distill.data.leakage import similar_pairs
from distill.data.text import fold_tokens


def _twins(titles: Sequence[str], threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct token sets and their similar pairs.

    Returns the distinct set of each title [N] and the pairs (i, j) of similar distinct sets. Titles without a single
    word each count as a set of their own: nothing says that they are alike.
    """
    distinct: dict[object, int] = {}
    sets: list[frozenset[str]] = []
    of_title = np.zeros(len(titles), np.int64)
    for row, title in enumerate(titles):
        tokens = fold_tokens(title)
        key = tokens or row
        if key not in distinct:
            distinct[key] = len(sets)
            sets.append(tokens)
        of_title[row] = distinct[key]
    return of_title, *similar_pairs(sets, None, threshold)


def title_clusters(titles: Sequence[str], threshold: float) -> np.ndarray:
    """Cluster number [N] of each title: the connected components of "token Jaccard ≥ threshold"."""
    of_title, i, j = _twins(titles, threshold)
    count = int(of_title.max()) + 1 if len(titles) else 0
    graph = sp.coo_matrix((np.ones(len(i), bool), (i, j)), (count, count))
    _, labels = connected_components(graph, directed=False)
    return labels[of_title]


def _rank(item_id: str) -> bytes:
    return hashlib.blake2b(item_id.encode(), digest_size=8).digest()


def choose_holdout(item_ids: Sequence[str], titles: Sequence[str], share: float, threshold: float) -> np.ndarray:
    """Bool [N]: the items held out, whole clusters of twin titles at a time.

    Clusters are taken in the order of a hash of their smallest item id while they fit into `share` of the items. The
    order does not depend on the other items, so a catalogue that grows keeps all but a few of its held-out items.
    """
    holdout = np.zeros(len(item_ids), bool)
    wanted = max(1, round(share * len(item_ids))) if share > 0 else 0
    labels = title_clusters(titles, threshold)
    members: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(row)
    if len(members) < 2:
        return holdout
    clusters = sorted(members.values(), key=lambda rows: _rank(min(item_ids[row] for row in rows)))
    taken = 0
    for rows in clusters:
        if taken + len(rows) <= wanted:
            holdout[rows] = True
            taken += len(rows)
    return holdout


def twins_across(titles: Sequence[str], holdout: np.ndarray, threshold: float) -> int:
    """How many held-out items have a twin title (token Jaccard ≥ threshold) among the training items."""
    of_title, i, j = _twins(titles, threshold)
    count = int(of_title.max()) + 1 if len(titles) else 0
    has_train = np.bincount(of_title[~holdout], minlength=count) > 0
    twin_trains = has_train.copy()
    twin_trains[i[has_train[j]]] = True
    twin_trains[j[has_train[i]]] = True
    return int(twin_trains[of_title[holdout]].sum())
