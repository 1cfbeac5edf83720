"""The tuner on trees whose recall and time are known functions, so that its choice can be compared with all others."""

import dataclasses
import math

import numpy as np
import pytest

from distill.retrieval.index_settings import TreeSettings, bytes_per_keyphrase, default_tree
from distill.retrieval.index_tuning import choose_by_recall, smallest, time_again, tune

COUNT, K = 100_000, 100


class Known:
    """Recall grows with the share of leaves and with candidates; time has a term for leaves, codes and candidates."""

    def __init__(self, tree: TreeSettings, noise=0.0, clock=None):
        self.tree, self.noise, self.clock = tree, np.random.default_rng(0), clock
        self.spread, self.timed = noise, 0

    def recall(self, leaves_to_search, reorder):
        share = leaves_to_search / self.tree.leaves * (2 if self.tree.soar_lambda else 1)
        found = 1 - np.exp(-90 * share * (self.tree.leaves / 300) ** 0.3)
        kept = 1 - np.exp(-2.4 * reorder / K / self.tree.dims_per_block)
        return found * kept

    def exact_seconds(self, leaves_to_search, reorder):
        scanned = leaves_to_search / self.tree.leaves * COUNT
        return 1e-9 * (8 * self.tree.leaves + scanned * 40 / self.tree.dims_per_block + 60 * reorder)

    def seconds(self, leaves_to_search, reorder, at_least):
        self.timed += 1
        if self.clock:
            self.clock[0] += 1.0
        return self.exact_seconds(leaves_to_search, reorder) * math.exp(self.spread * self.noise.normal())


def exhaustive(tree, target):
    """The least time of any pair of parameters, each on a fine grid."""
    trial = Known(tree)
    leaves, reorders = np.ix_(np.arange(1, tree.leaves + 1), np.arange(K, 16 * K, 5))
    seconds = trial.exact_seconds(leaves, reorders)
    return seconds[trial.recall(leaves, reorders) >= target].min(initial=np.inf)


