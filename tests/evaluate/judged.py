"""Figures of a judge that was asked about 400 pairs, for the report's tests."""

import numpy as np

from distill.judge.agreement import agreement_intervals, agreement_slices, judge_agreement
from distill.judge.calibration import score_calibration
from distill.judge.consistency import self_consistency


def judge_figures(names: tuple[str, str] = ("a", "b")) -> dict:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 400)
    human, keyphrase = np.array(list("ICSE"))[label], np.arange(400) // 8
    score = np.clip(label + rng.normal(0, 0.7, 400), 0, 3)
    grade = np.rint(score)
    return {
        "agreement": judge_agreement(grade, human),
        "intervals": agreement_intervals(grade, human, keyphrase, score, resamples=50),
        "slices": {
            "title": agreement_slices(grade, human, keyphrase, list(names) * 200, resamples=50),
            "script": [],
        },
        "consistency": self_consistency(np.arange(400) % 200, np.arange(400) // 200, grade, score, resamples=50),
        "calibration": score_calibration(score, human, np.where(keyphrase % 2, "valid", "test")),
    }
