"""Rows of original files → rows of a table of the contract, checked by the contract's own rules and counted.

Rows in = rows kept + rows quarantined; nothing else happens to a row here (repetitions are merged by `prepare`).
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import IO, Protocol

import numpy as np
import pyarrow as pa

from distill.config import ScreeningConfig
from distill.data.schema import TABLES, DataError, Problems, Table, read_columns
from distill.data.sets.features import arrow_schema
from distill.data.validation.personal_data import mask_raw

_RAW_CHARACTERS = 2000  # of a bad row that the quarantine keeps
QUARANTINE = "quarantine.jsonl"  # beside the records of a built table
_SPLITLESS = "train"  # the TFDS split of rows that have none of their own


class EmptyTable(DataError):
    """A table without a usable row, which cannot become a TFDS data set."""


@dataclasses.dataclass
class RawRows:
    """Some consecutive rows of an original file, as columns of one table of the contract."""

    file: str
    lines: np.ndarray  # int64 [rows], from 1; in Parquet the row number
    columns: dict[str, pa.Array]  # as `readers.Chunk` has them
    faults: dict[str, np.ndarray]  # reason → bool [rows]: what the file's own form already rules out
    raw: Callable[[int], str]  # position → the row as it stands in the file


class Source(Protocol):
    """Original files that can be read as tables of the contract, again and again in the same order."""

    def hashes(self, table: str) -> dict[str, str]:
        """Hash of each file that `table` is read from."""
        ...

    def rows(self, table: str) -> Iterator[RawRows]: ...


@dataclasses.dataclass
class Survey:
    """Counts of one table; `rows` is the sum of `kept` and `quarantined`."""

    rows: int = 0
    splits: dict[str, int] = dataclasses.field(default_factory=dict)  # TFDS split → rows kept
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)  # of the quarantined rows

    @property
    def kept(self) -> int:
        return sum(self.splits.values())

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())


def checked(table: Table, raw: RawRows) -> tuple[pa.Table, Problems]:
    """The good rows in the types of `features.arrow_schema`, and what is wrong with the others."""
    problems = Problems(len(raw.lines))
    for reason, rows in raw.faults.items():
        problems.add(rows, reason)
    values = read_columns(table, raw.columns, problems)
    if table.name == "events":  # read as counts of 0 or 1; what is stored says the same in one way
        values["event"] = pa.array(
            np.where(values["impressions"] > 0, "impression", "click").astype(object), pa.string()
        )
        values["clicked"] = values["clicks"] > 0
    good = pa.array(problems.good)
    schema = arrow_schema(table)
    columns = []
    for field in schema:
        column = values[field.name]
        if isinstance(column, np.ndarray):
            column = pa.array(column, mask=np.isnan(column)) if column.dtype == np.float64 else pa.array(column)
        columns.append(column.filter(good).cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema), problems


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
      DataError: more than `max_bad_share` of the rows are bad.
      EmptyTable: no row is usable.
    """
    table = TABLES[name]
    counts = Survey()
    reasons: collections.Counter[str] = collections.Counter()
    splits: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    for raw in source.rows(name):
        good, problems = checked(table, raw)
        counts.rows += len(raw.lines)
        splits.update(split_names(table, good).tolist())
        for row in np.flatnonzero(~problems.good).tolist():
            reason, line = problems.reason(row), int(raw.lines[row])
            reasons[reason] += 1
            examples.setdefault(reason, f"{raw.file}, line {line}")
            masked = mask_raw(raw.raw(row), ScreeningConfig().phone_regions, False, _RAW_CHARACTERS)
            record = {"file": raw.file, "line": line, "reason": reason, "raw": masked}
            quarantine.write(json.dumps(record, ensure_ascii=False) + "\n")
    counts.splits, counts.reasons = dict(sorted(splits.items())), dict(reasons.most_common())
    if counts.quarantined > max_bad_share * counts.rows:
        worst = "; ".join(f"{count:,} × {why} ({examples[why]})" for why, count in list(counts.reasons.items())[:3])
        raise DataError(
            f"table {name!r}: {counts.quarantined:,} of {counts.rows:,} rows are bad "
            f"({counts.quarantined / counts.rows:.1%}), more than max_bad_share={max_bad_share:g}. Commonest: {worst}. "
            "Repair the file, or raise max_bad_share."
        )
    if not counts.kept:
        raise EmptyTable(f"table {name!r}: none of its {counts.rows:,} rows is usable. At least one is needed.")
    return counts
