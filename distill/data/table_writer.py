"""Parquet files that are written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

_ROW_GROUP = 1 << 17


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name into what goes wrong: of a full disk, Arrow tells all but that."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


class TableWriter:
    """Writes a Parquet file that comes in pieces of any size: whole or not at all, row groups of one size."""

    def __init__(self, path: Path, schema: pa.Schema):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._temporary, self._schema = path, path.with_name(f".{path.name}.tmp"), schema
        self._file = pq.ParquetWriter(self._temporary, schema)
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= _ROW_GROUP:
            self._flush(self._rows - self._rows % _ROW_GROUP)

    def _flush(self, rows: int) -> None:
        table = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        with naming(self._path):
            self._file.write_table(table.slice(0, rows).combine_chunks(), row_group_size=_ROW_GROUP)
        self._waiting, self._rows = [table.slice(rows)], len(table) - rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush(self._rows)
                with naming(self._path):
                    self._file.close()
                self._temporary.replace(self._path)
        finally:
            with contextlib.suppress(OSError):  # told already
                self._file.close()
            self._temporary.unlink(missing_ok=True)
