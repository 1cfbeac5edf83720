"""The `openai` backend against small deterministic servers; the language model and the bad network are in
test_endpoint_faults.py."""

import contextlib
import dataclasses
import datetime
import email.utils
import io
import itertools
import json
import logging
import math
import os
import signal
import socket
import sqlite3
import threading
import time
import traceback
from pathlib import Path

import pytest
from rich.traceback import Traceback

from distill.config import ConfigError, EndpointConfig
from distill.judge.asking import ask
from distill.judge.backends import Judgement, Request
from distill.judge.endpoint import EndpointError, EndpointJudge, _retry_after, read_key
from distill.judge.rubric import load_rubric
from distill.judge.store import JudgementStore
from tests.judge.http_servers import Asked, Reply, completion, refusal, serving

RUBRIC = load_rubric("graded-v1")
KEY = "sk-proj-TopSecret0123456789"
THREE = completion("3", logprobs={"3": math.log(0.5), "2": math.log(0.25), "0": math.log(0.25)})


def config(url: str = "", **settings) -> EndpointConfig:
    return EndpointConfig(**{"url": url, "model": "m", "tries": 3, "timeout": 5.0, "concurrency": 4, **settings})


def pairs(items: int, each: int = 1) -> list[Request]:
    return [
        Request(item, item * each + k, f"cordless drill {item}", ("Tools", "Drills"), {"volts": "18"}, f"drill {k}")
        for item in range(items)
        for k in range(each)
    ]


def judge(url: str, key: str | None = KEY, notice=lambda text: None, **settings) -> EndpointJudge:
    return EndpointJudge(config(url, **settings), RUBRIC, key, notice=notice, pause=0.01)


def by_pair(judgements) -> dict[tuple[int, int], Judgement]:
    judgements = list(judgements)
    found = {(j.item, j.keyphrase_index): j for j in judgements}
    assert len(found) == len(judgements)
    return found


def in_turn(*replies: Reply):
    """A server's answers, the last for ever, and what it was asked."""
    asked: list[Asked] = []

    def respond(request: Asked) -> Reply:
        asked.append(request)
        return replies[min(len(asked), len(replies)) - 1]

    return respond, asked


def list_answer(asked: Asked, answer: str = "2", **options) -> Reply:
    ids = asked.json["response_format"]["json_schema"]["schema"]["required"]
    return completion(json.dumps(dict.fromkeys(ids, answer)), usage=(101, 7), **options)


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


HTML = Reply(200, b"<html><body>Bad gateway</body></html>", {"Content-Type": "text/html"})
PASSING = {
    **{f"status {status}": refusal(status, "later") for status in (408, 409, 425, 429, 500, 502, 503, 529)},
    "no body": Reply(200, b""),
    "cut JSON": Reply(200, THREE.body[:40]),
    "cut connection": dataclasses.replace(THREE, sent=30),
    "HTML": HTML,
    "HTML error": dataclasses.replace(HTML, status=502),
    "no choices": Reply(200, b'{"choices": []}'),
    "another object": Reply(200, b'{"object": "list", "data": []}'),
    "no content": completion(None),
    "a list": Reply(200, b"[1]"),
    "not UTF-8": Reply(200, b'{"choices": "\xff"}'),
    "silence": dataclasses.replace(THREE, hang=30),
}


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


