"""One process of the kill tests: asks a slow judge, which notes every call, for grades of a fixed list of pairs.

python -m tests.judge.asking_process FOLDER PROCESS FIRST LAST CALLS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from distill.judge.asking import ask
from distill.judge.backends import Judgement, Request
from distill.judge.rubric import load_rubric
from distill.judge.store import JudgementStore

SECONDS_A_PAIR = 0.001
PER_ITEM = 7


def request(row: int) -> Request:
    item, keyphrase = divmod(row, PER_ITEM)
    return Request(item, keyphrase, f"listing {item}", ("Shoes",), {"size": str(item)}, f"keyphrase {keyphrase}")


def grade(row: int) -> int:
    return row * row % 4


class SlowJudge:
    """Notes the row of each pair in a file, then takes its time."""

    name = "slow"

    def __init__(self, calls: Path):
        self._calls = calls

    def judge(self, requests: Iterable[Request]) -> Iterator[Judgement]:
        with self._calls.open("a") as calls:
            for asked in requests:
                row = asked.item * PER_ITEM + asked.keyphrase_index
                calls.write(f"{row}\n")
                calls.flush()
                time.sleep(SECONDS_A_PAIR)
                yield Judgement(asked.item, asked.keyphrase_index, grade(row), self.name, "graded-v1", answer="x" * 50)


if __name__ == "__main__":
    folder, process, first, last, calls = sys.argv[1:]
    with JudgementStore(Path(folder), int(process)) as store:
        requests = [request(row) for row in range(int(first), int(last))]
        ask(store, SlowJudge(Path(calls)), load_rubric("graded-v1"), requests, chunk=100)
