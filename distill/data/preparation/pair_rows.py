"""Tables of pairs, in two pure steps that a process or a Beam pipeline runs: check a chunk, merge a range of items.

`check_rows` turns a chunk of a file into rows that refer to the catalogue by number. All rows of some items together go
through `merge_rows`, which puts repetitions together and splits what is left. Both are vectorised, and what they give
depends neither on how a file is cut into chunks nor on the order in which rows arrive: a row bears its file's number
and its line.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.config import ScreeningConfig
from distill.data.preparation.catalogue import BAD, UNKNOWN, Catalogue
from distill.data.preparation.checking import Columns, TableCounts, check_chunk
from distill.data.preparation.chunks import Chunk, Names
from distill.data.preparation.ranks import Cells, rank_cells
from distill.data.preparation.sources import DataFile, Sources
from distill.data.schema import TABLES, Problems, Table
from distill.data.summary import NOT_THERE, QUARANTINED
from distill.data.tables import SPLIT

_KINDS = {"integer": pa.float64(), "number": pa.float64(), "flag": pa.bool_()}
_IDS = ("item", "keyphrase")  # kinds of the columns that refer to the catalogue


@dataclasses.dataclass(frozen=True)
class Input:
    """One file of a task."""

    table: Table  # `events` or the task's own
    file: DataFile
    names: Names
    number: int  # among the files of the task: of repetitions, the later file's counts
    place: int  # among the files of its table
    screening: ScreeningConfig  # what to do with personal data in keyphrases


@dataclasses.dataclass(frozen=True)
class Task:
    """A prepared table and the files that it is made of; `clicks` is made of clicks and events."""

    target: Table
    inputs: tuple[Input, ...]


def tasks(sources: Sources, names: tuple[str, ...], screening: ScreeningConfig) -> list[Task]:
    """The tasks of these tables, as far as there are files for them."""
    out = []
    for name in names:
        inputs: list[Input] = []
        for table in ("clicks", "events") if name == "clicks" else (name,):
            source = sources.tables.get(table)
            for place, file in enumerate(source.files if source else ()):
                called = source.names if source else Names()
                inputs.append(Input(TABLES[table], file, called, len(inputs), place, screening))
        if inputs:
            out.append(Task(TABLES[name], tuple(inputs)))
    return out


def _others(target: Table) -> list[tuple[str, str]]:
    return [(column.name, column.kind) for column in target.columns if column.kind not in _IDS]


def row_schema(target: Table) -> pa.Schema:
    """Of checked rows: numbers in place of ids, then the table's own columns, then where the row comes from.

    In `clicks`, `events` is the number of event rows that a row sums up, 0 for a row of the clicks table.
    """
    fields = [("item", pa.int32()), ("keyphrase", pa.int32())]
    fields += [(name, _KINDS.get(kind, pa.string())) for name, kind in _others(target)]
    fields += [("file", pa.int32()), ("line", pa.int64())]
    return pa.schema(fields + ([("events", pa.int64())] if target.name == "clicks" else []))


@dataclasses.dataclass
class Checked:
    """The outcome of a chunk."""

    rows: pa.Table  # of `row_schema`
    bad: list[dict[str, Any]]  # records for the quarantine
    counts: TableCounts


def check_rows(
    target: Table, source: Input, chunk: Chunk, catalogue: Catalogue, met: set[str] | None = None
) -> Checked:
    """The chunk's good rows, with numbers for ids; every keyphrase text is added to `met`, of bad rows too.

    Events are summed by pair and rank at once: all of them count whole numbers, so that where a chunk ends is nothing.
    """

    def resolve(values: Columns, problems: Problems) -> None:
        texts, ids = values.pop("keyphrase"), values.pop("item_id")
        if met is not None:
            met.update(texts.unique().to_pylist())
        item = catalogue.items.find(ids)
        problems.add(item == BAD, QUARANTINED["item_id"])
        problems.add(item == UNKNOWN, NOT_THERE["item_id"])
        keyphrase = catalogue.keyphrases.find(texts)
        problems.add(keyphrase == BAD, QUARANTINED["keyphrase"])
        problems.add(keyphrase == UNKNOWN, NOT_THERE["keyphrase"])
        values |= {"item": item, "keyphrase": keyphrase}

    values, kept, bad, counts = check_chunk(
        source.table, chunk, source.file.name, source.place, source.screening, resolve
    )
    values |= {"line": chunk.lines[kept], "file": np.full(len(kept), source.number, np.int32)}
    if source.table.name == "events":
        values = _sum_events(values | {"events": np.ones(len(kept), np.int64), "line": np.zeros(len(kept), np.int64)})
    elif target.name == "clicks":
        values["events"] = np.zeros(len(kept), np.int64)
    schema = row_schema(target)
    return Checked(pa.table([values[name] for name in schema.names], schema=schema), bad, counts)


def _sum_events(values: Columns) -> Columns:
    """One row for each pair and rank, sorted by these."""
    if not len(values["item"]):
        return values
    order = np.lexsort([values["position"], values["keyphrase"], values["item"]])
    values = {name: column[order] for name, column in values.items()}
    rank = np.nan_to_num(values["position"], nan=-1.0)  # NaN differs from itself
    starts = _starts(values["item"], values["keyphrase"], rank)
    sums = {name: np.add.reduceat(values[name], starts) for name in ("impressions", "clicks", "events")}
    return {name: column[starts] for name, column in values.items()} | sums


def _starts(*keys: np.ndarray) -> np.ndarray:
    """Where runs of equal keys begin; one row at least."""
    changes = np.zeros(len(keys[0]) - 1, bool)
    for key in keys:
        changes |= np.diff(key) != 0
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def partition(items: np.ndarray, catalogue_items: int, partitions: int) -> np.ndarray:
    """int64 [rows]: which of `partitions` ranges of item numbers, of about one length, each item stands in."""
    return items.astype(np.int64) * partitions // catalogue_items


@dataclasses.dataclass
class MergeCounts:
    """What became of a table's good rows: their number is `kept + merged + removed`."""

    kept: int = 0
    training: int = 0
    holdout: int = 0
    merged: int = 0
    removed: int = 0
    unseen_clicks: int = 0  # clicks beyond a pair's impressions in `events`

    def add(self, other: MergeCounts) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclasses.dataclass
