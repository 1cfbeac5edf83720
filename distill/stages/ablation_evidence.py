"""From the measurements of a grid to its evidence: figures, comparisons, and the files that show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.artifacts import package_versions, read_json, read_manifest, write_atomic, write_json
from distill.config.ablations import AXES, METRICS, Ablations, Arm, Comparison
from distill.evaluate.comparisons import Contrast, Resampled, Sample, contrast, interval, resample
from distill.evaluate.evidence import ArmRow, Evidence, Finding, Line, as_findings, render_evidence
from distill.evaluate.report_format import shell_word
from distill.evaluate.samples import read_samples
from distill.evaluate.significance import Interval
from distill.reporting import Reporter
from distill.stages.ablation import ArmRun

JSON, MARKDOWN = "evidence.json", "evidence.md"
_NOT_MEASURED = Contrast(math.nan, math.nan, math.nan, math.nan, (), np.empty(0))
TABLES = ("items.parquet", "keyphrases.parquet", "human.parquet")  # what decides whether seeds share their queries


def write_evidence(
    grid: Ablations,
    runs: Sequence[ArmRun],
    workdir: Path,
    command: Sequence[str],
    reporter: Reporter,
    failed: Mapping[str, str] | None = None,
) -> Evidence:
    """Writes `evidence.json`, `evidence.md` with its figures, and the copy that `grid.docs` asks for.

    Args:
      runs: of every selected arm but those of `failed`, on every seed.
      failed: arm → why it was left.
    """
    failed = failed or {}
    measured, missing = _resampled(grid, runs)
    figures = {key: _interval(one) for key, one in measured.items()}
    findings = _findings(grid, measured, missing)
    evidence = Evidence(
        name=grid.name,
        command=" ".join(map(shell_word, command)),
        data="the embedded marketplace" if grid.data.embedded else Path(grid.data.dir).name or "one's own files",
        encoder=_encoder(grid),
        seeds=grid.seeds,
        shared_queries=same_tables(runs),
        simulated=grid.simulated,
        reference=grid.reference,
        arms=_arms({name: arm for name, arm in grid.selected().items() if name not in failed}, runs),
        figures=figures,
        findings=findings,
        curves={curve.title: _lines(curve, grid, runs, figures) for curve in grid.curves},
        axes={curve.title: AXES[curve.axis] for curve in grid.curves},
        not_run=[name for name in grid.arms if name not in grid.selected()],
        failed=failed,
        missing=missing,
        seconds=_total_seconds(runs),
        versions=package_versions(),
    )
    write_json(workdir / JSON, _flat(evidence))
    page, pictures = render_evidence(evidence)
    places = [workdir / MARKDOWN, *([Path(grid.docs)] if grid.docs else [])]
    for place in places:
        folder = place.with_suffix("")
        for name, svg in pictures.items():
            write_atomic(folder / name, svg)
        write_atomic(place, page.replace("FIGURES/", f"{folder.name}/"))
        reporter.line(f"evidence: {place}")
    return evidence


def _resampled(grid: Ablations, runs: Sequence[ArmRun]) -> tuple[dict[tuple[str, str], Resampled], dict[str, str]]:
    """(metric, model) → its figure over all seeds; and why a figure is missing."""
    by_seed = {seed: _samples(grid, [run for run in runs if run.seed == seed]) for seed in grid.seeds}
    shared, missing = same_tables(runs), {}
    measured: dict[tuple[str, str], Resampled] = {}
    keys = dict.fromkeys(key for samples in by_seed.values() for key in samples)
    for key in sorted(keys, key=lambda key: METRICS.index(key[0])):
        samples = [samples[key] for samples in by_seed.values() if key in samples]
        if len(samples) < len(grid.seeds):
            missing["/".join(key)] = f"measured on {len(samples)} of {len(grid.seeds)} seeds"
            continue
        measured[key] = resample(samples, shared_groups=shared, resamples=grid.resamples)
    return measured, missing


def _interval(model: Resampled) -> Interval:
    """Within 0–1, where all metrics lie: the seeds' part of a bootstrap knows no bounds."""
    low, high = np.clip(interval(model), 0, 1).tolist()
    return Interval(float(model.estimates.mean()), low, high)


def _samples(grid: Ablations, runs: Sequence[ArmRun]) -> dict[tuple[str, str], Sample]:
    """One seed's samples by (metric, model)."""
    found: dict[tuple[str, str], Sample] = {}
    of_reference = [run.folders.get("measure_assistant") for run in runs if run.arm == grid.reference]
    for run in runs:
        names = {"measure_student": run.arm, "measure_assistant": "", "measure_baselines": ""}
        for stage in names:
            folder = run.folders.get(stage)
            if folder is None:
                continue
            name = names[stage]
            another = stage == "measure_assistant" and run.arm != grid.reference
            if another and folder in of_reference:
                continue
            for (metric, model), sample in read_samples(folder).items():
                found[metric, name + (f"{run.arm}.assistant" if another else model)] = sample
    return found


