"""Judge against humans: by hand, and the published figures of the real pairs."""

from __future__ import annotations

import csv
import gzip
import math
import os
from pathlib import Path

import pytest

from distill.judge.agreement import judge_agreement

ESCI_ADS = Path(os.environ.get("ESCI_ADS", Path(__file__).parents[2].parent / "shared" / "esci_ads"))


def test_agreement_by_hand():
    result = judge_agreement([3, 3, 0, 0], ["E", "S", "I", "C"])
    assert result["pairs"] == 4 and result["same_grade"] == 0.5
    assert result["auc_exact"] == pytest.approx(2.5 / 3)  # beats both zeros, ties with the other 3
    assert result["auc_relevant"] == pytest.approx(2.5 / 3)
    # Quadratic kappa: 1 - (0 + 1 + 0 + 1) / (squared distance of every label to every grade, 56, over 4).
    assert result["kappa"] == pytest.approx(1 - 2 / 14)
    assert result["confusion"] == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]


def test_undefined_figures_are_nan():
    result = judge_agreement([3, 3], ["E", "E"])
    assert math.isnan(result["auc_exact"]) and math.isnan(result["kappa"]) and result["same_grade"] == 1


@pytest.mark.parametrize(
    ("grade", "human", "message"),
    [
        ([3], ["X"], "'X'"),
        ([4], ["E"], "grade 4"),
        ([1.5], ["E"], "grade 1.5"),
        ([], [], "length > 0"),
        ([1, 2], ["E"], "one length"),
    ],
)
def test_refuses(grade, human, message):
    with pytest.raises(ValueError, match=message):
        judge_agreement(grade, human)


def test_published_figures_of_the_real_pairs():
    path = ESCI_ADS / "judge_agreement.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent; set ESCI_ADS to the data directory")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    result = judge_agreement([int(row["grade"]) for row in rows], [row["human"] for row in rows])
    assert result["pairs"] == 2039
    assert result["auc_exact"] == pytest.approx(0.777, abs=5e-4)
    assert result["auc_relevant"] == pytest.approx(0.813, abs=5e-4)
    assert result["kappa"] == pytest.approx(0.54, abs=5e-3)
    assert result["same_grade"] == pytest.approx(0.63, abs=5e-3)
