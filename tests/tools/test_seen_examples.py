"""Which examples a student saw, and how they are cut into batches for a library that takes one loss a data set."""

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import Experiment, TaskWeights
from distill.data.item_batches import ItemBatches, Quota
from distill.data.mixing import TaskPlan
from distill.data.pair_pool import join_signals
from distill.data.tokenizing import Tokenizer
from distill.reporting import Silent
from distill.stages.base import Context
from tests.stages.small import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # as the scripts there find each other

import seen_examples as examples_of


def some(step, item, keyphrase, label=None):
    label = np.ones(len(item)) if label is None else label
    return examples_of.Examples(
        np.asarray(step), np.asarray(item, np.int32), np.asarray(keyphrase, np.int32), np.asarray(label, np.float32)
    )


def batch_of(batches, step, kind):
    """(item, keyphrase, label) of the examples of a kind in a step."""
    place = step * len(examples_of.KINDS) + examples_of.KINDS.index(kind)
    span = slice(*batches.offsets[place : place + 2])
    return list(zip(batches.item[span].tolist(), batches.keyphrase[span].tolist(), batches.label[span].tolist()))


def all_of(batches, steps, kind):
    return [example for step in range(steps) for example in batch_of(batches, step, kind)]


def listed(examples):
    return list(zip(examples.item.tolist(), examples.keyphrase.tolist(), examples.label.tolist()))