FATAL = {
    "401": (refusal(401, f"Incorrect API key provided: {KEY}"), ("MY_KEY", "401")),
    "403": (refusal(403, f"Key {KEY} has no access to model"), ("MY_KEY", "judge.endpoint.model")),
    "404": (refusal(404, f"{KEY}: the model does not exist"), ("'m'", "judge.endpoint.url", "judge.endpoint.model")),
    "no probabilities": (
        refusal(400, f"logprobs is not supported ({KEY})", param="logprobs"),
        ("judge.endpoint.answer=json",),
    ),
    "fewer probabilities": (
        refusal(400, "Requested sample logprobs of 20, greater than max allowed: 5"),
        ("judge.endpoint.answer=json",),
    ),
    "no schema": (refusal(422, "unknown field: response_format"), ("judge.endpoint.answer=logprobs",)),
    "no temperature": (
        refusal(400, f"Unsupported value: 'temperature' does not support 0 {KEY}", param="temperature"),
        ("judge.endpoint.model", "temperature"),
    ),
    "no credit": (refusal(429, f"You exceeded your quota {KEY}", code="insufficient_quota"), ("MY_KEY", "credit")),
}


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


@pytest.mark.parametrize("kind", [*PASSING, *FATAL, "graded"])
def test_the_key_gets_nowhere(kind, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    reply = {**PASSING, **{name: fatal for name, (fatal, _) in FATAL.items()}, "graded": THREE}[kind]
    if reply.status >= 500 or kind == "graded":  # services that quote the key wherever they can
        body = json.dumps({"error": {"message": KEY}}).encode() if kind != "graded" else completion(KEY).body
        reply = dataclasses.replace(reply, body=body)
    told: list[str] = []
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    seen = ""
    with serving(lambda asked: reply) as url, JudgementStore(tmp_path / "store") as store:
        asking = judge(url, tries=2, timeout=0.2 if kind == "silence" else 5.0, notice=told.append)
        try:
            ask(store, asking, RUBRIC, pairs(3), attempts=1, receive=lambda judgements: told.append(repr(judgements)))
        except EndpointError as error:
            seen = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__)
            shown = io.StringIO()
            rich_console(shown).print(Traceback.from_exception(type(error), error, error.__traceback__, width=300))
            seen += shown.getvalue()
    stored = b"".join(file.read_bytes() for file in (tmp_path / "store").iterdir())
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    for text in (seen, repr(asking), "".join(told), logged):
        assert KEY not in text
    assert KEY.encode() not in stored
    assert ("EndpointError" in seen) == (kind in FATAL)


def rich_console(file):
    from rich.console import Console

    return Console(file=file, width=300)


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


def test_the_key_comes_from_the_variable_that_the_config_names():
    named = EndpointConfig(model="m", key_variable="MY_KEY")
    assert read_key(named, {"MY_KEY": f" {KEY}\n", "OPENAI_API_KEY": "other"}) == KEY
    with pytest.raises(ConfigError, match=r"MY_KEY.*judge\.endpoint\.url"):
        read_key(named, {"OPENAI_API_KEY": KEY, "MY_KEY": " "})
    local = dataclasses.replace(named, url="http://localhost:8000/v1")
    assert read_key(local, {"OPENAI_API_KEY": KEY}) is None
    assert read_key(named, {"OPENAI_BASE_URL": "http://localhost:8000/v1"}) is None
    for broken in (f"{KEY}\n{KEY}", f"{KEY} x", f"{KEY}é", f"{KEY}\0"):
        with pytest.raises(ConfigError, match="MY_KEY") as caught:
            read_key(named, {"MY_KEY": broken})
        assert KEY not in str(caught.value)


def test_a_local_server_never_gets_the_key_of_another_service(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    respond, asked = in_turn(THREE)
    with serving(respond) as url:
        list(judge(url, key=None).judge(pairs(1)))
    assert asked and KEY not in str(asked[0].headers)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", f"https://user:{KEY}@host/v1"])
def test_an_address_that_cannot_work_is_refused(url):
    with pytest.raises(ConfigError, match=r"judge\.endpoint\.url") as caught:
        judge(url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("address", ["http://user:hunter2@localhost:9/v1", "http://localhost:9/v1?key=hunter2"])
def test_an_address_of_the_environment_is_checked_too(monkeypatch, address):
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL") as caught:
        EndpointJudge(EndpointConfig(model="m"), RUBRIC, None)
    assert "hunter2" not in str(caught.value)
