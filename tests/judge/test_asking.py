"""The asking loop: each pair ends in exactly one answer, is paid for once, and survives a kill."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.judge.asking import JudgeError, ask, estimate
from distill.judge.backends import Judgement, Request
from distill.judge.records import key_of
from distill.judge.rubric import load_rubric
from distill.judge.store import JudgementStore
from tests.judge.asking_process import grade, request

ROOT = Path(__file__).parents[2]
RUBRIC = load_rubric("graded-v1")


def answer(asked: Request, grade: int | None = 2, status: str = "graded", **figures) -> Judgement:
    return Judgement(
        asked.item, asked.keyphrase_index, grade, "llm", RUBRIC.name, status, repeat=asked.repeat, **figures
    )


class ScriptedJudge:
    """Answers by a function of the request and of how often it was asked before; remembers what it was asked."""

    name = "llm"

    def __init__(self, script: Callable[[Request, int], Judgement] = lambda asked, before: answer(asked)):
        self.asked: list[Request] = []
        self._script = script

    def judge(self, requests: Iterable[Request]) -> Iterator[Judgement]:
        for asked in requests:
            before = self.asked.count(asked)
            self.asked.append(asked)
            yield self._script(asked, before)


def pairs(count: int) -> list[Request]:
    return [request(row) for row in range(count)]


def run(store: JudgementStore, judge, requests, **settings):
    received: list[Judgement] = []
    summary = ask(store, judge, RUBRIC, requests, receive=received.extend, **settings)
    return summary, received


def test_only_what_the_store_lacks_is_asked_and_the_order_is_that_of_the_requests(tmp_path):
    requests = pairs(20)[::-1]
    judge = ScriptedJudge(lambda asked, before: answer(asked, asked.keyphrase_index % 4, raw_score=1.5, answer="ok"))
    with JudgementStore(tmp_path) as store:
        run(store, judge, requests[5:9])
        summary, received = run(store, judge, iter(requests), chunk=6, total=20)
    assert judge.asked == requests[5:9] + requests[:5] + requests[9:]
    assert [(j.item, j.keyphrase_index) for j in received] == [(r.item, r.keyphrase_index) for r in requests]
    assert all(j == answer(r, r.keyphrase_index % 4, raw_score=1.5, answer="ok") for r, j in zip(requests, received))
    assert (summary.total, summary.done, summary.known, summary.calls) == (20, 20, 4, 16)
    assert summary.statuses == {"graded": 20}


def test_another_rubric_judge_listing_or_repeat_is_another_question(tmp_path):
    judge, asked = ScriptedJudge(), pairs(1)[0]
    with JudgementStore(tmp_path) as store:
        ask(store, judge, RUBRIC, [asked])
        ask(store, judge, dataclasses.replace(RUBRIC, hash="other"), [asked])
        ask(store, judge, RUBRIC, [dataclasses.replace(asked, repeat=1)])
        ask(store, judge, RUBRIC, [dataclasses.replace(asked, title="edited")])
        assert len(judge.asked) == 4
        ask(store, judge, RUBRIC, [dataclasses.replace(asked, item=9, keyphrase_index=9, keyphrase="Keyphrase  0")])
        assert len(judge.asked) == 4


def test_requests_of_equal_content_are_asked_once_and_all_answered(tmp_path):
    same = [dataclasses.replace(request(0), item=item) for item in (3, 4, 5)]
    requests = [same[0], request(8), same[1], same[1], request(9), same[2]]
    judge = ScriptedJudge()
    with JudgementStore(tmp_path) as store:
        summary, received = run(store, judge, requests, chunk=4)
    assert judge.asked == [same[0], request(8), request(9)]
    assert [j.item for j in received] == [3, 1, 4, 4, 1, 5] and {j.grade for j in received} == {2}
    assert (summary.done, summary.known, summary.calls) == (6, 1, 3)


def test_unsettled_pairs_are_asked_again_after_the_others_to_the_limit(tmp_path):
    outcomes = {
        0: ["graded"],
        1: ["abstained", "graded"],
        2: ["unparsable", "abstained", "unparsable"],
        3: ["failed", "failed", "graded"],
        4: ["failed", "failed", "failed"],
        5: ["abstained", "failed", "failed"],
    }
    script = {row: list(statuses) for row, statuses in outcomes.items()}

    def scripted(asked: Request, before: int) -> Judgement:
        status = script[asked.keyphrase_index].pop(0)
        return answer(asked, 1 if status == "graded" else None, status, answer=f"{status} {before}", cost=0.5)

    judge = ScriptedJudge(scripted)
    with JudgementStore(tmp_path) as store:
        summary, received = run(store, judge, pairs(6), attempts=3)
        assert [r.keyphrase_index for r in judge.asked] == [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 2, 3, 4, 5]
        assert [(j.status, j.answer) for j in received] == [
            ("graded", "graded 0"),
            ("graded", "graded 1"),
            ("unparsable", "unparsable 2"),
            ("graded", "graded 2"),
            ("failed", "failed 2"),
            ("abstained", "abstained 0"),
        ]
        assert [j.cost for j in received] == [0.5, 1, 1.5, 1.5, 1.5, 1.5] and summary.cost == 7.5
        assert summary.statuses == {"graded": 3, "unparsable": 1, "failed": 1, "abstained": 1}

        # A later run asks again what failed, and what has had fewer answers than the limit.
        judge.asked.clear()
        script.update({4: ["graded"], 5: ["abstained", "abstained"]})
        summary, received = run(store, judge, pairs(6), attempts=3)
        assert [r.keyphrase_index for r in judge.asked] == [4, 5, 5]
        assert [j.status for j in received] == ["graded", "graded", "unparsable", "graded", "graded", "abstained"]
        assert (summary.done, summary.known) == (6, 4)
        judge.asked.clear()
        run(store, judge, pairs(6), attempts=3)
        assert judge.asked == []
        script.update({2: ["graded"], 5: ["graded"]})  # a higher limit gives another try
        assert run(store, judge, pairs(6), attempts=4)[0].statuses == {"graded": 6}


def test_a_pair_that_failed_is_not_tried_again_in_a_later_chunk_of_the_run(tmp_path):
    judge = ScriptedJudge(lambda asked, before: answer(asked, None, "failed"))
    requests = [request(0), request(1), request(0)]
    with JudgementStore(tmp_path) as store:
        _, received = run(store, judge, requests, attempts=2, chunk=2)
    assert Counter(r.keyphrase_index for r in judge.asked) == {0: 2, 1: 2}
    assert [j.status for j in received] == ["failed"] * 3


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=20), st.integers(1, 6), st.data())
def test_every_request_ends_in_one_answer_whatever_the_judge_says(tmp_path_factory, rows, chunk, data):
    requests = [dataclasses.replace(request(row), repeat=repeat) for row, repeat in rows]
    said = Counter()

    def scripted(asked: Request, before: int) -> Judgement:
        status = data.draw(st.sampled_from(["graded", "abstained", "unparsable", "failed"]))
        said[status] += 1
        return answer(asked, 3 if status == "graded" else None, status)

    judge = ScriptedJudge(scripted)
    with JudgementStore(tmp_path_factory.mktemp("store")) as store:
        for _ in range(2):
            judge.asked.clear()
            summary, received = run(store, judge, requests, attempts=2, chunk=chunk)
            assert [(j.item, j.keyphrase_index, j.repeat) for j in received] == [
                (r.item, r.keyphrase_index, r.repeat) for r in requests
            ]
            assert summary.done == len(requests) == summary.statuses.total()
            assert all(judge.asked.count(asked) <= 2 for asked in requests)
        records = list(store.records())
    assert {r.key for r in records} == {key_of(asked) for asked in requests}
    assert sum(r.attempts for r in records) == said.total() and sum(r.failures for r in records) == said["failed"]
    assert sum(r.status == "graded" for r in records) == said["graded"]


def test_an_answer_that_the_judge_reads_again_is_no_further_attempt(tmp_path):
    calls = {0: "c1", 1: "c2"}
    statuses = {0: "unparsable", 1: "failed"}

    def scripted(asked: Request, before: int) -> Judgement:
        row = asked.keyphrase_index
        return answer(asked, None, statuses[row], call=calls[row], cost=0.5, prompt_tokens=10)

    with JudgementStore(tmp_path) as store:
        for run_ in range(3):
            summary, received = run(store, ScriptedJudge(scripted), pairs(2), attempts=3)
            assert [(j.status, j.cost, j.call) for j in received] == [("unparsable", 0.5, "c1"), ("failed", 0.5, "c2")]
            assert (summary.calls, summary.cost, summary.prompt_tokens) == ((0, 0, 0) if run_ else (2, 1.0, 20))
            assert summary.done == 2 and summary.statuses == {"unparsable": 1, "failed": 1}
        assert [(r.attempts, r.failures, r.cost) for r in store.records()] == [(1, 0, 0.5), (1, 1, 0.5)]
        calls[0], statuses[1] = "c3", "abstained"  # another call; and the same one again counts by its name alone
        run(store, ScriptedJudge(scripted), pairs(2), attempts=3)
        assert [(r.attempts, r.status, r.call) for r in store.records()] == [
            (2, "unparsable", "c3"),
            (1, "failed", "c2"),
        ]


def _omits(requests: list[Request]) -> list[Judgement]:
    return [answer(asked) for asked in requests if asked.keyphrase_index != 2]


def _twice(requests: list[Request]) -> list[Judgement]:
    return [answer(asked) for asked in [requests[2], *requests[2:], *requests[:2]]]


def _unknown(requests: list[Request]) -> list[Judgement]:
    return [answer(dataclasses.replace(requests[0], item=77)), *map(answer, requests)]


def _other_name(requests: list[Request]) -> list[Judgement]:
    return [
        dataclasses.replace(answer(asked), judge="llm2" if asked.keyphrase_index == 2 else "llm") for asked in requests
    ]


def _no_grade(requests: list[Request]) -> list[Judgement]:
    return [answer(asked, 9 if asked.keyphrase_index == 2 else 1) for asked in requests]


@pytest.mark.parametrize(
    ("misbehave", "words", "stored"),
    [
        (_omits, "gave no answer to 1 pairs, the first item 0, keyphrase 2, repeat 0", 4),
        (_twice, "answered item 0, keyphrase 2, repeat 0, twice", 5),
        (_unknown, "answered item 77, keyphrase 0, repeat 0, which it was not asked", 5),
        (_other_name, "answered item 0, keyphrase 2, repeat 0 under the name 'llm2'", 4),
        (_no_grade, "answered item 0, keyphrase 2, repeat 0 with status 'graded' with grade 9", 4),
    ],
)
def test_a_judge_that_breaks_its_protocol_is_named_and_its_good_answers_kept(tmp_path, misbehave, words, stored):
    class Misbehaving:
        name = "llm"

        def judge(self, requests: Iterable[Request]) -> Iterator[Judgement]:
            yield from misbehave(list(requests))

    with JudgementStore(tmp_path) as store:
        with pytest.raises(JudgeError, match=f"judge 'llm' {words}"):
            ask(store, Misbehaving(), RUBRIC, pairs(5))
        assert len(list(store.records())) == stored
        judge = ScriptedJudge()
        ask(store, judge, RUBRIC, pairs(5))
        assert len(judge.asked) == 5 - stored


def test_requests_that_contradict_each_other_and_no_attempts(tmp_path):
    with JudgementStore(tmp_path) as store:
        with pytest.raises(ValueError, match="item 0, keyphrase 0, repeat 0 come with two different texts"):
            ask(store, ScriptedJudge(), RUBRIC, [request(0), dataclasses.replace(request(0), title="other")])
        with pytest.raises(ValueError, match="attempts 0"):
            ask(store, ScriptedJudge(), RUBRIC, pairs(1), attempts=0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionError])
def test_what_came_before_an_interrupt_is_kept(tmp_path, error):
    def interrupted(asked: Request, before: int) -> Judgement:
        if asked.keyphrase_index == 4:
            raise error
        return answer(asked)

    judge = ScriptedJudge()
    with JudgementStore(tmp_path) as store, pytest.raises(error):
        ask(store, ScriptedJudge(interrupted), RUBRIC, pairs(7))
    with JudgementStore(tmp_path) as store:
        ask(store, judge, RUBRIC, pairs(7))
    assert [r.keyphrase_index for r in judge.asked] == [4, 5, 6]


def test_progress(tmp_path):
    told: list[tuple[int, dict[str, float]]] = []

    def slow(asked: Request, before: int) -> Judgement:
        time.sleep(0.02)
        return answer(asked, cost=0.5, prompt_tokens=100, completion_tokens=2)

    with JudgementStore(tmp_path) as store:
        ask(store, ScriptedJudge(), RUBRIC, pairs(10))
        summary = ask(
            store, ScriptedJudge(slow), RUBRIC, pairs(50), advance=lambda n, **figures: told.append((n, figures))
        )
    assert len(told) >= 3 and sum(count for count, _ in told) == 50 == summary.total
    for _, figures in told[:-1]:
        assert figures["known"] == 10
        assert figures.get("cost_expected", 20) == pytest.approx(20)  # 40 pairs at a half
    middle = told[len(told) // 2 - 1][1]
    assert 0 < middle["cost"] < 20 and middle["seconds_left"] > 0 and 1 < middle["pairs_per_second"] < 50
    assert told[-1][1] | {"pairs_per_second": 0} == {
        "known": 10,
        "pairs_per_second": 0,
        "prompt_tokens": 4000,
        "completion_tokens": 80,
        "cost": 20,
        "cost_expected": 20,
        "seconds_left": 0,
    }


class CountingJudge(ScriptedJudge):
    """Also knows what a request costs: 100 prompt tokens and as many more as its keyphrase's row, 2 to answer."""

    def tokens(self, request: Request) -> tuple[float, float]:
        return 100 + request.keyphrase_index, 2


