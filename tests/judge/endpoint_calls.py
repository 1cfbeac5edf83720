"""Pairs to ask the `openai` backend about, and what small servers answer, failures that pass and that do not too."""

import dataclasses
import json
import math

from distill.config import EndpointConfig
from distill.judge.backends import Judgement, Request
from distill.judge.endpoint import EndpointJudge
from distill.judge.rubric import load_rubric
from tests.judge.http_servers import Asked, Reply, completion, refusal

RUBRIC = load_rubric("graded-v1")
KEY = "sk-proj-TopSecret0123456789"
THREE = completion("3", logprobs={"3": math.log(0.5), "2": math.log(0.25), "0": math.log(0.25)})
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
