"""Asking a judge: only what the store lacks, every answer stored as it arrives, and again to a limit."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from distill.judge.backends import Judge, Judgement, Request
from distill.judge.records import Key, Record, key_of, record_after, utc_now
from distill.judge.rubric import Rubric
from distill.judge.store import JudgementStore

_CHUNK = 100_000  # requests in memory at a time
_COUNTED = 2_000  # prompts of a chunk that an estimate counts the tokens of
_TELL_SECONDS = 0.25


class JudgeError(RuntimeError):
    """A judge that broke its protocol; the message names it and the pair."""


@dataclasses.dataclass
class Summary:
    """How far the asking has come; the figures are of this run alone, `JudgementStore.totals` has those of all runs."""

    total: int | None  # requests, where known
    done: int = 0  # requests that have their final answer
    known: int = 0  # of them, those that the store had an answer to
    statuses: Counter[str] = dataclasses.field(default_factory=Counter)  # of the final answers
    calls: int = 0  # answers received, those asked for again included
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0  # spent asking

    @property
    def pairs_per_second(self) -> float:
        """Requests that got their final answer from the judge, per second of asking."""
        return (self.done - self.known) / self.seconds if self.seconds else 0.0

    @property
    def cost_expected(self) -> float | None:
        """At the end of the run, as if the store knew nothing beyond the current chunk; None while not known."""
        asked = self.done - self.known
        return None if self.total is None or not asked else self.cost * (1 + (self.total - self.done) / asked)

    @property
    def seconds_left(self) -> float | None:
        """Under the same assumption."""
        rate = self.pairs_per_second
        return None if self.total is None or not rate else (self.total - self.done) / rate

    def add(self, judgement: Judgement, seconds: float) -> None:
        self.calls += 1
        self.prompt_tokens += judgement.prompt_tokens
        self.completion_tokens += judgement.completion_tokens
        self.cost += judgement.cost
        self.seconds = seconds

    def figures(self) -> dict[str, float]:
        """For a progress display."""
        names = ("known", "pairs_per_second", "prompt_tokens", "completion_tokens", "cost", "cost_expected")
        values = {name: getattr(self, name) for name in (*names, "seconds_left")}
        unpriced = not (self.cost or self.cost_expected)
        return {n: v for n, v in values.items() if v is not None and not (unpriced and n.startswith("cost"))}


def ask(
    store: JudgementStore,
    judge: Judge,
    rubric: Rubric,
    requests: Iterable[Request],
    *,
    attempts: int = 3,
    total: int | None = None,
    advance: Callable[..., Any] = lambda count, **figures: None,
    receive: Callable[[list[Judgement]], Any] = lambda judgements: None,
    chunk: int = _CHUNK,
) -> Summary:
    """Gets one final judgement for every request, from the store or else from the judge.

    Asked are pairs that the store lacks, that failed in an earlier run, or that the judge abstained from or answered
    unreadably fewer than `attempts` times. What is then still not settled is asked again after all others of the chunk,
    a pair at most `attempts` times a run. Requests of equal content are asked as one. Every answer goes to the store
    before the next is taken from the judge, so that an interrupt loses nothing. An answer that the judge reads again
    (`Judgement.call`) changes nothing and counts nowhere.

    Args:
      requests: are read `chunk` at a time.
      total: how many requests there are; taken from `requests` where it has a length.
      advance: called as `advance(count, **figures)` a few times a second while requests get their final answer.
      receive: gets the final judgements, a chunk at a time, one a request in their order. Tokens, cost and seconds are
        those of all attempts at the pair, this run's or earlier ones; requests of equal content all show them.

    Raises:
      JudgeError: the judge answered a pair twice, one that it was not asked, not at all, under another name or with
        figures that contradict; what else it answered is stored.
      StoreError: the store cannot be read or written.
      ValueError: `attempts` below 1, or two requests of one item, keyphrase index and repeat with different texts.
    """
    if total is None and isinstance(requests, Sequence):
        total = len(requests)
    summary = Summary(total)
    display = _Display(summary, advance)
    for found in _chunks(store, judge.name, rubric, requests, attempts, chunk):
        records, missing, times_named = found.records, found.missing, Counter(found.keys)
        known = [records[key] for key in found.keys if key not in missing]
        summary.known += len(known)
        display.settled(known)
        begun = time.monotonic() - summary.seconds
        for attempt in range(1, attempts + 1):
            again: dict[Key, Request] = {}
            for judgement, record in _answers(judge, rubric, missing, records):
                if record is not records.get(record.key):
                    store.write([record])
                    records[record.key] = record
                    summary.add(judgement, time.monotonic() - begun)
                if attempt == attempts or _final(record, attempts):
                    display.settled([record] * times_named[record.key])
                else:
                    again[record.key] = missing[record.key]
            missing = again
            if not missing:
                break
        display.tell()
        receive([_judgement(request, records[key]) for request, key in zip(found.requests, found.keys)])
    return summary


class _Display:
    """Tells `advance` of settled requests, not more often than a person can read."""

    def __init__(self, summary: Summary, advance: Callable[..., Any]):
        self._summary, self._advance = summary, advance
        self._untold, self._told = 0, time.monotonic()

    def settled(self, records: list[Record]) -> None:
        self._summary.done += len(records)
        self._summary.statuses.update(record.status for record in records)
        self._untold += len(records)
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        self._advance(self._untold, **self._summary.figures())
        self._untold, self._told = 0, time.monotonic()


class TokenCounter(Protocol):
    """A judge that can tell what a request costs without asking."""

    @property
    def name(self) -> str: ...

    def tokens(self, request: Request) -> tuple[float, float]:
        """Prompt and completion tokens of one request: its share, where several go into one call."""
        ...


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run of `ask` would take where the judge answers every pair at its first attempt."""

    pairs: int  # requests
    known: int  # of them, those that the store has an answer to
    to_ask: int  # pairs that the judge would be asked; requests of equal content in one chunk are one
    counted: int  # of them, those whose tokens were counted; the rest is taken to be like them
    prompt_tokens: int
    completion_tokens: int
    cost: float


