"""What a grid measures of a model: every metric's value for each query or listing, kept for comparisons across seeds.

Three stages, so that what several arms share is measured once: a student with its Matryoshka prefixes, an assistant,
and the models that need no training. No index and no recommendations: retrieval here is exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distill.evaluate.metric_table import add_holdout
from distill.evaluate.samples import SAMPLES, Samples
from distill.stages.base import Context, Stage, files_below, load_model, write_table
from distill.stages.evaluate import against_humans, against_truth
from distill.stages.judge import judged_holdout
from distill.stages.models import BASELINES as UNTRAINED
from distill.stages.models import Bi


def _measure(context: Context, folder: Path, models: dict[str, Any], retrieves: bool = True) -> dict[str, Any]:
    """Measures and, on the first process, stores; a model that cannot retrieve is asked for scores alone.

    A student's own model is stored as '', its prefixes as '@WIDTH'.
    """
    table = Samples()
    against_humans(context, table, models)
    pairs = judged_holdout(context)
    for name, model in models.items():
        if len(pairs["item"]):
            add_holdout(table, name, pairs["item"], pairs["grade"], model.score(pairs["keyphrase"], pairs["item"]))
    if retrieves:
        against_truth(context, table, models)
    rows = table.samples()
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