def test_an_estimate_asks_and_writes_nothing(tmp_path):
    judge = CountingJudge()
    with JudgementStore(tmp_path) as store:
        ask(store, judge, RUBRIC, pairs(2))
    judge.asked.clear()
    with JudgementStore(tmp_path, process=None) as store:
        requests = [*pairs(7), request(6), request(0)]
        expected = estimate(store, judge, RUBRIC, requests, prompt_price=2.0, completion_price=10.0)
    assert (expected.pairs, expected.known, expected.to_ask, expected.counted) == (9, 3, 5, 5)
    assert (expected.prompt_tokens, expected.completion_tokens) == (500 + 2 + 3 + 4 + 5 + 6, 10)
    assert expected.cost == pytest.approx((520 * 2 + 10 * 10) / 1e6)
    assert judge.asked == []


def test_an_estimate_of_many_pairs_counts_a_sample(tmp_path):
    with JudgementStore(tmp_path, process=None) as store:
        expected = estimate(store, CountingJudge(), RUBRIC, pairs(5001))
        nothing = estimate(store, CountingJudge(), RUBRIC, [])
    assert (expected.to_ask, expected.counted, expected.completion_tokens) == (5001, 1667, 10002)
    assert expected.prompt_tokens == pytest.approx(5001 * 103, rel=1e-3)  # rows of keyphrases are 0–6 alike
    assert (nothing.pairs, nothing.prompt_tokens, nothing.cost) == (0, 0, 0)


