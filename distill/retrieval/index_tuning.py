"""The fastest index settings that meet a recall: cheap parameters of the search first, then of the build.

How many leaves to search and how many candidates to re-order change nothing in the index, so each tree is built once
and searched many times. Recall does not depend on the clock and grows with either parameter: the smallest value that
meets the target is found by bisection, which puts every candidate on the target, not above it. Only what then ties on
recall is compared by time: in passes long enough to be timed, alternating, by medians, so that a slow minute of the
machine falls on all alike. Where vectors are few, exact search is a candidate too.

All of it stands on the whole sample. Halves, one to choose on and one to check on, do worse: how hard the queries of a
half are moves the recall of all settings alike, so a choice that both halves must agree to overshoots the target by
their difference, and there is little that choosing among so few settings can fit.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from distill.retrieval.index_settings import TreeSettings

_MOST_REORDER = 16  # candidates as a multiple of the neighbours asked for; where so many miss, more leaves are no help
_LEAF_STEPS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0)  # multiples of the fewest leaves, each with its own number of candidates
_GLANCE = 0.05  # seconds of searching that show which settings of a tree are worth a longer look
_PASS = 0.25  # seconds, at least, of each timed pass of a finalist
_REACH = 1.2  # times the seconds of the fastest: what takes longer is no finalist, or ceases to be one
_FINALISTS = 4  # of one tree, at most
_ROUNDS = 7  # of alternating passes
_SURE = 3  # of them, before a finalist may drop out
_BETTER = 1.02  # a tree must be this much faster to replace the best so far; exact search may be this much slower
_HOPELESS = 4.0  # where exact search is so many times as fast as the first tree, no other is tried


class Trial(Protocol):
    """A built tree that can be searched with other parameters.

    Exact search is a trial too: its tree is `TreeSettings()`, and its parameters are 0.
    """

    tree: TreeSettings

    def recall(self, leaves_to_search: int, reorder: int) -> float:
        """Recall on the sample; does not fall when either parameter grows."""
        ...

    def seconds(self, leaves_to_search: int, reorder: int, at_least: float) -> float:
        """Wall time of one query, over as many passes through the sample as take `at_least` seconds."""
        ...


@dataclasses.dataclass(frozen=True)
class Point:
    """One measured setting; a curve of them stands in the manifest."""

    tree: TreeSettings
    leaves_to_search: int
    reorder: int
    recall: float
    queries_per_second: float  # median where it was timed more than once

    def as_dict(self) -> dict[str, Any]:
        flat = dataclasses.asdict(self)
        return {**flat.pop("tree"), **flat}


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The chosen settings and all that were measured; `trial` is None when no tree meets the target."""

    trial: Trial | None
    leaves_to_search: int
    reorder: int
    recall: float
    curve: tuple[Point, ...]
    best_recall: float  # of the first tree with all it can search; tells why no tree was found


def smallest(low: int, high: int, enough: Callable[[int], bool], tolerance: float = 0.0) -> int:
    """The smallest value in [low, high] that is enough, given that `high` is and that enough stays enough.

    With a tolerance the result may be larger than the smallest by that share.
    """
    while low < high and high - low > tolerance * low:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