def _findings(
    grid: Ablations, measured: Mapping[tuple[str, str], Resampled], missing: dict[str, str]
) -> dict[str, list[Finding]]:
    """Family → its comparisons, corrected together; adds to `missing` those that cannot be made.

    A claim that cannot be tested stays a finding, without numbers, lest the page say that every claim held. Of other
    comparisons those with arms that were not to be run are left out; the page names these arms.
    """
    families: dict[str, list[tuple[Comparison, str, Contrast]]] = {}
    for comparison in grid.comparisons:
        for metric in comparison.metrics:
            absent = [model for model in comparison.models if (metric, model) not in measured]
            if absent:
                if absent[0] not in grid.arms or absent[0] in grid.selected():
                    missing[comparison.name(metric)] = f"{metric} was not measured for {absent[0]}"
                if comparison.expected:
                    families.setdefault(comparison.family, []).append((comparison, metric, _NOT_MEASURED))
                continue
            first, second, *than = (measured[metric, model] for model in comparison.models)
            found = contrast(first, second, factor=comparison.factor, than=than)
            families.setdefault(comparison.family, []).append((comparison, metric, found))
    return {family: as_findings(rows) for family, rows in families.items()}


def _encoder(grid: Ablations) -> str:
    """The initial encoder in words."""
    if not grid.encoder.init:
        return f"{grid.encoder.layers}-layer, width {grid.encoder.width}, from scratch"
    return Path(grid.encoder.init).name + (f", its first {grid.encoder.depth} layers" if grid.encoder.depth else "")


def _flat(evidence: Evidence) -> dict[str, float]:
    """One flat object, name → finite number, in the manner of a run's `metrics.json`."""
    flat: dict[str, float] = {}
    for (metric, model), one in evidence.figures.items():
        flat[f"{metric}/{model}"] = one.estimate
        flat[f"{metric}/{model}/ci_low"], flat[f"{metric}/{model}/ci_high"] = one.ci_low, one.ci_high
    for finding in (finding for family in evidence.findings.values() for finding in family):
        flat[finding.name] = finding.estimate
        for field in ("ci_low", "ci_high", "simultaneous_low", "simultaneous_high", "p", "p_holm"):
            flat[f"{finding.name}/{field}"] = getattr(finding, field)
    for arm in evidence.arms:
        flat |= {f"steps/{arm.name}": float(arm.steps), f"labels/{arm.name}": float(arm.labels)}
    return {name: value for name, value in sorted(flat.items()) if np.isfinite(value)}


def _arms(arms: Mapping[str, Arm], runs: Sequence[ArmRun]) -> list[ArmRow]:
    """What each arm was; its seconds are of all its stages, shared ones too."""
    rows = []
    for name, arm in arms.items():
        own = [run for run in runs if run.arm == name]
        seconds = [sum(_manifest(folder)["seconds"] for folder in set(run.folders.values())) for run in own]
        rows.append(
            ArmRow(
                name=name,
                about=arm.about,
                overrides=(*arm.overrides, *((f"labels={arm.labels}",) if arm.labels else ())),
                steps=round(np.mean([_counts(run, "student")["steps"] for run in own])),
                labels=round(np.mean([_labels(run) for run in own])),
                assistant="assistant" in own[0].folders,
                seconds=float(np.mean(seconds)),
            )
        )
    return rows


def _lines(curve: Any, grid: Ablations, runs: Sequence[ArmRun], figures: Mapping[Any, Interval]) -> dict[str, Any]:
    """Metric → the lines of one figure."""
    drawn: dict[str, list[Line]] = {}
    for metric in curve.metrics:
        for label, arms in curve.series.items():
            points = []
            for arm in arms:
                own = [run for run in runs if run.arm == arm]
                for place, model in _places(curve, arm, own, grid, figures) if own else ():
                    if (metric, model) in figures:
                        points.append((place, figures[metric, model]))
            if len(points) > 1:
                drawn.setdefault(metric, []).append(Line(label, sorted(points, key=lambda point: point[0])))
    return drawn


def _places(curve: Any, arm: str, own: Sequence[ArmRun], grid: Ablations, figures: Any) -> Sequence[tuple[float, str]]:
    """Where an arm's models stand on the figure's axis."""
    if curve.axis == "width":
        *prefixes, whole = own[0].experiment.student.widths
        return [(width, f"{arm}@{width}") for width in prefixes] + [(whole, arm)]
    model, has_assistant = arm, "assistant" in own[0].folders
    if not has_assistant and (curve.assistants or curve.axis == "assistant_depth"):
        return []
    if curve.assistants:
        own_name = f"{arm}.assistant"
        model = own_name if any(name == own_name for _, name in figures) else "assistant"
    if curve.axis == "labels":
        return [(float(np.mean([_labels(run) for run in own])), model)]
    return [(read_json(own[0].folders["assistant"] / "model" / "spec.json")["layers"], model)]


def _labels(run: ArmRun) -> int:
    return _counts(run, "judge")["judged_training_pairs"]


def _counts(run: ArmRun, stage: str) -> dict[str, Any]:
    return _manifest(run.folders[stage])["counts"]


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    assert manifest is not None  # the grid ran it
    return manifest


def _total_seconds(runs: Sequence[ArmRun]) -> float:
    return sum(_manifest(folder)["seconds"] for folder in {f for run in runs for f in run.folders.values()})


def same_tables(runs: Sequence[ArmRun]) -> bool:
    """Whether all seeds were measured on the same listings and queries."""
    outputs = [_manifest(run.folders["prepare"])["outputs"] for run in runs]
    return all(one.get(name) == outputs[0].get(name) for one in outputs for name in TABLES)
