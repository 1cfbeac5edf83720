"""What a comparison with sentence-transformers found: a table, a flat JSON object and a Markdown page."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import print_table
from sentence_transformers_stage import Variant

from distill.artifacts import read_manifest, write_atomic, write_json
from distill.config.ablations import METRICS, Ablations, Comparison
from distill.evaluate.comparisons import Contrast, Resampled, contrast, resample
from distill.evaluate.evidence import Finding, as_findings
from distill.evaluate.report_format import number, p_value, shell_word, signed
from distill.evaluate.samples import read_samples
from distill.reporting import Reporter
from distill.stages.ablation import ArmRun
from distill.stages.ablation_evidence import same_tables

JSON, MARKDOWN = "sentence_transformers.json", "sentence_transformers.md"
LOSSES = {
    "clicks": "MultipleNegativesRankingLoss",
    "cosent": "CoSENTLoss",
    "cosine_similarity": "CosineSimilarityLoss",
    "contrastive": "ContrastiveLoss",
    "online_contrastive": "OnlineContrastiveLoss",
}
NAMES = {
    "clicks": "clicks",
    "search_relevance": "verdicts of the search engine",
    "distill": "probabilities of the teacher",
}
MIXES = {
    "proportional": "a step is a batch of one data set, with the share of the steps that the data set has of the "
    "examples",
    "joint": "a step is the student's own batch and the sum of the losses by the student's task weights",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model of sentence-transformers on one seed: the folders of its training and of its measurements."""

    trained: Path
    samples: Path


@dataclasses.dataclass(frozen=True)
class Compared:
    """An arm and its rivals; seeds in the order of `runs`."""

    grid: Ablations
    arm: str
    runs: Sequence[ArmRun]
    rivals: Mapping[Variant, Sequence[Measured]]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


@dataclasses.dataclass(frozen=True)
class Row:
    """A finding with the two figures that it compares."""

    ours: float
    theirs: float
    finding: Finding

    @property
    def verdict(self) -> str:
        """Strict with ours: above only by the interval corrected for all rows, below by that of this row alone."""
        one = self.finding
        if not math.isfinite(one.ci_low + one.ci_high):
            return "not tested"
        if one.simultaneous_low > 0:
            return "ours is higher"
        return "**theirs is higher**" if one.ci_high < 0 else "no clear difference"


def write(compared: Compared, folder: Path, reporter: Reporter, docs: str = "") -> None:
    """Prints the table, and writes both files and the copy of the page that `docs` asks for."""
    rows, missing = compare(compared)
    cells = [_cells(row) for row in rows]
    header = ("metric", "ours", "theirs", "figure", "figure", "difference", "95 %", "p", "p (Holm)", "")
    print_table(f"{compared.grid.name}: against sentence-transformers", header, [[*c[:9], c[10]] for c in cells])
    for name, why in missing.items():
        reporter.line(f"not compared: {name}: {why}")
    write_json(folder / JSON, flat(rows, compared))
    text = page(rows, missing, compared)
    for place in (folder / MARKDOWN, *([Path(docs)] if docs else [])):
        write_atomic(place, text)
        reporter.line(f"comparison: {place}")


def compare(compared: Compared) -> tuple[list[Row], dict[str, str]]:
    """Every metric of the arm and of its prefixes against each rival, corrected for their number together.

    And the name of each difference that cannot be made → why.
    """
    ours = _resampled(compared, [run.folders["measure_student"] for run in compared.runs])
    found: list[tuple[Comparison, str, Contrast]] = []
    figures: list[tuple[float, float]] = []
    missing: dict[str, str] = {}
    for variant, measured in compared.rivals.items():
        theirs = _resampled(compared, [one.samples for one in measured])
        for metric, prefix in sorted(ours, key=lambda key: (METRICS.index(key[0]), key[1])):
            pair = Comparison(compared.arm + prefix, variant.name + prefix, (metric,), expected=False)
            one, other = ours[metric, prefix], theirs.get((metric, prefix))
            name = pair.name(metric)
            if one is None or other is None:
                missing[name] = "not measured for both on every seed"
                continue
            if not all(a.paired(b) for a, b in zip(one.samples, other.samples, strict=True)):
                missing[name] = (
                    "other code measured the grid's student, on other queries or pairs; remove its folder below "
                    "stages/measure_student and run launch.ablate again"
                )
                continue
            found.append((pair, metric, contrast(one, other)))
            figures.append((float(one.estimates.mean()), float(other.estimates.mean())))
    rows = [Row(*both, finding) for both, finding in zip(figures, as_findings(found), strict=True)]
    return rows, missing


def _resampled(compared: Compared, folders: Sequence[Path]) -> dict[tuple[str, str], Resampled | None]:
    """(metric, prefix) → the figure over all seeds; None where one lacks it."""
    samples = [read_samples(folder) for folder in folders]
    shared, resamples = same_tables(compared.runs), compared.grid.resamples
    found: dict[tuple[str, str], Resampled | None] = {}
    for key in dict.fromkeys(key for one in samples for key in one):
        own = [one[key] for one in samples if key in one]
        everywhere = len(own) == len(samples)
        found[key] = resample(own, shared_groups=shared, resamples=resamples) if everywhere else None
    return found


