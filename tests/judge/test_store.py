"""The store: nothing lost, nothing twice, nothing silently empty, whichever files come together."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.judge.backends import Request
from distill.judge.prompt import listing_hash
from distill.judge.records import Key, Record, best, key_of, record_after
from distill.judge.store import JudgementStore
from distill.judge.store_files import StoreError
from tests.judge.store_records import LISTINGS, failed, judgement, names, record


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
