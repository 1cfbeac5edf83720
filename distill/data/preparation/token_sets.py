"""Token sets of many texts as two flat arrays: a set of strings for each of a million texts would fill the memory."""

from __future__ import annotations

import array
import dataclasses
import itertools
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from distill.data.text import fold_tokens, normalise_keyphrase


@dataclasses.dataclass(frozen=True)
class TokenSets:
    """N sets; set i is `tokens[starts[i]:starts[i + 1]]`, sorted numbers of a vocabulary."""

    starts: np.ndarray  # int64 [N + 1]
    tokens: np.ndarray  # int32

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.starts)

    def take(self, rows: np.ndarray) -> TokenSets:
        """The sets of these rows."""
        sizes = self.sizes[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        at = np.repeat(self.starts[rows] - starts[:-1], sizes) + np.arange(starts[-1])
        return TokenSets(starts, self.tokens[at])

    def distinct(self) -> np.ndarray:
        """int64 [N]: the first row with the same tokens; an empty set is like itself alone."""
        first: dict[bytes, int] = {}
        bounds = self.starts.tolist()
        out = np.arange(len(self))
        for row, (start, end) in enumerate(itertools.pairwise(bounds)):
            if end > start:
                out[row] = first.setdefault(self.tokens[start:end].tobytes(), row)
        return out


def sets_of(collections: Iterable[Collection[str]], vocabulary: dict[str, int]) -> TokenSets:
    """The sets as numbers; tokens that `vocabulary` lacks are added to it."""
    starts, tokens = array.array("q", [0]), array.array("i")
    for words in collections:
        tokens.extend(sorted(vocabulary.setdefault(word, len(vocabulary)) for word in words))
        starts.append(len(tokens))
    return TokenSets(np.array(starts, np.int64), np.array(tokens, np.int32))


def folded_sets(texts: Iterable[str], vocabulary: dict[str, int]) -> TokenSets:
    """The `fold_tokens` of each text."""
    return sets_of(map(fold_tokens, texts), vocabulary)


def same_meaning(
    texts: Sequence[str], sets: TokenSets, others: Sequence[str], other_sets: TokenSets
) -> tuple[np.ndarray, np.ndarray]:
    """All (row of `texts`, row of `others`) that say the same: equal folded tokens or, without any, equal normal forms.

    Word order, case, punctuation and plurals make no difference. The sets are the folded ones of the texts before
    them, by one vocabulary.
    """
    by_tokens: dict[bytes, list[int]] = {}
    by_text: dict[str, list[int]] = {}
    bounds = other_sets.starts.tolist()
    for row, (start, end) in enumerate(itertools.pairwise(bounds)):
        if end > start:
            by_tokens.setdefault(other_sets.tokens[start:end].tobytes(), []).append(row)
        else:
            by_text.setdefault(normalise_keyphrase(others[row]), []).append(row)
    found: list[tuple[int, int]] = []
    bounds = sets.starts.tolist()
    for row, (start, end) in enumerate(itertools.pairwise(bounds)):
        if end > start:
            matched = by_tokens.get(sets.tokens[start:end].tobytes(), ())
        else:
            matched = by_text.get(normalise_keyphrase(texts[row]), ())
        found += [(row, other) for other in matched]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
