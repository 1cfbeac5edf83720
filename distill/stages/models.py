"""The models that `evaluate` compares: what each says of a pair, and what it would retrieve."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from distill.data.pair_pool import pair_keys
from distill.stages.base import Context, load_model
from distill.stages.index import ITEMS, KEYPHRASES, prefix
from distill.stages.recommend import candidates
from distill.stages.recommend_sources import fit_graph, leaf_names


class Bi:
    """A bi-encoder by its embeddings (or a Matryoshka prefix of them)."""

    def __init__(self, items: np.ndarray, keyphrases: np.ndarray):
        self.items, self.keyphrases = items, keyphrases

    def score(self, keyphrase: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Cosines, float32 [N], of index pairs."""
        chunks = np.array_split(np.arange(len(item)), max(1, len(item) // 65_536))
        return np.concatenate([np.sum(self.items[item[c]] * self.keyphrases[keyphrase[c]], axis=1) for c in chunks])

    def top(self, items: np.ndarray, k: int) -> np.ndarray:
        """The `k` nearest keyphrases of each item, int [I, k], −1 beyond the last."""
        from distill.retrieval.exact import top_k

        return top_k(self.items[items], self.keyphrases, k)[0]

    def prefix(self, width: int) -> Bi:
        return Bi(prefix(self.items, width), prefix(self.keyphrases, width))


class Bm25:
    """Word matching: a pair's score has the keyphrase as query, retrieval the item's text."""

    def __init__(self, context: Context):
        self._context = context

    @functools.cached_property
    def _over_items(self) -> Any:
        from distill.retrieval.lexical import Lexical

        return Lexical(self._context.prepared.item_texts)

    def score(self, keyphrase: np.ndarray, item: np.ndarray) -> np.ndarray:
        return self._over_items.score_pairs(self._context.prepared.keyphrases, keyphrase, item)

    def top(self, items: np.ndarray, k: int) -> np.ndarray:
        from distill.retrieval.lexical import Lexical

        prepared = self._context.prepared
        return Lexical(prepared.keyphrases).top_k([prepared.item_texts[i] for i in items], k)[0]


class Graph:
    """GraphEx: retrieval within the item's leaf category first; a pair's score is the alignment of the two texts."""

    def __init__(self, context: Context):
        self._context, self._prepared = context, context.prepared
        self._leafs = leaf_names(context)

    @functools.cached_property
    def _graph(self) -> Any:
        return fit_graph(self._context)

    def score(self, keyphrase: np.ndarray, item: np.ndarray) -> np.ndarray:
        return self._graph.score(self._prepared.titles, item, keyphrase)

    def top(self, items: np.ndarray, k: int) -> np.ndarray:
        return self._graph.top_k([self._prepared.titles[i] for i in items], [self._leafs[i] for i in items], k)[0]


BASELINES = {"bm25": Bm25, "graphex": Graph}


class Assistant:
    """The cross-encoder; it cannot search, so it re-ranks what the student retrieves."""

    def __init__(self, scorer: Any, student: Bi, depth: int = 100):
        self._scorer, self._student, self._depth = scorer, student, depth

    def score(self, keyphrase: np.ndarray, item: np.ndarray) -> np.ndarray:
        return self._scorer(keyphrase, item)

    def top(self, items: np.ndarray, k: int) -> np.ndarray:
        found = self._student.top(items, self._depth)
        row, place = np.nonzero(found >= 0)
        logits = np.full(found.shape, -np.inf, np.float32)
        logits[row, place] = self.score(found[row, place], items[row])
        return np.take_along_axis(found, np.argsort(-logits, axis=1, kind="stable"), axis=1)[:, :k]


class Remembered:
    """A pair scorer that reads each pair once, however many metrics ask for it."""

    def __init__(self, scorer: Callable[[np.ndarray, np.ndarray], np.ndarray], keyphrases: int):
        self._scorer, self._keyphrases = scorer, keyphrases
        self._keys, self._values = np.zeros(0, np.int64), np.zeros(0, np.float32)

    def remember(self, keyphrase: np.ndarray, item: np.ndarray, logits: np.ndarray) -> None:
        """Takes over pairs that the same scorer has read elsewhere; a pair twice keeps its first logit."""
        keys = np.concatenate([self._keys, pair_keys(item, keyphrase, self._keyphrases)])
        values = np.concatenate([self._values, logits])
        self._keys, first = np.unique(keys, return_index=True)
        self._values = values[first]

    def __call__(self, keyphrase: np.ndarray, item: np.ndarray) -> np.ndarray:
        keys = pair_keys(item, keyphrase, self._keyphrases)
        fresh = np.setdiff1d(keys, self._keys)
        if len(fresh):
            pairs = fresh % self._keyphrases, fresh // self._keyphrases
            self.remember(*pairs, self._scorer(*pairs))
        return self._values[np.searchsorted(self._keys, keys)]


def load_models(context: Context) -> dict[str, Bi | Bm25 | Graph | Assistant]:
    """All models of a run by the names of the report, arms last."""
    experiment = context.experiment
    folder = context.folder("index")
    student = Bi(np.load(folder / ITEMS), np.load(folder / KEYPHRASES))
    scorer = Remembered(context.pair_scorer(), len(context.prepared.keyphrases))
    # Of held-out items alone: that is who the figures are of, and all candidates together may not fit into memory.
    held_out = [context.prepared.item_ids[row] for row in np.flatnonzero(context.prepared.item_is_holdout)]
    read = candidates(context, held_out, ["logit"])
    scorer.remember(read["keyphrase"], read["item"], read["logit"])
    models: dict[str, Bi | Bm25 | Graph | Assistant] = {
        **{name: BASELINES[name](context) for name in experiment.evaluate.baselines},
        "zero_shot": Bi(*context.embeddings(*context.initial_encoder())),
        "assistant": Assistant(scorer, student),
        "student": student,
    }
    if experiment.evaluate.prefix < student.items.shape[1]:
        models[f"student@{experiment.evaluate.prefix}"] = student.prefix(experiment.evaluate.prefix)
    for arm in experiment.evaluate.arms:
        models[arm] = Bi(*context.embeddings(*load_model(context.for_arm(arm).folder("student") / "model")))
    return models
