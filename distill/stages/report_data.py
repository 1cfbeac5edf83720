"""Everything that the report shows, read from the stages' folders."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from distill.artifacts import config_dict, package_versions, read_json, read_manifest
from distill.evaluate.metric_table import MetricTable
from distill.evaluate.metrics import ndcg_per_group
from distill.evaluate.report import Example, Keyphrase, ReportData
from distill.evaluate.significance import bootstrap_mean
from distill.judge.calibration import Calibration, reliability
from distill.stages.assistant import CALIBRATION, VALIDATION
from distill.stages.base import Context
from distill.stages.judge import judged_holdout
from distill.stages.judge_trust import AGREEMENT
from distill.stages.recommend import recommendations
from distill.train.writers import read_metrics

EXAMPLES = 4


def collect(context: Context, table: MetricTable, models: dict[str, Any]) -> ReportData:
    """Gathers the report's data; what a run does not have is left empty, and the report says so."""
    experiment, prepared = context.experiment, context.prepared
    summary = read_json(context.folder("prepare") / "summary.json")
    embedded = not experiment.data.dir
    saved = read_json(context.folder("assistant") / CALIBRATION)
    calibration = Calibration.from_dict(saved["calibration"])
    validation = np.load(context.folder("assistant") / VALIDATION)
    good, bad = _examples(context, calibration)
    agreement = context.folder("judge") / AGREEMENT
    encoder = experiment.encoder
    return ReportData(
        name=experiment.name,
        metrics=table.as_dict(),
        missing=table.missing,
        encoder=encoder.init or f"{encoder.layers} layers of width {encoder.width}, from scratch",
        tasks=_tasks(context),
        judge=experiment.judge.backend,
        simulated_clicks=embedded,
        simulated_humans=embedded,
        counts=_counts(context, summary),
        quarantined={name: t["quarantined"] for name, t in summary["tables"].items() if t["quarantined"]},
        leaks_removed={name: t["removed"] for name, t in summary["tables"].items() if t["removed"]},
        notices=[*summary["notices"], *(f"no {name} table: {what}" for name, what in summary["left_out"].items())],
        judge_figures=read_json(agreement) if agreement.exists() else {},
        exposure=_exposure(prepared.truth()),
        curves=_curves(context),
        scores_by_grade=_scores_by_grade(context, models),
        reliability=reliability(
            calibration.probability(validation["logits"]), validation["grade"] >= saved["relevant_grade"]
        ),
        quality_by_width=_quality_by_width(context, models["student"]),
        relevance_threshold=float(calibration.probability(np.array([saved["threshold"]["logit"]]))[0]),
        precision_wanted=experiment.recommend.precision,
        precision_reached=saved["threshold"]["reached"],
        good=good,
        bad=bad,
        stage_seconds=_seconds(context),
        config=config_dict(experiment),
        versions=package_versions(),
    )


def _tasks(context: Context) -> list[str]:
    weights = dataclasses.asdict(context.experiment.student.tasks)
    names = {
        "clicks": "clicks",
        "search_relevance": "the search engine's relevance",
        "distill": "the assistant's scores",
    }
    manifest = read_manifest(context.folder("student"))
    left_out = manifest["counts"]["left_out_tasks"] if manifest else []
    return [text for name, text in names.items() if weights[name] and name not in left_out]


def _counts(context: Context, summary: dict[str, Any]) -> dict[str, int]:
    counts = {f"{name} rows": table["kept"] for name, table in summary["tables"].items()}
    counts |= {"training items": summary["train_items"], "held-out items": summary["holdout_items"]}
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


def _examples(context: Context, calibration: Calibration) -> tuple[list[Example], list[Example]]:
    """Held-out listings of the highest and of the lowest mean relevance, the latter with nothing recommended first."""
    prepared = context.prepared
    by_item: dict[str, list[Keyphrase]] = {}
    for row in recommendations(context).to_pylist():
        logit = np.log(row["relevance"] / max(1 - row["relevance"], 1e-9) + 1e-12)
        probability = float(calibration.probability(np.array([logit]))[0])
        by_item.setdefault(row["item_id"], []).append(Keyphrase(row["keyphrase"], probability, row["sources"]))
    examples = []
    for item in np.flatnonzero(prepared.item_is_holdout):
        keyphrases = by_item.get(prepared.item_ids[item], [])
        mean = float(np.mean([k.relevance for k in keyphrases])) if keyphrases else -1.0
        category = " > ".join(prepared.categories[item])
        examples.append((mean, Example(prepared.titles[item], category, prepared.item_ids[item], keyphrases[:10])))
    examples.sort(key=lambda pair: (pair[0], pair[1].item_id))
    ordered = [example for _, example in examples]
    return ordered[::-1][:EXAMPLES], ordered[:EXAMPLES]


def _seconds(context: Context) -> dict[str, float]:
    folders = {name: context.folder(name) for name in ("prepare", "judge", "assistant", "score", "student")}
    folders |= {arm: context.for_arm(arm).folder("student") for arm in context.experiment.evaluate.arms}
    folders |= {name: context.folder(name) for name in ("index", "recommend")}
    manifests = {name: read_manifest(folder) for name, folder in folders.items()}
    return {name: manifest["seconds"] for name, manifest in manifests.items() if manifest}
