"""Files of a data directory → chunks of columns, with the line of every row.

Only the form of a file is judged here (field counts, JSON, UTF-8); the meaning of values is judged in `schema`. A clean
block of TSV or CSV is parsed by pyarrow; one with trouble goes through a row-by-row path that finds the bad lines.
Memory stays bounded whatever the file holds: text is read in blocks, a line beyond `_LINE_BYTES` is a bad row of which
only the beginning is kept, and Parquet is read page by page, its contract columns alone.
"""

from __future__ import annotations

import csv
import functools
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv

from distill.data.preparation.chunks import NOT_UTF8, Chunk, Layout, Names, decoded, is_utf8
from distill.data.preparation.json_values import json_column, json_row
from distill.data.preparation.parquet_reader import read_parquet
from distill.data.preparation.sources import DataFile, data_file
from distill.data.schema import DataError, Table

_BLOCK_BYTES = 4 << 20
_LINE_BYTES = 4 << 20
_KEPT_BYTES = 8000  # of a line beyond that
_RECORD_LINES = 200  # of a CSV record; a quote that is not closed by then was never meant to open

# Python's CSV parser refuses fields beyond 131,072 characters and Arrow's does not: such a row would be good or bad by
# its neighbours.
csv.field_size_limit(max(csv.field_size_limit(), _LINE_BYTES))

_Row = tuple[list[str] | None, str]  # fields as far as they can be told (so an id is known), reason why the row is bad


def read_table(file: DataFile | Path, table: Table, names: Names | None = None) -> Iterator[Chunk]:
    """The rows of the file, chunk by chunk; one chunk at least.

    Args:
      file: of one of the formats; a path's is told by its suffix.
      table: whose columns are wanted.
      names: what some of them and of their values are called in the file.

    Raises:
      DataError: the file is damaged (a gzip stream that ends early, not Parquet), has no readable header or lacks a
        required column.
    """
    if isinstance(file, Path):
        file = data_file(file)
    names = names or Names()
    layout = Layout(file.location, table, names.columns)
    read = {"parquet": read_parquet, "jsonl": _read_jsonl, "tsv": _read_tsv, "csv": _read_csv}[file.format]
    try:
        with file.open() as raw, gzip.open(raw) if file.zipped else raw as stream:
            empty = True
            for chunk in read(cast(IO[bytes], stream), layout):
                chunk.translate(names.values)
                yield chunk
                empty = False
            if file.zipped and not raw.tell():
                raise EOFError("it is empty")  # which Python takes for no rows
            if empty:
                yield Chunk(np.zeros(0, np.int64), {}, {}, str, ())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{file.location}: damaged or cut-off gzip file ({error}). Copy or compress it again."
        ) from error
    except OSError as error:
        raise DataError(f"{file.location}: cannot be read to its end ({error}).") from error


def _blocks(stream: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Blocks of whole lines, and whether the block is one line beyond the limit, of which only the start is given."""
    rest, beyond = b"", False
    while block := stream.read(_BLOCK_BYTES):
        if beyond:  # the rest of a long line is read over
            end = block.find(b"\n") + 1
            if not end:
                continue
            yield rest + b"\n", True
            rest, beyond, block = b"", False, block[end:]
        end = block.rfind(b"\n") + 1
        if end:
            first = block.find(b"\n") + 1
            if len(rest) + first > _LINE_BYTES:
                yield (rest + block[:first])[:_KEPT_BYTES] + b"\n", True
                rest, block, end = b"", block[first:], end - first
        if end:
            yield rest + block[:end], False
            rest = block[end:]
        else:
            rest += block
        if len(rest) > _LINE_BYTES:
            rest, beyond = rest[:_KEPT_BYTES], True
    if rest:
        yield rest, beyond


def _beyond(layout: Layout, header: Sequence[str], block: bytes, line: int) -> Chunk:
    """The chunk of a line beyond the limit."""
    return _chunk(layout, header, [(None, f"a line of more than {_LINE_BYTES:,} bytes")], [line], [block])


def _chunk(layout: Layout, header: Sequence[str], rows: list[_Row], lines: list[int], raws: Sequence[bytes]) -> Chunk:
    """A chunk from rows that were parsed one by one."""
    faults = {position: reason for position, (_, reason) in enumerate(rows) if reason}
    columns = {
        name: pa.array([fields[index] if fields else None for fields, _ in rows], pa.string())
        for index, name in enumerate(header)
        if name in layout.wanted
    }
    return Chunk(np.array(lines, np.int64), columns, faults, lambda position: decoded(raws[position]), tuple(header))


def _clean_block(block: bytes, header: Sequence[str], layout: Layout, line: int, separator: str) -> Chunk | None:
    """The block parsed by pyarrow, or None unless every line is one well-formed row."""
    if not is_utf8(block):
        return None  # pyarrow looks at wanted columns only
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    if b"\r" in block or b"\n\n" in block or block.startswith(b"\n"):
        return None
    quoting = separator == "," and b'"' in block
    if quoting and _csv_record(block.removesuffix(b"\n").rsplit(b"\n", 1)[-1:], header)[1] is None:
        return None  # the last record goes on in the next block
    rows = block.count(b"\n") + (not block.endswith(b"\n"))
    wanted = [column.name for column in layout.table.columns if column.name in header]
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
    return Chunk(np.arange(line, line + rows), columns, {}, lambda row: decoded(split()[row]), tuple(header))


def _header(stream: IO[bytes], layout: Layout, split: Callable[[str], list[str]]) -> list[str]:
    """The names of the columns, in the contract's terms."""
    line, path = stream.readline(_LINE_BYTES), layout.place
    if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
        raise DataError(f"{path}: the first line, which must name the columns, has more than {_LINE_BYTES:,} bytes.")
    try:
        names = [name.strip() for name in split(line.decode("utf-8-sig").rstrip("\r\n"))]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the header line is not UTF-8 text. Save the file as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}: the header line is not CSV ({error}). Write it, and all lines, with \\n.") from error
    if not any(names):
        raise DataError(f"{path}: the file has no header line. Its first line must name the columns.")
    return layout.named(names)


