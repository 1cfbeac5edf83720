"""What a grid measures of a model: every metric's value for each query or listing, kept for comparisons across seeds.

Three stages, so that what several arms share is measured once: a student with its Matryoshka prefixes, an assistant,
and the models that need no training. No index and no recommendations: retrieval here is exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.evaluate.comparisons import Pairs, Sample, Values
from distill.evaluate.metric_table import MetricTable, add_holdout
from distill.stages.base import Context, Stage, files_below, load_model, write_table
from distill.stages.evaluate import against_humans, against_truth
from distill.stages.judge import judged_holdout
from distill.stages.models import BASELINES as UNTRAINED
from distill.stages.models import Bi

SAMPLES = "samples.parquet"


class Collected(MetricTable):
    """A metric table that keeps what each figure is made of, and computes none."""

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[dict[str, Any]] = []

    def add(self, metric: str, model: str, values: Any, groups: Any = None) -> None:
        ids = np.arange(len(values)) if groups is None else np.asarray(groups)
        self._keep(metric, model, ids, np.full(len(ids), None), np.asarray(values, np.float64))

    def add_auc(self, metric: str, model: str, groups: Any, labels: Any, scores: Any) -> None:
        self._keep(metric, model, groups, np.asarray(labels, object), np.asarray(scores, np.float64))

    def table(self) -> pa.Table:
        """Columns metric, model, group, label (null for one value a group), value."""
        schema = pa.schema(
            [
                ("metric", pa.string()),
                ("model", pa.string()),
                ("group", pa.int64()),
                ("label", pa.bool_()),
                ("value", pa.float64()),
            ]
        )
        return pa.concat_tables([schema.empty_table(), *(pa.table(one, schema=schema) for one in self._columns)])

    def _keep(self, metric: str, model: str, groups: Any, labels: Any, values: Any) -> None:
        if not np.isfinite(values).all():
            raise ValueError(f"{metric}/{model}: a value is not finite; the model diverged, or a pair has no score")
        size = len(values)
        columns = {"metric": [metric] * size, "model": [model] * size}
        self._columns.append(columns | {"group": np.asarray(groups, np.int64), "label": labels, "value": values})


def read_samples(folder: Path) -> dict[tuple[str, str], Sample]:
    """(metric, model) → what a measuring stage stored; a student's own model is '', its prefixes '@WIDTH'."""
    columns = pq.read_table(folder / SAMPLES).to_pydict()
    names = np.array([f"{metric}\t{model}" for metric, model in zip(columns["metric"], columns["model"])], object)
    group, value = np.array(columns["group"], np.int64), np.array(columns["value"], np.float64)
    label = np.array(columns["label"], object)
    found: dict[tuple[str, str], Sample] = {}
    for name in dict.fromkeys(names):
        at = names == name
        metric, _, model = name.partition("\t")
        pooled = label[at][0] is not None
        found[metric, model] = (
            Pairs(group[at], label[at].astype(bool), value[at]) if pooled else Values(group[at], value[at])
        )
    return found


def _measure(context: Context, folder: Path, models: dict[str, Any], retrieves: bool = True) -> dict[str, Any]:
    """Measures and, on the first process, stores; a model that cannot retrieve is asked for scores alone."""
    table = Collected()
    against_humans(context, table, models)
    pairs = judged_holdout(context)
    for name, model in models.items():
        if len(pairs["item"]):
            add_holdout(table, name, pairs["item"], pairs["grade"], model.score(pairs["keyphrase"], pairs["item"]))
    if retrieves:
        against_truth(context, table, models)
    rows = table.table()
    context.processes.on_first(lambda: write_table(folder / SAMPLES, rows))
    return {"samples": len(rows)}


def _student(context: Context, folder: Path) -> dict[str, Any]:
    student = _embedded(context, *load_model(context.folder("student") / "model"))
    widths = context.experiment.student.widths[:-1]
    return _measure(context, folder, {"": student} | {f"@{width}": student.prefix(width) for width in widths})


def _assistant(context: Context, folder: Path) -> dict[str, Any]:
    class Scorer:
        score = staticmethod(context.pair_scorer())

    return _measure(context, folder, {"assistant": Scorer()}, retrieves=False)


def _baselines(context: Context, folder: Path) -> dict[str, Any]:
    models = {name: UNTRAINED[name](context) for name in context.experiment.evaluate.baselines}
    return _measure(context, folder, models | {"zero_shot": _embedded(context, *context.initial_encoder())})


def _embedded(context: Context, spec: Any, params: Any) -> Bi:
    """A bi-encoder over the texts that the metrics read; the rest is left zero."""
    from distill.retrieval.encoding import embed_texts

    prepared, judged = context.prepared, judged_holdout(context)
    human = prepared.human() or {"item": [], "keyphrase": []}
    items = np.unique(np.concatenate([np.flatnonzero(prepared.item_is_holdout), human["item"]]).astype(np.int64))
    keyphrases = np.unique(np.concatenate([judged["keyphrase"], human["keyphrase"]]).astype(np.int64))
    if prepared.truth() is not None:  # recall is over all of them
        keyphrases = np.arange(len(prepared.keyphrases))
    vectors = []
    for tokens, rows in ((context.item_tokens, items), (context.keyphrase_tokens, keyphrases)):
        whole = np.zeros((len(tokens.lengths), spec.width), np.float32)
        whole[rows] = embed_texts(
            spec, params, tokens.take(rows), row_tokens=context.experiment.encoder.row_tokens, mesh=context.mesh
        )
        vectors.append(whole)
    return Bi(*vectors)


def _stage(name: str, run: Any, *inputs: str) -> Stage:
    return Stage(
        name=name,
        config=lambda e: {
            "row_tokens": e.encoder.row_tokens,
            "tokens": [e.encoder.item_tokens, e.encoder.keyphrase_tokens],
            "widths": e.student.widths,
            "baselines": e.evaluate.baselines,
        },
        inputs=("prepare", "judge", *inputs),
        run=run,
        published=files_below(SAMPLES),
        everywhere=lambda e: True,
    )


STUDENT = _stage("measure_student", _student, "student")
ASSISTANT = _stage("measure_assistant", _assistant, "assistant")
BASELINES = _stage("measure_baselines", _baselines)
