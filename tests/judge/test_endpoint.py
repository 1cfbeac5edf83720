"""The `openai` backend against small deterministic servers; the language model and the bad network are in
test_endpoint_faults.py."""

import dataclasses
import json
import math
import os
import signal
import sqlite3
import threading
import time

import pytest

from distill.judge.backends import Request
from distill.judge.endpoint import EndpointJudge
from distill.judge.rubric import load_rubric
from tests.judge.endpoint_calls import KEY, THREE, by_pair, config, in_turn, judge, list_answer, pairs
from tests.judge.http_servers import Asked, Reply, completion, refusal, serving


def test_the_first_tokens_probabilities_become_an_expected_grade():
    respond, asked = in_turn(THREE)
    with serving(respond) as url:
        (answer,) = judge(url, prompt_price=2.0, completion_price=4.0).judge(pairs(1))
    assert (answer.status, answer.grade, answer.answer) == ("graded", 3, "3")
    assert answer.raw_score == pytest.approx(0.5 * 3 + 0.25 * 2)
    assert (answer.judge, answer.rubric) == ("openai:m", "graded-v1")
    assert (answer.prompt_tokens, answer.completion_tokens) == (100, 1)
    assert answer.cost == pytest.approx((100 * 2 + 4) / 1e6) and 0 < answer.seconds < 5
    body = asked[0].json
    assert asked[0].path == "/v1/chat/completions" and asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert [message["role"] for message in body.pop("messages")] == ["system", "user"]
    assert body == {"model": "m", "temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}


def test_two_tokens_of_one_text_count_together():
    tops = [{"token": "1", "logprob": math.log(p)} for p in (0.3, 0.3)] + [{"token": "3", "logprob": math.log(0.4)}]
    choice = {"message": {"content": "3"}, "logprobs": {"content": [{"top_logprobs": tops}]}}
    with serving(in_turn(Reply(200, json.dumps({"choices": [choice]}).encode()))[0]) as url:
        (answer,) = judge(url).judge(pairs(1))
    assert answer.grade == 1 and answer.raw_score == pytest.approx(0.6 + 0.4 * 3)
    assert answer.prompt_tokens == 0  # a service need not count


def test_without_probabilities_the_text_is_read_and_the_user_is_told_once():
    told = []
    with serving(in_turn(completion(" 2\n"))[0]) as url:
        answers = by_pair(judge(url, notice=told.append).judge(pairs(9)))
    assert {(a.grade, a.raw_score) for a in answers.values()} == {(2, None)} and len(answers) == 9
    assert len(told) == 1 and "log-probabilities" in told[0]


def test_lists_hold_keyphrases_of_one_listing_only():
    calls: list[Asked] = []

    def respond(asked: Asked) -> Reply:
        calls.append(asked)
        return list_answer(asked)

    requests = pairs(1, 5) + [dataclasses.replace(r, item=1, title="saw") for r in pairs(1, 2)]
    with serving(respond) as url:
        answers = by_pair(judge(url, answer="json", keyphrases_per_call=4, prompt_price=1e6).judge(requests))
    sizes = sorted(len(c.json["response_format"]["json_schema"]["schema"]["required"]) for c in calls)
    assert sizes == [1, 2, 4] and len(answers) == 7
    assert {a.grade for a in answers.values()} == {2} and {a.judge for a in answers.values()} == {"openai:m:json"}
    first = [answers[0, k] for k in range(4)]
    assert sorted(a.prompt_tokens for a in first) == [25, 25, 25, 26]
    assert sorted(a.completion_tokens for a in first) == [1, 2, 2, 2]
    assert sum(a.cost for a in answers.values()) == pytest.approx(3 * 101)
    assert all(c.json["response_format"]["json_schema"]["strict"] is True for c in calls)
    assert all("logprobs" not in c.json and c.json["temperature"] == 0 for c in calls)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (lambda asked: list_answer(asked, "5"), "unparsable"),
        (lambda asked: completion('{"bcdf": "3"}'), "unparsable"),
        (lambda asked: completion("{", finish="length"), "unparsable"),
        (lambda asked: completion(None, finish="length"), "unparsable"),
        (lambda asked: completion(None, refusal="I cannot help with that"), "abstained"),
        (lambda asked: completion("", finish="content_filter"), "abstained"),
        (lambda asked: completion("I would say: " + list_answer(asked).body.decode()), "unparsable"),
        (lambda asked: refusal(400, "flagged by the content policy", code="content_filter"), "abstained"),
    ],
)
def test_a_list_without_grades_says_why(reply, status):
    with serving(reply) as url:
        answers = by_pair(judge(url, answer="json").judge(pairs(1, 3)))
    assert len(answers) == 3 and {(a.status, a.grade) for a in answers.values()} == {(status, None)}
    assert all(a.answer for a in answers.values()) or status == "unparsable"