def _split_tsv(text: str) -> list[str]:
    return text.split("\t")


def _tsv_record(raw: bytes, header: Sequence[str]) -> _Row:
    raw = raw.removesuffix(b"\r")
    fields = _split_tsv(raw.decode("utf-8", "replace"))
    if len(fields) != len(header):
        return None, f"expected {len(header)} fields, found {len(fields)}"
    return fields, "" if is_utf8(raw) else NOT_UTF8


def _read_tsv(stream: IO[bytes], layout: Layout) -> Iterator[Chunk]:
    header = _header(stream, layout, _split_tsv)
    line = 2
    for block, beyond in _blocks(stream):
        chunk = _beyond(layout, header, block, line) if beyond else _clean_block(block, header, layout, line, "\t")
        if chunk is None:
            numbered = [(line + offset, raw) for offset, raw in enumerate(block.split(b"\n")) if raw.rstrip(b"\r")]
            rows = [_tsv_record(raw, header) for _, raw in numbered]
            chunk = _chunk(layout, header, rows, [number for number, _ in numbered], [raw for _, raw in numbered])
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
    valid = all(map(is_utf8, raws[: reader.line_num]))
    return (fields, "" if valid else NOT_UTF8), reader.line_num


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


def _read_csv(stream: IO[bytes], layout: Layout) -> Iterator[Chunk]:
    header = _header(stream, layout, lambda text: next(csv.reader([text]), []))
    line, carried = 2, b""
    blocks = _blocks(stream)
    block, beyond = next(blocks, (b"", False))
    while block:
        following, next_beyond = next(blocks, (b"", False))
        block = carried + block
        carried = b""
        # No record goes on into a line beyond the limit, nor grows without end.
        last = not following or next_beyond or len(block) > _BLOCK_BYTES + _LINE_BYTES
        chunk = _beyond(layout, header, block, line) if beyond else _clean_block(block, header, layout, line, ",")
        if chunk is None:
            raws = block.removesuffix(b"\n").split(b"\n")
            records = list(_csv_records(raws, header, last=last))
            used = max((first + count for first, count, _ in records), default=0)
            texts = [b"\n".join(raws[first : first + count]) for first, count, _ in records]
            lines = [line + first for first, *_ in records]
            chunk = _chunk(layout, header, [row for *_, row in records], lines, texts)
            if not last and used < len(raws):
                carried = b"\n".join(raws[used:]) + b"\n"
        line += block.count(b"\n") - carried.count(b"\n")
        yield chunk
        block, beyond = following, next_beyond


def _read_jsonl(stream: IO[bytes], layout: Layout) -> Iterator[Chunk]:
    line, seen = 1, False
    for block, beyond in _blocks(stream):
        if beyond:
            yield _beyond(layout, (), block, line)
            line += 1
            continue
        if line == 1:
            block = block.removeprefix(b"\xef\xbb\xbf")
        numbered = [(line + offset, raw) for offset, raw in enumerate(block.split(b"\n")) if raw.strip()]
        parsed = [json_row(raw) for _, raw in numbered]
        faults = {position: reason for position, (_, reason) in enumerate(parsed) if reason}
        rows = [row for row, _ in parsed]
        keys = list(dict.fromkeys(name for row in rows for name in row))
        # A field that no row of a block has may stand in the next one: what must be there is asked of the first.
        found = layout.named(keys, complete=bool(keys) and not seen)
        seen |= bool(keys)
        kinds = {column.name: column.kind for column in layout.table.columns}
        columns = {
            name: json_column(name, kinds[name], [row.get(key) for row in rows], faults)
            for key, name in zip(keys, found)
            if name in kinds
        }
        raws = [raw for _, raw in numbered]
        lines = np.array([number for number, _ in numbered], np.int64)
        yield Chunk(lines, columns, faults, lambda position, raws=raws: decoded(raws[position]), tuple(found))
        line += block.count(b"\n")
