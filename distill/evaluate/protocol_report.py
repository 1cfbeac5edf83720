"""The report's section on the evaluation protocol: what each source adds, by whose judgement, and where."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import markupsafe

FIGURES = {
    "relevant_per_item": ("relevant", "Relevant keyphrases that a listing gains: new, and not rejected by the search."),
    "relevant_share": ("share relevant", "Of a listing's keyphrases that the judge knows, those that are relevant."),
    "exclusive_relevant_per_item": ("only here", "Relevant keyphrases of a listing that no other source has."),
    "head_relevant_per_item": ("relevant head", "Relevant keyphrases among the most searched ones."),
    "head_share": ("head share", "Of a listing's relevant keyphrases of known search volume, those of the head."),
    "align_both": ("both pass", "Of the new keyphrases of which search engine and judge both speak: both pass."),
    "align_neither": ("neither", "Neither passes."),
    "align_only_search": ("search alone", "The search engine passes what the judge calls irrelevant."),
    "align_only_judge": ("judge alone", "The judge calls relevant what the search engine does not pass."),
}
_KINDS = {
    "replay": "grades of the judgements table",
    "simulated": "the marketplace's simulated judge",
    "llm": "a language model",
    "assistant": "the assistant",
}
_VERDICT = {1: "yes", 0: "no"}


def protocol_section(environment: jinja2.Environment, protocol: Mapping[str, Any]) -> markupsafe.Markup:
    """The section's HTML; empty where there is no protocol.

    Args:
      environment: with the report's filters, and autoescape on, for titles and keyphrases are strangers' words.
      protocol: what `protocol.json` holds (docs/protocol.md).
    """
    if not protocol:
        return markupsafe.Markup()
    template = resources.files("distill.evaluate").joinpath("protocol.html.jinja").read_text("utf-8")
    page = environment.from_string(template).render(
        protocol=protocol,
        figures=FIGURES,
        judges={label: _judge(label, part) for label, part in protocol["judges"].items()},
        verdict=lambda value: _VERDICT.get(value, "unknown"),
    )
    return markupsafe.Markup(page)


def _judge(label: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """One judge's part, with what the template would have to work out."""
    graded, asked = part["statuses"].get("graded", 0), sum(part["statuses"].values())
    measured = [name for name in FIGURES if any(name in found for found in part["figures"].values())]
    return {
        **part,
        "kind": _KINDS.get(label, label),
        "graded": graded,
        "asked": asked,
        "columns": measured,
        "differences": [row | {"finding": _finding(row)} for row in part["differences"]],
    }


def _finding(row: Mapping[str, Any]) -> str:
    if row["low"] is None or row["high"] is None:
        return "untested"
    return "more" if row["low"] > 0 else "less" if row["high"] < 0 else "no clear difference"