def test_the_rubrics_own_abstention_is_one():
    binary = load_rubric("binary-v1")
    with serving(lambda asked: list_answer(asked, "unsure")) as url:
        answers = list(EndpointJudge(config(url, answer="json"), binary, KEY).judge(pairs(1, 3)))
    assert [(a.status, a.grade) for a in answers] == [("abstained", None)] * 3


@pytest.mark.parametrize("answer", ["logprobs", "json"])
def test_repeats_are_asked_again_each_with_its_seed(answer):
    respond, asked = in_turn(completion("3"))
    (request,) = pairs(1)
    with serving(respond) as url:
        requests = [dataclasses.replace(request, repeat=n) for n in range(3)]
        answers = list(judge(url, answer=answer).judge(requests))
    assert sorted(a.repeat for a in answers) == [0, 1, 2]
    assert sorted(a.json.get("seed", 0) for a in asked) == [0, 1, 2] and len(asked) == 3


def test_calls_and_what_is_drawn_ahead_are_bounded():
    lock, under_way, most, drawn = threading.Lock(), 0, 0, 0

    def respond(asked: Asked) -> Reply:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1
        return THREE

    def requests():
        nonlocal drawn
        for request in pairs(100):
            drawn += 1
            yield request

    with serving(respond) as url:
        ahead = [drawn - n for n, _ in enumerate(judge(url, concurrency=6).judge(requests()))]
    assert len(ahead) == 100 and max(ahead) <= 2 * 6 and 2 <= most <= 6


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "judge endpoint" in thread.name}


@pytest.mark.parametrize("how", ["close", "error", "interrupt", "garbage"])
def test_an_early_end_cancels_what_is_under_way(how):
    respond, asked = in_turn(THREE, dataclasses.replace(THREE, hang=30))
    with serving(respond) as url:
        answers = judge(url, timeout=60).judge(pairs(100))
        assert next(answers).grade == 3 and len(threads()) == 1
        started = time.monotonic()
        if how == "close":
            answers.close()
        elif how == "garbage":
            del answers
        else:
            error = KeyboardInterrupt if how == "interrupt" else RuntimeError
            with pytest.raises(error):
                answers.throw(error())
        assert not threads() and time.monotonic() - started < 2 and len(asked) <= 5


@pytest.fixture
def control_c():
    """Python's own handling of SIGINT, which a shell that starts the tests in the background has switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("control_c")
def test_control_c_is_heard_while_waiting_for_an_answer():
    with serving(in_turn(dataclasses.replace(THREE, hang=30))[0]) as url:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            list(judge(url, timeout=60).judge(pairs(3)))
        timer.join()
        assert not threads()


def test_requests_may_come_from_what_only_their_thread_may_use():
    rows = sqlite3.connect(":memory:")  # which refuses any other thread
    rows.execute("CREATE TABLE keyphrases (text)")
    rows.executemany("INSERT INTO keyphrases VALUES (?)", [(f"drill {n}",) for n in range(30)])
    found = enumerate(rows.execute("SELECT text FROM keyphrases"))
    with serving(in_turn(THREE)[0]) as url:
        answers = by_pair(judge(url).judge(Request(0, n, "drill", (), {}, text) for n, (text,) in found))
    assert len(answers) == 30


def test_an_error_in_the_requests_comes_out_unchanged():
    def requests():
        yield from pairs(3)
        raise LookupError("row 4")

    with serving(in_turn(THREE)[0]) as url, pytest.raises(LookupError, match="row 4"):
        list(judge(url).judge(requests()))
    assert not threads()


def test_no_requests_ask_nothing():
    assert list(judge("http://127.0.0.1:9/v1").judge([])) == []


def test_tokens_are_foretold_without_asking():
    (request,) = pairs(1)
    single, one = judge("http://127.0.0.1:9/v1").tokens(request)
    listed, several = judge("http://127.0.0.1:9/v1", answer="json", keyphrases_per_call=8).tokens(request)
    respond, asked = in_turn(THREE)
    with serving(respond) as url:
        list(judge(url).judge([request]))
    characters = sum(len(message["content"]) for message in asked[0].json["messages"])
    assert single == math.ceil(characters / 4) and one == 1
    assert single / 8 < listed < single / 2 and 3 <= several <= 8
