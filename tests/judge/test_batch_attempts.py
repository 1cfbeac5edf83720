"""The `batch` backend: how often a call that failed is made again, and when the stage ends."""

import shutil
from pathlib import Path

import pytest

from distill.judge.asking import ask
from distill.judge.backends import Judgement
from distill.judge.batch_files import WaitingForBatch
from distill.judge.store import JudgementStore
from tests.judge.asking_endpoint import RUBRIC, pairs
from tests.judge.batch_results import (
    answered,
    expired,
    failed,
    judge,
    judged,
    lines_of,
    nonsense,
    snapshot,
    too_long,
    write,
)


def asked_once(folder: Path, requests, answer: str = "logprobs", **settings) -> tuple[list[Judgement], list[str]]:
    """One run of the stage: the final judgements, and the files that wait where they are none."""
    final: list[Judgement] = []
    with JudgementStore(folder / "store") as store:
        try:
            ask(store, judge(folder / "batch", answer, **settings), RUBRIC, requests, receive=final.extend)
        except WaitingForBatch as waiting:
            return [], [file.name for file in waiting.files]
    return final, []


def records(folder: Path) -> dict[str, tuple]:
    with JudgementStore(folder / "store", process=None) as store:
        return {r.keyphrase: (r.status, r.attempts, r.failures, r.prompt_tokens, r.cost) for r in store.records()}


