"""What becomes of each candidate keyphrase of an item: kept and at which rank, or left out and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from distill.retrieval.mmr import choose

# In this order each fate takes what those before it have left.
FATES = (
    "kept",
    "over_limit",  # good, but others were better
    "blocked",
    "below_threshold",
    "already_recommended",  # by another source, in these or other words
    "repeated",  # a better candidate of the item says the same
    "less_diverse",  # good enough for a place by relevance, which diversity gave to another
    "mix",  # good enough for a place by relevance, which was reserved for the head or the tail
)
_CODES = {fate: code for code, fate in enumerate(FATES)}


class Pairs(NamedTuple):
    """Index pairs [P]."""

    item: np.ndarray
    keyphrase: np.ndarray


class Exclusions:
    """What an item's recommendations must not say: what is blocked, and what other sources say already.

    Two keyphrases say the same when their meaning is equal (`distill.retrieval.dedupe.meanings`), so a blocked
    "iphone cases" blocks "iPhone case" too, and nothing that merely holds these words.
    """

    def __init__(self, meaning: np.ndarray, blocked: Pairs | None = None, already: Pairs | None = None):
        """Args:
        meaning: [K] integers below K.
        blocked: item −1 blocks a keyphrase for all items.
        already: what is recommended by others.
        """
        self.meaning = np.asarray(meaning, np.int64)
        self._blocked_everywhere = np.zeros(len(self.meaning), bool)
        self._blocked = self._already = np.zeros(0, np.int64)
        self._already_keyphrase = np.zeros(0, np.int64)
        if blocked is not None:
            everywhere = blocked.item < 0
            self._blocked_everywhere[self.meaning[blocked.keyphrase[everywhere]]] = True
            self._blocked = np.unique(self.keys(blocked.item[~everywhere], blocked.keyphrase[~everywhere]))
        if already is not None:
            keys = self.keys(already.item, already.keyphrase)
            order = np.lexsort((already.keyphrase, keys))
            first = np.diff(keys[order], prepend=-1) != 0
            self._already = keys[order][first]
            self._already_keyphrase = already.keyphrase[order][first].astype(np.int64)

    def keys(self, item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
        """One number for each item and meaning, int64."""
        return np.asarray(item, np.int64) * max(1, len(self.meaning)) + self.meaning[keyphrase]

    def blocks(self, item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
        """bool [N]."""
        return self._blocked_everywhere[self.meaning[keyphrase]] | _within(self._blocked, self.keys(item, keyphrase))

    def said_already(self, item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
        """The other sources' keyphrase that says the same, the first of several; −1 where there is none: int64 [N]."""
        keys = self.keys(item, keyphrase)
        found = _within(self._already, keys)
        said = np.full(len(keys), -1, np.int64)
        said[found] = self._already_keyphrase[np.searchsorted(self._already, keys[found])]
        return said


def _within(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[at] == keys


@dataclasses.dataclass(frozen=True)
class Rules:
    """How recommendations are chosen among the candidates."""

    keep: int
    threshold: float  # least logit
    exclusions: Exclusions
    mmr_lambda: float = 1.0  # as in `distill.retrieval.mmr.choose`, and so the three below
    vectors: np.ndarray | None = None
    kind: np.ndarray | None = None
    reserved: Mapping[int, int] = dataclasses.field(default_factory=dict)


class Decided(NamedTuple):
    """The candidates in the order in which they are written: by item, those kept by rank, then the rest, best first.

    Attributes:
      order: [N] places in the arrays that were given.
      fate: [N] int8, index into FATES.
      rank: [N] int32 from 1; 0 where not kept.
      same_as: [N] int64, the keyphrase that one `already_recommended` or `repeated` repeats; −1 for the others.
    """

    order: np.ndarray
    fate: np.ndarray
    rank: np.ndarray
    same_as: np.ndarray


def decide(
    row: np.ndarray, item: np.ndarray, keyphrase: np.ndarray, score: np.ndarray, logit: np.ndarray, rules: Rules
) -> Decided:
    """Gives each candidate its fate.

    Better is a higher logit, then a higher score, then a lower index. Of what is neither blocked nor below the
    threshold, nothing that others recommend already and only the best of each meaning competes for the places.

    Args:
      row: [N] integers, one number an item; the candidates of an item are distinct.
      item: [N] item indices, equal where the rows are.
      keyphrase: [N].
      score: [N] the student's cosine.
      logit: [N] the assistant's; NaN is below any threshold.
    """
    better = np.lexsort((keyphrase, -score, -logit, row))
    row, item, keyphrase, logit = row[better], item[better], keyphrase[better], logit[better]
    fate = np.full(len(row), -1, np.int8)
    same_as = np.full(len(row), -1, np.int64)

    def give(name: str, where: np.ndarray) -> None:
        fate[where & (fate < 0)] = _CODES[name]

    give("blocked", rules.exclusions.blocks(item, keyphrase))
    give("below_threshold", ~(logit >= rules.threshold))
    said = rules.exclusions.said_already(item, keyphrase)
    give("already_recommended", said >= 0)
    same_as = np.where(fate == _CODES["already_recommended"], said, same_as)
    open_ = np.flatnonzero(fate < 0)
    # The first of each item and meaning is the best: the rows are sorted.
    keys = rules.exclusions.keys(row[open_], keyphrase[open_])
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    best = open_[first[which]]
    fate[open_[best != open_]] = _CODES["repeated"]
    same_as[open_[best != open_]] = keyphrase[best[best != open_]]

    rank = _place(row, keyphrase, logit, fate, rules)
    order = np.lexsort((np.arange(len(row)), np.where(rank > 0, rank, np.iinfo(np.int32).max), row))
    return Decided(better[order], fate[order], rank[order], same_as[order])


def _place(row: np.ndarray, keyphrase: np.ndarray, logit: np.ndarray, fate: np.ndarray, rules: Rules) -> np.ndarray:
    """Gives the candidates without a fate, best first by row, their ranks (int32 [N], 0 for none) and their fates."""
    rank = np.zeros(len(row), np.int32)
    competing = np.flatnonzero(fate < 0)
    if not len(competing):
        return rank
    _, start, number = np.unique(row[competing], return_index=True, return_inverse=True)
    place = np.arange(len(competing)) - start[number]
    shape = (len(start), int(place.max()) + 1)
    candidate = np.full(shape, -1, np.int64)
    candidate[number, place] = keyphrase[competing]
    relevance = np.zeros(shape)
    relevance[number, place] = 1 / (1 + np.exp(-logit[competing].astype(np.float64)))

    def ranks(reserved: Mapping[int, int]) -> np.ndarray:
        chosen = choose(
            relevance,
            candidate,
            rules.keep,
            mmr_lambda=rules.mmr_lambda,
            vectors=rules.vectors,
            kind=rules.kind,
            reserved=reserved,
        )
        at, rank = np.nonzero(chosen >= 0)
        result = np.zeros(shape, np.int32)
        result[at, chosen[at, rank]] = rank + 1
        return result[number, place]

    rank[competing] = given = ranks(rules.reserved)
    # Who would have a place by relevance alone, and who would without reserved places, tells what took it away.
    by_relevance = without_mix = place < rules.keep
    if rules.mmr_lambda < 1:
        without_mix = (ranks({}) if any(rules.reserved.values()) else given) > 0
    lost = np.where(without_mix, _CODES["mix"], _CODES["less_diverse"])
    fate[competing] = np.where(given > 0, _CODES["kept"], np.where(by_relevance, lost, _CODES["over_limit"]))
    return rank
