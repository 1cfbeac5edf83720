"""Everything that the report shows, read from the stages' folders."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import numpy as np

from distill.artifacts import config_dict, git_revision, package_versions, read_json, read_manifest
from distill.data.text import leaf_labels, top_labels
from distill.evaluate.groups import worst_groups
from distill.evaluate.metric_table import MetricTable
from distill.evaluate.metrics import ndcg_per_group
from distill.evaluate.report_contents import CategoryTable, ReportData
from distill.evaluate.significance import bootstrap_mean
from distill.judge.calibration import Calibration, Reliability, reliability
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context
from distill.stages.judge import judged_holdout
from distill.stages.judge_backends import LANGUAGE_MODELS
from distill.stages.judge_pairs import GRADED
from distill.stages.judge_trust import AGREEMENT
from distill.stages.report_costs import index_facts, judge_cost, revisions, sizes, stage_seconds
from distill.stages.report_data_page import data_page
from distill.stages.report_examples import examples
from distill.train.writers import read_metrics


def collect(context: Context, table: MetricTable, models: dict[str, Any], protocol: dict[str, Any]) -> ReportData:
    """Gathers the report's data; what a run does not have is left empty, and the report says so.

    `protocol` is what `run_protocol` returned, {} where it was not asked for.
    """
    experiment, prepared = context.experiment, context.prepared
    summary = read_json(context.folder("prepare") / "summary.json")
    page = data_page(context, summary)
    simulated = page.about.is_simulated
    saved = read_json(context.folder("assistant") / CALIBRATION)
    calibration = Calibration.from_dict(saved["calibration"])
    good, bad = examples(context, calibration, saved["relevant_grade"])
    agreement = context.folder("judge") / AGREEMENT
    encoder = experiment.encoder
    return ReportData(
        name=experiment.name,
        metrics=table.as_dict(),
        missing=table.missing,
        absent=_absent(context),
        encoder=Path(encoder.init).name or f"from scratch, layers: {encoder.layers}, width: {encoder.width}",
        tasks=_tasks(context, summary),
        judge=_judge(context),
        baselines=_baselines(context, models),
        simulated_clicks=simulated("clicks") or simulated("events"),
        simulated_humans=simulated("human"),
        simulated_judge=experiment.judge.backend == "simulated"
        or (experiment.judge.backend == "replay" and simulated("judgements")),
        counts=_counts(context, summary),
        data_page=page,
        notices=[*summary["notices"], *(f"no {name} table: {what}" for name, what in summary["left_out"].items())],
        judge_figures=read_json(agreement) if agreement.exists() else {},
        judge_cost=judge_cost(context),
        protocol=protocol,
        exposure=_exposure(prepared.truth()),
        curves=_curves(context),
        scores_by_grade=_scores_by_grade(context, models),
        reliability=reliability_of(context, models["assistant"], calibration),
        quality_by_width=_quality_by_width(context, models["student"]),
        categories=_categories(context, models["student"]),
        relevance_threshold=float(calibration.probability(np.array([saved["threshold"]["logit"]]))[0]),
        precision_wanted=experiment.recommend.precision,
        precision_reached=saved["threshold"]["reached"],
        good=good,
        bad=bad,
        relevant_grade=saved["relevant_grade"],
        stage_seconds=stage_seconds(context),
        index=index_facts(context),
        sizes=sizes(context),
        config=config_dict(experiment),
        versions=_versions(),
        revisions=revisions(context) | ({"evaluate": revision} if (revision := git_revision()) else {}),
    )


def _tasks(context: Context, summary: dict[str, Any]) -> list[str]:
    """What the student learnt from, with how many rows there were of it."""
    weights = dataclasses.asdict(context.experiment.student.tasks)
    score = read_manifest(context.folder("score"))
    rows = {name: table["training"] for name, table in summary["tables"].items()}
    names = {
        "clicks": f"clicks ({rows.get('clicks', 0) + rows.get('events', 0):,} pairs)",
        "search_relevance": f"the search engine's relevance ({rows.get('search_relevance', 0):,} rows)",
        "distill": "the assistant's scores" + (f" ({score['counts']['scored_pairs']:,} pairs)" if score else ""),
    }
    manifest = read_manifest(context.folder("student"))
    left_out = manifest["counts"]["left_out_tasks"] if manifest else []
    return [text for name, text in names.items() if weights[name] and name not in left_out]


def _judge(context: Context) -> str:
    """Who graded how much under which rubric; several where several did."""
    import pyarrow.parquet as pq

    table = pq.read_table(context.folder("judge") / GRADED, columns=["judge", "rubric", "holdout"])
    voices = table.group_by(["judge", "rubric"]).aggregate([([], "count_all")]).to_pylist()
    voices.sort(key=lambda voice: (-voice["count_all"], voice["judge"], voice["rubric"]))
    names = " and ".join(f"“{voice['judge']}” under rubric “{voice['rubric']}”" for voice in voices[:3])
    more = f" and {len(voices) - 3} more" if len(voices) > 3 else ""
    how = ", read from the judgements table" if context.experiment.judge.backend == "replay" else ""
    return f"{names}{more} ({table.num_rows:,} graded pairs{how})"


def _baselines(context: Context, models: dict[str, Any]) -> list[str]:
    """The student's opponents: all measured models that are neither its teacher nor its own prefix, and the usual."""
    measured = [name for name in models if name not in ("student", "assistant") and not name.startswith("student@")]
    return list(dict.fromkeys([*measured, "bm25", "graphex"]))


