"""A simulated marketplace whose truth is known."""

from __future__ import annotations

import functools

import numpy as np

from distill.config import MarketplaceConfig
from distill.data.marketplace import judge, relevance
from distill.data.marketplace.catalogue import ENGINE_SYNONYMS, TYPES
from distill.data.marketplace.engine import SearchEngine
from distill.data.marketplace.listings import make_listings
from distill.data.marketplace.searches import make_keyphrases

_DEPARTMENTS = sorted({kind.path[0] for kind in TYPES})
_DEPARTMENT_OF_TYPE = np.array([_DEPARTMENTS.index(kind.path[0]) for kind in TYPES])


class World:
    """Listings, keyphrases, truth and judge; a pure function of (config, seed).

    Attributes:
        items: the listings, in order of their index.
        keyphrases: normalised strings, in order of their index.
        search_volume: [keyphrases] int64.
        holdout: bool [items].
        item_ids, keyphrase_array: string arrays [items], [keyphrases], to index by pairs.
    """

    def __init__(self, config: MarketplaceConfig, seed: int):
        if config.items < 1 or config.keyphrases < 1:
            raise ValueError(
                f"data.marketplace: {config.items} items, {config.keyphrases} keyphrases: ask for at least one"
            )
        self.config, self.seed = config, seed
        self.items, self._facets = make_listings(config.items, config.holdout_share, seed)
        self.keyphrases, self.search_volume, self._requirements = make_keyphrases(config.keyphrases, seed)
        self.holdout = np.array([item.split == "holdout" for item in self.items])
        self.item_ids = np.array([item.item_id for item in self.items])
        self.keyphrase_array = np.array(self.keyphrases)
        same = self._requirements.same
        self._department = np.select(  # of a keyphrase: that of any of its types, families do not straddle
            [(same & np.uint64(1 << t)) != 0 for t in range(len(TYPES))], list(_DEPARTMENT_OF_TYPE)
        )

    def grade(self, item_index: np.ndarray, keyphrase_index: np.ndarray) -> np.ndarray:
        """True grades 0–3, int64 [N], of pairs given as two index arrays [N]."""
        return relevance.grade(self._facets, self._requirements, item_index, keyphrase_index)

    def unrelated(self, item_index: np.ndarray, keyphrase_index: np.ndarray) -> np.ndarray:
        """Bool [N]: irrelevant pairs from different departments, which anyone sees at a glance."""
        apart = _DEPARTMENT_OF_TYPE[self._facets.kind[item_index]] != self._department[keyphrase_index]
        return apart & (self.grade(item_index, keyphrase_index) == 0)

    def judge(self, item_index: np.ndarray, keyphrase_index: np.ndarray) -> np.ndarray:
        """The simulated judge's grades, int64 [N]; a pair's grade depends on the seed and the pair alone."""
        item, keyphrase = np.asarray(item_index), np.asarray(keyphrase_index)
        truth, easy = self.grade(item, keyphrase), self.unrelated(item, keyphrase)
        return judge.judge(self.seed, truth, easy, item, keyphrase)

    @functools.cached_property
    def engine(self) -> SearchEngine:
        """The marketplace's search engine over all items."""
        texts = [f"{item.attributes['brand']} {item.category[-1]} {item.title}" for item in self.items]
        return SearchEngine(texts, self.keyphrases, ENGINE_SYNONYMS, self.seed)
