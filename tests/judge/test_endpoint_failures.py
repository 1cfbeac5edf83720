"""The `openai` backend and a service that fails: what is tried again, recorded as failed, or stops the run."""

import contextlib
import datetime
import email.utils
import itertools
import socket
import threading
import time

import pytest

from distill.judge.endpoint import EndpointError, _retry_after
from tests.judge.endpoint_calls import FATAL, KEY, PASSING, THREE, by_pair, in_turn, judge, pairs
from tests.judge.http_servers import Asked, Reply, refusal, serving


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_tried_again(kind):
    respond, asked = in_turn(PASSING[kind], THREE)
    with serving(respond) as url:
        (answer,) = judge(url, timeout=0.3 if kind == "silence" else 5.0).judge(pairs(1))
    assert answer.grade == 3 and len(asked) == 2


@pytest.mark.parametrize("kind", PASSING)
def test_what_does_not_pass_is_recorded_as_failed(kind):
    def respond(asked: Asked) -> Reply:
        return PASSING[kind] if "drill 1" in asked.json["messages"][1]["content"] else THREE

    with serving(respond) as url:
        timeout = 0.3 if kind == "silence" else 5.0
        answers = by_pair(judge(url, tries=2, timeout=timeout).judge(pairs(3)))
    assert [answers[i, i].status for i in range(3)] == ["graded", "failed", "graded"]
    failed = answers[1, 1]
    assert failed.grade is None and failed.raw_score is None and 5 < len(failed.answer) < 600


def test_a_service_that_drips_does_not_outlast_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(100):
                    connection.sendall(b" ")
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        started = time.monotonic()
        (answer,) = judge(url, tries=1, timeout=0.5).judge(pairs(1))
    assert answer.status == "failed" and "0.5 seconds" in answer.answer and time.monotonic() - started < 3


def test_a_service_that_is_not_there_is_tried_and_named():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    (answer,) = judge(f"http://127.0.0.1:{port}/v1", tries=2).judge(pairs(1))
    assert answer.status == "failed" and f"127.0.0.1:{port}" in answer.answer


def test_a_service_says_how_long_to_wait():
    respond, asked = in_turn(refusal(429, "slow down", headers={"Retry-After": "1"}), THREE)
    with serving(respond) as url:
        started = time.monotonic()
        (answer,) = judge(url).judge(pairs(1))
    assert answer.grade == 3 and len(asked) == 2 and 1 <= time.monotonic() - started < 3


def test_waiting_times_are_read_and_bounded():
    now = datetime.datetime.now(datetime.UTC)
    date = email.utils.format_datetime(now + datetime.timedelta(seconds=30), usegmt=True)
    assert _retry_after("2.5") == 2.5 and 25 < _retry_after(date) <= 30
    assert _retry_after("86400") == 120
    for nothing in (None, "", "soon", "-3", "nan", "1e999", "Thu, 01 Jan 1970 00:00:00 GMT"):
        assert _retry_after(nothing) == 0, nothing


def test_a_prompt_that_one_call_cannot_take_fails_alone_and_at_once():
    respond, asked = in_turn(refusal(400, "maximum context length is 10 'max_tokens'", code="context_length_exceeded"))
    with serving(respond) as url:
        (answer,) = judge(url).judge(pairs(1))
    assert answer.status == "failed" and "context length" in answer.answer and len(asked) == 1


@pytest.mark.parametrize("kind", FATAL)
def test_what_cannot_succeed_stops_at_once_and_says_what_to_do(kind):
    reply, expected = FATAL[kind]
    respond, asked = in_turn(reply)
    with serving(respond) as url, pytest.raises(EndpointError) as caught:
        list(judge(url, key_variable="MY_KEY").judge(pairs(200)))
    assert all(words in str(caught.value) for words in expected), str(caught.value)
    assert KEY not in str(caught.value) and len(asked) <= 4


def test_a_service_that_answers_nothing_any_more_stops_the_run():
    respond, asked = in_turn(*[THREE] * 5, refusal(500, "broken for good"))
    answers = []
    with serving(respond) as url, pytest.raises(EndpointError, match=r"in a row.*broken for good"):
        answers.extend(itertools.chain(judge(url, tries=1).judge(pairs(1000))))
    assert len(asked) <= 5 + 50 + 3 * 4  # calls under way, and those sent before the refusals were counted
