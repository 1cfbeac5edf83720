"""Rows of original files → rows of a table of the contract, checked as `prepare` checks them, and counted.

Rows in = rows kept + rows quarantined; nothing else happens to a row here: repetitions are merged, and personal data in
keyphrases dropped or masked, by `prepare`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa

from distill.config import ScreeningConfig
from distill.data.preparation.checking import Columns, TableCounts, check_chunk, check_share, write_bad
from distill.data.preparation.chunks import Chunk
from distill.data.preparation.sources import TableSource
from distill.data.schema import TABLES, DataError, Problems, Table
from distill.data.sets.features import arrow_schema
from distill.data.validation.personal_data import mask_raw

QUARANTINE = "quarantine.jsonl"  # beside the records of a built table
_RAW_CHARACTERS = 2000  # of a bad row that the quarantine keeps
_KEEP = ScreeningConfig(personal_data="keep")
_SPLITLESS = "train"  # the TFDS split of rows that have none of their own


class TooManyBadRows(DataError):
    """A table with a larger share of bad rows than is allowed."""


class EmptyTable(DataError):
    """A table without a usable row, which cannot become a TFDS data set."""


class Source(Protocol):
    """Original files that can be read as tables of the contract, again and again in the same order."""

    def hashes(self, table: str) -> dict[str, str]:
        """Hash of each file that decides what is in `table`."""
        ...

    def files(self, table: str) -> TableSource:
        """The files whose rows become rows of `table`."""
        ...

    def rows(self, table: str) -> Iterator[tuple[int, Chunk]]:
        """Number among `files` and some consecutive rows of that file, as columns of the contract."""
        ...


def first_faults(faults: Mapping[str, np.ndarray]) -> dict[int, str]:
    """reason → bool [rows], most important first, as `Chunk.faults`: position → the first of its reasons."""
    found: dict[int, str] = {}
    for reason, rows in faults.items():
        for position in np.flatnonzero(rows).tolist():
            found.setdefault(position, reason)
    return found


@dataclasses.dataclass
class Survey:
    """Counts of one table; `rows` is the sum of `kept` and `quarantined`."""

    splits: dict[str, int]  # TFDS split → rows kept
    counts: TableCounts

    @property
    def kept(self) -> int:
        return sum(self.splits.values())

    def metadata(self) -> dict[str, Any]:
        """What is stored with the built table."""
        return {
            "rows": self.counts.rows,
            "kept": self.kept,
            "quarantined": self.counts.quarantined,
            "reasons": self.counts.worst_first(),
            "ignored": sorted(self.counts.extra),  # columns that the contract does not know
        }


def checked(
    table: Table, chunk: Chunk, file: str = "", number: int = 0
) -> tuple[pa.Table, np.ndarray, list[dict[str, Any]], TableCounts]:
    """`check_chunk` with the good rows in the types of `features.arrow_schema` and no personal data in the others."""

    def raw(position: int) -> str:
        return mask_raw(chunk.raw(position), ScreeningConfig().phone_regions, False, _RAW_CHARACTERS)

    masked = dataclasses.replace(chunk, raw=raw)
    resolve = _whole_events if table.name == "events" else _as_they_are
    values, good, bad, counts = check_chunk(table, masked, file, number, _KEEP, resolve)
    schema = arrow_schema(table)
    columns = []
    for field in schema:
        column = values[field.name]
        if isinstance(column, np.ndarray):
            column = pa.array(column, mask=np.isnan(column)) if column.dtype == np.float64 else pa.array(column)
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema), good, bad, counts


def _as_they_are(values: Columns, problems: Problems) -> None:
    """Whether the ids of a pair exist is for `prepare` to ask."""


def _whole_events(values: Columns, problems: Problems) -> None:
    """Events are read as counts of 0 or 1; what is stored says the same in one way."""
    event = np.where(values["impressions"] > 0, "impression", "click").astype(object)
    values["event"], values["clicked"] = pa.array(event, pa.string()), values["clicks"] > 0


def split_names(table: Table, rows: pa.Table) -> np.ndarray:
    """The TFDS split of each row, object [rows]."""
    if "split" not in rows.column_names:
        return np.full(len(rows), _SPLITLESS, object)
    splits = rows["split"].to_numpy(zero_copy_only=False).astype(object)
    splits[splits == ""] = _SPLITLESS
    return splits


def survey(source: Source, name: str, quarantine: IO[str], max_bad_share: float) -> Survey:
    """Reads the whole table once and counts; each bad row goes to `quarantine` with its file, line, reason and text.

    Raises:
      TooManyBadRows: more than `max_bad_share` of the rows are bad.
      EmptyTable: no row is usable.
    """
    table, place = TABLES[name], source.files(name)
    counts = TableCounts()
    splits: collections.Counter[str] = collections.Counter()
    for number, chunk in source.rows(name):
        good, _, bad, found = checked(table, chunk, place.files[number].name, number)
        write_bad(quarantine, bad)
        counts.add(found)
        splits.update(split_names(table, good).tolist())
    try:
        check_share(place, counts, max_bad_share, "--max_bad_share")
    except DataError as error:
        raise TooManyBadRows(str(error)) from error
    if not splits:
        raise EmptyTable(
            f"{place.place}: none of {counts.rows:,} rows for the table {name!r} is usable; one is needed at least"
        )
    return Survey(dict(sorted(splits.items())), counts)
