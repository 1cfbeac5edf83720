"""Tab-separated files with CSV's quoting, as pandas writes and reads them: tabs, line breaks and quotes in a field."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa

from distill.data.preparation.chunks import Chunk
from distill.data.schema import DataError
from distill.data.sets.survey import first_faults

_ROWS = 65_536
_NOT_UTF8 = "not UTF-8"


@dataclasses.dataclass
class TextBatch:
    """Some consecutive records: columns of texts ("" where a record has too few), and what is wrong with their form."""

    lines: np.ndarray  # int64 [rows]: the line on which the record begins
    columns: dict[str, list[str]]
    faults: dict[str, np.ndarray]

    def filter(self, rows: np.ndarray) -> TextBatch:
        chosen = np.flatnonzero(rows).tolist()
        columns = {name: [values[row] for row in chosen] for name, values in self.columns.items()}
        return TextBatch(self.lines[rows], columns, {reason: bad[rows] for reason, bad in self.faults.items()})

    def add_fault(self, reason: str, rows: Sequence[bool]) -> None:
        self.faults[reason] = np.array(rows, bool)

    def chunk(self, columns: dict[str, pa.Array]) -> Chunk:
        """These rows with `columns`, named as in the contract, in place of the file's own."""
        return Chunk(self.lines, columns, first_faults(self.faults), self._raw, tuple(columns))

    def _raw(self, position: int) -> str:
        return "\t".join(values[position] for values in self.columns.values())


def quoted_tsv(path: Path, names: Sequence[str]) -> Iterator[TextBatch]:
    """The columns `names` of the file, batch by batch.

    A record with another number of fields than the header, or with bytes that are not UTF-8, is a faulty row.

    Raises:
      DataError: the file lacks a column, or a quote that is never closed swallows what follows.
    """
    ran_out = False

    def text_lines(stream: TextIO) -> Iterator[str]:
        nonlocal ran_out
        yield from stream
        ran_out = True

    # Bytes that are not UTF-8 come as lone surrogates, so that they cost their own record only.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(text_lines(stream), delimiter="\t")
        header = next(reader, [])
        missing = [name for name in names if name not in header]
        if missing:
            raise DataError(
                f"{path}: it has no column {missing[0]!r}, only {', '.join(header) or 'none'}. Take the official file; "
                "its columns are separated by tabs."
            )
        at = [header.index(name) for name in names]
        records: list[list[str]] = []
        lines: list[int] = []
        faults: dict[str, list[int]] = {}
        begins = reader.line_num + 1
        try:
            for record in reader:
                if ran_out:  # the reader asked for more, so a quote is still open
                    raise csv.Error("the file ends within a quoted field")
                if record:  # a blank line is no record
                    if len(record) != len(header):
                        reason = f"expected {len(header)} fields, found {len(record)}"
                        if reader.line_num > begins:
                            reason += f" (its quotes span {reader.line_num - begins + 1} lines)"
                        faults.setdefault(reason, []).append(len(records))
                        record = (record + [""] * len(header))[: len(header)]
                    chosen = [record[place] for place in at]
                    if not _is_text("".join(chosen)):
                        faults.setdefault(_NOT_UTF8, []).append(len(records))
                        chosen = [
                            value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for value in chosen
                        ]
                    records.append(chosen)
                    lines.append(begins)
                    if len(records) == _ROWS:
                        yield _batch(names, records, lines, faults)
                        records, lines, faults = [], [], {}
                begins = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}, line {begins}: malformed ({error}); a quote that opens there is probably never closed. "
                "Repair the line or take the official file."
            ) from error
        yield _batch(names, records, lines, faults)


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
        return True
    except UnicodeEncodeError:
        return False


def _batch(names: Sequence[str], records: list[list[str]], lines: list[int], faults: dict[str, list[int]]) -> TextBatch:
    columns = {name: [record[place] for record in records] for place, name in enumerate(names)}
    masks = {reason: np.isin(np.arange(len(records)), rows) for reason, rows in faults.items()}
    return TextBatch(np.array(lines, np.int64), columns, masks)
