"""The store's files: damaged, locked, read only, full, or left by a process that was killed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from distill.judge.store import JudgementStore
from distill.judge.store_files import StoreError
from tests.judge.store_records import names, record

ROOT = Path(__file__).parents[2]


def _truncate(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 5000)


def _killed_in_a_transaction(folder: Path, mode: str) -> None:
    """A store of one pair, `red shoes`, whose process died while it wrote many more."""
    with JudgementStore(folder / "live") as store:
        store.write([record()])
    path = folder / "live" / "judgements-00000.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("PRAGMA cache_size = 5")  # pages; more go into the file, or its log, before the end
    connection.execute("BEGIN")
    for i in range(2000):
        connection.execute(
            "INSERT INTO judgements SELECT judge_id, listing, ?, repeat, status, grade, raw_score, answer, attempts,"
            " failures, prompt_tokens, completion_tokens, cost, seconds, time, call FROM judgements LIMIT 1",
            (f"keyphrase {i}",),
        )
    for part in path.parent.glob("judgements-*"):
        shutil.copy(part, folder)
    connection.close()


def _pragma(path: Path, text: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA {text}")
    connection.close()


@pytest.mark.parametrize("log", ["-wal", "-journal"])
def test_the_log_of_a_file_that_is_gone_is_not_taken_for_that_of_a_fresh_one(tmp_path, log):
    _killed_in_a_transaction(tmp_path / "a", "WAL" if log == "-wal" else "DELETE")
    log = shutil.copy(tmp_path / "a" / f"judgements-00000.sqlite{log}", tmp_path)
    with pytest.raises(StoreError, match=r"-(wal|journal): is of a file that is held open or gone"):
        JudgementStore(tmp_path)
    Path(log).unlink()
    with JudgementStore(tmp_path) as store:
        assert list(store.records()) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: _truncate(path, 0), "is empty; restore a good copy, or move the file and its -wal away"),
        (lambda path: _truncate(path, 0.001), "restore a good copy, or move the file and its -wal away"),
        (
            lambda path: _truncate(path, 0.6),
            r"(malformed|damaged .*); restore a good copy, or move the file and its -wal away",
        ),
        (
            lambda path: _truncate(path, 0.99),
            r"(malformed|damaged .*); restore a good copy, or move the file and its -wal away",
        ),
        (_overwrite, r"damaged .*; restore a good copy, or move the file and its -wal away"),
        (lambda path: path.write_bytes(b"not a database" * 500), "not a database; restore a good copy"),
        (lambda path: _pragma(path, "user_version = 7"), r"layout 7, .* reads layout 2; use the version that wrote it"),
        (lambda path: _pragma(path, "application_id = 7"), "not a judgement store; move it out of this folder"),
    ],
    ids=["emptied", "header cut", "cut", "end cut", "overwritten", "text", "layout", "another program's"],
)
@pytest.mark.parametrize("process", [0, 1, None], ids=["own", "another's", "reading"])
def test_a_damaged_file_is_named_and_never_empty(tmp_path, damage, words, process):
    path = tmp_path / "judgements-00000.sqlite"
    with JudgementStore(tmp_path) as store:
        store.write(record(f"keyphrase {i}", answer="x" * 200) for i in range(300))
    damage(path)
    with pytest.raises(StoreError, match=words) as raised:
        JudgementStore(tmp_path, process)
    assert str(path) in str(raised.value)
    path.unlink()
    with JudgementStore(tmp_path) as store:  # the failed opening holds nothing back
        assert list(store.records()) == []


def test_a_damaged_file_that_comes_while_the_store_is_open(tmp_path):
    with JudgementStore(tmp_path) as store:
        (tmp_path / "judgements-copied.sqlite").write_bytes(b"half a copy")
        with pytest.raises(StoreError, match=r"judgements-copied\.sqlite: .*restore a good copy"):
            store.lookup("r", "llm", [record().key])


def test_one_writer_a_file(tmp_path):
    with JudgementStore(tmp_path, 3) as first:
        with pytest.raises(StoreError, match=r"judgements-00003\.sqlite: another process writes it"):
            JudgementStore(tmp_path, 3)
        code = "import sys; from distill.judge.store import JudgementStore; JudgementStore(sys.argv[1], 3)"
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
        assert "another process writes it" in other.stderr
        first.write([record()])
        with JudgementStore(tmp_path, process=None) as reader:
            assert names(reader.records()) == ["red shoes"]
            with pytest.raises(StoreError, match="open for reading only"):
                reader.write([record()])
    with JudgementStore(tmp_path, 3):
        pass


def _parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".lock")


def test_alone_a_process_opens_no_file_but_its_own_and_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "judgements-00002.sqlite").write_bytes(b"half of what another machine has written")
    with JudgementStore(tmp_path, 0, alone=True) as first, JudgementStore(tmp_path, 1, alone=True) as second:
        for i in range(250):
            first.write([record(f"a{i:03}")])
            second.write([record(f"b{i:03}")])
            if i % 50 == 0:
                assert first.lookup("r", "llm", [record("a000").key, record("b000").key]).keys() == {record("a000").key}
        first.flush()
        second.flush()
        assert _parts(tmp_path) == [f"judgements-0000{n}.sqlite" for n in range(3)]
        assert names(second.records()) == [f"b{i:03}" for i in range(250)] and second.totals().attempts == 250
    (tmp_path / "judgements-00002.sqlite").unlink()
    with JudgementStore(tmp_path, None) as reader:
        assert names(reader.records()) == [f"{process}{i:03}" for process in "ab" for i in range(250)]
    assert _parts(tmp_path) == [f"judgements-0000{n}.sqlite" for n in range(2)]
    with JudgementStore(tmp_path, 0) as store:  # and as before where processes share a machine
        store.write([record("a")])
        assert len(names(store.records())) == 501


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_alone_after_a_kill_the_file_is_whole_by_itself(tmp_path, mode):
    _killed_in_a_transaction(tmp_path, mode)
    assert ("judgements-00000.sqlite-wal" if mode == "WAL" else "judgements-00000.sqlite-journal") in _parts(tmp_path)
    with JudgementStore(tmp_path, alone=True) as store:
        assert _parts(tmp_path) == ["judgements-00000.sqlite"]
        assert names(store.records()) == ["red shoes"]
        store.write([record("after")])
    moved = shutil.copy(tmp_path / "judgements-00000.sqlite", tmp_path / "live" / "judgements-moved.sqlite")
    with JudgementStore(Path(moved).parent, None) as reader:
        assert names(reader.records()) == ["after", "red shoes"]


def test_alone_one_writer_a_file_and_never_without_a_process(tmp_path):
    writes = pytest.raises(StoreError, match=r"judgements-00003\.sqlite: another process writes it")
    with JudgementStore(tmp_path, 3, alone=True), writes:
        JudgementStore(tmp_path, 3, alone=True)
    with pytest.raises(ValueError, match="alone: needs the number of the process"):
        JudgementStore(tmp_path, None, alone=True)


def test_reading_makes_nothing(tmp_path):
    with JudgementStore(tmp_path / "none", process=None) as store:
        assert store.lookup("r", "llm", [record().key]) == {} and list(store.records()) == []
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: .*use a folder that this user can write"):
        JudgementStore(tmp_path / "file")


READ_ONLY = """
import os, sys
from distill.judge.store import JudgementStore
from distill.judge.store_files import StoreError
if os.getuid() == 0:
    os.setuid(65534)  # root may write everywhere
