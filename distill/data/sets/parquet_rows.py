"""Chosen columns of a Parquet file in original form, row numbers kept through every filter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.data.schema import DataError
from distill.data.sets.survey import RawRows

_ROWS = 65_536


class Batch:
    """Rows of a Parquet file with the number of each."""

    def __init__(self, path: Path, lines: np.ndarray, columns: Mapping[str, pa.Array], faults: Mapping[str, pa.Array]):
        self._path, self.lines, self.columns, self._faults = path, lines, columns, faults

    def filter(self, rows: pa.Array, faults: Mapping[str, pa.Array] | None = None) -> Batch:
        """The rows of the mask; `faults` (reason → bool [rows before]) come on top of those that there are."""
        return Batch(
            self._path,
            self.lines[rows.to_numpy(zero_copy_only=False)],
            {name: column.filter(rows) for name, column in self.columns.items()},
            {reason: bad.filter(rows) for reason, bad in {**self._faults, **(faults or {})}.items()},
        )

    def raw_rows(self, columns: dict[str, pa.Array]) -> RawRows:
        faults = {reason: bad.to_numpy(zero_copy_only=False).astype(bool) for reason, bad in self._faults.items()}
        return RawRows(self._path.name, self.lines, columns, faults, self._raw)

    def _raw(self, position: int) -> str:
        row = {name: column[position].as_py() for name, column in self.columns.items()}
        return json.dumps(row, ensure_ascii=False, default=str)


def batches(path: Path, names: tuple[str, ...]) -> Iterator[Batch]:
    """The file's rows; text that is not UTF-8 becomes null and a fault of its row.

    Raises:
      DataError: the file is damaged or lacks a column.
    """
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            raise DataError(
                f"{path}: it has no column {missing[0]!r}, only {', '.join(file.schema_arrow.names)}. "
                "Take the official file."
            )
        line = 1
        for batch in file.iter_batches(_ROWS, columns=list(names)):
            faults: dict[str, np.ndarray] = {}
            columns = {name: _text(name, batch.column(name), faults) for name in names}
            lines = np.arange(line, line + len(batch))
            yield Batch(path, lines, columns, {reason: pa.array(bad) for reason, bad in faults.items()})
            line += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: damaged or not a Parquet file ({error}). Download it again.") from error


def _text(name: str, array: Any, faults: dict[str, np.ndarray]) -> pa.Array:
    """Numbers as they are, all else as text; values that are not UTF-8 become null and a fault."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        return array
    raw = array.cast(pa.binary())
    try:
        text = raw.cast(pa.string())
        text.validate(full=True)
        return text
    except pa.ArrowInvalid:
        bad = np.zeros(len(raw), bool)
        values: list[str | None] = []
        for row, value in enumerate(raw.to_pylist()):
            try:
                values.append(None if value is None else value.decode("utf-8"))
            except UnicodeDecodeError:
                bad[row] = True
                values.append(None)
        faults[f"{name}: not UTF-8"] = bad
        return pa.array(values, pa.string())