def _start(folder: Path, process: int, first: int, last: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.judge.asking_process", str(folder), str(process), str(first), str(last)]
    return subprocess.Popen([*command, str(_calls(folder, process))], cwd=ROOT)


def _calls(folder: Path, process: int) -> Path:
    return folder / f"calls{process}"


def _rows(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _await_calls(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(_rows(path)) < count:
        assert time.monotonic() < deadline, "the process asks nothing"
        time.sleep(0.005)


def _stored(folder: Path) -> dict[str, int | None]:
    with JudgementStore(folder, process=None) as store:
        return {f"{r.listing} {r.keyphrase}": r.grade for r in store.records()}


def _name(row: int) -> str:
    key = key_of(request(row))
    return f"{key.listing} {key.keyphrase}"


def test_killed_and_started_again_every_pair_is_judged_and_none_that_was_stored_is_asked_again(tmp_path):
    count, calls = 500, _calls(tmp_path, 0)
    for stop_after in (180, 330):
        running = _start(tmp_path, 0, 0, count)
        _await_calls(calls, stop_after)
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        before, stored = _rows(calls), _stored(tmp_path)
        assert stored == {_name(row): grade(row) for row in range(count) if _name(row) in stored}
        # Lost are at most the pair that the judge was at and those that wait to be a hundred.
        assert set(map(_name, before[:-100])) <= set(stored)
    assert len(stored) < count
    assert _start(tmp_path, 0, 0, count).wait() == 0
    assert {_name(row) for row in _rows(calls)[len(before) :]}.isdisjoint(stored)
    assert _stored(tmp_path) == {_name(row): grade(row) for row in range(count)}
    assert len(_rows(calls)) <= count + 2 * 100


def test_two_processes_write_a_file_each_and_one_takes_over(tmp_path):
    first, second = _start(tmp_path, 0, 0, 100), _start(tmp_path, 1, 100, 300)
    _await_calls(_calls(tmp_path, 1), 150)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    assert first.wait() == 0
    taken = _rows(_calls(tmp_path, 1))
    assert _start(tmp_path, 0, 0, 300).wait() == 0
    assert len(_rows(_calls(tmp_path, 0))) <= 300 - len(taken) + 100
    assert _stored(tmp_path) == {_name(row): grade(row) for row in range(300)}
    with JudgementStore(tmp_path, process=None) as store:
        assert len(store.files()) == 2
        assert store.merge_into(tmp_path / "one.sqlite") == 300