def _absent(context: Context) -> dict[str, str]:
    backend = context.experiment.judge.backend
    if backend in LANGUAGE_MODELS:
        return {}
    return {"judge_cost": f"The judge's backend is {backend!r}: no language model was asked, and nothing paid, here."}


def _versions() -> dict[str, str]:
    import jax

    devices = jax.devices()
    machine = {"Python": platform.python_version(), "device": f"{len(devices)} × {devices[0].device_kind}"}
    return package_versions() | machine


def _categories(context: Context, student: Any) -> list[CategoryTable]:
    """The student's nDCG@10 on held-out listings by their leaf and by their top category."""
    pairs, experiment = judged_holdout(context), context.experiment
    if not len(pairs["item"]):
        return []
    scores = student.score(pairs["keyphrase"], pairs["item"])
    items, values = ndcg_per_group(pairs["item"], pairs["grade"] / 3, scores, 10)
    paths = [context.prepared.categories[item] for item in items.tolist()]
    resampling = {"resamples": experiment.evaluate.bootstrap, "seed": experiment.seed}
    return [
        CategoryTable(by, "holdout/ndcg@10", worst_groups(values, names, **resampling))
        for by, names in (
            ("leaf category", leaf_labels(paths)),
            ("top category", top_labels(paths)),
        )
    ]


def _counts(context: Context, summary: dict[str, Any]) -> dict[str, int]:
    counts = {"training items": summary["train_items"], "held-out items": summary["holdout_items"]}
    for stage, names in (
        ("judge", ("judged_training_pairs", "judged_holdout_pairs", "unanswered")),
        ("score", ("scored_pairs",)),
    ):
        manifest = read_manifest(context.folder(stage))
        counts |= {name.replace("_", " "): manifest["counts"][name] for name in names} if manifest else {}
    return counts


def _exposure(truth: dict[str, Any] | None) -> dict[str, int]:
    if truth is None:
        return {}
    exact = truth["grade"] == 3
    return {
        "truly relevant pairs of held-out items": int(exact.sum()),
        "of them never shown to a buyer": int((exact & ~truth["exposed"].astype(bool)).sum()),
    }


def _curves(context: Context) -> dict[str, list[tuple[float, float]]]:
    curves = {}
    folders = {"assistant": context.folder("assistant"), "student": context.folder("student")}
    folders |= {arm: context.for_arm(arm).folder("student") for arm in context.experiment.evaluate.arms}
    for name, folder in folders.items():
        records = read_metrics(folder / "training")
        curves[f"{name}: loss"] = [(r["step"], r["loss"]) for r in records if "loss" in r]
    return curves


def _scores_by_grade(context: Context, models: dict[str, Any]) -> dict[str, dict[int, Any]]:
    pairs = judged_holdout(context)
    if not len(pairs["item"]):
        return {}
    result = {}
    for name in ("assistant", "student"):
        scores = models[name].score(pairs["keyphrase"], pairs["item"])
        result[name] = {grade: scores[pairs["grade"] == grade] for grade in range(4)}
    return result


def reliability_of(context: Context, assistant: Any, calibration: Calibration) -> Reliability | None:
    """Of the calibrated probability on held-out listings: on the pairs that it was fitted to it would look too good."""
    pairs = judged_holdout(context)
    if not len(pairs["item"]):
        return None
    probability = calibration.probability(assistant.score(pairs["keyphrase"], pairs["item"]))
    return reliability(probability, pairs["grade"] >= calibration.relevant_grade)


def _quality_by_width(context: Context, student: Any) -> dict[str, dict[int, Any]]:
    """The student's quality at each power of two of its width, on held-out items."""
    pairs = judged_holdout(context)
    full = student.items.shape[1]
    if not len(pairs["item"]):
        return {}
    widths = sorted({width for width in (8, 16, 32, 64, 128, 256, 512) if width < full} | {full})
    experiment = context.experiment
    curve = {}
    for width in widths:
        scores = student.prefix(width).score(pairs["keyphrase"], pairs["item"])
        _, values = ndcg_per_group(pairs["item"], pairs["grade"] / 3, scores, 10)
        curve[width] = bootstrap_mean(values, experiment.evaluate.bootstrap, experiment.seed)
    return {"holdout/ndcg@10": curve}
