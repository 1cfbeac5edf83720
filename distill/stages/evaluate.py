"""evaluate: every model against humans, the judge on held-out items and, where it is known, the truth; the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from distill.artifacts import read_json, read_manifest, write_atomic, write_json
from distill.config import Experiment
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context, Stage, draw_held_out, files_below, write_table
from distill.stages.judge import STAGE as JUDGE
from distill.stages.judge import judged_holdout
from distill.stages.judge_backends import rubric_of
from distill.stages.judge_trust import AGREEMENT
from distill.stages.protocol import PROTOCOL, run_protocol
from distill.stages.recommend import FATES

METRICS, REPORT, TOP = "metrics.json", "index.html", 20
_ALIGNED = 4  # stream of random numbers: which listings


def run(context: Context, folder: Path) -> dict[str, Any]:
    from distill.evaluate.metric_table import DESCRIPTIONS, MetricTable, add_differences
    from distill.evaluate.report import render_report
    from distill.evaluate.samples import SAMPLES
    from distill.stages.models import load_models
    from distill.stages.report_data import collect

    settings = context.experiment.evaluate
    table = MetricTable(settings.bootstrap, context.experiment.seed)
    models = load_models(context)
    against_humans(context, table, models)
    _holdout(context, table, models)
    against_truth(context, table, models)
    _alignment(context, table, models)
    rivals = [name for name in models if name not in ("student", "assistant")]
    pairs = [("student", rival) for rival in rivals] + [("student", "assistant"), ("assistant", "zero_shot")]
    add_differences(table, pairs, [name for name in DESCRIPTIONS if table.has(name)])
    _scalars(context, table)
    protocol = run_protocol(context, folder, table, models) if settings.protocol.run else {}
    metrics = table.as_dict()
    write_json(folder / METRICS, metrics)
    write_json(folder / "missing.json", table.missing)
    write_table(folder / SAMPLES, table.samples())
    write_atomic(folder / REPORT, render_report(collect(context, table, models, protocol)))
    return {"metrics": len(metrics)}


def against_humans(context: Context, table: Any, models: dict[str, Any]) -> None:
    from distill.evaluate.metric_table import add_human

    human = context.prepared.human()
    if human is None or not (human["split"] == "test").any():
        context.reporter.line("evaluate: no human label of the test split, so nothing is measured against people")
        return
    test = human["split"] == "test"
    pairs = {name: column[test] for name, column in human.items()}
    for name, model in models.items():
        add_human(table, name, pairs["keyphrase"], pairs["gain"], model.score(pairs["keyphrase"], pairs["item"]))


def _holdout(context: Context, table: Any, models: dict[str, Any]) -> None:
    import numpy as np

    from distill.evaluate.metric_table import add_holdout

    pairs = judged_holdout(context)
    if not len(pairs["item"]):
        context.reporter.line("evaluate: no judged pair of a held-out item, so holdout/ metrics are left out")
        return
    scores = {}
    for name, model in models.items():
        scores[name] = model.score(pairs["keyphrase"], pairs["item"])
        add_holdout(table, name, pairs["item"], pairs["grade"], scores[name])
    relevance = 1 / (1 + np.exp(-scores["assistant"].astype(np.float64)))
    table.add_scalar("student/pearson_to_assistant", float(np.corrcoef(scores["student"], relevance)[0, 1]))


def against_truth(context: Context, table: Any, models: dict[str, Any]) -> None:
    """Known truth: recall over all keyphrases, nDCG over the judged pairs of held-out items."""
    import numpy as np
    import scipy.sparse as sp

    from distill.evaluate.metric_table import add_recall, add_truth_ndcg

    truth = context.prepared.truth()
    if truth is None:
        return
    prepared = context.prepared
    items = np.flatnonzero(prepared.item_is_holdout)
    row_of = np.full(len(prepared.item_ids), -1)
    row_of[items] = np.arange(len(items))
    shape = (len(items), len(prepared.keyphrases))
    exact = (truth["grade"] == 3) & (row_of[truth["item"]] >= 0)

    def relevant(mask: Any) -> Any:
        rows = (row_of[truth["item"][mask]], truth["keyphrase"][mask])
        return sp.csr_array((np.ones(int(mask.sum()), bool), rows), shape=shape)

    everything, hidden = relevant(exact), relevant(exact & ~truth["exposed"].astype(bool))
    grades = sp.csr_array((truth["grade"].astype(np.float64), (row_of[truth["item"]], truth["keyphrase"])), shape=shape)
    pairs = judged_holdout(context)
    gains = np.asarray(grades[row_of[pairs["item"]], pairs["keyphrase"]]).reshape(-1) / 3
    for name, model in models.items():
        found = padded_top(model.top(items, TOP))
        add_recall(table, "truth/recall@20", name, found, everything, items)
        add_recall(table, "never_exposed/recall@20", name, found, hidden, items)
        add_truth_ndcg(table, name, pairs["item"], gains, model.score(pairs["keyphrase"], pairs["item"]))


def padded_top(found: Any) -> Any:
    """Retrieved keyphrases [I, k ≤ TOP] padded with −1 to [I, TOP]."""
    import numpy as np

    return np.pad(found[:, :TOP], ((0, 0), (0, max(0, TOP - found.shape[1]))), constant_values=-1)


def _alignment(context: Context, table: Any, models: dict[str, Any]) -> None:
    """What would be recommended: does the search engine pass it, does the calibrated assistant find it relevant?"""
    import numpy as np

    from distill.data.pair_pool import pair_keys
    from distill.evaluate.metric_table import add_alignment, add_coverage
    from distill.judge.calibration import Calibration

    prepared, settings = context.prepared, context.experiment.evaluate
    items = draw_held_out(context, settings.align_items, _ALIGNED)
    if not len(items):
        return
    saved = read_json(context.folder("assistant") / CALIBRATION)
    calibration, threshold = Calibration.from_dict(saved["calibration"]), saved["threshold"]["logit"]
    searched = prepared.holdout("search_relevance")
    if searched is None or not len(searched["item"]):
        searched = None
        context.reporter.line("evaluate: no search_relevance row of a held-out item, so align/ metrics are left out")
    passed = np.zeros(0, np.int64)
    if searched is not None:
        keys = pair_keys(searched["item"], searched["keyphrase"], len(prepared.keyphrases))
        passed = keys[searched["passed"].astype(bool)]
    for name, model in models.items():
        found = padded_top(model.top(items, TOP))
        row, place = np.nonzero(found >= 0)
        logits = np.full(found.shape, -np.inf)
        logits[row, place] = models["assistant"].score(found[row, place], items[row])
        if searched is not None:
            # A pair that the search engine's table does not hold was not passed.
            search = np.isin(pair_keys(items[:, None], found, len(prepared.keyphrases)), passed) & (found >= 0)
            add_alignment(table, name, found, search, calibration.probability(logits) >= 0.5, items)
        add_coverage(table, name, (logits >= threshold).sum(axis=1), items)


def _scalars(context: Context, table: Any) -> None:
    """Agreement of the judge, the index's and the training's figures, and what became of the candidates."""
    agreement = context.folder("judge") / AGREEMENT
    figures = read_json(agreement).get("agreement", {}) if agreement.exists() else {}
    for name in ("auc_exact", "auc_relevant", "kappa") if figures else ():
        table.add_scalar(f"judge/{name}", math.nan if figures[name] is None else figures[name])
    index = _counts(context.folder("index"))
    table.add_scalar("index/recall@100", index["recall_at_100"])
    table.add_scalar("index/queries_per_second", index["queries_per_second"])
    for stage in ("assistant", "score", "student"):
        table.add_scalar(f"train/{stage}/examples_per_second", _counts(context.folder(stage))["examples_per_second"])
    add_candidates(table, _counts(context.folder("recommend")))


def add_candidates(table: Any, recommended: dict[str, int]) -> None:
    """Writes the counts of `recommend` as `protocol/…`: all sources together under the stage's name, then each."""
    from distill.evaluate.protocol import RECOMMEND

    items = max(1, recommended["items"])
    for name in ("candidates", *(fate for fate in FATES if fate in recommended)):
        table.add_scalar(f"protocol/{RECOMMEND}/{name}_per_item", recommended[name] / items)
    table.add_scalar(f"protocol/{RECOMMEND}/covered_items", recommended["covered_items"] / items)
    for name, count in recommended.items():
        what, by_source, source = name.partition("_from_")
        if by_source:
            table.add_scalar(f"protocol/{source}/{what}_per_item", count / items)


