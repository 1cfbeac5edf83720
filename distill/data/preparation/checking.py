"""The rows of a chunk that keep the rules, the quarantine's records of those that do not, and counts of both.

Everything here depends on the chunk alone, and counts add up in any order, so chunks may be checked anywhere.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import json
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa

from distill.config import ScreeningConfig
from distill.data.preparation.chunks import Chunk
from distill.data.preparation.readers import read_table
from distill.data.preparation.sources import TableSource
from distill.data.schema import DataError, Problems, Table, read_columns
from distill.data.summary import LEFT_OUT, QUARANTINED
from distill.data.validation import personal_data

_RAW_CHARACTERS = 2000  # of a bad row that the quarantine keeps
_EXAMPLES = 3
_REASONS = 50  # that are told one by one: those that name what a file holds may be as many as its rows
OTHER_REASONS = "other reasons, in quarantine.jsonl"
_NO_DAMAGE = (*QUARANTINED.values(), *personal_data.REASONS, LEFT_OUT)  # reasons that are no fault of the row's own

Columns = dict[str, Any]  # numbers and flags as numpy arrays, texts as Arrow arrays
Resolve = Callable[[Columns, Problems], None]  # adds and replaces columns and notes further problems


@dataclasses.dataclass
class TableCounts:
    """Counts over some chunks of a table."""

    rows: int = 0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # of quarantined rows
    examples: dict[str, list[tuple[int, int]]] = dataclasses.field(default_factory=dict)  # reason → first (file, line)
    extra: set[str] = dataclasses.field(default_factory=set)  # columns that the contract does not know
    personal: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # kind → rows with it

    def add(self, other: TableCounts) -> None:
        self.rows += other.rows
        self.reasons.update(other.reasons)
        for reason, places in other.examples.items():
            self.examples[reason] = heapq.nsmallest(_EXAMPLES, [*self.examples.get(reason, ()), *places])
        self.extra |= other.extra
        self.personal.update(other.personal)

    @property
    def quarantined(self) -> int:
        return self.reasons.total()

    @property
    def consequences(self) -> int:
        """Of the quarantined rows, those not damaged: of a bad item or keyphrase, with personal data, or not wanted."""
        return sum(self.reasons[reason] for reason in _NO_DAMAGE)

    def worst_first(self) -> dict[str, int]:
        """Reason → rows, the most frequent first; the last of very many are one, but for those of no fault."""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        rare = {reason: count for reason, count in ordered[_REASONS:] if reason not in _NO_DAMAGE}
        told = {reason: count for reason, count in ordered if reason not in rare}
        return told | ({OTHER_REASONS: sum(rare.values())} if rare else {})


def check_chunk(
    table: Table, chunk: Chunk, file: str, number: int, screening: ScreeningConfig, resolve: Resolve
) -> tuple[Columns, np.ndarray, list[dict[str, Any]], TableCounts]:
    """Sorts the good rows from the bad.

    Args:
      table: that the chunk belongs to.
      chunk: as a reader gives it.
      file, number: the file's name, for the quarantine, and its place among the table's files.
      screening: what to do with personal data in keyphrases.
      resolve: what else to do with the values.

    Returns:
      The good rows' columns, their positions in the chunk, the quarantine's records of the others (file, line, reason,
      raw), and counts.
    """
    problems = Problems(len(chunk.lines))
    positions: dict[str, list[int]] = {}
    for position, reason in chunk.faults.items():
        positions.setdefault(reason, []).append(position)
    for reason, rows in positions.items():
        faulty = np.zeros(len(chunk.lines), bool)
        faulty[rows] = True
        problems.add(faulty, reason)
    values = read_columns(table, chunk.columns, problems)
    personal, held = personal_data.screen_keyphrases(values, problems, screening)
    counts = TableCounts(len(chunk.lines), personal=personal)
    resolve(values, problems)
    bad = []
    for row in np.flatnonzero(~problems.good).tolist():
        reason, line = problems.reason(row), int(chunk.lines[row])
        counts.reasons[reason] += 1
        counts.examples.setdefault(reason, []).append((number, line))
        raw = chunk.raw(row)
        if screening.personal_data != "keep":
            raw = personal_data.mask_raw(raw, screening.phone_regions, bool(held[row]), _RAW_CHARACTERS)
        bad.append({"file": file, "line": line, "reason": reason, "raw": raw[:_RAW_CHARACTERS]})
    counts.examples = {reason: places[:_EXAMPLES] for reason, places in counts.examples.items()}
    counts.extra = set(chunk.found) - {column.name for column in table.columns}
    mask = pa.array(problems.good)
    good = {
        name: column.filter(mask) if isinstance(column, pa.Array) else column[problems.good]
        for name, column in values.items()
    }
    return good, np.flatnonzero(problems.good), bad, counts


def read_checked(
    table: Table,
    source: TableSource,
    quarantine: IO[str],
    counts: TableCounts,
    screening: ScreeningConfig,
    resolve: Resolve,
) -> Iterator[Columns]:
    """The good rows of a table, chunk by chunk; bad ones go to the quarantine, all are counted."""
    for number, file in enumerate(source.files):
        for chunk in read_table(file, table, source.names):
            good, _, bad, found = check_chunk(table, chunk, file.name, number, screening, resolve)
            write_bad(quarantine, bad)
            counts.add(found)
            yield good


def write_bad(quarantine: IO[str], records: list[dict[str, Any]]) -> None:
    """Appends records to the quarantine, a JSON line each."""
    quarantine.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def check_share(source: TableSource, counts: TableCounts, most: float, setting: str = "data.max_bad_share") -> None:
    """Raises DataError when more than the share `most`, of that setting, of a table's rows is bad by its own fault."""
    bad, of = counts.quarantined - counts.consequences, counts.rows - counts.consequences
    if bad <= most * of:
        return
    faults = [(reason, count) for reason, count in counts.worst_first().items() if reason not in _NO_DAMAGE]
    worst = "; ".join(
        f"{count:,} × {reason} ({_places(source, counts.examples[reason])})" for reason, count in faults[:3]
    )
    raise DataError(
        f"{source.place}: {bad:,} of {of:,} rows are bad ({bad / of:.1%}), more than {setting}={most:g}. "
        f"Commonest: {worst}. Repair the file (quarantine.jsonl lists all), or raise {setting}."
    )


def _places(source: TableSource, places: list[tuple[int, int]]) -> str:
    """Where rows stand, for a reader."""
    if len(source.files) == 1:
        return f"lines {', '.join(str(line) for _, line in places)}"
    return ", ".join(f"{source.files[file].name}:{line}" for file, line in places)
