"""Files of a data directory → chunks of columns, with the line of every row.

Only the form of a file is judged here (field counts, JSON, UTF-8); the meaning of values is judged in `schema`. A clean
block of TSV or CSV is parsed by pyarrow; one with trouble goes through a row-by-row path that finds the bad lines.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from distill.data.schema import DataError, Table

_BLOCK_BYTES = 4 << 20
_PARQUET_ROWS = 65_536
_RECORD_LINES = 200  # of a CSV record; a quote that is not closed by then was never meant to open
_NOT_UTF8 = "not UTF-8"

_Row = tuple[list[str] | None, str]  # fields as far as they can be told (so an id is known), reason why the row is bad


@dataclasses.dataclass
class Chunk:
    """Some consecutive rows of a file. Rows in `faults` (position → reason) are malformed; their values are empty."""

    lines: np.ndarray  # int64 [rows], counted from 1 in the file; for Parquet the row number
    columns: dict[str, pa.Array]  # wanted columns that the file has: text or numbers
    faults: dict[int, str]
    raw: Callable[[int], str]  # position → the row as it stands in the file
    found: tuple[str, ...]  # names of all columns in the file (of this chunk, in JSON Lines)


def read_table(path: Path, table: Table) -> Iterator[Chunk]:
    """The rows of the file, chunk by chunk; one chunk at least.

    Raises:
      DataError: the file is damaged (a gzip stream that ends early, not Parquet), has no readable header or lacks a
        required column.
    """
    kind = path.name.split(".")[1]
    read = {"parquet": _read_parquet, "jsonl": _read_jsonl, "tsv": _read_tsv, "csv": _read_csv}[kind]
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            empty = True
            for chunk in read(stream, path, table):
                yield chunk
                empty = False
            if empty:
                yield Chunk(np.zeros(0, np.int64), {}, {}, str, ())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or cut-off gzip file ({error}). Copy or compress it again.") from error


def _require(path: Path, table: Table, found: Sequence[str]) -> None:
    missing = [name for name in table.required if name not in found]
    if missing:
        raise DataError(
            f"{path}: table {table.name!r} needs the column {missing[0]!r} and has only {', '.join(found) or 'none'}. "
            f"Add it, or rename the one that holds it (all that the table needs: {', '.join(table.required)})."
        )


def _blocks(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Blocks of whole lines."""
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield rest


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace").rstrip("\r\n")


def _chunk(table: Table, header: Sequence[str], rows: list[_Row], lines: list[int], raws: Sequence[bytes]) -> Chunk:
    """A chunk from rows that were parsed one by one."""
    faults = {position: reason for position, (_, reason) in enumerate(rows) if reason}
    columns = {
        name: pa.array([fields[index] if fields else None for fields, _ in rows], pa.string())
        for index, name in enumerate(header)
        if name in {column.name for column in table.columns}
    }
    return Chunk(np.array(lines, np.int64), columns, faults, lambda position: _decoded(raws[position]), tuple(header))


