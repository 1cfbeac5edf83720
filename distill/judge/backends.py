"""Who grades: a protocol that a language model, a table of old answers and a simulation all fit.

A backend is given requests and yields one judgement for each as they are ready, in any order. What it cannot answer
comes back with `grade=None`, its status and the reason in `answer`: nothing is dropped or turned into a grade.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Request:
    """One pair to grade, with all that a judge may read of the listing."""

    item: int  # row of the items table
    keyphrase_index: int  # row of the keyphrases table
    title: str
    category: tuple[str, ...]
    attributes: Mapping[str, str]
    keyphrase: str
    repeat: int = 0  # above 0: the same pair asked again, to see how far the judge agrees with itself


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One answer; `grade` 0–3 where `status` is `graded`, else None."""

    item: int
    keyphrase_index: int
    grade: int | None
    judge: str
    rubric: str  # its name
    status: str = "graded"  # or `abstained`, `unparsable`, `failed` (no answer came)
    raw_score: float | None = None  # the judge's own continuous score where it has one: the expected grade, 0–3
    answer: str = ""  # as the judge wrote it; the error's words where no answer came
    prompt_tokens: int = 0  # this pair's share of its call, as are the next three
    completion_tokens: int = 0
    cost: float = 0.0  # in the currency of the configured prices
    seconds: float = 0.0
    repeat: int = 0
    call: str = ""  # what names the answer that it was read from, where one can be read again


class Judge(Protocol):
    """A grading backend."""

    name: str  # part of a judgement's identity: what changes the answers changes the name

    def judge(self, requests: Iterable[Request]) -> Iterator[Judgement]: ...


class ReplayJudge:
    """Answers from a table of earlier judgements, each in the name of who gave it."""

    name = "replay"

    def __init__(self, grades: Mapping[tuple[int, int], tuple[int, str, str]]):
        """`grades` maps (item, keyphrase index) to a grade 0–3, its judge and its rubric."""
        self._grades = grades

    def judge(self, requests: Iterable[Request]) -> Iterator[Judgement]:
        for request in requests:
            found = self._grades.get((request.item, request.keyphrase_index))
            if found is None:
                answer = "not in the judgements table"
                yield Judgement(request.item, request.keyphrase_index, None, self.name, "", "failed", answer=answer)
            else:
                yield Judgement(request.item, request.keyphrase_index, *found)


class SimulatedJudge:
    """The embedded marketplace's judge: errs as a real one does, and gives the same pair the same grade every time."""

    name = "simulated"

    def __init__(self, rubric: str, grade: Callable[[np.ndarray, np.ndarray], np.ndarray], chunk: int = 8192):
        """`grade(items [N], keyphrases [N])` returns grades [N]; rows are those of the prepared tables."""
        self._rubric, self._grade, self._chunk = rubric, grade, chunk

    def judge(self, requests: Iterable[Request]) -> Iterator[Judgement]:
        requests = iter(requests)
        while chunk := list(itertools.islice(requests, self._chunk)):
            items = np.array([r.item for r in chunk])
            keyphrases = np.array([r.keyphrase_index for r in chunk])
            for request, grade in zip(chunk, self._grade(items, keyphrases)):
                yield Judgement(request.item, request.keyphrase_index, int(grade), self.name, self._rubric)
