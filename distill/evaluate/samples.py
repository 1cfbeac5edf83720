"""What figures are made of: every metric's value for each query or listing, kept so that runs can be compared.

metric  string   as in the contract: `human/ndcg@10`, `holdout/auc`, `protocol/relevant_per_item_by_assistant`
model   string
group   int64    the query (row of the keyphrases table) for `human/…`, else the listing (row of the items table)
label   bool     of a scored pair; null where a group has one value
value   double   the group's value, or the pair's score
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from distill.evaluate.comparisons import Pairs, Sample, Values
from distill.evaluate.metrics import require_scores

SAMPLES = "samples.parquet"
SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("model", pa.string()),
        ("group", pa.int64()),
        ("label", pa.bool_()),
        ("value", pa.float64()),
    ]
)


class Samples:
    """Collects samples by metric and model, and computes nothing of them."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], Sample] = {}

    def add(self, metric: str, model: str, values: ArrayLike, groups: ArrayLike | None = None) -> None:
        """One value a group.

        Args:
          values: float [G].
          groups: int ids [G] by which models and runs are paired, default 0..G-1; each at most once.

        Raises:
          ValueError: a value is not finite, ids repeat or do not fit, or metric and model were added before.
        """
        values = require_scores(values, f"{metric}/{model}")
        ids = np.arange(values.size) if groups is None else np.asarray(groups, np.int64)
        if ids.shape != values.shape or np.unique(ids).size != ids.size:
            raise ValueError(
                f"{metric}/{model}: needs one distinct group id a value, got {ids.size} ids for {values.size}"
            )
        self._keep(metric, model, Values(ids, values))

    def add_auc(self, metric: str, model: str, groups: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> None:
        """Scored pairs, whose figure is the AUC pooled over all of them; arrays [N].

        Raises:
          ValueError: lengths differ, a score is missing, or metric and model were added before.
        """
        scores = require_scores(scores, f"{metric}/{model}")
        pairs = Pairs(np.asarray(groups, np.int64), np.asarray(labels, bool), scores)
        if not pairs.groups.shape == pairs.labels.shape == scores.shape:
            raise ValueError(
                f"{metric}/{model}: groups {pairs.groups.shape}, labels {pairs.labels.shape} and scores "
                f"{scores.shape} must have one length"
            )
        self._keep(metric, model, pairs)

    def has(self, metric: str) -> bool:
        """Whether any model has this metric."""
        return any(name == metric for name, _ in self._samples)

    def samples(self) -> pa.Table:
        """All that was added, as a table of `SCHEMA`."""
        parts = [SCHEMA.empty_table()]
        for (metric, model), sample in self._samples.items():
            pooled = isinstance(sample, Pairs)
            size = len(sample.groups)
            columns = [
                pa.repeat(pa.scalar(metric), size),
                pa.repeat(pa.scalar(model), size),
                pa.array(sample.groups, pa.int64()),
                pa.array(sample.labels) if pooled else pa.nulls(size, pa.bool_()),
                pa.array(sample.scores if pooled else sample.values, pa.float64()),
            ]
            parts.append(pa.Table.from_arrays(columns, schema=SCHEMA))
        return pa.concat_tables(parts)

    def _keep(self, metric: str, model: str, sample: Sample) -> None:
        if (metric, model) in self._samples:
            raise ValueError(f"metric '{metric}/{model}' was added twice")
        self._samples[metric, model] = sample


def read_samples(folder: Path) -> dict[tuple[str, str], Sample]:
    """(metric, model) → what a measuring stage stored in `folder`, in its order.

    Raises ValueError when the file is no table of samples, OSError when there is none.
    """
    table = pq.read_table(folder / SAMPLES)
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"{folder / SAMPLES}: has columns {table.column_names}, not those of samples; measure again")
    names = [table[column].combine_chunks().dictionary_encode() for column in ("metric", "model")]
    metrics, models = (one.dictionary.to_pylist() for one in names)
    key = names[0].indices.to_numpy().astype(np.int64) * max(1, len(models)) + names[1].indices.to_numpy()
    group, value = table["group"].to_numpy(), table["value"].to_numpy()
    pooled = table["label"].is_valid().to_numpy()
    label = table["label"].fill_null(False).to_numpy()
    keys, first = np.unique(key, return_index=True)
    order = np.argsort(key, kind="stable")
    starts = np.searchsorted(key[order], np.append(keys, keys[-1:] + 1))
    found: dict[tuple[str, str], Sample] = {}
    for place in np.argsort(first):
        at = order[starts[place] : starts[place + 1]]
        name = metrics[keys[place] // len(models)], models[keys[place] % len(models)]
        found[name] = Pairs(group[at], label[at], value[at]) if pooled[at[0]] else Values(group[at], value[at])
    return found
