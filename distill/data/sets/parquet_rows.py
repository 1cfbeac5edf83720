"""Chosen columns of a Parquet file in original form, row numbers kept through every filter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.data.preparation.chunks import Chunk
from distill.data.schema import DataError
from distill.data.sets.survey import first_faults

_ROWS = 65_536


class Batch:
    """Rows of a Parquet file with the number of each."""

    def __init__(self, lines: np.ndarray, columns: Mapping[str, pa.Array], faults: Mapping[str, pa.Array]):
        self.lines, self.columns, self._faults = lines, columns, faults

    def filter(self, rows: pa.Array, faults: Mapping[str, pa.Array] | None = None) -> Batch:
        """The rows of the mask; `faults` (reason → bool [rows before]) come on top of those that there are."""
        return Batch(
            self.lines[rows.to_numpy(zero_copy_only=False)],
            {name: column.filter(rows) for name, column in self.columns.items()},
            {reason: bad.filter(rows) for reason, bad in {**self._faults, **(faults or {})}.items()},
        )

    def chunk(self, columns: dict[str, pa.Array]) -> Chunk:
        """These rows with `columns`, named as in the contract, in place of the file's own."""
        faults = {reason: bad.to_numpy(zero_copy_only=False).astype(bool) for reason, bad in self._faults.items()}
        return Chunk(self.lines, columns, first_faults(faults), self._raw, tuple(columns))

    def _raw(self, position: int) -> str:
        row = {name: column[position].as_py() for name, column in self.columns.items()}
        return json.dumps(row, ensure_ascii=False, default=str)


def batches(path: Path, texts: tuple[str, ...], flag: str = "") -> Iterator[Batch]:
    """The file's rows: `texts` as texts, `flag` as numbers; what is not UTF-8 becomes null and a fault of its row.

    Raises:
      DataError: the file is no Parquet file, is damaged, lacks a column or has one of another kind.
    """
    names = (*texts, *([flag] if flag else ()))
    try:
        file = pq.ParquetFile(path)
        found = file.schema_arrow
        missing = [name for name in names if name not in found.names]
        if missing:
            raise DataError(
                f"{path}: it has no column {missing[0]!r}, only {', '.join(found.names)}. Take the official file."
            )
        for name in names:
            type_ = found.field(name).type
            if not (_is_number(type_) if name == flag else _is_text(type_)):
                kind = "numbers" if name == flag else "texts"
                raise DataError(f"{path}: column {name!r} holds {type_}, not {kind}. Take the official file.")
        line = 1
        for batch in file.iter_batches(_ROWS, columns=list(names)):
            faults: dict[str, np.ndarray] = {}
            columns = {name: _text(name, batch.column(name), faults) for name in texts}
            if flag:
                columns[flag] = batch.column(flag).cast(pa.float64())
            lines = np.arange(line, line + len(batch))
            yield Batch(lines, columns, {reason: pa.array(bad) for reason, bad in faults.items()})
            line += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: damaged or not a Parquet file ({error}). Download it again.") from error


def _is_number(type_: Any) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_)


def _is_text(type_: Any) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return pa.types.is_integer(type_) or pa.types.is_null(type_) or any(is_kind(type_) for is_kind in texts)


def _text(name: str, array: Any, faults: dict[str, np.ndarray]) -> pa.Array:
    """Values that are not UTF-8 become null and a fault."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):
        return array.cast(pa.string())
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
