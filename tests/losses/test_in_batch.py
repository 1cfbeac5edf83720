"""The clicks task's loss in chunks: that of whole matrices, with every option, in less memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.losses.contrastive import in_batch_info_nce, info_nce
from distill.losses.reduction import unreduced
from tests.losses.compiling import compiled

ANCHORS, TARGETS = 8, 6
value_and_gradients = compiled(in_batch_info_nce, gradient_of=(0, 1))
of_matrices = compiled(info_nce, gradient_of=(0, 1))


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def by_index(mask):
    """A mask [A, T] as indices [A, T] in random order, −1 for none."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(mask.shape[1]), (len(mask), 1)), axis=1)
    return np.where(np.take_along_axis(mask, order, axis=1), order, -1)


def a_batch(seed):
    """Unit vectors and every option: absent anchors and targets, ignored pairs, weights and log q."""
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(n, 5)).astype(np.float32) for n in (ANCHORS, TARGETS))
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    where, anchor_where = np.arange(TARGETS) != 2, np.arange(ANCHORS) != 5
    positives = (rng.random((ANCHORS, TARGETS)) < 0.3) & where
    positives[1] = False  # an anchor without positives is still another target's negative
    indices = by_index(positives)
    weights = rng.random(indices.shape).astype(np.float32) + 0.1
    masks = {"positives": indices, "where": where, "anchor_where": anchor_where}
    ignored = by_index((rng.random((ANCHORS, TARGETS)) < 0.2) & ~positives)
    return x, y, masks, {"ignored": ignored, "weights": weights, "log_q": np.log(rng.random(TARGETS)).astype("f4")}


def as_matrices(positives, where, anchor_where, ignored=None, weights=None, **others):
    """The arguments of `info_nce` that say the same."""

    def scattered(indices, values, kind):
        matrix = np.zeros((ANCHORS, TARGETS), kind)
        row, column = np.nonzero(indices >= 0)
        matrix[row, indices[row, column]] = values[row, column]
        return matrix

    mask = scattered(positives, positives >= 0, bool) & anchor_where[:, None]
    allowed = where & anchor_where[:, None] & ~mask
    if ignored is not None:
        allowed &= ~scattered(ignored, ignored >= 0, bool)
    if weights is not None:
        others["weights"] = scattered(positives, weights, np.float32)
    return {"positives": mask, "negatives_allowed": allowed} | others


OPTIONS = [(), ("ignored",), ("weights",), ("log_q",), ("ignored", "weights", "log_q")]


@pytest.mark.parametrize("symmetric", [False, True])
def test_every_option_is_that_of_whole_matrices(symmetric):
    for seed, names in enumerate(OPTIONS):
        x, y, masks, options = a_batch(seed)
        neutral = {"ignored": np.full((ANCHORS, TARGETS), -1), "weights": np.ones((ANCHORS, TARGETS), np.float32)}
        neutral |= {"log_q": np.zeros(TARGETS, np.float32)}
        options = neutral | {name: options[name] for name in names}
        expected = of_matrices(x, y, **as_matrices(**masks, **options), temperature=0.2, symmetric=symmetric)
        found = value_and_gradients(x, y, **masks, **options, temperature=0.2, symmetric=symmetric)
        assert_close(found, expected)
        np.testing.assert_array_equal(found[1][0][5], 0.0)
        np.testing.assert_array_equal(found[1][1][2], 0.0)
        if not names:
            left_out = value_and_gradients(x, y, **masks, temperature=0.2, symmetric=symmetric)
            assert_close(left_out, expected)


@pytest.mark.parametrize("chunk_rows", [3, 4])
def test_chunks_of_any_size_give_the_same(chunk_rows):
    x, y, masks, options = a_batch(3)
    options |= {"temperature": 0.2, "symmetric": True}
    found = value_and_gradients(x, y, **masks, **options, chunk_rows=chunk_rows)
    assert_close(found, value_and_gradients(x, y, **masks, **options))


def test_symmetric_by_hand():
    x = np.float32([[1, 0], [0, 1], [0.6, 0.8]])
    y = np.float32([[1, 0], [0, 1]])
    value, _ = value_and_gradients(
        x, y, positives=np.array([[0], [1], [-1]]), where=np.ones(2, bool), temperature=0.5, symmetric=True
    )
    to_targets = math.log1p(math.exp(-2))  # of both anchors that have one
    to_anchors = math.log1p(math.exp(-2) + math.exp(1.2 - 2)), math.log1p(math.exp(-2) + math.exp(1.6 - 2))
    np.testing.assert_allclose(value, (to_targets + np.mean(to_anchors)) / 2, rtol=1e-5)


def test_weights_and_reductions_by_hand():
    x, y = np.float32([[1, 0], [0, 1], [0, 1]]), np.float32([[1, 0], [0.6, 0.8], [0, 1]])
    positives, weights = np.array([[0, -1], [1, 2], [-1, -1]]), np.float32([[3, 7], [1, 5], [7, 7]])
    options = {"positives": positives, "where": np.ones(3, bool), "weights": weights, "temperature": 1.0}
    first = math.log1p(math.exp(-0.4) + math.exp(-1))
    second = (1 * math.log1p(math.exp(-0.8)) + 5 * math.log1p(math.exp(-1))) / 2
    found = compiled(in_batch_info_nce)(x, y, **options, reduce_fn=unreduced)
    np.testing.assert_allclose(found, [3 * first, second, 0.0], rtol=1e-5)
    np.testing.assert_allclose(compiled(in_batch_info_nce)(x, y, **options), (3 * first + second) / 6, rtol=1e-5)