@st.composite
def examples_and_steps(draw):
    """Every step saw examples of each of some kinds."""
    steps = draw(st.integers(3, 12))
    kinds = draw(st.lists(st.sampled_from(examples_of.KINDS), min_size=1, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    found = {}
    for kind in (kind for kind in examples_of.KINDS if kind in kinds):
        step = np.repeat(np.arange(steps), rng.integers(1, draw(st.integers(2, 12)), size=steps))
        # Enough texts that repetitions cannot need all of the steps.
        pairs = rng.integers(0, 400, size=(2, len(step)))
        found[kind] = some(step, *pairs, rng.random(len(step)).round(3) if kind == "distill" else None)
    return found, steps


@given(examples_and_steps())
def test_one_kind_a_step_holds_every_example_once_in_shares_of_their_number(drawn):
    examples, steps = drawn
    batches = examples_of.proportional(examples, steps, seed=3)
    total = sum(len(one.item) for one in examples.values())
    held = {kind: [len(batch_of(batches, step, kind)) for step in range(steps)] for kind in examples}
    assert all(sum(held[kind][step] > 0 for kind in examples) == 1 for step in range(steps))
    for kind, own in examples.items():
        assert sorted(all_of(batches, steps, kind)) == sorted(listed(own))
        sizes = [size for size in held[kind] if size]
        assert len(sizes) == batches.steps_of(kind)
        if kind != "clicks":
            assert max(sizes) - min(sizes) <= 1
        if "clicks" not in examples:
            assert abs(len(sizes) - steps * len(own.item) / total) <= len(examples)
    assert batches.offsets[-1] == total


@given(examples_and_steps())
def test_no_batch_of_clicks_holds_a_text_twice_and_the_other_kinds_stay_in_their_step(drawn):
    examples, steps = drawn
    joint, left_out = examples_of.joint(examples, steps)
    assert left_out == sum(len(one.item) for one in examples.values()) - joint.offsets[-1]
    for batches in (joint, examples_of.proportional(examples, steps, seed=0)):
        for step in range(steps):
            clicks = batch_of(batches, step, "clicks")
            assert len({item for item, _, _ in clicks}) == len({phrase for _, phrase, _ in clicks}) == len(clicks)
    for kind in set(examples) - {"clicks"}:
        for step in range(steps):
            own = examples[kind]
            assert batch_of(joint, step, kind) == [pair for pair, at in zip(listed(own), own.step) if at == step]


def test_a_click_waits_for_a_batch_without_its_texts():
    clicks = some([0, 0, 0, 1, 2, 2], [1, 1, 2, 3, 4, 5], [7, 8, 7, 9, 6, 6])
    batches, left_out = examples_of.joint({"clicks": clicks}, 3)
    pairs = [[pair[:2] for pair in batch_of(batches, step, "clicks")] for step in range(3)]
    # (1, 8) and (2, 7) clash with (1, 7); the second (·, 6) of the last step finds room in the one before.
    assert pairs == [[(1, 7)], [(1, 8), (2, 7), (3, 9), (5, 6)], [(4, 6)]]
    assert not left_out


def test_clicks_that_fit_no_batch_are_counted_or_refused():
    clicks = some([0, 0, 0], [1, 2, 3], [7, 7, 7])
    batches, left_out = examples_of.joint({"clicks": clicks}, 2)
    assert left_out == 1 and batches.offsets[-1] == 2
    with pytest.raises(ValueError, match="3 examples need 3 batches"):
        examples_of.proportional({"clicks": clicks}, 2, seed=0)


def test_repeated_clicks_take_more_steps_from_the_other_kinds():
    clicks = some([0] * 4, [1, 2, 3, 4], [7, 7, 7, 7])
    verdicts = some(np.arange(6), np.arange(6), np.arange(6), np.ones(6))
    batches = examples_of.proportional({"clicks": clicks, "search_relevance": verdicts}, 6, seed=0)
    assert batches.steps_of("clicks") == 4 and batches.steps_of("search_relevance") == 2


def test_what_was_seen_is_what_the_batches_hold():
    """Item 0 and 2 clicked keyphrase 3; the teacher knows three pairs, the search engine two; all fit one batch."""
    pool = join_signals(
        teacher=(np.array([0, 0, 2]), np.array([1, 3, 1]), np.array([0.0, np.log(3), -np.log(4)])),
        searched=(np.array([0, 2]), np.array([1, 2]), np.array([1.0, 0.0])),
        clicked=(np.array([0, 2]), np.array([3, 3])),
        keyphrases=4,
        exclude=np.array([1]),
    )
    tokenizer = Tokenizer.train(["garden hose with fittings", "brass hose", "headphones", "wireless"] * 3, 120)
    texts = tokenizer.encode_texts(["brass hose", "headphones", "garden hose", "wireless"], 8)
    data = ItemBatches(
        pool,
        texts,
        texts,
        batch_items=2,
        topic_items=1,
        quota=Quota(teacher=4, searched=4, clicked=1),
        row_tokens=64,
        shards=1,
        steps=2,
        seed=0,
    )
    plan = TaskPlan(("joint",), np.zeros(2, int), np.arange(2), {"joint": 2})
    whole = {"joint": (TaskWeights(clicks=1.0, search_relevance=1.0, distill=1.0), data)}
    seen = examples_of.seen(examples_of.StudentPlan(Experiment().student, np.array([1]), plan, whole))
    once = {
        "clicks": [(0, 3, 1.0), (2, 3, 1.0)],
        "search_relevance": [(0, 1, 1.0), (2, 2, 0.0)],
        "distill": [(0, 1, 0.5), (0, 3, 0.75), (2, 1, 0.2)],
    }
    for kind, expected in once.items():
        assert np.allclose(sorted(listed(seen[kind])), sorted(2 * expected)), kind
        assert seen[kind].step.tolist() == sorted(seen[kind].step.tolist())
    only = {"joint": (TaskWeights(clicks=0.0, search_relevance=0.0, distill=2.0), data)}
    assert set(examples_of.seen(examples_of.StudentPlan(Experiment().student, np.array([1]), plan, only))) == {
        "distill"
    }


@pytest.mark.parametrize("field", ["log_q", "inverse_propensity", "hard_negatives"])
def test_a_student_that_learnt_from_more_is_refused(field, tmp_path):
    experiment = Experiment()
    if field == "hard_negatives":
        experiment.student.hard_negatives.per_item = 2
    else:
        setattr(experiment.student, field, True)
    with pytest.raises(ValueError, match=rf"config.student.{field}"):
        examples_of.student_plan(Context(experiment, tmp_path, Silent()))


def test_a_held_out_example_is_refused():
    context = dataclasses.make_dataclass("Some", ["prepared"])(
        dataclasses.make_dataclass("Tables", ["item_is_holdout", "trainable"])(
            np.array([False, False, True]), np.array([True, False])
        )
    )
    plan = examples_of.StudentPlan(Experiment().student, np.array([1]), TaskPlan((), np.zeros(0), np.zeros(0), {}), {})
    examples_of.require_trainable(context, plan, {"distill": some([0], [0], [0])})
    for item, keyphrase, words in ((2, 0, "held-out listing"), (1, 0, "validation"), (0, 1, "human query")):
        with pytest.raises(RuntimeError, match=words):
            examples_of.require_trainable(context, plan, {"distill": some([0], [item], [keyphrase])})
