"""What is known of a judged pair: its key, and what a further answer or the record of another file does to it."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from distill.judge.backends import Judgement, Request
from distill.judge.prompt import listing_hash, normalise

STATUSES: tuple[str, ...] = ("graded", "abstained", "unparsable", "failed")

_SHORTEST_SECRET = 8  # characters; what servers without keys are given for one is shorter, and stands in any text


class Key(NamedTuple):
    """A pair by its content, whichever rows of whichever tables it stands in."""

    listing: str  # sha256 of title, category and attributes, in hex
    keyphrase: str  # normalised
    repeat: int = 0


class Record(NamedTuple):
    """What is known of a pair from one judge under one rubric. Tokens, cost and seconds are sums over its attempts."""

    rubric_hash: str
    judge: str
    listing: str
    keyphrase: str
    repeat: int
    rubric: str  # its name
    status: str  # one of STATUSES
    grade: int | None  # 0–3 where `status` is `graded`, else None
    raw_score: float | None
    answer: str
    attempts: int  # times that the pair was asked
    failures: int  # of them, those that no answer came to
    prompt_tokens: int
    completion_tokens: int
    cost: float
    seconds: float
    time: str  # of the last attempt, as `utc_now` writes it
    call: str  # of the last attempt: `Judgement.call`

    @property
    def key(self) -> Key:
        return Key(self.listing, self.keyphrase, self.repeat)

    @property
    def answers(self) -> int:
        """Attempts that the judge answered, whatever it said."""
        return self.attempts - self.failures


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over records."""

    pairs: dict[str, int]  # status → pairs
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    seconds: float


def key_of(request: Request) -> Key:
    return Key(listing_hash(request), utf8(normalise(request.keyphrase)), request.repeat)


def record_after(rubric_hash: str, key: Key, judgement: Judgement, earlier: Record | None = None) -> Record:
    """The record of a pair once `judgement` has come, where `earlier` is what was known of it.

    A later answer replaces an earlier one, but only a grade replaces a grade, and a failed attempt replaces no answer.
    Attempts, tokens, cost and seconds add up. A judgement of the same `call` as the last one is that one read again:
    `earlier` itself comes back.

    Raises:
      ValueError: an unknown status, a grade without `graded` or the reverse, a figure out of its range.
    """
    if judgement.status not in STATUSES:
        raise ValueError(f"status {judgement.status!r} is none of {', '.join(STATUSES)}")
    graded = judgement.status == "graded"
    if judgement.grade not in ((0, 1, 2, 3) if graded else (None,)):
        raise ValueError(f"status {judgement.status!r} with grade {judgement.grade!r}; 0–3 where graded, else None")
    if judgement.raw_score is not None and not 0 <= judgement.raw_score <= 3:
        raise ValueError(f"raw_score {judgement.raw_score!r} is not within 0–3")
    for name in ("prompt_tokens", "completion_tokens", "cost", "seconds"):
        if not 0 <= getattr(judgement, name) < math.inf:
            raise ValueError(f"{name} {getattr(judgement, name)!r} is not a finite number of at least 0")
    if earlier is not None and judgement.call and judgement.call == earlier.call:
        return earlier
    record = Record(
        rubric_hash,
        judgement.judge,
        *key,
        rubric=judgement.rubric,
        status=judgement.status,
        grade=None if judgement.grade is None else int(judgement.grade),
        raw_score=None if judgement.raw_score is None else float(judgement.raw_score),
        answer=judgement.answer,
        attempts=1,
        failures=int(judgement.status == "failed"),
        prompt_tokens=int(judgement.prompt_tokens),
        completion_tokens=int(judgement.completion_tokens),
        cost=float(judgement.cost),
        seconds=float(judgement.seconds),
        time=utc_now(),
        call=judgement.call,
    )
    if earlier is None:
        return record
    if not graded and (earlier.status == "graded" or (judgement.status == "failed" and earlier.answers)):
        record = record._replace(
            status=earlier.status, grade=earlier.grade, raw_score=earlier.raw_score, answer=earlier.answer
        )
    return record._replace(
        attempts=earlier.attempts + record.attempts,
        failures=earlier.failures + record.failures,
        prompt_tokens=earlier.prompt_tokens + record.prompt_tokens,
        completion_tokens=earlier.completion_tokens + record.completion_tokens,
        cost=earlier.cost + record.cost,
        seconds=earlier.seconds + record.seconds,
    )


def best(records: Iterable[Record]) -> Record:
    """The one that stands for all records of a pair, in whatever order they come.

    A grade before any other status, then the most answers, the most attempts, the earliest.
    """
    candidates = set(records)
    if len(candidates) > 1:
        rank = min(map(_rank, candidates))
        candidates = {record for record in candidates if _rank(record) == rank}
    return min(candidates, key=repr) if len(candidates) > 1 else candidates.pop()


def _rank(record: Record) -> tuple:
    return record.status != "graded", -record.answers, -record.attempts, record.time


def utc_now() -> str:
    """ISO 8601 with microseconds; of two moments the later one compares greater."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def utf8(text: str) -> str:
    """`text` with lone surrogates, which JSON can hold and UTF-8 cannot, written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def redacted(text: str, secrets: Sequence[str]) -> str:
    """`text` with `[redacted]` for each secret of at least 8 characters."""
    for secret in sorted(secrets, key=len, reverse=True):  # where one holds another, the whole goes
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "[redacted]")
    return text
