"""The sides of the index benchmark: one built index each, ours or a peer's, and how its cheapest search is found."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from bench_common import Measured, Peer, PeerError, alternate, median_rate

from distill.retrieval.scann_index import KeyphraseIndex

K = 100
SINGLE = 300  # queries that are asked one by one
AT_LEAST = 0.3  # seconds of a timed run, which goes over the queries as often as that takes
Parameters = dict[str, Any]  # of a search, by name
_EQUAL = 1e-6  # cosines this close are equal
_CLOSE = 0.02  # the cheapest parameter is found to this share of itself
_PASSES = 3  # over all queries, to choose among settings of one kind
SCRIPT = Path(__file__).parent / "peers/index_peer.py"


class OverTheCap(PeerError):
    """A build that was stopped."""


class Unreached(PeerError):
    """No parameters of a side reach the wanted recall."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What all sides search: unit vectors, and the score that makes a vector one of a query's 100 nearest."""

    corpus: np.ndarray  # [N, D]
    sample: np.ndarray  # [S, D], for the tuner
    queries: np.ndarray  # [Q, D], timed; nothing of the tuner's was chosen on them
    kth: np.ndarray  # [Q]
    folder: Path  # holds corpus.npy and queries.npy for the peers

    @classmethod
    def create(cls, corpus: np.ndarray, sample: np.ndarray, queries: np.ndarray, folder: Path) -> Work:
        folder.mkdir(parents=True)
        np.save(folder / "corpus.npy", corpus)
        np.save(folder / "queries.npy", queries)
        kth = np.concatenate([_kth_best(queries[i : i + 64], corpus) for i in range(0, len(queries), 64)])
        return cls(corpus, sample, queries, kth, folder)

    def recall(self, found: np.ndarray) -> float:
        """Recall@100 of row numbers [Q, 100]: by score, each row counted once, -1 never."""
        found = np.sort(np.asarray(found, np.int64), axis=1)
        scores = np.stack([self.corpus[rows] @ query for rows, query in zip(found, self.queries)])
        right = (found >= 0) & (scores >= self.kth[:, None] - _EQUAL)
        right[:, 1:] &= found[:, 1:] != found[:, :-1]
        return float(right.sum() / right.size)