def flat(rows: Sequence[Row], compared: Compared) -> dict[str, float]:
    """Name → finite number, in the manner of a grid's `evidence.json`."""
    found: dict[str, float] = {}
    for row in rows:
        one = row.finding
        found |= {
            f"{one.metric}/{one.comparison.first}": row.ours,
            f"{one.metric}/{one.comparison.second}": row.theirs,
            one.name: one.estimate,
        }
        for field in ("ci_low", "ci_high", "simultaneous_low", "simultaneous_high", "p", "p_holm"):
            found[f"{one.name}/{field}"] = getattr(one, field)
    for variant, measured in compared.rivals.items():
        counts = [_manifest(one.trained)["counts"] for one in measured]
        found[f"steps/{variant.name}"] = float(np.mean([one["steps"] for one in counts]))
        for kind in counts[0]["examples"]:
            found[f"examples/{kind}/{variant.name}"] = float(np.mean([one["examples"][kind] for one in counts]))
            found[f"steps/{kind}/{variant.name}"] = float(np.mean([one["steps_of"][kind] for one in counts]))
        found[f"examples_left_out/{variant.name}"] = float(np.mean([one["left_out"] for one in counts]))
    return {name: float(value) for name, value in sorted(found.items()) if math.isfinite(value)}


def page(rows: Sequence[Row], missing: Mapping[str, str], compared: Compared) -> str:
    """The Markdown page."""
    first = next(iter(compared.rivals.values()))
    counts = [_manifest(one.trained)["counts"] for one in first]
    examples = ", ".join(
        f"{np.mean([one['examples'][kind] for one in counts]):,.0f} {NAMES[kind]}" for kind in counts[0]["examples"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in counts[0]["peer"].items())
    lines = [
        f"# Against sentence-transformers: {compared.grid.name}",
        "",
        "Written by",
        "",
        f"    PYTHONPATH=. {' '.join(map(shell_word, ['python', *sys.argv]))}",
        "",
        f"`{compared.arm}` on seed{'s' * (len(compared.seeds) > 1)} {', '.join(map(str, compared.seeds))}, and models "
        f"that sentence-transformers trained ({versions}, CPU) on every example that it saw, as often as it saw it: "
        f"{examples} a seed. Equal on both sides: initial weights, tokens, {_steps(counts)} optimiser steps, AdamW "
        "with its schedule, weight decay and clipping, dropout, Matryoshka widths, the choice of a step by "
        "listings held back, and the code that measures.",
        "",
    ]
    for variant, measured in compared.rivals.items():
        counts = [_manifest(one.trained)["counts"] for one in measured]
        lines.append(f"- `{variant.name}`: {_described(variant, counts)}")
    lines += [
        "",
        "Each row is the mean over seeds of ours − theirs on the same queries or listings. *Alone* is the 95 % "
        "interval of that row by itself, *corrected* one that holds for all rows together. The last column is strict "
        "with ours: higher only by the corrected interval, lower already by the one alone.",
        "",
        "| metric | ours | theirs | ours | theirs | difference | alone | p | p (Holm) | corrected | by seed | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        metric, ours, theirs, *numbers, verdict = _cells(row)
        by_seed = " ".join(signed(value) for value in row.finding.by_seed)
        lines.append(f"| `{metric}` | `{ours}` | `{theirs}` | {' | '.join(numbers)} | {by_seed} | {verdict} |")
    if missing:
        lines += ["", "Not compared:", "", *(f"- `{name}`: {why}" for name, why in missing.items())]
    return "\n".join(lines) + "\n"


def _described(variant: Variant, counts: Sequence[Mapping[str, Any]]) -> str:
    kinds = counts[0]["examples"]
    of = {"clicks": "clicks", "search_relevance": variant.search, "distill": variant.distill}
    losses = ", ".join(f"{LOSSES[of[kind]]} on the {NAMES[kind]}" for kind in kinds)
    mean = {kind: f"{np.mean([one['steps_of'][kind] for one in counts]):,.1f}".removesuffix(".0") for kind in kinds}
    steps = ", ".join(f"{mean[kind]} with {NAMES[kind]}" for kind in kinds)
    left_out = sum(one["left_out"] for one in counts)
    without = f" {left_out:,} clicks stood in no batch." if left_out else ""
    return f"{losses}, each in MatryoshkaLoss; {MIXES[variant.mix]}. Steps: {steps}.{without}"


def _steps(counts: Sequence[Mapping[str, Any]]) -> str:
    return " or ".join(f"{steps:,}" for steps in sorted({one["steps"] for one in counts}))


def _cells(row: Row) -> tuple[str, ...]:
    """metric, models, figures, difference, interval, p, p (Holm), corrected interval, verdict."""
    one = row.finding
    return (
        one.metric,
        one.comparison.first,
        one.comparison.second,
        number(row.ours),
        number(row.theirs),
        signed(one.estimate),
        f"[{signed(one.ci_low)}, {signed(one.ci_high)}]",
        p_value(one.p),
        p_value(one.p_holm),
        f"[{signed(one.simultaneous_low)}, {signed(one.simultaneous_high)}]",
        row.verdict,
    )


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    assert manifest is not None  # it was made or found complete before
    return manifest
