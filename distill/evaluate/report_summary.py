"""The report's first page beside the verdict: what is simulated, what is missing and why, and where it fails."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluate.report_contents import Example, ReportData
from distill.evaluate.report_quality import ByMetric

_FAMILIES = {
    "human": "Nothing was measured against people: there is no human label of the test split.",
    "holdout": "Nothing was measured against the judge: it graded no pair of a held-out listing.",
    "truth": "How much of the truth is found, and of what buyers never saw, is unknown: only a simulated marketplace "
    "knows the truth.",
    "align": "Whether recommendations pass the search engine is unknown: there is no search_relevance row of a "
    "held-out listing.",
}

_TOLD = ("clicks", "events", "human", "judgements")  # tables that `simulated` has sentences for


def tally(verdict: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """finding → how many of the verdict's comparisons came out so."""
    return dict(collections.Counter(rival["finding"] for entry in verdict for rival in entry["rivals"]))


def simulated(data: ReportData) -> list[str]:
    """What is not of the real world, one sentence each."""
    found = []
    if data.simulated_clicks:
        found.append(
            "The clicks are simulated: they were drawn from a model of buyers, not from buyers, so what beats or "
            "follows them is a check of the method, not evidence about a market."
        )
    if data.simulated_humans:
        found.append("The human labels are simulated: they are the known truth with errors.")
    if data.simulated_judge:
        found.append("The judge is simulated: no language model was asked, its grades are the known truth with errors.")
    named = data.data_page.about.simulated if data.data_page else ()
    others = [name for name in named if name not in _TOLD]
    if others:
        found.append(f"By its owner's word this of the data is simulated too: {', '.join(others)}.")
    return found


def gaps(data: ReportData, figures: ByMetric, judged_by_people: bool) -> list[str]:
    """What a reader could expect and does not find, with the reason, one sentence each."""
    families = {metric.partition("/")[0] for metric in figures}
    found = [data.absent.get(family, text) for family, text in _FAMILIES.items() if family not in families]
    measured = {model for by_model in figures.values() for model in by_model}
    unknown = [model for model in data.baselines if model not in measured]
    if unknown and figures:
        found.append(f"Not compared with {', '.join(unknown)}: not among the models that this run measured.")
    if not judged_by_people:
        found.append("How far the judge agrees with people is unknown: no pair was graded by both.")
    if not data.protocol:
        found.append(
            "What each source adds beyond the others was not counted: the protocol was not run (evaluate --protocol)."
        )
    if data.missing:
        found.append(f"Figures that could not be computed, with their reasons below the models: {len(data.missing):,}.")
    found.append("Another training seed was not tried: the intervals cover the choice of test cases alone.")
    return found


def wrong(data: ReportData, example: Example) -> tuple[int, int]:
    """(recommended keyphrases that the judge calls wrong, those that it graded)."""
    grades = [one.grade for one in example.keyphrases if one.grade is not None]
    return sum(grade < data.relevant_grade for grade in grades), len(grades)