def _clean_block(block: bytes, header: Sequence[str], table: Table, line: int, separator: str) -> Chunk | None:
    """The block parsed by pyarrow, or None unless every line is one well-formed row."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    if b"\r" in block or b"\n\n" in block or block.startswith(b"\n"):
        return None
    quoting = separator == "," and b'"' in block
    if quoting and _csv_record(block.removesuffix(b"\n").rsplit(b"\n", 1)[-1:], header)[1] is None:
        return None  # the last record goes on in the next block
    rows = block.count(b"\n") + (not block.endswith(b"\n"))
    wanted = [column.name for column in table.columns if column.name in header]
    try:
        parsed = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            pyarrow.csv.ReadOptions(column_names=list(header), block_size=len(block) + 1, use_threads=False),
            pyarrow.csv.ParseOptions(delimiter=separator, quote_char='"' if quoting else False),
            pyarrow.csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())),
        )
    except pa.ArrowInvalid:
        return None
    if parsed.num_rows != rows:
        return None
    columns = {name: parsed.column(name).combine_chunks() for name in wanted}
    split = functools.cache(lambda: block.split(b"\n"))  # only if a row turns out bad, and then once
    return Chunk(np.arange(line, line + rows), columns, {}, lambda row: _decoded(split()[row]), tuple(header))


def _header(line: bytes, path: Path, split: Callable[[str], list[str]]) -> list[str]:
    try:
        names = [name.strip() for name in split(line.decode("utf-8-sig").rstrip("\r\n"))]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the header line is not UTF-8 text. Save the file as UTF-8.") from error
    if not any(names):
        raise DataError(f"{path}: the file has no header line. Its first line must name the columns.")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise DataError(f"{path}: the header names the column {repeated[0]!r} twice. Rename one of them.")
    return names


def _split_tsv(text: str) -> list[str]:
    return text.split("\t")


def _tsv_record(raw: bytes, header: Sequence[str]) -> _Row:
    raw = raw.removesuffix(b"\r")
    fields = _split_tsv(raw.decode("utf-8", "replace"))
    if len(fields) != len(header):
        return None, f"expected {len(header)} fields, found {len(fields)}"
    return fields, "" if _is_utf8(raw) else _NOT_UTF8


def _read_tsv(stream: io.BufferedIOBase, path: Path, table: Table) -> Iterator[Chunk]:
    header = _header(stream.readline(), path, _split_tsv)
    _require(path, table, header)
    line = 2
    for block in _blocks(stream):
        chunk = _clean_block(block, header, table, line, "\t")
        if chunk is None:
            numbered = [(line + offset, raw) for offset, raw in enumerate(block.split(b"\n")) if raw.rstrip(b"\r")]
            rows = [_tsv_record(raw, header) for _, raw in numbered]
            chunk = _chunk(table, header, rows, [number for number, _ in numbered], [raw for _, raw in numbered])
        yield chunk
        line += block.count(b"\n")


def _csv_record(raws: Sequence[bytes], header: Sequence[str]) -> tuple[_Row, int | None]:
    """The record at the start of `raws` and how many lines it takes; None: a quote is still open where `raws` ends.

    A record that spans lines counts only if it is strictly well-formed and has the right number of fields; else its
    first line alone is bad, so that a stray quote costs one row and not all rows up to the next quote.
    """
    ran_out = False

    def texts() -> Iterator[str]:
        nonlocal ran_out
        for raw in raws:
            yield raw.decode("utf-8", "replace") + "\n"
        ran_out = True

    reader = csv.reader(texts())
    try:
        fields = next(reader)
    except csv.Error as error:
        return (None, f"malformed CSV: {error}"), 1
    if ran_out:
        return (None, "a quote is never closed"), None
    if reader.line_num > 1:
        try:
            next(csv.reader(texts(), strict=True))
        except csv.Error:
            return (None, "a quote is never closed"), 1
    if len(fields) != len(header):
        return (None, f"expected {len(header)} fields, found {len(fields)}"), 1
    valid = all(map(_is_utf8, raws[: reader.line_num]))
    return (fields, "" if valid else _NOT_UTF8), reader.line_num


def _csv_records(raws: list[bytes], header: Sequence[str], last: bool) -> Iterator[tuple[int, int, _Row]]:
    """(first line, lines, row) of each record; ends early, unless `last`, where the next block goes on."""
    position = 0
    while position < len(raws):
        window = raws[position : position + _RECORD_LINES]
        row, lines = _csv_record(window, header)
        if lines is None and not last and len(window) < _RECORD_LINES:
            return
        lines = lines or 1
        if raws[position].rstrip(b"\r") or lines > 1:  # a blank line is no row
            yield position, lines, row
        position += lines


def _read_csv(stream: io.BufferedIOBase, path: Path, table: Table) -> Iterator[Chunk]:
    header = _header(stream.readline(), path, lambda text: next(csv.reader([text]), []))
    _require(path, table, header)
    line, carried = 2, b""
    blocks = _blocks(stream)
    block = next(blocks, b"")
    while block or carried:
        following = next(blocks, b"")
        block = carried + block
        carried = b""
        chunk = _clean_block(block, header, table, line, ",")
        if chunk is None:
            raws = block.removesuffix(b"\n").split(b"\n")
            records = list(_csv_records(raws, header, last=not following))
            used = max((first + count for first, count, _ in records), default=0)
            texts = [b"\n".join(raws[first : first + count]) for first, count, _ in records]
            chunk = _chunk(table, header, [row for *_, row in records], [line + first for first, *_ in records], texts)
            if following and used < len(raws):
                carried = b"\n".join(raws[used:]) + b"\n"
        line += block.count(b"\n") - carried.count(b"\n")
        yield chunk
        block = following


def _json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json_column(name: str, kind: str, values: list, faults: dict[int, str]) -> pa.Array:
    """Values of one column; numbers stay numbers, lists and maps become JSON text."""
    types = set(map(type, values)) - {type(None)}
    if types <= {str}:
        return pa.array(values, pa.string())
    if types <= {int, float} and kind in ("integer", "number"):
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    if kind in ("text", "item", "keyphrase", "choice"):
        for position, value in enumerate(values):
            if type(value) not in (str, int, type(None)):
                faults.setdefault(position, f"{name}: not text")
                values[position] = None
    return pa.array(list(map(_json_text, values)), pa.string())


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _json_row(raw: bytes) -> tuple[dict, str]:
    """The row as far as it can be told, and the reason why it is bad, or ""."""
    reason = "" if _is_utf8(raw) else _NOT_UTF8
    try:
        row = json.loads(raw.decode("utf-8", "replace"))
        if b"\\u" in raw:
            text = json.dumps(row, ensure_ascii=False)
            if not text.isascii() and (repaired := text.encode("utf-8", "replace")) != text.encode(
                "utf-8", "surrogatepass"
            ):
                row, reason = json.loads(repaired), _NOT_UTF8  # half a surrogate pair
    except (ValueError, RecursionError) as error:
        return {}, reason or f"malformed JSON: {getattr(error, 'msg', error)}"
    return (row, reason) if isinstance(row, dict) else ({}, "malformed JSON: not an object")


def _read_jsonl(stream: io.BufferedIOBase, path: Path, table: Table) -> Iterator[Chunk]:
    line, seen = 1, False
    for block in _blocks(stream):
        if line == 1:
            block = block.removeprefix(b"\xef\xbb\xbf")
        numbered = [(line + offset, raw) for offset, raw in enumerate(block.split(b"\n")) if raw.strip()]
        parsed = [_json_row(raw) for _, raw in numbered]
        faults = {position: reason for position, (_, reason) in enumerate(parsed) if reason}
        rows = [row for row, _ in parsed]
        found = tuple(dict.fromkeys(name for row in rows for name in row))
        if found and not seen:
            _require(path, table, found)
            seen = True
        columns = {
            column.name: _json_column(column.name, column.kind, [row.get(column.name) for row in rows], faults)
            for column in table.columns
            if column.name in found
        }
        raws = [raw for _, raw in numbered]
        lines = np.array([number for number, _ in numbered], np.int64)
        yield Chunk(lines, columns, faults, lambda position, raws=raws: _decoded(raws[position]), found)
        line += block.count(b"\n")


def _parquet_column(array: pa.Array, faults: dict[int, str]) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type) or pa.types.is_integer(array.type):
        return array
    if pa.types.is_nested(array.type):
        as_map = pa.types.is_map(array.type)
        values = [dict(value) if as_map and value is not None else value for value in array.to_pylist()]
        return pa.array([_json_text(value) for value in values], pa.string())
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_binary(array.type)):
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
                faults.setdefault(position, _NOT_UTF8)
                values[position] = None
        return pa.array(values, pa.string())


def _parquet_raw(batch: pa.RecordBatch, position: int) -> str:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.cast(pa.binary())
        value = column[position].as_py()
        values[name] = _decoded(value) if isinstance(value, bytes) else value
    return json.dumps(values, ensure_ascii=False, default=str)


def _read_parquet(stream: io.BufferedIOBase, path: Path, table: Table) -> Iterator[Chunk]:
    # A zipped Parquet file cannot be read from its end, so it is unpacked in memory.
    source = pa.BufferReader(stream.read()) if path.suffix == ".gz" else path
    try:
        file = pq.ParquetFile(source)
        found = tuple(file.schema_arrow.names)
        _require(path, table, found)
        line = 1
        for batch in file.iter_batches(_PARQUET_ROWS):
            faults: dict[int, str] = {}
            wanted = [column.name for column in table.columns if column.name in found]
            columns = {name: _parquet_column(batch.column(name), faults) for name in wanted}
            lines = np.arange(line, line + len(batch))
            yield Chunk(lines, columns, faults, lambda position, batch=batch: _parquet_raw(batch, position), found)
            line += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: damaged or not a Parquet file ({error}). Copy or write it again.") from error
