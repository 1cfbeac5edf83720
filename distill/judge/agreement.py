"""How far the judge's grades agree with human labels of the same pairs.

Intervals come from drawing keyphrases (`distill.resampling`). Figures that are not defined are NaN; `json_figures`
makes of them what JSON can hold.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

from distill.data.text import leaf_labels
from distill.resampling import group_draws, percentile_interval

HUMAN_LABELS = ("I", "C", "S", "E")  # irrelevant, complement, substitute, exact: in the order of grades 0–3
REST = "rest"  # name of the slice that small slices are merged into
_WEIGHTS = np.subtract.outer(np.arange(4), np.arange(4)) ** 2.0  # of quadratic kappa

Floats = NDArray[np.float64]


class JudgeAgreement(TypedDict):
    """Figures over the pairs that both graded; an AUC is NaN when the humans used one class only."""

    pairs: int
    auc_exact: float  # exact against the rest, ranked by grade
    auc_relevant: float  # anything but irrelevant against irrelevant
    kappa: float  # Cohen's, quadratic weights; NaN when both used one and the same grade throughout
    same_grade: float  # share of pairs
    confusion: list[list[int]]  # [human 0–3][judge 0–3] counts


class Figure(TypedDict):
    """A figure and its 95 % interval; the bounds are NaN where one keyphrase is all there is."""

    value: float
    low: float
    high: float


class AgreementIntervals(TypedDict):
    """The headline figures, those of the raw score over the pairs that have one."""

    pairs: int
    keyphrases: int
    auc_exact: Figure
    auc_relevant: Figure
    kappa: Figure
    same_grade: Figure
    scored_pairs: int
    score_auc_exact: Figure
    score_auc_relevant: Figure


class AgreementSlice(TypedDict):
    name: str
    pairs: int
    auc_exact: Figure
    kappa: Figure


def judge_agreement(grade: ArrayLike, human: ArrayLike) -> JudgeAgreement:
    """Compares the judge's grades to human labels.

    Args:
      grade: int [N], 0–3.
      human: str [N], `E`, `S`, `C` or `I` (the Shopping Queries labels), read as grades 3, 2, 1, 0.

    Raises:
      ValueError: no pairs, lengths differ, or a grade or label is not one of the above.
    """
    grade, label = grades_and_labels(grade, human)

    def auc(positive: NDArray[np.bool_]) -> float:
        return float(roc_auc_score(positive, grade)) if 0 < positive.sum() < positive.size else math.nan

    alike = np.unique(np.concatenate([grade, label])).size == 1
    return JudgeAgreement(
        pairs=int(grade.size),
        auc_exact=auc(label == 3),
        auc_relevant=auc(label > 0),
        kappa=math.nan if alike else float(cohen_kappa_score(label, grade, labels=range(4), weights="quadratic")),
        same_grade=float((label == grade).mean()),
        confusion=confusion_matrix(label, grade, labels=range(4)).tolist(),
    )


def agreement_intervals(
    grade: ArrayLike,
    human: ArrayLike,
    keyphrase: ArrayLike,
    score: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> AgreementIntervals:
    """The headline figures with intervals.

    Args:
      grade: int [N], 0–3.
      human: str [N], as in `judge_agreement`.
      keyphrase: [N] id of each pair's keyphrase (the human query): the unit that is resampled.
      score: float [N] raw score of the judge, NaN where it gave none; None where it has none.

    Raises:
      ValueError: as `judge_agreement`; or lengths of keyphrase or score differ, or a score is infinite.
    """
    grade, label = grades_and_labels(grade, human)
    keyphrase = same_length("keyphrase", keyphrase, grade)
    score = np.full(grade.shape, math.nan) if score is None else np.asarray(score, np.float64)
    score = same_length("score", score, grade)
    if np.isinf(score).any():
        raise ValueError("judge_agreement: a score is infinite; pass NaN for a pair without a score")
    figures = bootstrap_figures(keyphrase, label, grade, 4, RANKING | AGREEING, resamples, seed)
    scored = np.isfinite(score)
    distinct, level = np.unique(score[scored], return_inverse=True)
    by_score = bootstrap_figures(keyphrase[scored], label[scored], level, len(distinct), RANKING, resamples, seed)
    return AgreementIntervals(
        pairs=int(grade.size),
        keyphrases=int(np.unique(keyphrase).size),
        auc_exact=figures["auc_exact"],
        auc_relevant=figures["auc_relevant"],
        kappa=figures["kappa"],
        same_grade=figures["same_grade"],
        scored_pairs=int(scored.sum()),
        score_auc_exact=by_score["auc_exact"],
        score_auc_relevant=by_score["auc_relevant"],
    )


def agreement_slices(
    grade: ArrayLike,
    human: ArrayLike,
    keyphrase: ArrayLike,
    name: ArrayLike,
    least_pairs: int = 30,
    resamples: int = 1000,
    seed: int = 0,
) -> list[AgreementSlice]:
    """AUC and kappa of each slice, the largest first; slices below `least_pairs` are merged into `rest`, the last.

    Args:
      grade, human, keyphrase: [N] as in `agreement_intervals`.
      name: [N] slice of each pair: its leaf category, a range of title lengths, a script.

    Raises:
      ValueError: as `agreement_intervals`.
    """
    grade, label = grades_and_labels(grade, human)
    keyphrase, name = same_length("keyphrase", keyphrase, grade), same_length("name", np.asarray(name, str), grade)
    names, place, count = np.unique(name, return_inverse=True, return_counts=True)
    merged = (count < least_pairs) | (names == REST)
    slices = [(str(names[i]), place == i) for i in np.argsort(-count, kind="stable") if not merged[i]]
    slices += [(REST, merged[place])] if merged.any() else []
    found = []
    for one, inside in slices:
        measures = {"auc_exact": RANKING["auc_exact"], "kappa": AGREEING["kappa"]}
        figures = bootstrap_figures(keyphrase[inside], label[inside], grade[inside], 4, measures, resamples, seed)
        found.append(AgreementSlice(name=one, pairs=int(inside.sum()), **figures))  # type: ignore[typeddict-item]
    return found


def pair_slices(
    title: Sequence[str], category: Sequence[Sequence[str]], keyphrase: Sequence[str]
) -> dict[str, list[str]]:
    """Dimension → slice of each pair [N], for `agreement_slices`: where a judge may be better or worse than on average.

    The script is that of most of the keyphrase's letters, by the first word of their Unicode names.
    """

    def script(text: str) -> str:
        letters = Counter(unicodedata.name(one, "UNNAMED").split()[0] for one in text if one.isalpha())
        return letters.most_common(1)[0][0] if letters else "no letters"

    def length(text: str) -> str:
        words = len(text.split())
        return "up to 8 words" if words <= 8 else "9–16 words" if words <= 16 else "17 words or more"

    def words(text: str) -> str:
        number = len(text.split())
        return f"{number} word{'s' * (number > 1)}" if number < 5 else "5 words or more"

    return {
        "leaf category": leaf_labels(category),
        "title": [length(one) for one in title],
        "keyphrase": [words(one) for one in keyphrase],
        "script": [script(one) for one in keyphrase],
    }


def json_figures(figures: Any) -> Any:
    """Dataclasses, mappings, sequences, arrays and numbers as JSON values; what is not finite becomes None."""
    if dataclasses.is_dataclass(figures) and not isinstance(figures, type):
        figures = dataclasses.asdict(figures)
    if isinstance(figures, Mapping):
        return {str(name): json_figures(value) for name, value in figures.items()}
    if isinstance(figures, np.ndarray | np.generic):
        figures = figures.tolist()
    if isinstance(figures, list | tuple):
        return [json_figures(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def _auc(positive: Floats, negative: Floats) -> Floats:
    """AUC [B] from counts [B, L] at each rising level of the score; ties count half."""
    below = np.cumsum(negative, axis=-1) - negative / 2
    with np.errstate(invalid="ignore"):
        return np.sum(positive * below, axis=-1) / (positive.sum(-1) * negative.sum(-1))


def _kappa(confusion: Floats) -> Floats:
    """Cohen's kappa with quadratic weights, [B] from counts [B, 4, 4] (Cohen 1968)."""
    expected = confusion.sum(2)[:, :, None] * confusion.sum(1)[:, None, :] / confusion.sum((1, 2))[:, None, None]
    with np.errstate(invalid="ignore"):
        return 1 - (_WEIGHTS * confusion).sum((1, 2)) / (_WEIGHTS * expected).sum((1, 2))


