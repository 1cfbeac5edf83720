"""All checks over one folder of prepared tables; what they say goes to `validation.json`.

{"about": {...}, "findings": [{check, severity, table, count, share, message, do, examples}, …],
 "distributions": {name: {class: count}}}
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from distill.artifacts import read_json, write_atomic
from distill.config import DataConfig
from distill.data.summary import Summary
from distill.data.validation.about import About
from distill.data.validation.click_screen import Screened, click_findings
from distill.data.validation.distributions import Distribution, column, distributions
from distill.data.validation.drift import drift
from distill.data.validation.findings import Finding, as_records, finding, from_records, ordered
from distill.data.validation.intake import check_intake
from distill.data.validation.languages import UNKNOWN
from distill.data.validation.relations import check_relations
from distill.data.validation.titles import check_titles

FILE = "validation.json"
# A language is out of place that this share of keyphrases is in, and less than that share of titles.
_ASKED, _OFFERED = 0.03, 0.005
_READABLE = 50  # keyphrases whose language is known, at least


@dataclasses.dataclass(frozen=True)
class Validation:
    """What is known of a folder of prepared tables."""

    about: About = dataclasses.field(default_factory=About)
    findings: tuple[Finding, ...] = ()  # worst first
    distributions: dict[str, Distribution] = dataclasses.field(default_factory=dict)


def validate(folder: Path, summary: Summary, about: About, clicks: Screened, config: DataConfig) -> Validation:
    """Checks the prepared tables in `folder` and writes `validation.json` there.

    Args:
      folder: of the prepared tables.
      summary: what was done to make them.
      about: what their source says of itself.
      clicks: the outcome of screening the clicks table for impossible clicks.
      config: the settings of both; `previous` names the tables of an earlier run to compare with, if any.
    """
    shapes = distributions(folder)
    found = [*check_intake(summary, folder), *check_relations(folder)]
    found += click_findings(clicks, config.screening.possible_ctr)
    ids, titles = column(folder, "items", "item_id"), column(folder, "items", "title")
    if ids is not None and titles is not None:
        found += check_titles(ids, titles)
    found += check_languages(shapes)
    if config.previous:
        earlier = Path(config.previous)  # `splits.find_earlier` has looked at it before any work
        found += drift(folder, earlier, shapes, distributions(earlier))
    validation = Validation(about, tuple(ordered(found)), shapes)
    record = {
        "about": dataclasses.asdict(about),
        "findings": as_records(validation.findings),
        "distributions": shapes,
    }
    write_atomic(folder / FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return validation


def read_validation(folder: Path) -> Validation:
    """What `validate` wrote to `folder`; an empty one where it did not."""
    if not (folder / FILE).exists():
        return Validation()
    record = read_json(folder / FILE)
    about = About(**(record["about"] | {"simulated": tuple(record["about"]["simulated"])}))
    return Validation(about, tuple(from_records(record["findings"])), record["distributions"])


def check_languages(shapes: dict[str, Distribution]) -> list[Finding]:
    """Languages that buyers search in and sellers do not write in."""
    asked = {name: count for name, count in shapes.get("keyphrase language", {}).items() if name != UNKNOWN}
    offered = {name: count for name, count in shapes.get("title language", {}).items() if name != UNKNOWN}
    total, titles = sum(asked.values()), sum(offered.values())
    found = []
    for name, count in asked.items():
        share, there = count / total, offered.get(name, 0) / max(1, titles)
        if total >= _READABLE and titles and share >= _ASKED and there < _OFFERED:
            found.append(
                finding(
                    f"language: {name}",
                    "warning",
                    "keyphrases",
                    count,
                    total,
                    f"{share:.1%} of the keyphrases whose language can be told are in {name!r}, "
                    f"and {there:.1%} of the titles.",
                    "Leave keyphrases of another market out, or use a multilingual encoder; a model of one language "
                    "guesses at them.",
                )
            )
    return found
