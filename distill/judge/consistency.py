"""How far a judge agrees with itself when it is asked the same again."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from distill.judge.agreement import AGREEING, Figure, bootstrap_figures, same_length


class SelfConsistency(TypedDict):
    """Asks of the same pair against each other."""

    pairs: int  # with at least two grades
    comparisons: int  # of two grades of one pair: three asks make three
    same_grade: Figure  # share of comparisons
    kappa: Figure  # Cohen's, quadratic weights, the earlier ask against the later
    scored_comparisons: int
    score_difference: float  # mean absolute difference of the raw scores, in grades
    ungraded: int  # asks that gave no grade


def self_consistency(
    pair: ArrayLike,
    repeat: ArrayLike,
    grade: ArrayLike,
    score: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> SelfConsistency:
    """How far a judge that is asked the same again says the same; intervals from resampling pairs.

    Args:
      pair: [N] id of the pair of each ask.
      repeat: int [N], 0 for the first ask of a pair, 1 for the second.
      grade: float [N], 0–3; NaN where the ask gave no grade.
      score: float [N] raw scores, NaN where there is none.

    Raises:
      ValueError: lengths differ, a grade is not one of 0–3, or an ask comes twice.
    """
    pair, repeat, grade = np.asarray(pair), np.asarray(repeat, np.int64), np.asarray(grade, np.float64)
    pair, repeat = same_length("pair", pair, grade), same_length("repeat", repeat, grade)
    score = np.full(grade.shape, math.nan) if score is None else np.asarray(score, np.float64)
    score = same_length("score", score, grade)
    graded = ~np.isnan(grade)
    wrong = grade[graded & ~np.isin(grade, range(4))]
    if wrong.size:
        raise ValueError(f"self_consistency: grade {wrong[0]} is not one of 0, 1, 2, 3")
    ids, pair = np.unique(pair, return_inverse=True)
    order = np.lexsort((repeat, pair))
    if np.any((np.diff(pair[order]) == 0) & (np.diff(repeat[order]) == 0)):
        raise ValueError("self_consistency: an ask (pair, repeat) comes twice; pass each once")
    order = order[graded[order]]
    asks = np.bincount(pair[order], minlength=ids.size)
    earlier, later = [], []
    for step in range(1, asks.max(initial=0)):
        same = np.flatnonzero(pair[order[step:]] == pair[order[:-step]])
        earlier.append(order[same])
        later.append(order[same + step])
    first, second = (np.concatenate([np.zeros(0, np.int64), *rows]) for rows in (earlier, later))
    figures = bootstrap_figures(
        pair[first], grade[first].astype(int), grade[second].astype(int), 4, AGREEING, resamples, seed
    )
    apart = np.abs(score[first] - score[second])
    apart = apart[np.isfinite(apart)]
    return SelfConsistency(
        pairs=int(np.count_nonzero(asks > 1)),
        comparisons=len(first),
        same_grade=figures["same_grade"],
        kappa=figures["kappa"],
        scored_comparisons=len(apart),
        score_difference=float(apart.mean()) if len(apart) else math.nan,
        ungraded=int(np.count_nonzero(~graded)),
    )