def choose_by_recall(trial: Trial, *, k: int, count: int, target: float) -> Tuned:
    """Parameters of one tree by recall alone: no clock, so the same tree gives the same settings.

    The fewest candidates, in steps of a quarter, that with every leaf searched lose no more than half of what the tree
    can give above the target; then the fewest leaves, and what they leave over is taken from the candidates.
    """
    leaves, most = trial.tree.leaves, _most_reorder(k, count)
    best = trial.recall(leaves, most)
    if best < target:
        return Tuned(None, 0, 0, best, (), best)
    ceiling, reorder = (target + best) / 2, k
    while reorder < most and trial.recall(leaves, reorder) < ceiling:
        reorder = min(most, reorder + (reorder + 3) // 4)
    fewest = smallest(1, leaves, lambda n: trial.recall(n, reorder) >= target)
    reorder = smallest(min(k, most), reorder, lambda r: trial.recall(fewest, r) >= target)
    speed = 1 / trial.seconds(fewest, reorder, _GLANCE)
    point = Point(trial.tree, fewest, reorder, trial.recall(fewest, reorder), speed)
    return Tuned(trial, fewest, reorder, point.recall, (point,), best)


def tune(
    build: Callable[[TreeSettings], Trial],
    first: TreeSettings,
    *,
    k: int,
    count: int,
    width: int,
    target: float,
    seconds: float,
    exact: Callable[[], Trial] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """Climbs from tree to neighbouring tree as long as that is faster and the budget lasts.

    Args:
      build: makes a searchable tree.
      first: where to start; built whatever the budget is.
      k: neighbours asked for.
      count: vectors.
      width: their coordinates.
      target: recall@k to meet.
      seconds: budget; a tree is only begun when the slowest one so far would still fit in it.
      exact: makes exact search, where that may be as fast as a tree; where it is, it is chosen.
      clock: seconds.
    """
    end, slowest = clock() + seconds, 0.0
    curve: list[Point] = []
    tried: set[TreeSettings] = set()
    best: list[tuple[Trial, Point]] = []  # of one trial, the fastest first
    rival: list[tuple[Trial, Point]] = []
    best_recall, queue = 0.0, [first]
    while queue:
        tree = queue.pop(0)
        if tree in tried or (tried and clock() + slowest > end):
            continue
        begun = clock()
        tried.add(tree)
        trial = build(tree)
        points = _points_on_target(trial, k=k, count=count, target=target, curve=curve)
        if points:
            best, won = _duel(best, [(trial, point) for point in points], curve)
            if won:
                queue = tree.neighbours(count, width)
        elif not best:
            queue = tree.neighbours(count, width)
        if tree is first:
            best_recall = trial.recall(tree.leaves, _most_reorder(k, count))
            if exact and best:
                rival = [_exact_point(exact())]
                if _seconds(rival[0][1]) * _HOPELESS < _seconds(best[0][1]):
                    queue = []
        slowest = max(slowest, clock() - begun)
        del trial, points  # a tree that lost is not held beside the next one
    if best and rival:
        best, _ = _duel(best, rival, curve, better=1 / _BETTER)
    if not best:
        return Tuned(None, 0, 0, best_recall, tuple(curve), best_recall)
    trial, chosen = best[0]
    return Tuned(trial, chosen.leaves_to_search, chosen.reorder, chosen.recall, tuple(curve), best_recall)


def _duel(
    best: list[tuple[Trial, Point]],
    challengers: list[tuple[Trial, Point]],
    curve: list[Point],
    better: float = _BETTER,
) -> tuple[list[tuple[Trial, Point]], bool]:
    """Times both sides again; the winner's within reach of its fastest, that first, and whether the challengers won.

    They win when they are more than `better` times as fast.
    """
    both = [*best, *challengers]
    points = time_again(both)
    curve += points
    timed = sorted(zip((trial for trial, _ in both), points, range(len(both))), key=lambda one: _seconds(one[1]))
    old = [(trial, point) for trial, point, place in timed if place < len(best)]
    new = [(trial, point) for trial, point, place in timed if place >= len(best)]
    won = not old or _seconds(new[0][1]) * better < _seconds(old[0][1])
    winner = new if won else old
    return [one for one in winner if _seconds(one[1]) <= _REACH * _seconds(winner[0][1])], won


def _exact_point(trial: Trial) -> tuple[Trial, Point]:
    return trial, Point(trial.tree, 0, 0, trial.recall(0, 0), 1 / min(trial.seconds(0, 0, _GLANCE) for _ in range(2)))


def _points_on_target(trial: Trial, *, k: int, count: int, target: float, curve: list[Point]) -> list[Point]:
    """Pairs of leaves and candidates that just meet the target: those that look fastest, the first of them first.

    All that were measured go to `curve`.
    """
    leaves, most = trial.tree.leaves, _most_reorder(k, count)
    if trial.recall(leaves, most) < target:
        return []
    fewest = smallest(1, leaves, lambda n: trial.recall(n, most) >= target)
    pairs: dict[tuple[int, int], None] = {}
    high = most
    for step in _LEAF_STEPS:
        searched = min(leaves, math.ceil(fewest * step))
        high = smallest(min(k, most), high, lambda r, n=searched: trial.recall(n, r) >= target, tolerance=0.02)
        # With few candidates settled, fewer leaves may do as well.
        searched = smallest(fewest, searched, lambda n, r=high: trial.recall(n, r) >= target)
        pairs[searched, high] = None
    points = [
        Point(trial.tree, n, r, recall, 1 / min(trial.seconds(n, r, _GLANCE) for _ in range(2)))
        for n, r in pairs
        if (recall := trial.recall(n, r)) >= target
    ]
    curve += points
    below = max(1, fewest // 2)  # one point under the target, to draw the curve
    if below < fewest:
        speed = 1 / trial.seconds(below, most, 0.0)
        curve.append(Point(trial.tree, below, most, trial.recall(below, most), speed))
    points.sort(key=_seconds)
    return [point for point in points if _seconds(point) <= _REACH * _seconds(points[0])][:_FINALISTS]


def time_again(finalists: Sequence[tuple[Trial, Point]]) -> list[Point]:
    """Each finalist's queries a second, as a median over alternating passes; who falls far behind drops out early."""
    seconds: list[list[float]] = [[] for _ in finalists]
    running = list(range(len(finalists)))
    for turn in range(_ROUNDS):
        for i in running if turn % 2 == 0 else reversed(running):
            trial, point = finalists[i]
            seconds[i].append(trial.seconds(point.leaves_to_search, point.reorder, _PASS))
        if turn + 1 >= _SURE:
            least = [min(times) for times in seconds]  # which no slow spell moves
            running = [i for i in running if least[i] <= _REACH * min(least)]
    return [
        dataclasses.replace(point, queries_per_second=1 / statistics.median(times))
        for (_, point), times in zip(finalists, seconds)
    ]


def _seconds(point: Point) -> float:
    return 1 / point.queries_per_second


def _most_reorder(k: int, count: int) -> int:
    return min(count, _MOST_REORDER * k)