with JudgementStore(sys.argv[1], None) as reader:
    print(reader.totals().pairs["graded"])
for process in (0, 1):
    try:
        JudgementStore(sys.argv[1], process)
    except StoreError as error:
        print(error)
"""


def test_a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        with JudgementStore(folder) as store:
            store.write([record()])
        before = sorted(folder.iterdir())
        for path in (*before, folder, folder.parent):
            path.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        folder.parent.chmod(0o755)
        folder.chmod(0o755)
        assert sorted(folder.iterdir()) == before
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0] == "1", done
    assert all(str(folder) in line and "use a folder that this user can write" in line for line in lines[1:])


FULL = """
import json, os, resource, sys
from distill.judge.store import JudgementStore
from distill.judge.store_files import StoreError
from tests.judge.store_records import record
with JudgementStore(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))  # as if the disk had so much space left
    written = 0
    try:
        while True:
            store.write([record(f"keyphrase {written:04}", answer="x" * 1500)])
            written += 1
    except StoreError as error:
        print(json.dumps([written, str(error)]), flush=True)
        os._exit(0)  # as a kill would
"""


def test_a_full_disk_stops_with_all_that_was_acknowledged(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    written, message = json.loads(done.stdout)
    assert (
        str(tmp_path / "judgements-00000.sqlite") in message
        and "start again; what was stored before is kept" in message
    )
    with JudgementStore(tmp_path) as store:
        kept = names(store.records())
        assert written >= 200 and kept == [f"keyphrase {i:04}" for i in range(len(kept))]
        assert written - 100 <= len(kept) <= written
        store.write([record("after")])
        assert names(store.records())[0] == "after"


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (record("b", listing="no hash"), "fromhex"),
        (record("b\ud800"), "surrogates"),
        (record("b", judge="\ud800"), "surro"),
        (record("b", call="\ud800"), "surro"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once_with_all_of_its_call(tmp_path, broken, error):
    with JudgementStore(tmp_path) as store:
        with pytest.raises(ValueError, match=error):
            store.write([record("a"), broken])
        assert list(store.records()) == []
        store.write([record("a")])
        assert names(store.records()) == ["a"]


def test_written_records_reach_the_file_in_a_moment_without_another_call(tmp_path):
    with JudgementStore(tmp_path) as store, JudgementStore(tmp_path, process=None) as reader:
        for name in "abc":
            store.write([record(name)])
        deadline = time.monotonic() + 30
        while names(reader.records()) != ["a", "b", "c"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_hundred_records_wait_for_nothing(tmp_path):
    with JudgementStore(tmp_path) as store, JudgementStore(tmp_path, process=None) as reader:
        for i in range(1000):
            store.write([record(f"{i:03}")])
            assert i % 97 or len(names(reader.records())) > i - 100