def _kth_best(queries: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    scores = queries @ corpus.T
    return np.partition(scores, len(corpus) - K, axis=1)[:, len(corpus) - K]


@dataclasses.dataclass(frozen=True)
class Space:
    """Parameters of a search: one whose growth raises recall and cost, tried with each of a few others."""

    name: str
    low: int
    high: int
    others: tuple[Parameters, ...] = ({},)


class Side(Protocol):
    name: str
    settings: dict[str, Any]
    seconds: float  # of the build
    space: Space

    def find(self, parameters: Parameters) -> np.ndarray: ...
    def measure(self, parameters: Parameters) -> Measured: ...
    def measure_single(self, parameters: Parameters) -> Measured: ...
    def close(self) -> None: ...


class Ours:
    """An index of this project, in this process."""

    def __init__(self, name: str, index: KeyphraseIndex, seconds: float, work: Work, reorders: Sequence[int] = ()):
        self.name, self.seconds, self._index, self._work = name, seconds, index, work
        described = index.describe()
        kept = ("leaves", "dims_per_block", "soar_lambda", "dtype") if described["leaves"] else ("method",)
        self.settings = {setting: described[setting] for setting in kept}
        others = tuple({"reorder": reorder} for reorder in reorders or (described["reorder"],))
        self.space = Space("leaves_to_search", 1, described["leaves"], others)

    def find(self, parameters: Parameters) -> np.ndarray:
        return self._index.search(self._work.queries, K, **parameters)[0]

    def measure(self, parameters: Parameters) -> Measured:
        return self._timed(self._work.queries[None], parameters, AT_LEAST)

    def measure_single(self, parameters: Parameters) -> Measured:
        return self._timed(self._work.queries[:SINGLE, None], parameters, 0.0)

    def _timed(self, batches: np.ndarray, parameters: Parameters, at_least: float) -> Measured:
        passes, begun, seconds = 0, time.perf_counter(), 0.0
        while not passes or seconds < at_least:
            for batch in batches:
                self._index.search(batch, K, **parameters)
            passes, seconds = passes + 1, time.perf_counter() - begun
        return Measured(passes * batches.shape[0] * batches.shape[1], seconds)

    def close(self) -> None:
        pass


class Theirs(Peer):
    """A peer's index, in a process of its own.

    Raises OverTheCap when the build takes longer than `cap` seconds; it is stopped then.
    """

    def __init__(self, python: Path, kind: str, settings: dict[str, Any], work: Work, threads: int, cap: float):
        super().__init__(python, SCRIPT, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS=str(threads))
        self.name, self.settings, self._work = kind, settings, work
        self.ask(
            do="load", corpus=str(work.folder / "corpus.npy"), queries=str(work.folder / "queries.npy"), threads=threads
        )
        stop = threading.Timer(cap, self._process.kill)
        begun = time.monotonic()
        stop.start()
        try:
            self.seconds = self.ask(do="build", kind=kind, settings=settings, seed=0)["seconds"]
        except PeerError as error:
            self.close()
            if time.monotonic() - begun >= cap:
                raise OverTheCap(f"over the cap of {cap:.0f} s") from error
            raise
        finally:
            stop.cancel()
        self.space = _space(kind, settings)

    def find(self, parameters: Parameters) -> np.ndarray:
        with tempfile.NamedTemporaryFile(suffix=".npy", dir=self._work.folder) as file:
            self.ask(do="search", k=K, parameters=parameters, found=file.name)
            return np.load(file.name)

    def measure(self, parameters: Parameters) -> Measured:
        return Measured(**self.ask(do="measure", k=K, parameters=parameters, at_least=AT_LEAST))

    def measure_single(self, parameters: Parameters) -> Measured:
        return Measured(**self.ask(do="measure_single", k=K, parameters=parameters, count=SINGLE))


def _space(kind: str, settings: dict[str, Any]) -> Space:
    if kind != "faiss IVF-PQ":
        return Space("ef", K, 20 * K)  # below K an HNSW search does not find K
    return Space("cells", 1, settings["cells"], tuple({"candidates": c * K // 4} for c in (4, 5, 6, 8, 12, 16, 24)))


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A side and the parameters that it searches with."""

    side: Side
    parameters: Parameters
    recall: float

    def measure(self, _: int = 0) -> Measured:
        return self.side.measure(self.parameters)


def points_on_target(side: Side, work: Work, target: float) -> Iterator[Chosen]:
    """For each of the space's others the cheapest parameter that meets the target on the timed queries.

    Raises Unreached when there is none.
    """
    if not side.space.high:  # brute force has no parameters
        yield Chosen(side, {}, work.recall(side.find({})))
        return
    best, any_met = 0.0, False
    for other in side.space.others:
        low, high = side.space.low, side.space.high
        recall = work.recall(side.find({**other, side.space.name: high}))
        best = max(best, recall)
        if recall < target:
            continue
        any_met = True
        # Recall does not fall as the parameter grows; doubling first keeps away from the costly end.
        step = low
        while step < high and (reached := work.recall(side.find({**other, side.space.name: step}))) < target:
            low, step = step + 1, 2 * step
        if step < high:
            high, recall = step, reached
        while high - low > _CLOSE * low:
            middle = (low + high) // 2
            if (reached := work.recall(side.find({**other, side.space.name: middle}))) >= target:
                high, recall = middle, reached
            else:
                low = middle + 1
        yield Chosen(side, {**other, side.space.name: high}, recall)
    if not any_met:
        raise Unreached(f"no search reaches recall {target}, the best was {best:.3f}")


def fastest(candidates: Sequence[Chosen]) -> Chosen:
    """By the median of a few alternating passes."""
    runs = alternate({str(i): chosen.measure for i, chosen in enumerate(candidates)}, _PASSES)
    return candidates[max(range(len(candidates)), key=lambda i: median_rate(runs[str(i)]))]