# Figures [B] of tables of counts [B, 4 labels, L levels].
RANKING: dict[str, Callable[[Floats], Floats]] = {
    "auc_exact": lambda table: _auc(table[:, 3], table[:, :3].sum(1)),
    "auc_relevant": lambda table: _auc(table[:, 1:].sum(1), table[:, 0]),
}
AGREEING: dict[str, Callable[[Floats], Floats]] = {
    "kappa": _kappa,
    "same_grade": lambda table: np.trace(table, axis1=1, axis2=2) / table.sum((1, 2)),
}


def bootstrap_figures(
    group: NDArray[Any],
    label: NDArray[Any],
    level: NDArray[Any],
    levels: int,
    measures: Mapping[str, Callable[[Floats], Floats]],
    resamples: int,
    seed: int,
) -> dict[str, Figure]:
    """Each measure of the pairs, with its interval over resampled groups.

    Args:
      group: [N] what is resampled.
      label: int [N], 0–3.
      level: int [N], below `levels`, rising with the judge's opinion.
      measures: figures [B] of tables of counts [B, 4 labels, levels].
    """
    if not len(group):
        return {name: Figure(value=math.nan, low=math.nan, high=math.nan) for name in measures}
    ids, group = np.unique(group, return_inverse=True)
    tables = scipy.sparse.csr_array((np.ones(len(group)), (group, label * levels + level)), (ids.size, 4 * levels))
    drawn = group_draws(ids.size, resamples if ids.size > 1 else 0, seed, numbers=4 * levels)
    values: dict[str, list[Floats]] = {name: [] for name in measures}
    for times in itertools.chain([np.ones((1, ids.size))], drawn):
        table = (times @ tables).reshape(-1, 4, levels)
        for name, measure in measures.items():
            values[name].append(measure(table))
    return {name: _figure(np.concatenate(one)) for name, one in values.items()}


