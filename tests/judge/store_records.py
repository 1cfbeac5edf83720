"""Records of judgements that the tests of the store are about."""

from __future__ import annotations

from distill.judge.backends import Judgement
from distill.judge.records import Key, Record, record_after

LISTINGS = ("0a" * 32, "ff" * 32)


def judgement(grade: int | None = 2, status: str = "graded", judge: str = "llm", **figures) -> Judgement:
    return Judgement(5, 6, grade, judge, "graded-v1", status, **figures)


def record(keyphrase: str = "red shoes", listing: str = LISTINGS[0], rubric_hash: str = "r", **fields) -> Record:
    return record_after(rubric_hash, Key(listing, keyphrase), judgement())._replace(**fields)


def failed(keyphrase: str = "red shoes", **fields) -> Record:
    return record(keyphrase)._replace(status="failed", grade=None, failures=1, **fields)


def names(records) -> list[str]:
    return [r.keyphrase for r in records]