@given(seed=st.integers(0, 2**31), symmetric=st.booleans())
@settings(max_examples=12, deadline=None)
def test_order_of_anchors_targets_and_pairs_does_not_matter(seed, symmetric):
    x, y, masks, options = a_batch(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(ANCHORS), rng.permutation(TARGETS)
    moved_to = np.append(np.argsort(columns), -1)  # −1 stays −1
    pairs = np.s_[rows[:, None], rng.permutation(TARGETS)]
    value, gradients = value_and_gradients(x, y, **masks, **options, temperature=0.2, symmetric=symmetric)
    moved, moved_gradients = value_and_gradients(
        x[rows],
        y[columns],
        positives=moved_to[masks["positives"]][pairs],
        where=masks["where"][columns],
        anchor_where=masks["anchor_where"][rows],
        ignored=moved_to[options["ignored"]][pairs],
        weights=options["weights"][pairs],
        log_q=options["log_q"][columns],
        temperature=0.2,
        symmetric=symmetric,
    )
    np.testing.assert_allclose(moved, value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved_gradients[0], gradients[0][rows], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(moved_gradients[1], gradients[1][columns], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("vector", [0.0, 1e4])  # absent rows are finite by contract: the encoder gives zeros
@pytest.mark.parametrize("junk", [np.nan, np.inf, -1e4])
def test_what_is_masked_cannot_be_seen(vector, junk):
    x, y, masks, options = a_batch(4)
    expected = value_and_gradients(x, y, **masks, **options, temperature=0.2, symmetric=True)
    x[5], y[2], options["log_q"][2] = vector, -vector, junk
    options["weights"][masks["positives"] < 0] = junk
    found = value_and_gradients(x, y, **masks, **options, temperature=0.2, symmetric=True)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [1e5, 1e-4, 0.0])
def test_extremes_are_finite(size, symmetric):
    x, y, masks, options = a_batch(5)
    options |= {"log_q": 100 * options["log_q"], "weights": np.float32(1e6) * options["weights"]}
    found = value_and_gradients(size * x, y, **masks, **options, temperature=0.2, symmetric=symmetric)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("symmetric", [False, True])
def test_nothing_to_learn_is_zero_with_zero_gradient(symmetric):
    x, y, masks, options = a_batch(6)
    nobody, only = np.full_like(masks["positives"], -1), np.full_like(masks["positives"], -1)
    only[0, 0] = 0
    for changes in (
        {"positives": nobody},
        {"anchor_where": np.zeros(ANCHORS, bool)},
        {"positives": only, "where": np.arange(TARGETS) == 0, "anchor_where": np.arange(ANCHORS) == 0},  # no negative
        {"weights": np.zeros_like(options["weights"])},
    ):
        value, gradients = value_and_gradients(
            x, y, **(masks | options | changes), temperature=0.2, symmetric=symmetric
        )
        assert value == 0.0 and not any(np.any(gradient) for gradient in gradients)


def test_vmap_is_one_batch_after_another():
    several = [a_batch(seed) for seed in range(3)]

    @compiled
    def all_at_once(x, y, masks, options):
        def loss(x, y, masks, options):
            return in_batch_info_nce(x, y, **masks, **options, temperature=0.2, symmetric=True, chunk_rows=3)

        return jax.vmap(loss)(x, y, masks, options)

    one_by_one = [
        value_and_gradients(x, y, **masks, **options, temperature=0.2, symmetric=True)[0]
        for x, y, masks, options in several
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
    np.testing.assert_allclose(all_at_once(*stacked), one_by_one, rtol=1e-5)


def test_the_loss_teaches_the_temperature():
    x, y, masks, options = a_batch(7)

    def loss(temperature):
        return in_batch_info_nce(x, y, **masks, **options, temperature=temperature, symmetric=True, chunk_rows=3)

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(np.float32([0.49, 0.5, 0.51]))
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / 0.02, rtol=1e-2)


@pytest.mark.parametrize("symmetric", [False, True])
def test_similarities_of_a_large_batch_are_never_all_held(symmetric):
    size = 16_384

    def loss(x, y, positives, log_q):
        return in_batch_info_nce(
            x,
            y,
            positives=positives,
            where=jnp.ones(size, bool),
            temperature=0.05,
            log_q=log_q,
            symmetric=symmetric,
        )

    vectors, indices = jax.ShapeDtypeStruct((size, 8), jnp.float32), jax.ShapeDtypeStruct((size, 2), jnp.int32)
    log_q = jax.ShapeDtypeStruct((size,), jnp.float32)
    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(vectors, vectors, indices, log_q).compile()
    assert program.memory_analysis().temp_size_in_bytes < size * size * 4 / 3  # a third of one float32 matrix


def test_bad_arguments_are_refused():
    x, y, masks, options = a_batch(8)
    arguments = masks | options | {"temperature": 1.0}
    for name, value, words in (
        ("temperature", 0.0, "temperature: 0"),
        ("temperature", math.nan, "temperature: nan"),
        ("positives", masks["positives"][:3], r"positives: shape \(3, 6\)"),
        ("ignored", options["ignored"][0], r"ignored: shape \(6,\)"),
        ("where", masks["where"][:5], r"where: shape \(5,\)"),
        ("anchor_where", masks["where"], r"anchor_where: shape \(6,\)"),
        ("weights", options["weights"][:, 0], r"weights: shape \(8,\)"),
        ("log_q", options["weights"], r"log_q: shape \(8, 6\)"),
    ):
        with pytest.raises(ValueError, match=words):
            in_batch_info_nce(x, y, **(arguments | {name: value}))