def _figure(values: Floats) -> Figure:
    """The first value with the interval of the others, its draws."""
    low, high = percentile_interval(values[1:])
    return Figure(value=float(values[0]), low=low, high=high)


def grades_and_labels(grade: ArrayLike, human: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Grades and human labels as 0–3, [N] each, checked as `judge_agreement` says."""
    grade, human = np.asarray(grade), np.asarray(human, str)
    if grade.shape != human.shape or grade.ndim != 1 or not grade.size:
        raise ValueError(
            f"judge_agreement: grades {grade.shape} and human labels {human.shape} must have one length > 0"
        )
    unknown = sorted(set(human.tolist()) - set(HUMAN_LABELS))
    if unknown:
        raise ValueError(f"judge_agreement: human label {unknown[0]!r} is not one of E, S, C, I")
    wrong = grade[~np.isin(grade, range(4))]
    if wrong.size:
        raise ValueError(f"judge_agreement: grade {wrong[0]} is not one of 0, 1, 2, 3")
    label = np.array([HUMAN_LABELS.index(one) for one in human.tolist()])
    return grade.astype(np.int64), label


def same_length(name: str, values: ArrayLike, like: NDArray[Any]) -> NDArray[Any]:
    """`values` [N] as an array; ValueError unless there is one for each of `like`."""
    values = np.asarray(values)
    if values.shape != like.shape or values.ndim != 1:
        raise ValueError(f"{name}: shape {values.shape}; pass one for each of {like.size:,} pairs")
    return values
