"""The task of a step is a pure function of (seed, step), drawn with the shares asked for."""

import numpy as np
import pytest

from distill.config import StudentConfig, TaskWeights
from distill.data.mixing import plan_tasks, task_shares

PAIRS = {"clicks": 400, "search_relevance": 100, "distill": 10_000}


def shares(**settings):
    return task_shares(StudentConfig(**settings), PAIRS)


def test_shares_by_hand():
    assert shares(mixing="proportional") == pytest.approx(
        {"clicks": 400 / 10_500, "search_relevance": 100 / 10_500, "distill": 10_000 / 10_500}
    )
    # Square roots: 20, 10 and 100.
    rooted = {"clicks": 20 / 130, "search_relevance": 10 / 130, "distill": 100 / 130}
    assert shares(mixing="temperature", mixing_temperature=2.0) == pytest.approx(rooted)
    assert shares(mixing="temperature", mixing_temperature=1.0) == pytest.approx(shares(mixing="proportional"))
    fixed = {"clicks": 0.25, "search_relevance": 0.25, "distill": 0.5}
    assert shares(mixing="fixed", mixing_shares=TaskWeights(2, 2, 4)) == pytest.approx(fixed)


def test_a_task_without_data_leaves_its_share_to_the_others():
    settings = StudentConfig(mixing="fixed", mixing_shares=TaskWeights(2, 2, 4))
    assert task_shares(settings, {"clicks": 5, "distill": 7}) == pytest.approx({"clicks": 1 / 3, "distill": 2 / 3})
    assert task_shares(settings, {"joint": 5}) == {"joint": 1.0}


def test_a_plan_is_a_function_of_the_seed_and_grows_at_its_end():
    rooted = shares(mixing="temperature")
    long, short, other = plan_tasks(rooted, 3000, 1), plan_tasks(rooted, 1000, 1), plan_tasks(rooted, 3000, 2)
    np.testing.assert_array_equal(long.task[:1000], short.task)
    np.testing.assert_array_equal(long.turn[:1000], short.turn)
    assert not np.array_equal(long.task, other.task)
    for number, name in enumerate(long.names):
        mine = long.turn[long.task == number]
        np.testing.assert_array_equal(mine, np.arange(long.turns[name]))  # each turn of a task once, in order
        assert abs(len(mine) / 3000 - rooted[name]) < 0.03


def test_a_single_task_has_every_step():
    plan = plan_tasks({"joint": 1.0}, 5, 0)
    assert plan.task.tolist() == [0] * 5 and plan.turn.tolist() == [0, 1, 2, 3, 4]


def test_a_task_without_a_step_is_refused():
    with pytest.raises(ValueError, match="none of 10 steps trains rare"):
        plan_tasks({"common": 1 - 1e-6, "rare": 1e-6}, 10, 0)