class Merged:
    """The rows of some items, merged, sorted by item, keyphrase and key: what `tables.final_table` takes."""

    training: pa.Table  # all rows, of a table that is not split
    holdout: pa.Table | None  # of `SPLIT` tables alone
    counts: dict[str, MergeCounts]  # by the table that rows came from
    ranks: Cells | None  # of `clicks` alone, of the training rows


def merge_rows(target: Table, rows: pa.Table, holdout: np.ndarray, trainable: np.ndarray) -> Merged:
    """Merges repetitions and splits what is left.

    Of repetitions the last counts, by file and line. In `clicks`, impressions and clicks add up, those of `events` too,
    and the position becomes its mean weighted by impressions. Clicks beyond the impressions that a pair has in `events`
    each count as an impression too, since what was clicked was shown.

    Args:
      target: the prepared table.
      rows: of `row_schema`, in any order; all of the items that they name.
      holdout: bool [N], of the catalogue's items.
      trainable: bool [K], of its keyphrases.
    """
    columns = {name: _column(rows[name]) for name in rows.column_names}
    if target.name == "clicks" and len(rows):
        columns = _whole_events(columns)
    codes = [_codes(columns[name]) for name in target.key]
    order = np.lexsort([columns["line"], columns["file"], *codes[::-1], columns["keyphrase"], columns["item"]])
    columns = _take(columns, order)
    if not len(order):
        starts = last = np.zeros(0, np.int64)
    else:
        starts = _starts(columns["item"], columns["keyphrase"], *(code[order] for code in codes))
        last = np.append(starts[1:], len(order)) - 1
    out = _take(columns, last)
    of_events = np.zeros(len(last), bool)
    unseen = 0
    if target.name == "clicks" and len(order):
        summed, unseen = _sum_clicks(columns, starts)
        out |= summed
        of_events = np.logical_and.reduceat(columns["events"] > 0, starts)
    held = holdout[out["item"]] if target.name in SPLIT else np.zeros(len(last), bool)
    train = ~held & trainable[out["keyphrase"]] if target.name in SPLIT else ~held
    counts = {}
    for name in dict.fromkeys((target.name, "events" if target.name == "clicks" else target.name)):
        own = of_events == (name == "events")
        counts[name] = MergeCounts(training=int((train & own).sum()), holdout=int((held & own).sum()))
        counts[name].kept = counts[name].training + counts[name].holdout
        counts[name].removed = int(own.sum()) - counts[name].kept
        if name == "events":
            counts[name].unseen_clicks = unseen
            counts[name].merged = int(columns["events"].sum()) - int(own.sum())
        else:
            stood = int((columns["events"] == 0).sum()) if target.name == "clicks" else len(order)
            counts[name].merged = stood - int(own.sum())
    ranks = None
    if target.name == "clicks":
        keep = np.repeat(train, np.diff(starts, append=len(order)))
        names = ("item", "keyphrase", "position", "impressions", "clicks")
        ranks = rank_cells(*(columns[name][keep] for name in names))
    final = pa.table({name: out[name] for name in (*_IDS, *(name for name, _ in _others(target)))})
    parts = [final.filter(pa.array(mask)) for mask in (train, held)]
    return Merged(parts[0], parts[1] if target.name in SPLIT else None, counts, ranks)


