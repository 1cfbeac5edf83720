"""Asks a service about the pairs of the fault tests, in a process that they kill: see test_endpoint_faults.py."""

import json
import sys
from pathlib import Path
from typing import Any

from distill.config import EndpointConfig
from distill.judge.asking import Summary, ask
from distill.judge.backends import Request
from distill.judge.endpoint import EndpointJudge
from distill.judge.rubric import load_rubric
from distill.judge.store import JudgementStore

RUBRIC = load_rubric("graded-v1")
_NOUNS = ("drill", "sander", "saw", "router", "lathe", "grinder", "planer", "wrench", "hammer", "chisel", "clamp")


def pairs(count: int) -> list[Request]:
    """Pairs of eight keyphrases a listing, with different texts throughout."""
    return [
        Request(
            n // 8,
            n,
            f"{_NOUNS[n // 8 % len(_NOUNS)]} model {n // 8}, 18V, with case",
            ("Tools", "Power Tools"),
            {"voltage": "18 V"},
            f"{_NOUNS[n % 7]} {n} speed",
        )
        for n in range(count)
    ]


def judge(url: str, model: str = "m", answer: str = "logprobs", **settings: Any) -> EndpointJudge:
    options = {"timeout": 30.0, "tries": 6, "concurrency": 4, "keyphrases_per_call": 4, **settings}
    return EndpointJudge(EndpointConfig(url=url, model=model, answer=answer, **options), RUBRIC, None, pause=0.05)


def ask_all(folder: Path, judge: EndpointJudge, count: int, **options) -> Summary:
    with JudgementStore(folder) as store:
        return ask(store, judge, RUBRIC, pairs(count), attempts=1, **options)


if __name__ == "__main__":
    folder, count, settings = sys.argv[1:]
    ask_all(Path(folder), judge(**json.loads(settings)), int(count))
