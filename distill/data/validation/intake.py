"""Findings about rows that did not come through: quarantined, merged, removed as leaks, personal data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc

from distill.data.summary import LEFT_OUT, NOT_THERE, QUARANTINED, Summary, TableSummary
from distill.data.validation.distributions import column
from distill.data.validation.findings import Finding, finding, place
from distill.data.validation.personal_data import REASONS

_BAD = 0.01  # share of a table's rows from which a reason for quarantine is a warning
_REPEATED = 0.2  # share of a table's rows that repeat another, from which it is a warning
_TWINS = 0.01  # share of held-out items with a twin in training, from which it is a warning
_ADDED_UP = ("clicks", "events")  # whose repetitions are expected: days or events of a pair

# the beginning of a reason → what to do
_REPAIRS = {
    NOT_THERE["item_id"]: "Export items and logs of the same day, or leave delisted items' rows out.",
    NOT_THERE["keyphrase"]: "Add these to the keyphrases table, or accept that they cannot be recommended.",
    "clicks > impressions": "Count impressions and clicks of the same time and surface.",
    "not UTF-8": "Write the file as UTF-8.",
    "expected ": "Look for separators, quotes and line breaks inside texts; write the file with a CSV library.",
    "a quote is never closed": "Look for separators, quotes and line breaks inside texts; write it with a CSV library.",
    "malformed ": "Write the file with a library for its format.",
    "item_id: repeated with other content": "Export each item once, as it is now.",
    "event: not one of": "Say in data.sources.events.values what is an impression or a click; leave the others out.",
    LEFT_OUT: "Nothing, if this is what you meant.",
}
_NUMBER = "Write numbers as 1200 or 0.5: no separators of thousands, no units, no words."
_OTHERWISE = "Repair these rows where they are made; quarantine.jsonl lists all of them."


def check_intake(summary: Summary, folder: Path) -> list[Finding]:
    """Findings about what `prepare` did with the rows, from its summary and the prepared tables in `folder`."""
    found: list[Finding] = []
    for name, table in summary.tables.items():
        found += [*_quarantined(name, table), *_personal(name, table), *_repeated(name, table)]
    return [*found, *_leaks(summary, folder), *_twins(summary)]


def _quarantined(name: str, table: TableSummary) -> Iterator[Finding]:
    for reason, count in table.reasons.items():
        if reason in REASONS:
            continue
        follows, meant = reason in QUARANTINED.values(), reason == LEFT_OUT
        missing_query = name == "human" and reason == NOT_THERE["keyphrase"]
        do = next((text for start, text in _REPAIRS.items() if reason.startswith(start)), _OTHERWISE)
        if reason.endswith("not a number"):
            do = _NUMBER
        if missing_query:
            do = "Add every human query to the keyphrases table: what is not there cannot be ranked, nor measured."
        yield finding(
            "human queries not in keyphrases" if missing_query else "quarantined",
            "warning" if missing_query or (count > _BAD * table.rows and not (follows or meant)) else "note",
            name,
            count,
            table.rows,
            f"{count:,} of {table.rows:,} rows quarantined: {reason}.",
            "Nothing by itself: see what happened to these items and keyphrases." if follows else do,
            map(place, table.examples.get(reason, ())),
        )


def _personal(name: str, table: TableSummary) -> Iterator[Finding]:
    """Counts of personal data, whether the rows were dropped, masked or kept."""
    for kind, counted in table.personal.items():
        dropped = table.reasons.get(f"keyphrase: holds {kind}", 0)
        masked = counted - dropped if table.masked else 0
        done = [f"{dropped:,} quarantined"] * bool(dropped) + [f"{masked:,} masked"] * bool(masked)
        yield finding(
            f"personal data: {kind}",
            "warning",
            name,
            counted,
            table.rows,
            f"{counted:,} of {table.rows:,} rows with {kind} in the keyphrase: "
            f"{' and '.join(done) or 'kept, as the settings say'}.",
            "Take personal data out of search logs before they are stored; the law may require it."
            if done
            else "Set data.screening.personal_data to drop or mask unless you are sure that this may be used.",
            map(place, table.examples.get(f"keyphrase: holds {kind}", ())),
        )


def _repeated(name: str, table: TableSummary) -> Iterator[Finding]:
    if table.merged and name not in _ADDED_UP:
        yield finding(
            "repeated rows",
            "warning" if table.merged > _REPEATED * table.rows else "note",
            name,
            table.merged,
            table.rows,
            f"{table.merged:,} of {table.rows:,} rows merged with a row like them"
            f"{'' if name in ('items', 'keyphrases') else '; the last one counts'}.",
            "Nothing if this is meant; else look for a join that multiplied rows.",
        )


def _leaks(summary: Summary, folder: Path) -> Iterator[Finding]:
    keyphrases, trainable = column(folder, "keyphrases", "keyphrase"), column(folder, "keyphrases", "trainable")
    queries = column(folder, "human", "keyphrase")
    if keyphrases is None or trainable is None or queries is None:
        return
    kept_out = keyphrases.filter(pc.invert(trainable))  # type: ignore[attr-defined]
    asked = pc.is_in(kept_out, queries.unique())  # type: ignore[attr-defined]
    near = kept_out.filter(pc.invert(asked))  # type: ignore[attr-defined]
    rows = {name: table.removed - table.impossible for name, table in summary.tables.items()}
    removed = ", ".join(f"{count:,} of {name}" for name, count in rows.items() if count)
    for what, count, examples in (
        ("human queries", summary.human_queries, kept_out.filter(asked)),
        ("near-duplicates of human queries", summary.near_duplicates, near),
    ):
        if count:
            yield finding(
                f"leakage: {what}",
                "note",
                "keyphrases",
                count,
                len(keyphrases),
                f"{count:,} of {len(keyphrases):,} keyphrases kept out of everything that trains, as {what}"
                f"{f' (rows removed, of both kinds: {removed})' if removed else ''}.",
                "Nothing: so it must be."
                if what == "human queries"
                else "Nothing; if they are too many, raise data.near_duplicate_jaccard.",
                examples.slice(0, 3).to_pylist(),
            )


def _twins(summary: Summary) -> Iterator[Finding]:
    if summary.twins_across_splits:
        yield finding(
            "leakage: twin titles across splits",
            "warning" if summary.twins_across_splits > _TWINS * summary.holdout_items else "note",
            "items",
            summary.twins_across_splits,
            summary.holdout_items,
            f"{summary.twins_across_splits:,} of {summary.holdout_items:,} held-out items with a twin in training.",
            "Leave the column split out, and whole clusters of twins are held out together; figures on held-out items "
            "flatter otherwise."
            if summary.split_from == "items table"
            else "They came later than the split of the earlier run, and figures on held-out items flatter: when they "
            "are too many, split afresh, without data.previous.",
        )
