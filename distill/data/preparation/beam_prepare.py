"""Preparation of pair tables of any size as an Apache Beam pipeline.

    files ── check ──▶ rows of (task, range of items) ── GroupByKey ── merge ──▶ NAME.parquet/part-*.parquet
               ├─▶ quarantine lines, a file for each input
               └─▶ counts, combined with those of merging, a file for each task

Rows travel as batches (Arrow IPC), not one by one. Both steps are the functions of `pair_rows` that the in-process path
calls, and what they give does not depend on the order of arrival, so tables, quarantine and summary are the same. A
file is read by one worker: give a large table in shards.

The catalogue (items and keyphrases, their splits) and the small tables are prepared where the pipeline is launched: the
machine that trains holds them in memory anyway. Each process of a worker loads the catalogue once: 0.5 GB for a million
items and a million keyphrases.
"""

from __future__ import annotations

import contextlib
import functools
import io
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.runners.runner import PipelineState
from apache_beam.utils.shared import Shared

from distill.config import DataConfig
from distill.data.preparation.beam_files import Place, Total
from distill.data.preparation.catalogue import Catalogue
from distill.data.preparation.checking import TableCounts, write_bad
from distill.data.preparation.pair_rows import Task, check_rows, merge_rows, partition, row_schema
from distill.data.preparation.pair_tables import SPILL, Outcome
from distill.data.preparation.prepare import prepare
from distill.data.preparation.ranks import RankSample
from distill.data.preparation.readers import read_table
from distill.data.schema import DataError
from distill.data.summary import Summary
from distill.data.tables import final_table

_PARTITION_BYTES = 128 << 20  # of input as text, roughly: what a worker merges at a time
_TEXT_BYTES = 6  # of text in one byte of a compressed or Parquet file
_MOST_PARTITIONS = 4096
_BATCH_ROWS = 1 << 19  # that are shared out among the partitions at a time
_ROWS, _TOTALS = "rows", "totals"
_IPC = pa.ipc.IpcWriteOptions(compression="lz4")


def prepare_with_beam(directory: Path | None, destination: Path, config: DataConfig, options: Sequence[str]) -> Summary:
    """`prepare.prepare` with the pair tables read, checked and merged by a Beam pipeline.

    Args:
      directory: the data directory; tables may lie in `config.sources` instead. Workers must reach all files by the
        same names.
      destination: workers must reach it by the same path, unless `options` hold a `--temp_location` that is a URL.
      config: as for `prepare`.
      options: flags of the pipeline, such as ("--runner=FlinkRunner", "--flink_master=host:8081").

    Raises:
      DataError: as `prepare`; or `options` name no runner or one that there is not, or the pipeline was not finished.
    """
    pipeline = _pipeline(options)  # first, so that wrong options are told at once
    return prepare(directory, destination, config, run_pairs=functools.partial(_run_pairs, pipeline))


def _run_pairs(
    pipeline: beam.Pipeline, tasks: Sequence[Task], catalogue: Catalogue, destination: Path, quarantine: IO[str]
) -> Iterator[tuple[Task, Outcome]]:
    """Runs the pipeline, then tells what became of each task; a `pair_tables.PairRunner`."""
    here = destination / SPILL / "beam"
    if not tasks:
        return
    catalogue.save(here / "catalogue")
    partitions = [_partitions(task, len(catalogue.items)) for task in tasks]
    scratch = pipeline.options.view_as(GoogleCloudOptions).temp_location or ""
    if "://" in scratch:
        place = Place(f"{scratch.rstrip('/')}/distill-prepare-{uuid.uuid4().hex}")
        try:
            place.send(here / "catalogue", "catalogue")
            _run(pipeline, tasks, partitions, place)
            for name in ("tables", "quarantine", "totals"):
                place.fetch(name, here / name)
        finally:
            place.remove()
    else:
        _run(pipeline, tasks, partitions, Place(str(here.resolve())))
    for number, task in enumerate(tasks):
        yield task, _publish(here, number, task, partitions[number], destination, quarantine)
    shutil.rmtree(here)


