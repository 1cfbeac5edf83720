"""A baseline without training: keyphrases that share words with a title, by a word → keyphrase graph."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from distill.data.text import fold_tokens

_TITLES_AT_ONCE = 512
_PAIRS_AT_ONCE = 65_536


class GraphBaseline:
    """GraphEx: the keyphrases of an item's leaf category that share words with its title, best aligned first.

    Label–title alignment of a keyphrase with n words, of which c stand in the title, is c / (n - c + 1); equal ones
    are ordered by search volume, then by index. The words are sets, singular and plural the same.

    Here a keyphrase is in the graph of each leaf category that has a training item clicked for it, and all of them are
    in the root graph. An item takes from its leaf's graph first, and what is wanting from the root graph; without a
    known leaf it takes from the root alone. The authors place keyphrases by the category that the search engine
    gives them and leave rare ones out; a click log knows neither.

    Source: Mishra et al., "GraphEx: A Graph-based Extraction Method for Advertiser Keyphrase Recommendation"
    (arXiv 2409.03140).
    """

    def __init__(self, keyphrases: Sequence[str], search_volume: np.ndarray, leaf_members: dict[str, np.ndarray]):
        """Args as in `fit`; `leaf_members`: leaf → the rising indices of its keyphrases."""
        words = [fold_tokens(keyphrase) for keyphrase in keyphrases]
        self._vocabulary = {word: i for i, word in enumerate(sorted(frozenset().union(*words)))}
        self._edges = self._incidence(words)  # [K, V]
        self._sizes = np.diff(self._edges.indptr)
        self._leaf_members = leaf_members
        # Two alignments differ by at least 1 / (largest n)²; the volume's place decides below that.
        _, place = np.unique(np.nan_to_num(np.asarray(search_volume, np.float64), nan=-1.0), return_inverse=True)
        largest = max(1, int(self._sizes.max(initial=0)))
        self._tie = 0.5 * place.reshape(-1) / (max(1, len(keyphrases)) * largest**2)
        self._above_root = 1.0 + largest

    @classmethod
    def fit(
        cls,
        keyphrases: Sequence[str],
        search_volume: np.ndarray,
        clicked_keyphrase: np.ndarray,
        clicked_leaf: Sequence[str],
    ) -> GraphBaseline:
        """Builds the graphs.

        Args:
          keyphrases: K texts; one without a word is never found.
          search_volume: [K], NaN where unknown, which counts as less than any.
          clicked_keyphrase: [C] integers into `keyphrases`: of the training pairs with at least one click.
          clicked_leaf: the leaf category of each of these pairs' items; "" for none.

        Raises:
          ValueError: lengths differ, or an index points outside.
        """
        clicked = np.asarray(clicked_keyphrase, np.int64)
        if len(search_volume) != len(keyphrases) or clicked.shape != (len(clicked_leaf),):
            raise ValueError(
                f"search_volume [{len(search_volume)}] for {len(keyphrases)} keyphrases, clicked_keyphrase "
                f"{clicked.shape} for {len(clicked_leaf)} clicked_leaf: pass one of each"
            )
        _check_indices("clicked_keyphrase", clicked, len(keyphrases))
        by_leaf: dict[str, set[int]] = {}
        for leaf, keyphrase in zip(clicked_leaf, clicked.tolist()):
            if leaf:
                by_leaf.setdefault(leaf, set()).add(keyphrase)
        members = {leaf: np.array(sorted(found), np.int64) for leaf, found in by_leaf.items()}
        return cls(keyphrases, search_volume, members)

    def top_k(self, titles: Sequence[str], leafs: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best keyphrases of each item, those of its leaf's graph before those of the root graph.

        Args:
          titles: I texts.
          leafs: the leaf category of each; "" for none.

        Returns:
          indices [I, k] int32 and alignments [I, k] float32; -1 and -inf where no further keyphrase shares a word.

        Raises:
          ValueError: k is below 1, or `titles` and `leafs` differ in length.
        """
        if k < 1:
            raise ValueError(f"k: {k}; pass at least 1")
        if len(titles) != len(leafs):
            raise ValueError(f"{len(titles)} titles, {len(leafs)} leafs: pass one of each per item")
        indices = np.full((len(titles), k), -1, np.int32)
        alignments = np.full((len(titles), k), -np.inf, np.float32)
        for start in range(0, len(titles), _TITLES_AT_ONCE):
            part = slice(start, start + _TITLES_AT_ONCE)
            shared = csr_array(self._title_words(titles[part]) @ self._by_word)
            for row, leaf in enumerate(leafs[part]):
                span = slice(shared.indptr[row], shared.indptr[row + 1])
                found, aligned = shared.indices[span], self._aligned(shared.data[span], shared.indices[span])
                order = aligned + self._tie[found]
                if (members := self._leaf_members.get(leaf)) is not None:
                    order[np.isin(found, members)] += self._above_root
                if len(found) > k:
                    kept = order >= np.partition(order, len(order) - k)[len(order) - k]  # more where places are shared
                    found, aligned, order = found[kept], aligned[kept], order[kept]
                best = np.lexsort((found, -order))[:k]
                indices[start + row, : len(best)], alignments[start + row, : len(best)] = found[best], aligned[best]
        return indices, alignments

    def score(self, titles: Sequence[str], title_index: np.ndarray, keyphrase_index: np.ndarray) -> np.ndarray:
        """Alignment of given pairs, whatever the leaf, with the search volume's share that decides between equal ones.

        Args:
          titles: the distinct titles.
          title_index: [N] integers into `titles`.
          keyphrase_index: [N] integers into the keyphrases.

        Returns:
          [N] float64; 0 where no word is shared.

        Raises:
          ValueError: the index arrays differ in shape or point outside.
        """
        title, keyphrase = np.asarray(title_index, np.int64), np.asarray(keyphrase_index, np.int64)
        if title.shape != keyphrase.shape or title.ndim != 1:
            raise ValueError(f"title_index {title.shape}, keyphrase_index {keyphrase.shape}: pass [N] both")
        _check_indices("title_index", title, len(titles))
        _check_indices("keyphrase_index", keyphrase, len(self._sizes))
        words = self._title_words(titles)
        scores = np.zeros(len(title))
        for start in range(0, len(title), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            chosen = keyphrase[part]
            shared = np.asarray(words[title[part]].multiply(self._edges[chosen]).sum(axis=1)).reshape(-1)
            scores[part] = np.where(shared > 0, self._aligned(shared, chosen) + self._tie[chosen], 0.0)
        return scores

    def _aligned(self, shared: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
        return shared / (self._sizes[keyphrase] - shared + 1.0)

    @functools.cached_property
    def _by_word(self) -> csr_array:
        """[V, K] edges; only a search needs them so."""
        return csr_array(self._edges.T)

    def _title_words(self, titles: Sequence[str]) -> csr_array:
        """[I, V]; words that no keyphrase holds are left out."""
        return self._incidence([fold_tokens(title) & self._vocabulary.keys() for title in titles])

    def _incidence(self, words: Sequence[frozenset[str]]) -> csr_array:
        rows = [sorted(self._vocabulary[word] for word in each) for each in words]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        columns = np.fromiter((column for row in rows for column in row), np.int64, int(starts[-1]))
        return csr_array((np.ones(len(columns), np.int32), columns, starts), (len(rows), len(self._vocabulary)))


def _check_indices(name: str, index: np.ndarray, count: int) -> None:
    if index.size and (index.min() < 0 or index.max() >= count):
        raise ValueError(f"{name}: holds {index.min()} to {index.max()}; there are {count}")
