"""The store: nothing lost, nothing twice, nothing silently empty, whichever files come together."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.judge.backends import Judgement, Request
from distill.judge.prompt import listing_hash
from distill.judge.records import Key, Record, best, key_of, record_after
from distill.judge.store import JudgementStore
from distill.judge.store_files import StoreError

ROOT = Path(__file__).parents[2]
LISTINGS = ("0a" * 32, "ff" * 32)


def judgement(grade: int | None = 2, status: str = "graded", judge: str = "llm", **figures) -> Judgement:
    return Judgement(5, 6, grade, judge, "graded-v1", status, **figures)


def record(keyphrase: str = "red shoes", listing: str = LISTINGS[0], rubric_hash: str = "r", **fields) -> Record:
    return record_after(rubric_hash, Key(listing, keyphrase), judgement())._replace(**fields)


def failed(keyphrase: str = "red shoes", **fields) -> Record:
    return record(keyphrase)._replace(status="failed", grade=None, failures=1, **fields)


def names(records) -> list[str]:
    return [r.keyphrase for r in records]


def test_what_is_written_is_found_by_content_and_survives_reopening(tmp_path):
    written = record(answer="Substitute", raw_score=2.25, prompt_tokens=200, cost=0.5, grade=2)
    with JudgementStore(tmp_path) as store:
        store.write([written, record("blue shoes")])
        assert store.lookup("r", "llm", [written.key]) == {written.key: written}
    with JudgementStore(tmp_path) as store:
        other = written.key._replace(keyphrase="green shoes")
        assert store.lookup("r", "llm", [written.key, written.key, other]) == {written.key: written}
        for rubric_hash, judge, key in [
            ("other", "llm", written.key),
            ("r", "other", written.key),
            ("r", "llm", written.key._replace(listing=LISTINGS[1])),
            ("r", "llm", written.key._replace(repeat=1)),
        ]:
            assert store.lookup(rubric_hash, judge, [key]) == {}


def test_a_key_holds_the_listing_the_normal_form_of_the_keyphrase_and_the_repeat():
    request = Request(1, 2, "Shoe", ("Shoes",), {"size": "9"}, "  Red   SHOES", repeat=3)
    assert key_of(request) == (listing_hash(request), "red shoes", 3)
    assert key_of(Request(7, 8, "Shoe", ("Shoes",), {"size": "9"}, "red shoes", repeat=3)) == key_of(request)


def test_attempts_add_up_and_a_failure_replaces_no_answer():
    key = Key(LISTINGS[0], "red shoes")
    figures = {"prompt_tokens": 100, "completion_tokens": 2, "cost": 0.25, "seconds": 0.5}
    first = record_after("r", key, judgement(None, "failed", answer="503", **figures))
    assert (first.status, first.attempts, first.failures, first.answers) == ("failed", 1, 1, 0)
    second = record_after("r", key, judgement(None, "abstained", answer="unsure", **figures), first)
    assert (second.status, second.answer, second.attempts, second.failures) == ("abstained", "unsure", 2, 1)
    third = record_after("r", key, judgement(None, "failed", answer="429", **figures), second)
    assert (third.status, third.answer, third.attempts, third.failures) == ("abstained", "unsure", 3, 2)
    fourth = record_after("r", key, judgement(3, raw_score=2.5, answer="exact", **figures), third)
    assert (fourth.status, fourth.grade, fourth.raw_score, fourth.answer) == ("graded", 3, 2.5, "exact")
    assert (fourth.prompt_tokens, fourth.completion_tokens, fourth.cost, fourth.seconds) == (400, 8, 1.0, 2.0)
    fifth = record_after("r", key, judgement(None, "unparsable", answer="?"), fourth)
    assert (fifth.grade, fifth.answer, fifth.attempts) == (3, "exact", 5)
    assert record_after("r", key, judgement(0), fifth).grade == 0


def test_an_answer_that_is_read_again_changes_nothing():
    key = Key(LISTINGS[0], "red shoes")
    figures = {"prompt_tokens": 100, "cost": 0.25}
    first = record_after("r", key, judgement(None, "unparsable", call="c1.1", **figures))
    assert record_after("r", key, judgement(None, "unparsable", call="c1.1", **figures), first) is first
    second = record_after("r", key, judgement(None, "failed", call="c2.1"), first)
    assert (second.status, second.attempts, second.failures, second.call) == ("unparsable", 2, 1, "c2.1")
    assert record_after("r", key, judgement(None, "failed", call="c2.1"), second) is second
    third = record_after("r", key, judgement(3, call="c2.2", **figures), second)  # a further result of one call
    assert (third.grade, third.attempts, third.prompt_tokens, third.cost) == (3, 3, 200, 0.5)
    # Answers that nothing names are all different ones.
    assert record_after("r", key, judgement(), record_after("r", key, judgement())).attempts == 2


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (judgement(4), "grade 4"),
        (judgement(None), "grade None"),
        (judgement(0, "abstained"), "'abstained' with grade 0"),
        (judgement(None, "unsure"), "status 'unsure'"),
        (judgement(raw_score=float("nan")), "raw_score nan"),
        (judgement(raw_score=3.5), "raw_score 3.5"),
        (judgement(cost=float("inf")), "cost inf"),
        (judgement(prompt_tokens=-1), "prompt_tokens -1"),
    ],
)
def test_a_judgement_that_contradicts_itself_is_no_record(made, words):
    with pytest.raises(ValueError, match=words):
        record_after("r", Key(LISTINGS[0], "red shoes"), made)


def test_all_files_of_a_folder_take_part(tmp_path):
    with JudgementStore(tmp_path, 0) as first, JudgementStore(tmp_path, 1) as second:
        first.write([record("a"), failed("both"), failed("c")])
        second.write([record("both", grade=1), record("d", rubric_hash="r2")])
        assert first.lookup("r", "llm", [record("both").key])[record("both").key].grade == 1
        assert names(first.records()) == names(second.records()) == ["a", "both", "c", "d"]
    # A copy of a file, as from another machine, changes nothing.
    shutil.copy(tmp_path / "judgements-00001.sqlite", tmp_path / "judgements-elsewhere.sqlite")
    with JudgementStore(tmp_path, process=None) as reader:
        assert names(reader.records()) == ["a", "both", "c", "d"]
        assert names(reader.records(rubric_hash="r2")) == ["d"] and names(reader.records(judge="other")) == []
        assert len(reader.files()) == 3


def test_totals(tmp_path):
    with JudgementStore(tmp_path) as store:
        store.write([record("a", cost=0.5, prompt_tokens=10, completion_tokens=1, seconds=2.0), failed("b", cost=0.25)])
        store.write([record("c", judge="other", cost=4.0)])
        mine, all_judges = store.totals("llm"), store.totals()
    assert mine.pairs == {"graded": 1, "abstained": 0, "unparsable": 0, "failed": 1}
    assert (mine.attempts, mine.prompt_tokens, mine.completion_tokens, mine.cost, mine.seconds) == (2, 10, 1, 0.75, 2.0)
    assert all_judges.pairs["graded"] == 2 and all_judges.cost == 4.75


def test_parquet_export(tmp_path):
    rows = [record("a", raw_score=1.5), failed("b", answer="429"), record("c", listing=LISTINGS[1], repeat=2)]
    with JudgementStore(tmp_path / "store") as store:
        store.write(rows)
        assert store.export(tmp_path / "out" / "judgements.parquet") == 3
        assert store.export(tmp_path / "none.parquet", judge="nobody") == 0
    table = pq.read_table(tmp_path / "out" / "judgements.parquet")
    assert [Record(**row) for row in table.to_pylist()] == rows
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["judgements.parquet"]


def test_merge_into_one_file_and_again(tmp_path):
    target = tmp_path / "one" / "judgements-all.sqlite"
    for folder, rows in (("x", [record("a"), failed("b")]), ("y", [record("b", grade=0), record("c")])):
        with JudgementStore(tmp_path / folder) as store:
            store.write(rows)
            store.merge_into(target)
            counted = store.merge_into(target)
    assert counted == 3
    with JudgementStore(target.parent, process=None) as merged:
        assert [(r.keyphrase, r.grade) for r in merged.records()] == [("a", 2), ("b", 0), ("c", 2)]
    with JudgementStore(tmp_path / "x") as store, pytest.raises(StoreError, match="is a file of this store"):
        store.merge_into(tmp_path / "x" / "judgements-00000.sqlite")
    with JudgementStore(tmp_path / "x") as x, JudgementStore(tmp_path / "y") as y:
        with pytest.raises(StoreError, match="another process writes it"):
            x.merge_into(tmp_path / "y" / "judgements-00000.sqlite")
        assert y.totals().pairs["graded"] == 2


@st.composite
def _records(draw) -> Record:
    status = draw(st.sampled_from(["graded", "abstained", "unparsable", "failed"]))
    attempts = draw(st.integers(1, 3))
    return record(
        draw(st.sampled_from(["a", "b", "ü", "\U0001f600", "\ue000"])),
        draw(st.sampled_from(LISTINGS)),
        draw(st.sampled_from(["r1", "r2"])),
        judge=draw(st.sampled_from(["j1", "j2"])),
        status=status,
        grade=draw(st.integers(0, 3)) if status == "graded" else None,
        raw_score=draw(st.sampled_from([None, 0.5])) if status == "graded" else None,
        attempts=attempts,
        failures=attempts if status == "failed" else draw(st.integers(0, attempts - 1)),
        time=draw(st.sampled_from(["2030-01-01T00:00:00.000000+00:00", "2030-01-01T00:00:00.000001+00:00"])),
        call=draw(st.sampled_from(["", "c1", "c2"])),
    )


@given(st.lists(_records(), min_size=1, max_size=6))
def test_which_record_stands_for_a_pair_does_not_depend_on_order_or_grouping(same):
    chosen = best(same)
    assert all(best(order) == chosen for order in itertools.permutations([*same[:4], chosen]))
    assert best([best(same[:2]), *same[1:], chosen]) == chosen
    assert (chosen.status == "graded") == any(r.status == "graded" for r in same)
    rivals = [r for r in same if (r.status == "graded") == (chosen.status == "graded")]
    assert chosen.answers == max(r.answers for r in rivals)


@settings(max_examples=8)
@given(st.lists(st.lists(_records(), max_size=6), min_size=1, max_size=3))
def test_files_merge_alike_in_every_order_and_twice(files):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for process, rows in enumerate(files):
            with JudgementStore(folder / "store", process) as store:
                for row in rows:
                    store.write([row])
            with JudgementStore(folder / f"alone{process}") as alone:
                alone.write(rows)
        # Within one file the last record of a pair stays, so the expected winner is among each file's last ones.
        last = [r for rows in files for r in {r[:5]: r for r in rows}.values()]
        expected = [best(r for r in last if r[:5] == key) for key in sorted({r[:5] for r in last})]
        with JudgementStore(folder / "store", process=None) as store:
            assert list(store.records()) == expected
            for rubric_hash, judge in itertools.product(("r1", "r2"), ("j1", "j2")):
                found = store.lookup(rubric_hash, judge, {r.key for r in last})
                assert found == {r.key: r for r in expected if r[:2] == (rubric_hash, judge)}
        for order, target in ((range(len(files)), "up"), (reversed(range(len(files))), "down")):
            for process in order:
                with JudgementStore(folder / f"alone{process}", process=None) as alone:
                    alone.merge_into(folder / target / "judgements-all.sqlite")
            with JudgementStore(folder / target, process=None) as merged:
                assert list(merged.records()) == expected


def test_secrets_never_reach_the_file(tmp_path):
    with JudgementStore(tmp_path, secrets=("sk-abcde", "sk-abcdefgh")) as store:
        store.write([record("a", answer="key sk-abcdefgh or sk-abcde is wrong" + "x" * 3000)])
        (kept,) = store.records()
    assert kept.answer.startswith("key [redacted] or [redacted] is wrong") and len(kept.answer) == 2000
    assert b"sk-abcde" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_placeholder_for_a_key_is_no_secret(tmp_path):
    """Servers without keys are given one like `m`, which stands in any text and may be the model's name."""
    with JudgementStore(tmp_path, secrets=("", "m", "no-key")) as store:
        written = record(judge="openai:m", answer="same product, no-key")
        store.write([written])
        assert list(store.records()) == [written]


def test_any_text_can_be_stored(tmp_path):
    texts = ["", "a\0b", "\ud83d half of a pair", "'; DROP TABLE judgements; --", "\u202e\U0001f600"]
    with JudgementStore(tmp_path) as store:
        store.write([record(f"k{i}", answer=text) for i, text in enumerate(texts)])
        kept = [r.answer for r in store.records()]
    assert kept == [*texts[:2], "\\ud83d half of a pair", *texts[3:]]
    assert key_of(Request(0, 0, "t", (), {}, "x\ud800")).keyphrase == "x\\ud800"


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
from tests.judge.test_store import record
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