def _publish(here: Path, number: int, task: Task, partitions: int, destination: Path, quarantine: IO[str]) -> Outcome:
    """Puts the tables and quarantine lines of a task where the in-process path puts them."""
    total = Total.load(here, number)
    for source in task.inputs:
        lines = here / _lines_name(number, source.number)
        if lines.exists():
            with lines.open(encoding="utf-8", newline="") as file:
                shutil.copyfileobj(file, quarantine)
    if total.errors:
        raise DataError(total.errors[min(total.errors)])
    folder = here / "tables" / str(number)
    tables = sorted(path for path in folder.rglob("*.parquet") if path.is_dir())
    found = min((len(list(table.glob("part-*"))) for table in tables), default=0)
    if total.parts != partitions or found != partitions:
        raise DataError(f"table {task.target.name!r}: {found} of {partitions} parts are there. Start the run again.")
    for table in tables:
        target = destination / table.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        table.replace(target)
    return Outcome(total.checked, total.merged, total.ranks)


def _partitions(task: Task, items: int) -> int:
    """Into how many ranges of items the rows are shared out: so many that each can be merged in memory."""
    size = sum(source.file.size() * (_TEXT_BYTES if source.file.packed else 1) for source in task.inputs)
    return min(1 + size // _PARTITION_BYTES, items, _MOST_PARTITIONS)


def _pipeline(options: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline on the runner that the options name."""
    if not any(option.startswith("--runner=") for option in options):
        raise DataError(
            f"config.data.beam={tuple(options)!r}: names no runner; add one, such as '--runner=DirectRunner'"
        )
    try:
        parsed = PipelineOptions(list(options))
        parsed.get_all_options()  # else values are looked at when they are used
        return beam.Pipeline(options=parsed)
    except (ValueError, SystemExit) as error:  # no such runner, it lacks an option, a value that argparse refuses
        raise DataError(f"config.data.beam={tuple(options)!r}: Beam does not take these options ({error})") from error


def _run(pipeline: beam.Pipeline, tasks: Sequence[Task], partitions: Sequence[int], place: Place) -> None:
    """Runs the pipeline to its end."""
    arguments = (tasks, partitions, place, Shared())
    files = [(number, source.number) for number, task in enumerate(tasks) for source in task.inputs]
    # Every part is written, so that a table without rows is a table too.
    empty = [((number, part), b"") for number, count in enumerate(partitions) for part in range(count)]
    checked = (
        pipeline
        | "Files" >> beam.Create(files)
        | "Spread files" >> beam.Reshuffle()
        | "Check" >> beam.ParDo(_Check(*arguments)).with_outputs(_ROWS, _TOTALS)
    )
    merged = (
        (checked[_ROWS], pipeline | "Parts" >> beam.Create(empty))
        | "Rows and parts" >> beam.Flatten()
        | "By items" >> beam.GroupByKey()
        | "Merge" >> beam.ParDo(_Merge(*arguments))
    )
    _ = (
        (checked[_TOTALS], merged)
        | "All totals" >> beam.Flatten()
        | "Add up" >> beam.CombinePerKey(_Add())
        | "Save totals" >> beam.MapTuple(lambda number, total: total.save(place, number))
    )
    state = pipeline.run().wait_until_finish()
    if state != PipelineState.DONE:
        raise DataError(f"the Beam pipeline ended as {state}. Its runner's log says why; start it again.")


def _lines_name(number: int, file: int) -> str:
    return f"quarantine/{number}-{file}.jsonl"


class _Worker(beam.DoFn):
    """Knows the tasks, and has the catalogue in memory once for all threads of a process."""

    def __init__(self, tasks: Sequence[Task], partitions: Sequence[int], place: Place, shared: Shared):
        self._tasks, self._partitions, self._place, self._shared = tuple(tasks), tuple(partitions), place, shared

    def setup(self) -> None:
        self._catalogue: Catalogue = self._shared.acquire(self._load)

    def _load(self) -> Catalogue:
        if self._place.is_local:
            return Catalogue.load(Path(self._place.location) / "catalogue")
        with tempfile.TemporaryDirectory() as folder:
            self._place.fetch("catalogue", Path(folder))
            return Catalogue.load(Path(folder))


class _Check(_Worker):
    """(task, file) → batches of its good rows by partition, and totals; its bad rows become a quarantine file."""

    def process(self, element: tuple[int, int]) -> Iterator[Any]:
        number, file = element
        source = self._tasks[number].inputs[file]
        counts = TableCounts()
        waiting: list[pa.Table] = []
        try:
            with contextlib.ExitStack() as stack:
                quarantine = None
                for chunk in read_table(source.file, source.table, source.names):
                    checked = check_rows(self._tasks[number].target, source, chunk, self._catalogue)
                    counts.add(checked.counts)
                    if checked.bad and quarantine is None:
                        quarantine = stack.enter_context(self._place.write(_lines_name(number, file)))
                    if quarantine is not None:
                        lines = io.StringIO(newline="")
                        write_bad(lines, checked.bad)
                        quarantine.write(lines.getvalue().encode())
                    waiting.append(checked.rows)
                    if sum(map(len, waiting)) >= _BATCH_ROWS:
                        yield from self._batches(number, pa.concat_tables(waiting))
                        waiting = []
            if waiting:
                yield from self._batches(number, pa.concat_tables(waiting))
            total = Total({source.table.name: counts})
        except DataError as error:  # the launcher raises it: to try again, as runners do, would not help
            total = Total(errors={file: str(error)})
        yield TaggedOutput(_TOTALS, (number, total))

    def _batches(self, number: int, rows: pa.Table) -> Iterator[TaggedOutput]:
        if not len(rows):
            return
        of_row = partition(rows["item"].to_numpy(), len(self._catalogue.items), self._partitions[number])
        order = np.argsort(of_row, kind="stable")
        rows, of_row = rows.take(pa.array(order)).combine_chunks(), of_row[order]
        starts = np.flatnonzero(np.diff(of_row, prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(rows)]):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.schema, options=_IPC) as stream:
                stream.write_table(rows.slice(start, end - start))
            key = (number, int(of_row[start]))
            yield TaggedOutput(_ROWS, (key, sink.getvalue().to_pybytes()))


class _Merge(_Worker):
    """((task, partition), batches of rows) → the partition's part of each table, and totals."""

    def process(self, element: tuple[tuple[int, int], Iterable[bytes]]) -> Iterator[tuple[int, Total]]:
        (number, part), batches = element
        target, partitions = self._tasks[number].target, self._partitions[number]
        rows = [pa.ipc.open_stream(batch).read_all() for batch in batches if batch]
        catalogue = self._catalogue
        merged = merge_rows(
            target,
            pa.concat_tables([row_schema(target).empty_table(), *rows]),
            catalogue.holdout,
            catalogue.trainable,
        )
        for folder, table in (("", merged.training), ("holdout/", merged.holdout)):
            if table is not None:
                name = f"tables/{number}/{folder}{target.name}.parquet/part-{part:05}-of-{partitions:05}.parquet"
                try:
                    final = final_table(target, table, catalogue.items.names, catalogue.keyphrases.names)
                except DataError as error:
                    yield number, Total(errors={len(self._tasks[number].inputs) + part: str(error)})
                    return
                with self._place.write(name) as out:
                    pq.write_table(final, out)
        ranks = None
        if merged.ranks is not None:
            ranks = RankSample()
            ranks.add(merged.ranks)
        yield number, Total(merged=merged.counts, ranks=ranks, parts=1)


class _Add(beam.CombineFn):
    """Totals → their sum."""

    def create_accumulator(self) -> Total:
        return Total()

    def add_input(self, mutable_accumulator: Total, element: Total) -> Total:
        mutable_accumulator.add(element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[Total]) -> Total:
        total = Total()
        for one in accumulators:
            total.add(one)
        return total

    def extract_output(self, accumulator: Total) -> Total:
        return accumulator
