"""How far the judge's grades agree with human labels of the same pairs."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

HUMAN_LABELS = ("I", "C", "S", "E")  # irrelevant, complement, substitute, exact: in the order of grades 0–3


class JudgeAgreement(TypedDict):
    """Figures over the pairs that both graded; an AUC is NaN when the humans used one class only."""

    pairs: int
    auc_exact: float  # exact against the rest, ranked by grade
    auc_relevant: float  # anything but irrelevant against irrelevant
    kappa: float  # Cohen's, quadratic weights; NaN when both used one and the same grade throughout
    same_grade: float  # share of pairs
    confusion: list[list[int]]  # [human 0–3][judge 0–3] counts


def judge_agreement(grade: ArrayLike, human: ArrayLike) -> JudgeAgreement:
    """Compares the judge's grades to human labels.

    Args:
      grade: int [N], 0–3.
      human: str [N], `E`, `S`, `C` or `I` (the Shopping Queries labels), read as grades 3, 2, 1, 0.

    Raises:
      ValueError: no pairs, lengths differ, or a grade or label is not one of the above.
    """
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
    grade = grade.astype(np.int64)
    label = np.array([HUMAN_LABELS.index(one) for one in human.tolist()])

    def auc(positive: np.ndarray) -> float:
        return float(roc_auc_score(positive, grade)) if 0 < positive.sum() < positive.size else float("nan")

    alike = np.unique(np.concatenate([grade, label])).size == 1
    return JudgeAgreement(
        pairs=int(grade.size),
        auc_exact=auc(label == 3),
        auc_relevant=auc(label > 0),
        kappa=float("nan") if alike else float(cohen_kappa_score(label, grade, labels=range(4), weights="quadratic")),
        same_grade=float((label == grade).mean()),
        confusion=confusion_matrix(label, grade, labels=range(4)).tolist(),
    )
