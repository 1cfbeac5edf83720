"""What judges have answered: SQLite files in one folder, one written by each process, all of them read.

A pair is known by what was asked, not by row numbers: rubric, judge, listing, keyphrase, repeat. A written record is in
the file after a fifth of a second, or at once when it is the hundredth: so many SIGKILL loses at most, never half a
record, and they are asked again. Once a second, and each time by a process that writes `alone`, the disk is waited for
too: a machine that loses power while answers flow loses about the last second of them.

The processes of one machine share a folder and read each other's files while these are written. Over network storage
SQLite cannot do that; there every process writes `alone`. Another machine's file can also be copied in once its store
is closed, or with its `-wal` beside it; every `judgements-*.sqlite` takes part.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from distill.judge.records import STATUSES, Key, Record, Totals, best, redacted, utf8
from distill.judge.store_files import (
    COLUMNS,
    StoreError,
    check,
    connect,
    create,
    end_log,
    insert,
    locked,
    merged,
    naming,
    replacing,
    uri,
)

ANSWER_LIMIT = 2000  # characters of a raw answer that are kept

_HELD_RECORDS, _HELD_SECONDS = 100, 0.2  # before they are in the file
_SYNC_SECONDS = 1.0
_BATCH = 50_000


class JudgementStore:
    """The records of a folder. Not for use by several threads at once."""

    def __init__(self, folder: Path, process: int | None = 0, secrets: Sequence[str] = (), *, alone: bool = False):
        """Opens the folder, and makes the file of `process` where there is none yet.

        Args:
          folder: holds `judgements-*.sqlite`; made where it does not exist.
          process: whose file is written; None reads only, and makes and locks nothing.
          secrets: texts, such as API keys, that are replaced by `[redacted]` in every answer before it is written;
            those of fewer than 8 characters are not.
          alone: reads and writes the file of `process` and opens no other, and keeps a rollback journal instead of a
            write-ahead log, so that processes of several machines can write the folder at once on shared storage. What
            the others' files hold is to be read while nobody writes, by a store with `process=None`. Once closed, or
            killed and opened `alone` again, the file is complete by itself. What `records` yields is to be read to its
            end before the next `write`.

        Raises:
          StoreError: a file is damaged or of another layout, the folder cannot be written, or another store, in this
            process or another, writes the same file.
          ValueError: `alone` without a process.
        """
        if alone and process is None:
            raise ValueError("alone: needs the number of the process whose file is read and written")
        self.folder = Path(folder)
        self._secrets, self._alone = tuple(secrets), alone
        self._checked: set[Path] = set()
        self._pending: list[Record] = []
        self._lock = threading.RLock()  # of what is pending and of the writer, for the timer has its own thread
        self._timer: threading.Timer | None = None
        self._flushed = self._synced = -math.inf
        self._path = self.folder / f"judgements-{process or 0:05d}.sqlite"
        self._writer: sqlite3.Connection | None = None
        with contextlib.ExitStack() as opened:
            self._reader = opened.enter_context(contextlib.closing(connect("file::memory:")))
            self._reader.execute("CREATE TABLE wanted (listing BLOB, keyphrase TEXT, repeat INTEGER)")
            if process is not None:
                with naming(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                opened.enter_context(locked(self._path))
                if not self._path.exists():
                    with replacing(self._path) as temporary:
                        create(temporary).close()
                if alone:
                    end_log(self._path)
            self.files()
            if process is not None:
                with naming(self._path):
                    self._writer = opened.enter_context(contextlib.closing(connect(uri(self._path))))
                    if not alone:
                        self._writer.execute("PRAGMA journal_mode = WAL")
                opened.callback(self.flush)
            self._opened = opened.pop_all()

    def __enter__(self) -> JudgementStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is pending; StoreError where it cannot be written."""
        self._opened.close()

    def files(self) -> list[Path]:
        """All files that take part, each checked when it is first seen; StoreError where one is damaged."""
        self.flush()
        paths = [self._path] if self._alone else sorted(self.folder.glob("judgements-*.sqlite"))
        for path in paths:
            if path not in self._checked:
                check(path)
                self._checked.add(path)
        return paths

    def write(self, records: Iterable[Record]) -> None:
        """Stores them within a moment; each replaces what this process's file has of the same pair.

        Raises:
          StoreError: the store reads only, or the file cannot be written; what is pending is then tried again by the
            next call.
          ValueError: a listing is not in hex, or a text is not Unicode.
        """
        if self._writer is None:
            raise StoreError(f"{self.folder}: open for reading only; open it with a process number to write")
        records = [self._writable(record) for record in records]
        with self._lock:
            self._pending += records
            if len(self._pending) >= _HELD_RECORDS or time.monotonic() - self._flushed >= _HELD_SECONDS:
                self.flush()
            elif self._timer is None:
                self._timer = threading.Timer(_HELD_SECONDS, self._flush_in_time)
                self._timer.start()

    def flush(self) -> None:
        """Writes what is pending in one transaction; StoreError where it cannot be written."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            if not self._pending or self._writer is None:
                return
            now = time.monotonic()
            sync = self._alone or now - self._synced >= _SYNC_SECONDS
            with naming(self._path):
                self._writer.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
                insert(self._writer, self._pending)
            self._pending = []
            self._flushed = now
            if sync:
                self._synced = now

    def _flush_in_time(self) -> None:
        with contextlib.suppress(StoreError):  # the next call meets the same error and can raise it
            self.flush()

    def lookup(self, rubric_hash: str, judge: str, keys: Collection[Key]) -> dict[Key, Record]:
        """The records of those pairs that are known: one query a file for all keys."""
        files = self.files()
        with self._reader:
            self._reader.execute("BEGIN")
            self._reader.execute("DELETE FROM wanted")
            rows = ((bytes.fromhex(listing), keyphrase, repeat) for listing, keyphrase, repeat in dict.fromkeys(keys))
            self._reader.executemany("INSERT INTO wanted VALUES (?, ?, ?)", rows)
        found: dict[Key, Record] = {}
        for path in files:
            with naming(path):
                self._reader.execute("ATTACH ? AS file", (uri(path),))
                try:
                    rows = self._reader.execute(
                        f"SELECT {COLUMNS} FROM file.judges CROSS JOIN wanted CROSS JOIN file.judgements"
                        " USING (listing, keyphrase, repeat)"
                        " WHERE rubric_hash = ? AND judge = ? AND judge_id = id",
                        (rubric_hash, judge),
                    )
                    for record in map(Record._make, rows):
                        other = found.get(record.key)
                        found[record.key] = record if other is None else best((other, record))
                finally:
                    self._reader.execute("DETACH file")
        return found

    def records(self, judge: str | None = None, rubric_hash: str | None = None) -> Iterator[Record]:
        """All records, or those of one judge or rubric: each pair once, in the order of Record's fields."""
        return merged(self.files(), judge, rubric_hash)

    def totals(self, judge: str | None = None, rubric_hash: str | None = None) -> Totals:
        """Sums over `records(judge, rubric_hash)`: a pair that two files hold counts once."""
        pairs = dict.fromkeys(STATUSES, 0)
        attempts = prompt_tokens = completion_tokens = 0
        cost = seconds = 0.0
        for record in self.records(judge, rubric_hash):
            pairs[record.status] += 1
            attempts += record.attempts
            prompt_tokens += record.prompt_tokens
            completion_tokens += record.completion_tokens
            cost += record.cost
            seconds += record.seconds
        return Totals(pairs, attempts, prompt_tokens, completion_tokens, cost, seconds)

    def merge_into(self, path: Path) -> int:
        """Writes one file with all pairs of this store, and of that file where it exists; returns how many.

        `path` is replaced when all is written. Named `judgements-*.sqlite` in a folder of its own, it is a store.

        Raises:
          StoreError: `path` is a file of this store, another process writes it, it is damaged or cannot be written.
        """
        files = self.files()
        if path.resolve() in {file.resolve() for file in files}:
            raise StoreError(f"{path}: is a file of this store; give a path that is not")
        count = 0
        with replacing(path) as temporary, locked(path):
            if path.exists():
                check(path)
                files = [*files, path]
            with contextlib.closing(create(temporary)) as target:
                for batch in _batches(merged(files)):
                    insert(target, batch)
                    count += len(batch)
        return count

    def export(self, path: Path, judge: str | None = None, rubric_hash: str | None = None) -> int:
        """Writes `records(judge, rubric_hash)` as one Parquet file, a column for each field; returns how many."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {
            "repeat": pa.int32(),
            "grade": pa.int8(),
            "raw_score": pa.float64(),
            "attempts": pa.int32(),
            "failures": pa.int32(),
            "prompt_tokens": pa.int64(),
            "completion_tokens": pa.int64(),
            "cost": pa.float64(),
            "seconds": pa.float64(),
        }
        schema = pa.schema([(name, types.get(name, pa.string())) for name in Record._fields])
        count = 0
        with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for batch in _batches(self.records(judge, rubric_hash)):
                writer.write_batch(pa.record_batch(list(zip(*batch)), schema=schema))
                count += len(batch)
        return count

    def _writable(self, record: Record) -> Record:
        bytes.fromhex(record.listing)
        for text in (record.judge, record.rubric, record.keyphrase, record.call):
            text.encode()
        return record._replace(answer=utf8(redacted(record.answer, self._secrets))[:ANSWER_LIMIT])


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(itertools.islice(records, _BATCH)):
        yield batch
