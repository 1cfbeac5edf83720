"""The figure that picks a training's step, and its standard error against a bootstrap over items."""

import math

import numpy as np
import pytest

from distill.evaluate.metrics import auc, ndcg_per_group
from distill.evaluate.validation import ranking_quality


def judged(items: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of items that differ in number and in how well they are scored."""
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(items), rng.integers(2, 12, items))
    grade = rng.integers(0, 4, item.size)
    skill = rng.uniform(-0.3, 1.0, items)[item]
    return item, grade, np.round(skill * grade + rng.normal(size=item.size), 1)  # some ties


def test_figures_by_hand():
    # nDCG is 1 and (1 / 3) / log2 3 / (1 / 3). Of the two pairs of an exact grade and another one each is in order.
    figures = ranking_quality([7, 7, 9, 9], [3, 0, 0, 1], [2.0, -1.0, 1.0, 0.5])
    ndcg = (1 + 1 / math.log2(3)) / 2
    assert figures["ndcg@10"] == pytest.approx(ndcg)
    assert figures["auc_exact"] == 1.0
    assert figures["quality"] == pytest.approx((ndcg + 1) / 2)
    # Every placement is 1, so the AUC varies by nothing: √(2 / 1 · Σ ((nDCG - mean) / 2 / 2)²).
    assert figures["quality_error"] == pytest.approx(math.sqrt(2 * 2 * ((1 - ndcg) / 4) ** 2))


def test_the_error_of_an_auc_alone_by_hand():
    # No item has two pairs, so none is ranked. AUC of {3, 1} over {2, 0}: 3/4. Placements: 1 and 1/2; 1/2 and 1.
    figures = ranking_quality([0, 1, 2, 3], [3, 3, 0, 0], [3.0, 1.0, 2.0, 0.0])
    assert set(figures) == {"auc_exact", "quality", "quality_error"} and figures["quality"] == 0.75
    assert figures["quality_error"] == pytest.approx(math.sqrt(4 / 3 * 4 * (0.25 / 2) ** 2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_error_is_that_of_a_bootstrap_over_items(seed):
    item, grade, score = judged(120, seed)
    rows = [np.flatnonzero(item == one) for one in range(120)]
    rng = np.random.default_rng(100 + seed)
    drawn = []
    for _ in range(1000):
        picks = [rows[one] for one in rng.integers(0, 120, 120)]
        index, group = np.concatenate(picks), np.repeat(np.arange(120), [len(pick) for pick in picks])
        ndcg = ndcg_per_group(group, grade[index] / 3, score[index], k=10)[1].mean()
        drawn.append((ndcg + auc(grade[index] == 3, score[index])) / 2)
    assert ranking_quality(item, grade, score)["quality_error"] == pytest.approx(np.std(drawn), rel=0.12)


def test_what_the_grades_do_not_define_is_left_out():
    one_class = ranking_quality([0, 0, 1, 1], [1, 2, 1, 2], [1.0, 2.0, 2.0, 1.0])
    assert set(one_class) == {"ndcg@10", "quality", "quality_error"} and one_class["quality"] == one_class["ndcg@10"]
    assert ranking_quality([0, 0], [0, 0], [1.0, 2.0]) == {"quality": 0.0, "quality_error": 1.0}


def test_one_item_says_nothing():
    assert ranking_quality([0, 0, 0], [3, 0, 1], [1.0, 2.0, 0.0])["quality_error"] == 1.0


def test_the_order_of_rows_and_a_rising_map_of_scores_change_nothing():
    item, grade, score = judged(30, 5)
    order = np.random.default_rng(0).permutation(item.size)
    assert ranking_quality(item[order], grade[order], np.exp(score[order])) == pytest.approx(
        ranking_quality(item, grade, score)
    )