@pytest.mark.parametrize("target", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_choice_is_close_to_the_best_of_all(target, noise):
    first = default_tree(COUNT, 64)
    trees = {first, *first.neighbours(COUNT, 64)}
    tuned = tune(lambda tree: Known(tree, noise), first, k=K, count=COUNT, width=64, target=target, seconds=60)
    trial = tuned.trial
    assert isinstance(trial, Known)
    assert target <= tuned.recall <= target + 0.01
    assert tuned.recall == trial.recall(tuned.leaves_to_search, tuned.reorder)
    best = min(exhaustive(tree, target) for tree in trees)
    assert trial.exact_seconds(tuned.leaves_to_search, tuned.reorder) <= best * (1.1 if not noise else 1.2)


def test_every_measured_setting_is_on_the_curve():
    tuned = tune(Known, default_tree(COUNT, 64), k=K, count=COUNT, width=64, target=0.95, seconds=60)
    assert len({point.tree for point in tuned.curve}) > 3
    assert any(point.recall < 0.95 for point in tuned.curve)
    assert all(point.queries_per_second > 0 and 0 < point.recall <= 1 for point in tuned.curve)
    flat = tuned.curve[0].as_dict()
    assert {"leaves", "dims_per_block", "leaves_to_search", "reorder", "recall", "queries_per_second"} <= flat.keys()


@pytest.mark.parametrize("seconds", [0, 60])
def test_over_many_samples_the_recall_of_the_choice_is_the_target(seconds):
    """A sample is as hard as its queries are, whatever the settings: neither many misses nor a costly excess."""
    rng, first = np.random.default_rng(0), default_tree(COUNT, 64)

    class Sampled(Known):
        kindness = 0.0

        def recall(self, leaves_to_search, reorder):
            return min(1.0, super().recall(leaves_to_search, reorder) + self.kindness)

    excess = []
    for Sampled.kindness in rng.normal(0, 0.004, 200):
        if seconds:
            tuned = tune(Sampled, first, k=K, count=COUNT, width=64, target=0.95, seconds=seconds)
        else:
            tuned = choose_by_recall(Sampled(first), k=K, count=COUNT, target=0.95)
        assert isinstance(tuned.trial, Sampled)
        excess.append(Known.recall(tuned.trial, tuned.leaves_to_search, tuned.reorder) - 0.95)
    assert abs(np.mean(excess)) < 0.001 and np.std(excess) < 0.006


def test_no_tree_is_begun_that_the_budget_does_not_cover():
    now, built = [0.0], []

    def build(tree):
        built.append(tree)
        now[0] += 100.0
        return Known(tree, clock=now)

    for budget in (0.0, 150.0, 500.0):
        now[0] = 0.0
        built.clear()
        tuned = tune(
            build, default_tree(COUNT, 64), k=K, count=COUNT, width=64, target=0.9, seconds=budget, clock=lambda: now[0]
        )
        assert tuned.trial is not None and built[0] == default_tree(COUNT, 64)
        assert len(built) == 1 or now[0] <= budget + 60  # timing of finalists may differ from tree to tree
        assert len(set(built)) == len(built)


def test_where_no_tree_reaches_the_target_nothing_is_chosen():
    class Hopeless(Known):
        def recall(self, leaves_to_search, reorder):
            return 0.7 * super().recall(leaves_to_search, reorder)

    tuned = tune(Hopeless, default_tree(COUNT, 64), k=K, count=COUNT, width=64, target=0.9, seconds=60)
    assert tuned.trial is None and 0.6 < tuned.best_recall <= 0.7
    assert choose_by_recall(Hopeless(default_tree(COUNT, 64)), k=K, count=COUNT, target=0.9).trial is None


def test_settings_by_recall_alone_time_nothing_but_the_result():
    trial = Known(default_tree(COUNT, 64))
    chosen = choose_by_recall(trial, k=K, count=COUNT, target=0.95)
    assert trial.timed == 1 and 0.95 <= chosen.recall <= 0.96 and chosen.reorder < 16 * K
    assert trial.recall(chosen.leaves_to_search - 1, chosen.reorder) < 0.95


def test_a_slow_spell_falls_on_all_finalists_alike():
    class Spell(Known):
        """Everything takes ten times as long between the 3rd and the 6th measurement of all."""

        calls = 0

        def seconds(self, leaves_to_search, reorder, at_least):
            Spell.calls += 1
            return self.exact_seconds(leaves_to_search, reorder) * (10 if 3 <= Spell.calls <= 6 else 1)

    tuned = tune(Known, default_tree(COUNT, 64), k=K, count=COUNT, width=64, target=0.95, seconds=0)
    trial = Spell(default_tree(COUNT, 64))
    points = sorted(tuned.curve, key=lambda point: -point.queries_per_second)[:3]
    again = time_again([(trial, point) for point in points])
    speeds = [1 / trial.exact_seconds(point.leaves_to_search, point.reorder) for point in points]
    np.testing.assert_allclose([point.queries_per_second for point in again], speeds)


class Exact:
    """Exact search of known speed."""

    tree = TreeSettings()

    def __init__(self, seconds):
        self.spent = seconds

    def recall(self, leaves_to_search, reorder):
        return 1.0

    def seconds(self, leaves_to_search, reorder, at_least):
        assert leaves_to_search == reorder == 0
        return self.spent


def tuned_beside(exact_seconds, **changed):
    options = {"k": K, "count": COUNT, "width": 64, "target": 0.95, "seconds": 60} | changed
    built = []

    def build(tree):
        built.append(tree)
        return Known(tree)

    return tune(build, default_tree(COUNT, 64), exact=lambda: Exact(exact_seconds), **options), built


def test_exact_search_is_chosen_where_no_tree_is_faster():
    alone = tune(Known, default_tree(COUNT, 64), k=K, count=COUNT, width=64, target=0.95, seconds=60)
    assert isinstance(alone.trial, Known)
    fastest = alone.trial.exact_seconds(alone.leaves_to_search, alone.reorder)
    for share, exact in ((0.9, True), (1.0, True), (1.1, False)):
        tuned, built = tuned_beside(share * fastest)
        assert tuned.trial is not None and (not tuned.trial.tree.leaves) == exact, share
        assert len(built) > 3
        if exact:
            assert (tuned.leaves_to_search, tuned.reorder, tuned.recall) == (0, 0, 1.0)
    assert any(not point.tree.leaves for point in tuned.curve)


def test_no_further_tree_is_built_where_exact_search_is_far_ahead():
    tuned, built = tuned_beside(1e-9)
    assert built == [default_tree(COUNT, 64)] and tuned.trial is not None and not tuned.trial.tree.leaves


def test_who_is_far_behind_is_not_timed_to_the_end():
    trial, slow = Known(default_tree(COUNT, 64)), Known(default_tree(COUNT, 64))
    point = choose_by_recall(trial, k=K, count=COUNT, target=0.95).curve[0]
    trial.timed = 0
    worse = dataclasses.replace(point, leaves_to_search=3 * point.leaves_to_search)
    again = time_again([(trial, point), (slow, worse)])
    assert trial.timed == 7 and slow.timed == 3
    speeds = [1 / trial.exact_seconds(one.leaves_to_search, one.reorder) for one in (point, worse)]
    np.testing.assert_allclose([one.queries_per_second for one in again], speeds)


def test_bisection_finds_the_smallest():
    for low, high in ((0, 0), (1, 7), (5, 1000)):
        for wanted in {low, high, (low + high) // 2, min(high, low + 1)}:
            assert smallest(low, high, lambda n, w=wanted: n >= w) == wanted
    found = smallest(1, 10_000, lambda n: n >= 777, tolerance=0.02)
    assert 777 <= found <= 777 * 1.03


def test_neighbouring_trees_stay_within_reason():
    for count in (1024, 100_000, 100_000_000):
        tree = default_tree(count, 64)
        assert 16 <= tree.leaves <= count // 16
        for near in tree.neighbours(count, 64):
            assert near != tree and near.dims_per_block in (1, 2, 4, 8) and 16 <= near.leaves <= count // 16
    codes = {width: default_tree(10**6, width).dims_per_block for width in (64, 256, 384, 768, 1024)}
    assert codes == {64: 1, 256: 1, 384: 2, 768: 3, 1024: 4}  # no vector has more than 256
    assert not any(near.dims_per_block > 3 for near in TreeSettings(100, 2).neighbours(10**5, 3))


def test_bytes_of_a_keyphrase_by_hand():
    # 64 float32, 64 codes of half a byte, two 4-byte numbers, 1000 · 64 · 4 / 1,000,000 of centroids.
    cost = bytes_per_keyphrase(TreeSettings(1000, 1), count=1_000_000, width=64)
    assert cost["memory"] == pytest.approx(256 + 32 + 8 + 0.256)
    assert cost["disk"] == pytest.approx(256 + 64 + 4 + 0.256)
    cost = bytes_per_keyphrase(TreeSettings(1000, 2, 1.5), count=10**6, width=64, full_width=384, dtype="int8")
    assert cost["memory"] == pytest.approx(64 + 2 * (16 + 8) + 0.256)
    assert cost["disk"] == pytest.approx(64 + 2 * (32 + 4) + 0.256 + 1536)
    assert bytes_per_keyphrase(TreeSettings(), count=9, width=64) == {"memory": 256, "disk": 256}