def estimate(
    store: JudgementStore,
    judge: TokenCounter,
    rubric: Rubric,
    requests: Iterable[Request],
    *,
    attempts: int = 3,
    prompt_price: float = 0.0,
    completion_price: float = 0.0,
    chunk: int = _CHUNK,
) -> Estimate:
    """Figures of a run that is not made: nothing is asked, nothing written. Prices are those of a million tokens.

    Tokens are counted for at most 2,000 pairs of a chunk, evenly spread over it.
    """
    pairs = known_pairs = to_ask = counted = 0
    prompt = completion = 0.0
    for known in _chunks(store, judge.name, rubric, requests, attempts, chunk):
        missing = list(known.missing.values())
        pairs += len(known.keys)
        known_pairs += sum(key not in known.missing for key in known.keys)
        to_ask += len(missing)
        sample = [judge.tokens(request) for request in missing[:: math.ceil(len(missing) / _COUNTED) or 1]]
        counted += len(sample)
        scale = len(missing) / max(1, len(sample))
        prompt += scale * sum(tokens for tokens, _ in sample)
        completion += scale * sum(tokens for _, tokens in sample)
    cost = (prompt * prompt_price + completion * completion_price) / 1e6
    return Estimate(pairs, known_pairs, to_ask, counted, round(prompt), round(completion), cost)


@dataclasses.dataclass
class _Chunk:
    requests: list[Request]
    keys: list[Key]  # one a request
    records: dict[Key, Record]
    missing: dict[Key, Request]  # what the judge has to be asked, each key once


def _chunks(
    store: JudgementStore, judge: str, rubric: Rubric, requests: Iterable[Request], attempts: int, chunk: int
) -> Iterator[_Chunk]:
    if attempts < 1:
        raise ValueError(f"attempts {attempts}: a pair is asked at least once")
    started, requests = utc_now(), iter(requests)
    while batch := list(itertools.islice(requests, chunk)):
        keys = [key_of(request) for request in batch]
        records = store.lookup(rubric.hash, judge, keys)
        missing = {}
        for key, request in zip(keys, batch):
            record = records.get(key)
            # What was asked since the start, in an earlier chunk, has had its attempts of this run.
            if record is None or (record.time < started and not _final(record, attempts)):
                missing.setdefault(key, request)
        yield _Chunk(batch, keys, records, missing)


def _final(record: Record, attempts: int) -> bool:
    return record.status == "graded" or (record.status != "failed" and record.answers >= attempts)


def _answers(
    judge: Judge, rubric: Rubric, requests: Mapping[Key, Request], known: Mapping[Key, Record]
) -> Iterator[tuple[Judgement, Record]]:
    """The judge's answers as they come, with the record that each leads to; JudgeError after the last good one."""
    keys: dict[tuple[int, int, int], Key] = {}
    for key, request in requests.items():
        if keys.setdefault(_pair(request), key) != key:
            raise ValueError(f"requests: {_words(_pair(request))} come with two different texts")
    waiting, fault = dict(keys), ""
    answers = judge.judge(iter(requests.values()))
    try:
        for judgement in answers:
            pair = _pair(judgement)
            key = waiting.pop(pair, None)
            if key is None:
                fault = fault or f"answered {_words(pair)}, {'twice' if pair in keys else 'which it was not asked'}"
            elif judgement.judge != judge.name:
                fault = fault or f"answered {_words(pair)} under the name {judgement.judge!r}"
            else:
                try:
                    record = record_after(rubric.hash, key, judgement, known.get(key))
                except ValueError as error:
                    fault = fault or f"answered {_words(pair)} with {error}"
                else:
                    yield judgement, record
            if fault and not waiting:
                break
    finally:
        if close := getattr(answers, "close", None):
            close()
    if waiting:
        fault = fault or f"gave no answer to {len(waiting):,} pairs, the first {_words(next(iter(waiting)))}"
    if fault:
        raise JudgeError(f"judge {judge.name!r} {fault}; its other answers are stored, correct the backend")


def _pair(of: Request | Judgement) -> tuple[int, int, int]:
    return of.item, of.keyphrase_index, of.repeat


def _words(pair: tuple[int, int, int]) -> str:
    return "item {}, keyphrase {}, repeat {}".format(*pair)


def _judgement(request: Request, record: Record) -> Judgement:
    return Judgement(
        request.item,
        request.keyphrase_index,
        record.grade,
        record.judge,
        record.rubric,
        record.status,
        raw_score=record.raw_score,
        answer=record.answer,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cost=record.cost,
        seconds=record.seconds,
        repeat=request.repeat,
        call=record.call,
    )
