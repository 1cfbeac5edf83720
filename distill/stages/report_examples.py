"""Held-out listings for the report: where the judge finds most that is wrong, and where least."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.data.pair_pool import pair_keys
from distill.evaluate.report_contents import Example, Keyphrase, Missed
from distill.judge.calibration import Calibration
from distill.stages.base import Context
from distill.stages.judge import judged_holdout
from distill.stages.recommend import candidates, recommendations

EXAMPLES, SHOWN, MISSED = 4, 10, 5  # listings of a kind, keyphrases of a listing, missed ones of it
_EXACT = 3
_FATES = {
    "over_limit": "good enough, but others were better",
    "blocked": "on the blocklist",
    "below_threshold": "the assistant finds it below the threshold",
    "already_recommended": "another source recommends it already",
    "repeated": "a better keyphrase says the same",
    "less_diverse": "given up for a more diverse list",
    "mix": "its place was kept for the head or the tail of searches",
}


def examples(context: Context, calibration: Calibration, relevant_grade: int) -> tuple[list[Example], list[Example]]:
    """(good, bad) listings, `EXAMPLES` of each at most and none in both.

    Bad are those with the most recommended keyphrases graded below `relevant_grade`, then those that nothing was
    recommended for, then those of the lowest mean relevance. Good are, from the other end, those with none graded
    below it and the most graded.
    """
    prepared = context.prepared
    items = np.flatnonzero(prepared.item_is_holdout)
    rows = prepared.pairs(recommendations(context, [prepared.item_ids[item] for item in items]))
    odds = rows["relevance"].astype(np.float64).clip(1e-12, 1 - 1e-12)
    rows["relevance"] = calibration.probability(np.log(odds / (1 - odds)))
    grades = _Grades(context)
    rows["grade"] = grades.of(rows["item"], rows["keyphrase"])
    order = _worst_first(items, rows, len(prepared.item_ids), relevant_grade)
    bad = order[: min(EXAMPLES, len(order) - len(order) // 2)]
    good = order[len(bad) :][::-1][:EXAMPLES]
    fates = _fates(context, [prepared.item_ids[item] for item in bad])
    return (
        [_example(context, item, rows, grades, None) for item in good.tolist()],
        [_example(context, item, rows, grades, fates) for item in bad.tolist()],
    )


def _worst_first(items: np.ndarray, rows: dict[str, np.ndarray], size: int, relevant_grade: int) -> np.ndarray:
    def total(weights: np.ndarray) -> np.ndarray:
        return np.bincount(rows["item"], weights, size)[items]

    number = total(np.ones(len(rows["item"])))
    wrong = total((rows["grade"] >= 0) & (rows["grade"] < relevant_grade))
    right = total(rows["grade"] >= relevant_grade)
    mean = total(rows["relevance"]) / np.maximum(1, number)
    return items[np.lexsort((items, mean, right, number > 0, -wrong))]


class _Grades:
    """The judge's grades of held-out pairs."""

    def __init__(self, context: Context):
        self._width = len(context.prepared.keyphrases)
        pairs = judged_holdout(context)
        keys = pair_keys(pairs["item"], pairs["keyphrase"], self._width)
        order = np.argsort(keys, kind="stable")
        self._keys, self._grades, self._item = keys[order], pairs["grade"][order], pairs["item"][order]

    def of(self, item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
        """int [N], −1 where the judge graded no such pair."""
        if not len(self._keys):
            return np.full(len(item), -1)
        keys = pair_keys(item, keyphrase, self._width)
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._grades[at], -1)

    def exact(self, item: int) -> np.ndarray:
        """The keyphrases that the judge called exact for an item."""
        return self._keys[(self._item == item) & (self._grades == _EXACT)] % self._width


def _fates(context: Context, item_ids: list[str]) -> dict[tuple[int, int], str]:
    """(item, keyphrase) → what became of the candidate, of these items alone."""
    pairs = candidates(context, item_ids, ["fate"])
    return dict(zip(zip(pairs["item"].tolist(), pairs["keyphrase"].tolist()), pairs["fate"].tolist()))


def _example(
    context: Context, item: int, rows: dict[str, Any], grades: _Grades, fates: dict[tuple[int, int], str] | None
) -> Example:
    """A listing; with `fates`, what it should have been given too."""
    prepared = context.prepared
    at = np.flatnonzero(rows["item"] == item)
    at = at[np.argsort(rows["rank"][at], kind="stable")]
    keyphrases = [
        Keyphrase(
            prepared.keyphrases[rows["keyphrase"][row]],
            float(rows["relevance"][row]),
            tuple(rows["sources"][row]),
            int(rows["grade"][row]) if rows["grade"][row] >= 0 else None,
        )
        for row in at[:SHOWN]
    ]
    given = set(rows["keyphrase"][at].tolist())
    missed = []
    for one in grades.exact(item).tolist() if fates is not None else ():
        if one not in given:
            why = _FATES.get((fates or {}).get((item, one), ""), "it was not among the candidates")
            missed.append(Missed(prepared.keyphrases[one], why))
    return Example(
        prepared.titles[item],
        " > ".join(prepared.categories[item]),
        prepared.item_ids[item],
        keyphrases,
        missed[:MISSED],
    )
