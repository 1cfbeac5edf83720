"""Rows of a table too big for memory, put aside on disk by ranges of items and taken back range after range."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from distill.data.preparation.pair_rows import partition
from distill.data.table_writer import naming

_WAITING_BYTES = 64 << 20  # rows that wait in memory; a table that stays below never meets the disk


class Spill:
    """Takes rows in any order and gives them back grouped by ranges of item numbers.

    Memory: `_WAITING_BYTES` while rows come in, then the rows of one range.
    """

    def __init__(self, folder: Path, schema: pa.Schema, items: int, partitions: int):
        self._folder, self._schema, self._items, self._partitions = folder, schema, items, partitions
        self._waiting: list[pa.Table] = []
        self._bytes = 0
        self._files: dict[int, pa.RecordBatchFileWriter] = {}

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._bytes += rows.nbytes
        if self._bytes > _WAITING_BYTES and self._partitions > 1:
            self._flush()

    def _flush(self) -> None:
        rows = pa.concat_tables(self._waiting)
        self._waiting, self._bytes = [], 0
        of = partition(rows["item"].to_numpy(), self._items, self._partitions)
        order = np.argsort(of, kind="stable")
        rows = rows.take(pa.array(order)).combine_chunks()
        present, starts = np.unique(of[order], return_index=True)
        for number, start, end in zip(present.tolist(), starts.tolist(), [*starts[1:].tolist(), len(rows)]):
            if number not in self._files:
                self._folder.mkdir(parents=True, exist_ok=True)
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._files[number] = pa.ipc.new_file(self._path(number), self._schema, options=options)
            with naming(self._path(number)):
                self._files[number].write_table(rows.slice(start, end - start))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.arrow"

    def ranges(self) -> Iterator[pa.Table]:
        """All rows, those of a range of items at a time, ranges in the order of their items."""
        if not self._files:
            yield pa.concat_tables([self._schema.empty_table(), *self._waiting])
            return
        if self._waiting:
            self._flush()
        for number, file in self._files.items():
            with naming(self._path(number)):
                file.close()
        for number in sorted(self._files):
            with pa.OSFile(str(self._path(number)), "rb") as file:
                yield pa.ipc.open_file(file).read_all()
            self._path(number).unlink()
        shutil.rmtree(self._folder)
