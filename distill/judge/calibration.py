"""From a model's logit to the chance that the judge calls a pair relevant, and to a threshold of wanted precision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from distill.judge.agreement import grades_and_labels, same_length

_PRIOR_PAIRS = 10  # of the base rate, added to every precision so that a few lucky top pairs do not decide
_LEAST_PAIRS, _LEAST_SHARE = 20, 0.02  # a threshold keeps at least so many pairs, so that its precision means something


@dataclasses.dataclass(frozen=True)
class Calibration:
    """P(grade >= relevant_grade | logit) = sigmoid(slope * logit + intercept), slope >= 0 (Platt 1999)."""

    slope: float
    intercept: float
    relevant_grade: int

    @classmethod
    def fit(cls, logits: ArrayLike, grades: ArrayLike, relevant_grade: int) -> Calibration:
        """Fits both numbers by maximum likelihood on Platt's softened targets, which stay finite on separable pairs.

        Logits that do not rise with relevance give slope 0: the base rate, whatever the logit, so that a probability
        never orders pairs against its own model.

        Args:
          logits: float [N].
          grades: int [N], the judge's, of the same pairs; held out from training the model.
          relevant_grade: lowest grade that counts as relevant.

        Raises:
          ValueError: no pairs, lengths differ, or a logit or grade is not finite.
        """
        logits, relevant = _pairs(logits, grades, relevant_grade)
        positives = int(relevant.sum())
        target = np.where(relevant, (positives + 1) / (positives + 2), 1 / (relevant.size - positives + 2))
        center, spread = float(logits.mean()), float(logits.std())
        slope = 0.0
        intercept = math.log(target.mean() / (1 - target.mean()))
        if spread > 1e-9 * max(1.0, abs(center)):
            standard = np.reshape((logits - center) / spread, (-1, 1))
            model = LogisticRegression(C=math.inf, tol=1e-8, max_iter=1000)
            model.fit(
                np.concatenate([standard, standard]),
                np.repeat([1, 0], relevant.size),
                sample_weight=np.concatenate([target, 1 - target]),
            )
            rise, at_center = float(np.ravel(model.coef_)[0]), float(np.ravel(model.intercept_)[0])
            if rise > 0:
                slope = rise / spread
                intercept = at_center - slope * center
        return cls(slope, intercept, int(relevant_grade))

    def probability(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Chance of relevance, of the shape of `logits`; NaN stays NaN."""
        return expit(self.slope * np.asarray(logits, np.float64) + self.intercept)

    def to_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> Calibration:
        """Reads what `to_dict` wrote; raises ValueError that names a missing field or a number that cannot be."""
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"calibration: field {missing[0]!r} is missing; fit it again")
        slope, intercept = float(values["slope"]), float(values["intercept"])
        if not (math.isfinite(slope) and math.isfinite(intercept) and slope >= 0):
            raise ValueError(f"calibration: slope {slope} and intercept {intercept} must be finite, the slope >= 0")
        return cls(slope, intercept, int(values["relevant_grade"]))


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Pairs with a logit of at least `logit` are kept; the other figures are of the pairs it was chosen on."""

    logit: float
    precision: float  # relevant share of the kept pairs
    recall: float  # kept share of the relevant pairs; 0 when no pair is relevant
    coverage: float  # kept share of all pairs
    reached: bool  # whether the wanted precision was


def threshold_for_precision(logits: ArrayLike, grades: ArrayLike, relevant_grade: int, precision: float) -> Threshold:
    """The lowest logit at which the pairs at or above it are relevant often enough.

    Each candidate's precision is smoothed with ten pairs of the base rate, and it must keep at least 20 pairs or 2 % of
    all, whichever is more, so that the luck of a few top pairs does not decide. When none reaches `precision`, the
    candidate of best smoothed precision is returned with `reached=False`.

    Args:
      logits: float [N].
      grades: int [N], the judge's.
      relevant_grade: lowest grade that counts as relevant.
      precision: wanted, in 0–1.

    Raises:
      ValueError: no pairs, lengths differ, a logit or grade is not finite, or `precision` is outside 0–1.
    """
    if not 0 <= precision <= 1:
        raise ValueError(f"precision = {precision}: must be between 0 and 1")
    logits, relevant = _pairs(logits, grades, relevant_grade)
    order = np.argsort(-logits, kind="stable")
    logits, hits = logits[order], np.cumsum(relevant[order])
    kept = np.arange(1, logits.size + 1)
    least = min(logits.size, max(_LEAST_PAIRS, math.ceil(_LEAST_SHARE * logits.size)))
    candidate = np.append(logits[1:] < logits[:-1], True) & (kept >= least)  # the last of equal logits
    base = hits[-1] / logits.size
    smooth = (hits + _PRIOR_PAIRS * base) / (kept + _PRIOR_PAIRS)
    # Pairs of the base rate can only pull towards it, so a smoothed precision above the wanted one is a true one too.
    enough = np.flatnonzero(candidate & (smooth >= precision - 1e-12))
    best = enough[-1] if enough.size else np.flatnonzero(candidate)[np.argmax(smooth[candidate])]
    return Threshold(
        logit=float(logits[best]),
        precision=float(hits[best] / kept[best]),
        recall=float(hits[best] / max(1, hits[-1])),
        coverage=float(kept[best] / logits.size),
        reached=bool(enough.size),
    )


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Equal-width bins of predicted probability, empty ones left out; arrays [B]."""

    predicted: NDArray[np.float64]  # mean predicted probability of a bin's pairs
    observed: NDArray[np.float64]  # their relevant share
    count: NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean distance of predicted and observed, weighted by pairs; NaN without pairs.

        (Naeini, Cooper & Hauskrecht 2015.)
        """
        pairs = self.count.sum()
        return float(np.abs(self.predicted - self.observed) @ self.count / pairs) if pairs else math.nan


def reliability(probability: ArrayLike, relevant: ArrayLike, bins: int = 10) -> Reliability:
    """Predicted against observed relevance: on the diagonal, a probability means what it says.

    Args:
      probability: float [N] in 0–1.
      relevant: bool [N].

    Raises:
      ValueError: lengths differ, a probability lies outside 0–1, or bins < 1.
    """
    probability, relevant = np.asarray(probability, np.float64), np.asarray(relevant, bool)
    if probability.shape != relevant.shape or probability.ndim != 1:
        raise ValueError(
            f"reliability: probabilities {probability.shape} and labels {relevant.shape} must have one length"
        )
    if not np.all((probability >= 0) & (probability <= 1)):
        raise ValueError("reliability: every probability must be a number between 0 and 1")
    if bins < 1:
        raise ValueError(f"bins = {bins}: must be at least 1")
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins)
    used = count > 0
    return Reliability(
        predicted=np.bincount(which, probability, bins)[used] / count[used],
        observed=np.bincount(which, relevant, bins)[used] / count[used],
        count=count[used],
    )


class ScoreCalibration(TypedDict):
    """P(human label >= relevant_grade | raw score), fitted on `valid` pairs, measured on `test` pairs."""

    slope: float
    intercept: float
    relevant_grade: int
    valid_pairs: int
    test_pairs: int
    expected_error: float  # expected calibration error
    predicted: list[float]  # of each bin of test pairs, as in `Reliability`
    observed: list[float]
    count: list[int]


def score_calibration(
    score: ArrayLike, human: ArrayLike, split: ArrayLike, relevant_grade: int = 3
) -> ScoreCalibration | None:
    """What the judge's raw score says of the chance that humans call a pair relevant.

    Args:
      score: float [N], NaN where the judge gave none; those pairs are left out.
      human: str [N], as in `judge_agreement`.
      split: str [N], `valid` or `test`.
      relevant_grade: lowest human label, as a grade, that counts as relevant.

    Returns:
      None where one of the splits has no scored pair.

    Raises:
      ValueError: lengths differ, or a label or split is not one of the above.
    """
    score = np.asarray(score, np.float64)
    _, label = grades_and_labels(np.zeros(score.shape, np.int64), human)
    split = same_length("split", np.asarray(split, str), score)
    unknown = sorted(set(split.tolist()) - {"valid", "test"})
    if unknown:
        raise ValueError(f"score_calibration: split {unknown[0]!r} is not one of valid, test")
    valid, test = (np.isfinite(score) & (split == name) for name in ("valid", "test"))
    if not (valid.any() and test.any()):
        return None
    calibration = Calibration.fit(score[valid], label[valid], relevant_grade)
    table = reliability(calibration.probability(score[test]), label[test] >= relevant_grade)
    return ScoreCalibration(
        slope=calibration.slope,
        intercept=calibration.intercept,
        relevant_grade=relevant_grade,
        valid_pairs=int(valid.sum()),
        test_pairs=int(test.sum()),
        expected_error=table.expected_error,
        predicted=table.predicted.tolist(),
        observed=table.observed.tolist(),
        count=table.count.tolist(),
    )


def _pairs(logits: ArrayLike, grades: ArrayLike, relevant_grade: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    logits, grades = np.asarray(logits, np.float64), np.asarray(grades, np.float64)
    if logits.shape != grades.shape or logits.ndim != 1 or not logits.size:
        raise ValueError(f"calibration: logits {logits.shape} and grades {grades.shape} must have one length > 0")
    bad = int(np.count_nonzero(~(np.isfinite(logits) & np.isfinite(grades))))
    if bad:
        raise ValueError(
            f"calibration: {bad:,} of {logits.size:,} pairs lack a logit or a grade; leave those pairs out"
        )
    return logits, grades >= relevant_grade
