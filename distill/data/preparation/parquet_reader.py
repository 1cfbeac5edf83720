"""Parquet files, read page by page, the contract's columns alone."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.data.preparation.chunks import NOT_UTF8, Chunk, Layout, decoded
from distill.data.preparation.json_values import json_text
from distill.data.schema import TEXT_KINDS, DataError

_ROWS = 65_536
_BUFFER = 1 << 20  # bytes read ahead of a column
# What may hold bytes that are no text: Arrow does not check them when it reads.
_TEXTS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
)


def _parquet_column(array: pa.Array, name: str, kind: str, faults: dict[int, str]) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type) and kind in TEXT_KINDS:
        return _whole_numbers(array, name, faults)
    if pa.types.is_floating(array.type) or pa.types.is_integer(array.type):
        return array
    if pa.types.is_nested(array.type):
        return _nested_column(array, name, faults)
    if not any(is_bytes(array.type) for is_bytes in _TEXTS):
        return array.cast(pa.string())
    try:
        text = array.cast(pa.string())
        text.validate(full=True)
        return text
    except pa.ArrowInvalid:
        values = array.cast(pa.binary()).to_pylist()
        for position, value in enumerate(values):
            try:
                values[position] = None if value is None else value.decode("utf-8")
            except UnicodeDecodeError:
                faults.setdefault(position, NOT_UTF8)
                values[position] = None
        return pa.array(values, pa.string())


def _whole_numbers(array: pa.Array, name: str, faults: dict[int, str]) -> pa.Array:
    """Ids that became floats, as columns with gaps do in pandas, as text again: 7.0 is 7, not 1e+15 for a long one."""
    given = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.to_numpy(zero_copy_only=False)
    exact = 2.0 ** (np.finfo(values.dtype).nmant + 1)  # from here on floats skip integers
    whole = given & (np.abs(values) < exact) & (values == np.floor(values))
    for position in np.flatnonzero(given & ~whole).tolist():
        faults.setdefault(position, f"{name}: not text")
    return pa.array(np.where(whole, values, 0).astype(np.int64), mask=~whole).cast(pa.string())


def _nested_column(array: pa.Array, name: str, faults: dict[int, str]) -> pa.Array:
    """Lists and maps as JSON text."""
    as_map = pa.types.is_map(array.type)

    def text(value: Any) -> str | None:
        return json_text(dict(value) if as_map and value is not None else value)

    try:
        return pa.array(map(text, array.to_pylist()), pa.string())
    except (TypeError, ValueError, OverflowError):  # in some row: find which
        texts: list[str | None] = [None] * len(array)
        for position, scalar in enumerate(array):
            try:
                texts[position] = text(scalar.as_py())
            except UnicodeDecodeError:
                faults.setdefault(position, NOT_UTF8)
            except (TypeError, ValueError, OverflowError):  # bytes, dates
                faults.setdefault(position, f"{name}: holds what is neither text nor a number")
        return pa.array(texts, pa.string())


def _value(scalar: pa.Scalar) -> Any:
    """The value for a reader, whatever its type."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):  # dates beyond Python's, nanoseconds, not UTF-8
        try:
            return scalar.cast(pa.string()).as_py()
        except (pa.ArrowException, ValueError):
            return f"({scalar.type})"


def _parquet_raw(batch: pa.RecordBatch, position: int) -> str:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.cast(pa.binary())
        value = _value(column[position])
        values[name] = decoded(value) if isinstance(value, bytes) else value
    return json.dumps(values, ensure_ascii=False, default=str)


def read_parquet(stream: IO[bytes], layout: Layout) -> Iterator[Chunk]:
    """The rows of the file; columns of lists and maps as JSON text.

    Raises:
      DataError: the file is damaged or lacks a column.
    """
    with contextlib.ExitStack() as stack:
        if not stream.seekable() or isinstance(stream, gzip.GzipFile):
            # A zipped Parquet file cannot be read from its end, so it is unpacked to a temporary file.
            unpacked = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, unpacked)
            unpacked.seek(0)
            stream = unpacked
        try:
            file = pq.ParquetFile(stream, buffer_size=_BUFFER)
            yours = file.schema_arrow.names
            found = layout.named(yours)
            wanted = {name: key for key, name in zip(yours, found) if name in layout.wanted}
            kinds = {column.name: column.kind for column in layout.table.columns}
            line = 1
            for batch in file.iter_batches(_ROWS, columns=list(wanted.values())):
                faults: dict[int, str] = {}
                columns = {
                    name: _parquet_column(batch.column(key), name, kinds[name], faults) for name, key in wanted.items()
                }
                lines = np.arange(line, line + len(batch))
                raw = functools.partial(_parquet_raw, batch)
                yield Chunk(lines, columns, faults, raw, tuple(found))
                line += len(batch)
            if line - 1 != file.metadata.num_rows:  # which Arrow does not compare
                raise pa.ArrowInvalid(f"its footer tells of {file.metadata.num_rows:,} rows and there are {line - 1:,}")
        except pa.ArrowNotImplementedError as error:
            raise DataError(
                f"{layout.place}: a column is of a type that is neither text nor number ({error}). Write it as one."
            ) from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{layout.place}: damaged or not a Parquet file ({error}). Copy or write it again."
            ) from error