def _column(column: pa.ChunkedArray) -> Any:
    whole = column.combine_chunks()
    return whole if pa.types.is_string(whole.type) else whole.to_numpy(zero_copy_only=False)


def _take(columns: Columns, rows: np.ndarray) -> Columns:
    return {
        name: column.take(pa.array(rows)) if isinstance(column, pa.Array) else column[rows]
        for name, column in columns.items()
    }


def _codes(texts: pa.Array) -> np.ndarray:
    """Integers in the order of the texts."""
    encoded = texts.dictionary_encode()
    place = np.empty(len(encoded.dictionary), np.int64)
    place[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(place))
    return place[encoded.indices.to_numpy()] if len(place) else np.zeros(0, np.int64)


def _whole_events(columns: Columns) -> Columns:
    """The rows with those of events summed up whole, so that nothing depends on how these came in parts."""
    events = columns["events"] > 0
    if not events.any():
        return columns
    summed = _sum_events({name: column[events] for name, column in columns.items()})
    # The sums stand behind all rows of the clicks table, in the order of ranks.
    summed["file"] = np.full(len(summed["item"]), np.iinfo(np.int32).max, np.int32)
    summed["line"] = np.arange(len(summed["item"]))
    return {name: np.concatenate([column[~events], summed[name]]) for name, column in columns.items()}


def _sum_clicks(columns: Columns, starts: np.ndarray) -> tuple[Columns, int]:
    """impressions, clicks and position of each pair, and how many clicks were taken for impressions too."""
    shown, clicks, position, events = (columns[name] for name in ("impressions", "clicks", "position", "events"))
    surplus = np.add.reduceat(np.where(events > 0, clicks - shown, 0.0), starts)
    unseen = np.maximum(surplus, 0.0)
    placed = ~np.isnan(position)
    where = np.where(placed, position, 0.0)
    weight = np.where(placed, shown, 0.0)
    total = np.add.reduceat(weight, starts)
    rows = np.add.reduceat(placed.astype(np.float64), starts)
    by_shown = np.add.reduceat(weight * where, starts) / np.where(total > 0, total, 1.0)
    by_rows = np.add.reduceat(where, starts) / np.where(rows > 0, rows, 1.0)  # where nothing with a position was shown
    mean = np.where(total > 0, by_shown, np.where(rows > 0, by_rows, np.nan))
    alone = np.diff(starts, append=len(shown)) == 1
    return {
        "impressions": np.add.reduceat(shown, starts) + unseen,
        "clicks": np.add.reduceat(clicks, starts),
        "position": np.where(alone, position[starts], mean),
    }, int(unseen.sum())
