"""How prepared tables fit together: what nobody clicked, judged or showed, and labels that say nothing."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.data.validation.distributions import batches, column, files, numbers
from distill.data.validation.findings import Finding, finding

_WITHOUT_CATEGORY = 0.2  # share of items from which it is a warning
_CLICKED = 20  # pairs from which it is no chance that all are clicked whenever shown
_TEST_QUERIES = 30  # fewer give intervals too wide to decide on
_AT_ONCE = 300_000  # values that are looked up together


class _Seen:
    """Which of some names stand in a column that comes in pieces."""

    def __init__(self, names: pa.ChunkedArray | None):
        self.names = names if names is not None else pa.chunked_array([], pa.string())
        self._met = np.zeros(len(self.names), bool)
        self._waiting: list[pa.Array] = []

    def add(self, values: pa.Array) -> None:
        self._waiting.append(values.unique())
        if sum(map(len, self._waiting)) > _AT_ONCE:
            self._look_up()

    def _look_up(self) -> None:
        values = pa.chunked_array(self._waiting, pa.string())
        self._met |= pc.is_in(self.names, values).to_numpy()
        self._waiting = []

    def never(self) -> pa.ChunkedArray:
        """The names that stand in no piece."""
        self._look_up()
        return self.names.filter(pa.array(~self._met))


def check_relations(folder: Path) -> list[Finding]:
    """Findings about the prepared tables in `folder` as a whole."""
    return [
        *_categories(folder),
        *_clicks(folder),
        *_constant(folder),
        *_volumes(folder),
        *_referee(folder),
    ]


def _categories(folder: Path) -> Iterator[Finding]:
    category, ids = column(folder, "items", "category"), column(folder, "items", "item_id")
    if category is None or ids is None:
        return
    without = pc.equal(pc.list_value_length(category), 0)
    count = int(pc.sum(without).as_py() or 0)
    if count:
        yield finding(
            "items without category",
            "warning" if count > _WITHOUT_CATEGORY * len(ids) else "note",
            "items",
            count,
            len(ids),
            f"{count:,} of {len(ids):,} items without a category.",
            "Add it where you have it: the encoders read the leaf category before the title.",
            ids.filter(without).slice(0, 3).to_pylist(),
        )


def _clicks(folder: Path) -> list[Finding]:
    keyphrases = _trainable_keyphrases(folder)
    shown, clicked, judged = _Seen(keyphrases), _Seen(keyphrases), _Seen(keyphrases)
    items = _Seen(column(folder, "items", "item_id"))
    rows = clicked_rows = full = unshown = below = 0
    lowest = np.inf
    for batch in batches(folder, "clicks", ["item_id", "keyphrase", "impressions", "clicks", "position"]):
        impressions, clicks = numbers(batch["impressions"]), numbers(batch["clicks"])
        position = numbers(batch["position"])
        rows += len(clicks)
        clicked_rows += int((clicks > 0).sum())
        full += int(((clicks == impressions) & (clicks > 0)).sum())
        unshown += int((impressions == 0).sum())
        below += int((position < 1).sum())
        lowest = min(lowest, float(np.min(position[~np.isnan(position)], initial=np.inf)))
        shown.add(batch["keyphrase"].filter(pa.array(impressions > 0)))
        clicked.add(batch["keyphrase"].filter(pa.array(clicks > 0)))
        items.add(batch["item_id"].filter(pa.array(clicks > 0)))
    for batch in batches(folder, "judgements", ["keyphrase"]):
        judged.add(batch["keyphrase"])
    found: list[Finding] = []
    if rows and not clicked_rows:
        do = "Check the column clicks: the student's clicks task learns nothing from this table."
        found.append(finding("clicks: none", "error", "clicks", rows, rows, "No pair has a click.", do))
    if clicked_rows > _CLICKED and full == rows:
        do = "Check the column impressions: shown pairs without a click seem to be missing, so no rate can be told."
        message = "Every pair is clicked whenever it is shown."
        found.append(finding("clicks: all", "error", "clicks", full, rows, message, do))
    if unshown:
        message, do = f"{unshown:,} of {rows:,} pairs without an impression.", "Leave them out: they say nothing."
        found.append(finding("clicks: not shown", "note", "clicks", unshown, rows, message, do))
    if below:
        message = f"{below:,} of {rows:,} pairs at positions from {lowest:g} to below 1, and 1 should be the top."
        do = "Add 1 if positions are counted from 0; propensities by rank are off by one otherwise."
        found.append(finding("clicks: position below 1", "warning", "clicks", below, rows, message, do))
    if files(folder, "clicks"):
        found += [*_never("keyphrases", "shown", shown), *_never("keyphrases", "clicked", clicked)]
        found += _never("items", "clicked", items)
    if files(folder, "judgements"):
        found += _never("keyphrases", "judged", judged)
    return found


def _trainable_keyphrases(folder: Path) -> pa.ChunkedArray | None:
    """The keyphrases but human queries and near-duplicates, whose rows were removed."""
    keyphrases, trainable = column(folder, "keyphrases", "keyphrase"), column(folder, "keyphrases", "trainable")
    return None if keyphrases is None or trainable is None else keyphrases.filter(trainable)


def _never(what: str, verb: str, seen: _Seen) -> Iterator[Finding]:
    never, every = seen.never(), len(seen.names)
    if len(never):
        yield finding(
            f"{what} never {verb}",
            "note",
            what,
            len(never),
            every,
            f"{len(never):,} of {every:,} {what} never {verb}{', human queries aside' * (what == 'keyphrases')}.",
            "Nothing: judge and assistant are there for them. If they are more than you expect, check how the log was "
            f"joined with {what}.",
            never.slice(0, 3).to_pylist(),
        )


def _constant(folder: Path) -> Iterator[Finding]:
    for table, label in (("judgements", "grade"), ("search_relevance", "passed")):
        rows, values = 0, set()
        for batch in batches(folder, table, [label]):
            rows += len(batch[label])
            values |= set(batch[label].unique().to_pylist())
        if rows > 1 and len(values) == 1:
            yield finding(
                f"{table}: one {label}",
                "error",
                table,
                rows,
                rows,
                f"Every row has the same {label}, {values.pop()}.",
                "Check how the table was exported: a label that never differs teaches nothing.",
            )


def _volumes(folder: Path) -> Iterator[Finding]:
    volume = column(folder, "keyphrases", "search_volume")
    if volume is None or not len(volume):
        return
    unknown = int(volume.null_count)
    if unknown:
        yield finding(
            "keyphrases without search volume",
            "note",
            "keyphrases",
            unknown,
            len(volume),
            f"{unknown:,} of {len(volume):,} keyphrases without a search volume.",
            "Add it where you have it: head and tail, in recommending and in the protocol, are told apart by it.",
        )
    if len(volume) > 1 and not unknown and pc.count_distinct(volume).as_py() == 1:
        message = f"Every keyphrase has the search volume {volume[0].as_py():,}."
        do = "Leave the column out rather than fill it: head and tail would be drawn at random."
        yield finding("keyphrases: one search volume", "warning", "keyphrases", len(volume), len(volume), message, do)


def _referee(folder: Path) -> Iterator[Finding]:
    queries, gains, rows = set(), set(), 0
    for batch in batches(folder, "human", ["keyphrase", "gain", "split"]):
        test = pc.equal(batch["split"], "test")
        rows += len(test)
        queries |= set(batch["keyphrase"].filter(test).unique().to_pylist())
        gains |= set(batch["gain"].filter(test).unique().to_pylist())
    count = len(queries)
    if rows and count < _TEST_QUERIES:
        message = f"Only {count:,} human queries are for the test."
        do = f"Label more, {_TEST_QUERIES} at least: with so few the intervals are too wide to tell models apart."
        yield finding("human: few test queries", "warning", "human", count, count, message, do)
    if count and len(gains) == 1:
        message = f"Every test label has the gain {gains.pop():g}."
        do = "Check the column gain: nothing can be ranked by a label that never differs."
        yield finding("human: one gain", "error", "human", rows, rows, message, do)
