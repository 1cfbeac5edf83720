"""The flat table of a run's figures, name → number, and the functions that compute its rows from arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.evaluate import metrics, significance
from distill.evaluate.comparisons import Pairs, Values
from distill.evaluate.samples import Samples


@dataclasses.dataclass(frozen=True)
class MetricText:
    """A metric in words, for readers of the report."""

    label: str
    meaning: str
    referee: str


DESCRIPTIONS = {
    "human/ndcg@10": MetricText(
        "nDCG@10",
        "How well the ten listings ranked first for a test query are the ones that people labelled best (1 is the "
        "ideal order; equal scores are ordered against the model).",
        "human labels",
    ),
    "human/auc_exact": MetricText(
        "AUC exact",
        "Chance that an exact match scores above any other labelled pair (0.5 is guessing).",
        "human labels",
    ),
    "human/auc_relevant": MetricText(
        "AUC relevant",
        "Chance that a pair of any relevance scores above an irrelevant one (0.5 is guessing).",
        "human labels",
    ),
    "holdout/ndcg@10": MetricText(
        "nDCG@10",
        "How well the ten keyphrases ranked first for a held-out listing are the ones that the judge graded best.",
        "the judge's grades, listings never trained on",
    ),
    "holdout/auc": MetricText(
        "AUC exact",
        "Chance that a pair of the judge's highest grade scores above any other graded pair.",
        "the judge's grades, listings never trained on",
    ),
    "truth/ndcg@10": MetricText(
        "nDCG@10",
        "How well, of the keyphrases that the judge graded for a held-out listing, the ten ranked first follow the "
        "true relevance.",
        "the marketplace's known truth",
    ),
    "truth/recall@20": MetricText(
        "Recall@20",
        "Truly relevant keyphrases among the 20 recommended, over as many as could be there.",
        "the marketplace's known truth",
    ),
    "never_exposed/recall@20": MetricText(
        "Recall@20, never exposed",
        "The same over truly relevant pairs that were never shown to a buyer and stand in no training table: what "
        "clicks cannot teach.",
        "the marketplace's known truth",
    ),
    "align/search_pass@20": MetricText(
        "Search passes",
        "Share of a listing's first 20 retrieved keyphrases that the search engine is known to let it take part in; a "
        "pair that its table does not hold counts as not passed. Listings without any keyphrase are left out.",
        "the search engine's relevance filter",
    ),
    "align/judge_pass@20": MetricText(
        "Judge passes",
        "Share of them that the assistant, calibrated to the judge, finds relevant.",
        "the assistant, calibrated to the judge",
    ),
    "align/both@20": MetricText(
        "Both pass", "Share of them that pass both: relevant and able to be shown.", "search engine and assistant"
    ),
    "coverage": MetricText(
        "Coverage",
        "Share of listings with at least one keyphrase above the relevance threshold.",
        "the assistant, calibrated to the judge",
    ),
}


def figure_name(metric: str, model: str) -> str:
    """`METRIC/MODEL`; of the protocol, whose figures are of a source, `protocol/SOURCE/NAME`."""
    family, _, name = metric.partition("/")
    return f"protocol/{model}/{name}" if family == "protocol" else f"{metric}/{model}"


class MetricTable(Samples):
    """Collects figures; what is not a finite number is left out of `as_dict()` and listed in `missing` with why."""

    def __init__(self, resamples: int = 1000, seed: int = 0):
        super().__init__()
        self.missing: dict[str, str] = {}
        self._numbers: dict[str, float] = {}
        self._resamples, self._seed = resamples, seed

    def add(self, metric: str, model: str, values: ArrayLike, groups: ArrayLike | None = None) -> None:
        """Writes `METRIC/MODEL`, the mean of one value a group, with `/ci_low` and `/ci_high`; see `Samples.add`."""
        super().add(metric, model, values, groups)
        values = np.asarray(values, np.float64)
        interval = significance.bootstrap_mean(values, self._resamples, self._seed)
        reason = "no group to average over" if not values.size else "one group alone has no interval"
        self._write(figure_name(metric, model), interval, reason)

    def add_auc(self, metric: str, model: str, groups: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> None:
        """Writes `METRIC/MODEL`, the AUC pooled over pairs, with an interval from resampling `groups`; arrays [N].

        Raises:
          ValueError: as `Samples.add_auc`.
        """
        super().add_auc(metric, model, groups, labels, scores)
        labels = np.asarray(labels, bool)
        interval = significance.bootstrap_auc(groups, labels, scores, self._resamples, self._seed)
        both = labels.any() and not labels.all()
        reason = "too few groups hold both classes" if both else "the pairs are all of one class"
        self._write(figure_name(metric, model), interval, reason)

    def difference(self, metric: str, model1: str, model2: str) -> None:
        """Writes `diff/METRIC/MODEL1-MODEL2`, over the groups that both have, with `/ci_low`, `/ci_high` and `/p`.

        A model without the metric makes the difference missing, not an error: a task or table may be absent.

        Raises:
          ValueError: a pooled AUC of both is over different pairs, or the difference was added before.
        """
        name = f"diff/{metric}/{model1}-{model2}"
        first, second = self._samples.get((metric, model1)), self._samples.get((metric, model2))
        if first is None or second is None:
            self.missing[name] = f"{metric} was not measured for {model1 if first is None else model2}"
        elif isinstance(first, Values) and isinstance(second, Values):
            _, at1, at2 = np.intersect1d(first.groups, second.groups, return_indices=True)
            change = significance.paired_difference(first.values[at1], second.values[at2], self._resamples, self._seed)
            self._write(name, change, "fewer than two groups in common")
        elif isinstance(first, Pairs) and isinstance(second, Pairs):
            if not first.paired(second):
                raise ValueError(
                    f"{name}: the two models were measured on different pairs; score the same pairs in one order"
                )
            change = significance.paired_auc_difference(
                first.groups, first.labels, first.scores, second.scores, self._resamples, self._seed
            )
            self._write(name, change, "the pairs are of one class, or too few groups hold both")
        else:
            raise ValueError(f"{name}: one model has a value a group, the other pooled pairs")

    def add_scalar(self, name: str, value: float, reason: str = "not a finite number") -> None:
        """Writes one figure without an interval; a NaN or infinity goes to `missing` with `reason`.

        Raises:
          ValueError: the figure was added before.
        """
        if name in self._numbers or name in self.missing:
            raise ValueError(f"metric {name!r} was added twice")
        if math.isfinite(value):
            self._numbers[name] = float(value)
        else:
            self.missing[name] = reason

    def as_dict(self) -> dict[str, float]:
        """All figures, sorted by name; every one finite."""
        return dict(sorted(self._numbers.items()))

    def _write(self, name: str, figure: significance.Interval | significance.Difference, reason: str) -> None:
        for field, value in dataclasses.asdict(figure).items():
            self.add_scalar(name if field == "estimate" else f"{name}/{field}", value, reason)


def add_human(table: Samples, model: str, queries: ArrayLike, gains: ArrayLike, scores: ArrayLike) -> None:
    """`human/ndcg@10`, `human/auc_exact` (gain 1 against the rest) and `human/auc_relevant` (gain > 0) of one model.

    Args:
      queries: int [N], the query of each labelled test pair; the groups.
      gains: float [N], 0–1.
      scores: float [N].
    """
    gains = np.asarray(gains, np.float64)
    ids, values = metrics.ndcg_per_group(queries, gains, scores, 10, model=model)
    table.add("human/ndcg@10", model, values, ids)
    table.add_auc("human/auc_exact", model, queries, gains >= 1, scores)
    table.add_auc("human/auc_relevant", model, queries, gains > 0, scores)


def add_holdout(table: Samples, model: str, items: ArrayLike, grades: ArrayLike, scores: ArrayLike) -> None:
    """`holdout/ndcg@10` (gain grade / 3) and `holdout/auc` (grade 3 against the rest) of one model.

    Args:
      items: int [N], the held-out item of each judged pair; the groups.
      grades: int [N], 0–3, the judge's.
      scores: float [N].
    """
    grades = np.asarray(grades)
    ids, values = metrics.ndcg_per_group(items, grades / 3, scores, 10, model=model)
    table.add("holdout/ndcg@10", model, values, ids)
    table.add_auc("holdout/auc", model, items, grades == 3, scores)


def add_truth_ndcg(table: Samples, model: str, items: ArrayLike, gains: ArrayLike, scores: ArrayLike) -> None:
    """`truth/ndcg@10` of one model over rows of known gain, as a rule each held-out item with every keyphrase.

    Args:
      items: int [N], the groups.
      gains: float [N], >= 0.
      scores: float [N].
    """
    ids, values = metrics.ndcg_per_group(items, gains, scores, 10, model=model)
    table.add("truth/ndcg@10", model, values, ids)


def add_recall(
    table: Samples,
    metric: str,
    model: str,
    recommended: ArrayLike,
    relevant: metrics.Relevant,
    items: ArrayLike | None = None,
) -> None:
    """`truth/recall@20` or `never_exposed/recall@20` of one model, which `relevant` tells apart.

    Args:
      metric: ends in `@K`; the first K recommended keyphrases count.
      recommended: int [G, >= K] keyphrase ids, best first, -1 where a list is shorter.
      relevant: the G sets of keyphrase ids to be found.
      items: int [G], whose lists these are; default 0..G-1.

    Raises:
      ValueError: lists are shorter than K columns (pad them with -1), or `relevant` has another number of groups.
    """
    rows, values = metrics.recall_per_group(_first(recommended, metric), relevant)
    table.add(metric, model, values, rows if items is None else np.asarray(items)[rows])


def add_alignment(
    table: Samples,
    model: str,
    recommended: ArrayLike,
    search_passed: ArrayLike,
    judge_passed: ArrayLike,
    items: ArrayLike | None = None,
) -> None:
    """`align/search_pass@20`, `align/judge_pass@20` and `align/both@20` of one model.

    Each is the mean over items of the passing share of an item's first 20 recommended keyphrases; items for which the
    model recommends nothing have no share and are left out (`coverage` counts them).

    Args:
      recommended: int [G, >= 20] keyphrase ids, best first, -1 where a list is shorter.
      search_passed, judge_passed: bool, of the shape of `recommended`.
      items: int [G], whose lists these are; default 0..G-1.
    """
    shown = _first(recommended, "align/search_pass@20") >= 0
    search, judge = (np.asarray(passed, bool)[:, : shown.shape[1]] for passed in (search_passed, judge_passed))
    rows = np.flatnonzero(shown.any(axis=1))
    groups = rows if items is None else np.asarray(items)[rows]
    for name, passed in (("search_pass", search), ("judge_pass", judge), ("both", search & judge)):
        share = (passed & shown)[rows].sum(axis=1) / shown[rows].sum(axis=1)
        table.add(f"align/{name}@20", model, share, groups)


def add_coverage(table: Samples, model: str, kept: ArrayLike, items: ArrayLike | None = None) -> None:
    """`coverage` of one model: share of items with a keyphrase above the threshold; `kept` int [G] counts them."""
    table.add("coverage", model, (np.asarray(kept) > 0).astype(np.float64), items)


def add_differences(table: MetricTable, pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    """`diff/...` of each metric in `names` for each (model1, model2)."""
    for name in names:
        for model1, model2 in pairs:
            table.difference(name, model1, model2)


def _first(recommended: ArrayLike, metric: str) -> NDArray[np.int64]:
    """The first K columns, K from the metric's name."""
    recommended, k = np.asarray(recommended, np.int64), int(metric.rpartition("@")[2])
    if recommended.ndim != 2 or recommended.shape[1] < k:
        raise ValueError(
            f"{metric}: recommended has shape {recommended.shape}; give [items, {k}] or more, padded with -1"
        )
    return recommended[:, :k]
