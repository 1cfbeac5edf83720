"""The files of the judgement store: their tables, and how one is made, locked, checked, read and written."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import filelock

from distill.artifacts import ArtifactError
from distill.judge.records import Record, best

LAYOUT = 2  # of the tables below

_APPLICATION = 0x4A554447  # "JUDG" in the file's header: tells a store from any other SQLite file
_WAIT_SECONDS = 60.0  # for the short moments in which SQLite itself locks a file
_CACHE_KIB = 1 << 16
_TABLES = """
CREATE TABLE judges (
    id INTEGER PRIMARY KEY, rubric_hash TEXT NOT NULL, judge TEXT NOT NULL, rubric TEXT NOT NULL,
    UNIQUE (rubric_hash, judge));
CREATE TABLE judgements (
    judge_id INTEGER NOT NULL REFERENCES judges (id), listing BLOB NOT NULL, keyphrase TEXT NOT NULL,
    repeat INTEGER NOT NULL, status TEXT NOT NULL, grade INTEGER, raw_score REAL, answer TEXT NOT NULL,
    attempts INTEGER NOT NULL, failures INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, cost REAL NOT NULL, seconds REAL NOT NULL, time TEXT NOT NULL,
    call TEXT NOT NULL,
    PRIMARY KEY (judge_id, listing, keyphrase, repeat)) WITHOUT ROWID;
"""
# In the order of Record's fields.
COLUMNS = (
    "rubric_hash, judge, lower(hex(listing)), keyphrase, repeat, rubric, status, grade, raw_score, answer, attempts, "
    "failures, prompt_tokens, completion_tokens, cost, seconds, time, call"
)
_DAMAGED = "restore a good copy, or move the file and its -wal away: its pairs are then asked again"
_ADVICE = {
    "SQLITE_FULL": "free some space and start again; what was stored before is kept",
    "SQLITE_IOERR": "check the disk and its quota and start again; what was stored before is kept",
    "SQLITE_BUSY": "another program holds the file: close it and start again",
    "SQLITE_READONLY": "give this user the right to write the file and its folder, or use another folder",
    "SQLITE_CANTOPEN": "give this user the right to open the file and its folder, or use another folder",
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_CORRUPT": _DAMAGED,
}


class StoreError(ArtifactError):
    """A store that cannot be used as asked; the message names the file and says what to do."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the system come out as StoreError with the path and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", None) or ""
        advice = next((text for name, text in _ADVICE.items() if code.startswith(name)), "")
        raise StoreError(f"{path}: {error}" + f"; {advice}" * bool(advice)) from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; use a folder that this user can write") from error


def uri(path: Path) -> str:
    """For SQLite to open a file that exists; it can write where the system lets it, and tidies up after a kill.

    In a folder that cannot be written SQLite has no place for the index of a log and cannot undo what a kill cut short;
    with neither log nor journal beside the file it need not.
    """
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        mode = "mode=rw"
    else:
        mode = "mode=ro" if any(log.exists() for log in _logs(path)) else "mode=ro&immutable=1"
    return f"{path.absolute().as_uri()}?{mode}"


def connect(address: str, *, exclusive: bool = False) -> sqlite3.Connection:
    """A connection that commits each statement unless told otherwise, for one thread at a time.

    `exclusive`: nobody else can open the file meanwhile, and the index of its log is in this process's memory, not in a
    file that network storage cannot share.
    """
    connection = sqlite3.connect(
        address, uri=True, isolation_level=None, timeout=_WAIT_SECONDS, check_same_thread=False
    )
    if exclusive:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # counts only before all else
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


def create(path: Path) -> sqlite3.Connection:
    """A file with empty tables and a rollback journal."""
    connection = connect(f"{path.absolute().as_uri()}?mode=rwc")
    connection.executescript(
        f"BEGIN; PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {LAYOUT}; {_TABLES} COMMIT;"
    )
    return connection


def check(path: Path) -> None:
    """Raises StoreError where the file is damaged, not a store or of another layout; reads all of it."""
    with naming(path):
        if not path.stat().st_size:  # SQLite takes an empty file for an empty database
            raise StoreError(f"{path}: is empty; {_DAMAGED}")
        with contextlib.closing(connect(uri(path))) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
            if application != _APPLICATION:
                raise StoreError(f"{path}: is an SQLite file but not a judgement store; move it out of this folder")
            if layout != LAYOUT:
                raise StoreError(
                    f"{path}: has layout {layout}, and this version reads layout {LAYOUT}; use the version that wrote "
                    "it, or move the file away: its pairs are then asked again"
                )
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise StoreError(f"{path}: is damaged ({' '.join(verdict.split())}); {_DAMAGED}")


def end_log(path: Path) -> None:
    """Takes what a write-ahead log holds into the file, which has a rollback journal from then on."""
    with naming(path):
        with contextlib.closing(connect(uri(path), exclusive=True)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)  # the log's index, which a kill leaves too


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps all others from writing `path`; the system lets go of it when the process ends in whatever way."""
    lock = filelock.FileLock(f"{path}.lock", timeout=0, thread_local=False)
    with naming(path.parent):
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise StoreError(
                f"{path}: another process writes it; wait for it to end, or give this one a process number of its own"
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour that takes the place of `path` when the block ends well, and is removed otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            yield temporary
            for log in _logs(path):
                if log.exists() and log.stat().st_size:  # SQLite would take it for that of the file that comes
                    raise StoreError(
                        f"{log}: is of a file that is held open or gone; close what holds it, or move it away"
                    )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def insert(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """One transaction, all or nothing; a record replaces an earlier one of its pair."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        ids: dict[tuple[str, str], int] = {}
        for r in records:
            judge = (r.rubric_hash, r.judge)
            if judge not in ids:
                connection.execute(
                    "INSERT OR IGNORE INTO judges (rubric_hash, judge, rubric) VALUES (?, ?, ?)", (*judge, r.rubric)
                )
                query = "SELECT id FROM judges WHERE rubric_hash = ? AND judge = ?"
                (ids[judge],) = connection.execute(query, judge).fetchone()
            row = (ids[judge], bytes.fromhex(r.listing), r.keyphrase, r.repeat, *r[6:])
            connection.execute(f"INSERT OR REPLACE INTO judgements VALUES ({', '.join('?' * len(row))})", row)


def merged(paths: Sequence[Path], judge: str | None = None, rubric_hash: str | None = None) -> Iterator[Record]:
    """All records of the files, or those of one judge or rubric: each pair once, in the order of its fields."""
    streams = [_stream(path, judge, rubric_hash) for path in paths]
    if len(streams) == 1:
        yield from streams[0]
        return
    for _, same in itertools.groupby(heapq.merge(*streams, key=_identity), key=_identity):
        yield best(same)


def _identity(record: Record) -> tuple:
    return record[:5]


def _stream(path: Path, judge: str | None, rubric_hash: str | None) -> Iterator[Record]:
    with naming(path), contextlib.closing(connect(uri(path))) as connection:
        ids = connection.execute(
            "SELECT id FROM judges WHERE judge = ifnull(?, judge) AND rubric_hash = ifnull(?, rubric_hash)"
            " ORDER BY rubric_hash, judge",
            (judge, rubric_hash),
        ).fetchall()
        for judge_id in ids:
            yield from map(
                Record._make,
                connection.execute(
                    f"SELECT {COLUMNS} FROM judges JOIN judgements ON judge_id = id WHERE id = ?"
                    " ORDER BY listing, keyphrase, repeat",
                    judge_id,
                ),
            )


def _logs(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-journal")