@pytest.mark.parametrize("answer", ["logprobs", "json"])
def test_a_refusal_is_final_and_the_stage_ends(answer, tmp_path: Path):
    n = 4 if answer == "json" else 1  # pairs a call
    assert asked_once(tmp_path, pairs(3 * n), answer) == ([], ["requests-00000.jsonl"])
    first, *rest = lines_of(tmp_path / "batch" / "requests-00000.jsonl")
    write(tmp_path / "batch" / "out.jsonl", [too_long(first), *map(answered, rest)])
    told: list[str] = []
    for _ in range(3):
        final, files = asked_once(tmp_path, pairs(3 * n), answer, notice=told.append)
        assert [j.status for j in final] == ["failed"] * n + ["graded"] * 2 * n and not files
        assert all("too long" in j.answer for j in final[:n])
    assert sorted(path.name for path in (tmp_path / "batch").iterdir()) == [
        "out.jsonl",
        "pairs-00000.jsonl",
        "requests-00000.jsonl",
    ]
    assert sorted(records(tmp_path).values()) == [("failed", 1, 1, 0, 0.0)] * n + [
        ("graded", 1, 0, 40 // n, pytest.approx(40 / n / 1e6))
    ] * (2 * n)
    assert all("1 calls failed, of which 1 were refused" in text for text in told)
    # Its result deleted, the call waits for one again.
    write(tmp_path / "batch" / "out.jsonl", map(answered, rest))
    assert asked_once(tmp_path, pairs(3 * n), answer) == ([], ["requests-00000.jsonl"])
    write(tmp_path / "batch" / "again.jsonl", [answered(first)])
    assert {j.status for j in asked_once(tmp_path, pairs(3 * n), answer)[0]} == {"graded"}


@pytest.mark.parametrize(
    ("status", "final"),
    [
        *((status, True) for status in (400, 401, 404, 413, 422, 499)),
        *((status, False) for status in (408, 409, 425, 429, 500, 503, None)),
    ],
)
def test_which_failures_another_try_may_not_meet(status, final, tmp_path: Path):
    _, waiting = judged(judge(tmp_path), pairs(1))
    assert waiting is not None
    write(tmp_path / "out.jsonl", [too_long(call, status) for call in lines_of(waiting.files[0])])
    found, waiting = judged(judge(tmp_path), pairs(1))
    assert [j.status for j in found] == ["failed"] * final
    assert (waiting is None) == final and (tmp_path / "requests-00001.jsonl").exists() != final


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_call_that_fails_is_made_again_to_the_limit_and_then_the_stage_ends(attempts, tmp_path: Path):
    for n in range(attempts):
        assert asked_once(tmp_path, pairs(1), attempts=attempts) == ([], [f"requests-0000{n}.jsonl"])
        # Nothing has come: nothing is written.
        assert asked_once(tmp_path, pairs(1), attempts=attempts) == ([], [f"requests-0000{n}.jsonl"])
        (call,) = lines_of(tmp_path / "batch" / f"requests-0000{n}.jsonl")
        write(tmp_path / "batch" / f"errors-{n}.jsonl", [expired(call)])
    before = snapshot(tmp_path / "batch")
    for _ in range(3):
        ((answer,), files) = asked_once(tmp_path, pairs(1), attempts=attempts)
        assert not files and answer.status == "failed" and "batch_expired" in answer.answer
    assert snapshot(tmp_path / "batch") == before
    assert list(records(tmp_path).values()) == [("failed", 1, 1, 0, 0.0)]
    # A higher limit gives another try, and a result that comes late is the answer to its call.
    write(tmp_path / "batch" / "late.jsonl", [answered(call, "3")])
    ((answer,), _) = asked_once(tmp_path, pairs(1), attempts=attempts)
    assert answer.grade == 3
    (tmp_path / "batch" / "late.jsonl").unlink()
    shutil.rmtree(tmp_path / "store")
    assert asked_once(tmp_path, pairs(1), attempts=attempts + 1) == ([], [f"requests-0000{attempts}.jsonl"])


def test_attempts_below_one(tmp_path: Path):
    with pytest.raises(ValueError, match="attempts 0"):
        judge(tmp_path, attempts=0)


def test_an_answer_that_is_read_at_every_poll_is_paid_for_once(tmp_path: Path):
    asked_once(tmp_path, pairs(3))
    first, second, third = lines_of(tmp_path / "batch" / "requests-00000.jsonl")
    write(tmp_path / "batch" / "r0.jsonl", [answered(first), nonsense(second)])
    once = ("unparsable", 1, 0, 40, pytest.approx(40e-6))
    for _ in range(4):  # the third is under way
        assert asked_once(tmp_path, pairs(3)) == ([], ["requests-00000.jsonl"])
        assert records(tmp_path)["sander 1 speed"] == once
    write(tmp_path / "batch" / "r1.jsonl", [answered(third)])
    for _ in range(3):  # now ask() comes to its next attempt, and that waits in its turn
        assert asked_once(tmp_path, pairs(3)) == ([], ["requests-00001.jsonl"])
        assert records(tmp_path)["sander 1 speed"] == once
    for n in (1, 2):
        assert asked_once(tmp_path, pairs(3)) == ([], [f"requests-0000{n}.jsonl"])
        write(
            tmp_path / "batch" / f"s{n}.jsonl", map(nonsense, lines_of(tmp_path / "batch" / f"requests-0000{n}.jsonl"))
        )
    for _ in range(2):
        final, files = asked_once(tmp_path, pairs(3))
        assert [j.status for j in final] == ["graded", "unparsable", "graded"] and not files
    assert records(tmp_path) == {
        "drill 0 speed": ("graded", 1, 0, 40, pytest.approx(40e-6)),
        "sander 1 speed": ("unparsable", 3, 0, 120, pytest.approx(120e-6)),
        "saw 2 speed": ("graded", 1, 0, 40, pytest.approx(40e-6)),
    }
    # The same lines under another name are the same answers, wherever the store has gone.
    for path in (tmp_path / "batch").glob("[rs][0-9].jsonl"):
        shutil.copy(path, tmp_path / "batch" / f"copy-of-{path.name}")
    before = records(tmp_path)
    asked_once(tmp_path, pairs(3))
    assert records(tmp_path) == before


def test_a_failure_between_answers_counts_as_a_call_and_the_stage_ends(tmp_path: Path):
    for n, made in enumerate([nonsense, failed, nonsense]):
        assert asked_once(tmp_path, pairs(1)) == ([], [f"requests-0000{n}.jsonl"])
        write(tmp_path / "batch" / f"r{n}.jsonl", map(made, lines_of(tmp_path / "batch" / f"requests-0000{n}.jsonl")))
    for _ in range(2):
        ((answer,), files) = asked_once(tmp_path, pairs(1))
        assert not files and (answer.status, answer.prompt_tokens) == ("unparsable", 80)
