"""Tables of pairs, prepared in this process: rows go to disk by ranges of items, then are merged range by range."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from distill.data.preparation.catalogue import Catalogue
from distill.data.preparation.checking import TableCounts, write_bad
from distill.data.preparation.pair_rows import MergeCounts, Merged, Task, check_rows, merge_rows, row_schema
from distill.data.preparation.ranks import RankSample
from distill.data.preparation.readers import read_table
from distill.data.preparation.spill import Spill
from distill.data.table_writer import TableWriter
from distill.data.tables import SPLIT, final_schema, final_table

SPILL = ".spill"
_RANGE_BYTES = 48 << 20  # of input as text that a range of items should stand for, roughly
_UNZIPPED = 5  # times the size of a compressed file
_LEAST_RANGES, _RANGES = 4, 128  # each is an open file


@dataclasses.dataclass
class Outcome:
    """What became of a task's rows."""

    checked: dict[str, TableCounts]  # by table: `clicks` may have been made of `events` too
    merged: dict[str, MergeCounts]  # by table
    ranks: RankSample | None = None  # of `clicks`


PairRunner = Callable[[Sequence[Task], Catalogue, Path, IO[str]], Iterator[tuple[Task, Outcome]]]


def in_process(
    tasks: Sequence[Task], catalogue: Catalogue, destination: Path, quarantine: IO[str]
) -> Iterator[tuple[Task, Outcome]]:
    """A `PairRunner`: writes the table of each task below `destination` and bad rows to `quarantine`."""
    for task in tasks:
        yield task, run_task(task, catalogue, destination, quarantine)


def run_task(
    task: Task,
    catalogue: Catalogue,
    destination: Path,
    quarantine: IO[str],
    *,
    met: set[str] | None = None,
    ranges: int = 0,
) -> Outcome:
    """Prepares one table.

    Args:
      task: the table and its files.
      catalogue: what its rows refer to.
      destination: folder of the prepared tables; rows are put aside in a hidden folder in it.
      quarantine: where bad rows go.
      met: takes every keyphrase text, of bad rows too.
      ranges: of items, that are merged one after the other; 0: by the size of the files. Makes no difference but to
        memory.
    """
    aside = destination / SPILL / task.target.name
    shutil.rmtree(aside, ignore_errors=True)
    spill = Spill(aside, row_schema(task.target), len(catalogue.items), ranges or _ranges(task))
    checked: dict[str, TableCounts] = {source.table.name: TableCounts() for source in task.inputs}
    for source in task.inputs:
        for chunk in read_table(source.file, source.table, source.names):
            found = check_rows(task.target, source, chunk, catalogue, met)
            write_bad(quarantine, found.bad)
            checked[source.table.name].add(found.counts)
            spill.add(found.rows)
    merged: dict[str, MergeCounts] = {name: MergeCounts() for name in checked}
    ranks = RankSample() if task.target.name == "clicks" else None
    with _Files(task, catalogue, destination) as files:
        for rows in spill.ranges():
            part = merge_rows(task.target, rows, catalogue.holdout, catalogue.trainable)
            files.write(part)
            for name, counts in part.counts.items():
                if name in merged:
                    merged[name].add(counts)
            if ranks is not None and part.ranks is not None:
                ranks.add(part.ranks)
    return Outcome(checked, merged, ranks)


def _ranges(task: Task) -> int:
    size = sum(source.file.size() * (_UNZIPPED if source.file.packed else 1) for source in task.inputs)
    return min(_RANGES, max(_LEAST_RANGES, size // _RANGE_BYTES))


class _Files:
    """The files of a task's table: training rows and, where the table is split, those of held-out items."""

    def __init__(self, task: Task, catalogue: Catalogue, destination: Path):
        name, schema = f"{task.target.name}.parquet", final_schema(task.target)
        self._target, self._catalogue = task.target, catalogue
        with contextlib.ExitStack() as stack:
            self._training = stack.enter_context(TableWriter(destination / name, schema))
            self._holdout = None
            if task.target.name in SPLIT:
                self._holdout = stack.enter_context(TableWriter(destination / "holdout" / name, schema))
            self._open = stack.pop_all()

    def write(self, part: Merged) -> None:
        for file, rows in ((self._training, part.training), (self._holdout, part.holdout)):
            if file is not None and rows is not None:
                file.write(
                    final_table(self._target, rows, self._catalogue.items.names, self._catalogue.keyphrases.names)
                )

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.__exit__(*failure)  # type: ignore[arg-type]