def _counts(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    assert manifest is not None  # an input of this stage, checked before it ran
    return manifest["counts"]


def _reads(experiment: Experiment) -> dict[str, Any]:
    """The settings that the figures depend on: with the protocol's verdicts, also who gives them."""
    read = {"evaluate": experiment.evaluate, "row_tokens": experiment.encoder.row_tokens, "seed": experiment.seed}
    return read | (JUDGE.config(experiment) if _asks_judge(experiment) else {})


def _from_outside(context: Context) -> dict[str, str]:
    """Hashes of the arms' students and of the protocol's rubric."""
    from distill.artifacts import output_hash

    arms = context.experiment.evaluate.arms
    read = {arm: output_hash(context.for_arm(arm).folder("student"), "python -m launch.student") for arm in arms}
    return read | ({"rubric": rubric_of(context).hash} if _asks_judge(context.experiment) else {})


def _asks_judge(experiment: Experiment) -> bool:
    return experiment.evaluate.protocol.run and "judge" in experiment.evaluate.protocol.judges


def _published(folder: Path) -> list[Path]:
    from distill.evaluate.samples import SAMPLES

    return files_below(METRICS, REPORT, SAMPLES, PROTOCOL)(folder)


STAGE = Stage(
    name="evaluate",
    config=_reads,
    inputs=("prepare", "judge", "assistant", "score", "student", "index", "recommend"),
    run=run,
    published=_published,
    external=_from_outside,
)
