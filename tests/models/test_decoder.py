"""The decoder against transformers (files of tools/make_golden_decoder.py), and branched rows against plain ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import ParallelConfig
from distill.models.decoder import (
    BranchedTokens,
    DecoderSpec,
    empty_cache,
    extend,
    hidden_states,
    init_decoder,
    prefill,
    token_logits,
)
from distill.models.decoder_layers import attend, attend_at_once
from distill.models.decoder_weights import load_decoder
from distill.parallel.mesh import make_mesh, place, row_sharding
from tests.models.decoders import GOLDEN, NAMES, branched, plain

LENGTH, PREFIX = 40, 7


@pytest.fixture(scope="module", params=["llama3", "qwen3"])
def decoder(request):
    return load_decoder(GOLDEN / request.param)


@pytest.fixture(scope="module")
def qwen3():
    return load_decoder(GOLDEN / "qwen3")


def tokens(random, count: int) -> list[int]:
    return random.integers(0, 160, count).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_log_probabilities_equal_those_of_transformers(name):
    spec, params = load_decoder(GOLDEN / name)
    with np.load(GOLDEN / name / "expected.npz") as expected:
        prompts, logits = expected["tokens"], expected["logits"]
    packed, _ = plain(prompts, prompts.shape[1], len(prompts))
    hidden = hidden_states(spec, params, packed).reshape(-1, spec.width)
    ours = jax.nn.log_softmax(token_logits(spec, params, hidden)).reshape(logits.shape)
    np.testing.assert_allclose(ours, jax.nn.log_softmax(logits), rtol=2e-5, atol=2e-5)
    answers = np.array([3, 159, 0])
    np.testing.assert_allclose(
        token_logits(spec, params, hidden, answers), logits[..., answers].reshape(-1, 3), rtol=2e-5, atol=5e-5
    )


@pytest.mark.parametrize("function", [attend, attend_at_once])
@pytest.mark.parametrize("prefix_length", [0, 5])
def test_attention_is_a_softmax_over_prefix_and_visible_tokens(function, prefix_length):
    random = np.random.default_rng(6)
    rows, length, groups, size, width = 2, 150, 2, 3, 4  # more than a block of queries
    query = random.normal(size=(rows, length, groups, size, width))
    key, value = random.normal(size=(2, rows, length, groups, width))
    prefix = random.normal(size=(2, prefix_length, groups, width))
    visible = np.tril(random.random((rows, length, length)) < 0.3) | np.eye(length, dtype=bool)
    expected = np.empty_like(query)
    for r, c, g in np.ndindex(rows, groups, size):
        logits = query[r, :, c, g] @ np.concatenate([prefix[0, :, c], key[r, :, c]]).T
        weights = np.exp(logits) * np.concatenate([np.ones((length, prefix_length)), visible[r]], axis=1)
        weights /= weights.sum(1, keepdims=True)
        expected[r, :, c, g] = weights @ np.concatenate([prefix[1, :, c], value[r, :, c]])
    arguments = [jnp.asarray(part, jnp.float32) for part in (query, key, value)]
    pair = (jnp.asarray(prefix[0], jnp.float32), jnp.asarray(prefix[1], jnp.float32)) if prefix_length else None
    np.testing.assert_allclose(jax.jit(function)(*arguments, visible, pair), expected, atol=1e-5)


@settings(max_examples=12)
@given(st.data())
def test_branches_score_as_prompts_of_their_own(decoder, data):
    spec, params = decoder
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    sizes = st.tuples(st.integers(1, 9), st.lists(st.integers(1, 4), min_size=1, max_size=3))
    layout = data.draw(st.lists(st.lists(sizes, max_size=2), min_size=2, max_size=2).filter(any))
    rows = [[(tokens(random, shared), [tokens(random, n) for n in parts]) for shared, parts in row] for row in layout]
    rubric = tokens(random, PREFIX)
    packed, ends = branched(rows, LENGTH, PREFIX)
    hidden = np.asarray(hidden_states(spec, params, packed, prefill(spec, params, rubric)))
    assert np.isfinite(hidden).all()

    prompts = [rubric + shared + part for row in rows for shared, parts in row for part in parts]
    alone, alone_ends = plain(prompts, 24, 12)
    expected = np.asarray(hidden_states(spec, params, alone))
    for end, alone_end in zip(ends, alone_ends, strict=True):
        np.testing.assert_allclose(hidden[end], expected[alone_end], atol=2e-5, rtol=2e-5)


def test_a_branch_does_not_see_another_or_another_listing(qwen3):
    spec, params = qwen3
    rows = [[([1, 2, 3], [[4, 5], [6]]), ([7, 8], [[9]])]]
    base, ends = branched(rows, LENGTH)
    changed = base._replace(tokens=np.where(base.tokens == 4, 77, base.tokens))
    before, after = (np.asarray(hidden_states(spec, params, packed)) for packed in (base, changed))
    assert np.abs(before[ends[0]] - after[ends[0]]).max() > 1e-2
    np.testing.assert_array_equal(before[ends[1]], after[ends[1]])
    np.testing.assert_array_equal(before[ends[2]], after[ends[2]])


def test_scores_depend_on_distances_between_positions_alone(decoder):
    spec, params = decoder
    packed, _ = plain([tokens(np.random.default_rng(1), 20)], 20, 1)
    shifted = packed._replace(positions=packed.positions + 90)
    before, after = (np.asarray(hidden_states(spec, params, part)) for part in (packed, shifted))
    np.testing.assert_allclose(before, after, atol=5e-4)
    stretched = packed._replace(positions=packed.positions * 3)
    assert np.abs(before - np.asarray(hidden_states(spec, params, stretched))).max() > 1e-2


@pytest.mark.parametrize("field, value", [("tokens", 160), ("tokens", -161), ("positions", 128), ("positions", -1)])
def test_what_the_model_does_not_have_gives_nan(qwen3, field, value):
    spec, params = qwen3
    packed, _ = plain([[1, 2, 3]], 3, 1)
    packed = packed._replace(**{field: np.array([[1, 2, value]], np.int32)})
    assert np.isnan(np.asarray(hidden_states(spec, params, packed))[0, 2]).all()
    assert np.isnan(np.asarray(token_logits(spec, params, jnp.ones((1, 64)), [160]))).all()


def test_a_sequence_fed_in_padded_chunks_and_single_tokens(decoder):
    spec, params = decoder
    sequence = tokens(np.random.default_rng(2), 17)
    packed, _ = plain([sequence], 17, 1)
    expected = np.asarray(hidden_states(spec, params, packed))[0]
    cache, got = empty_cache(spec, 24), []
    for start, real in ((0, 8), (8, 6), (14, 1), (15, 1), (16, 1)):
        part = sequence[start : start + real]
        chunk = part + [99] * (8 - real) if real > 1 else part
        hidden, cache = extend(spec, params, cache, chunk, start)
        got.append(np.asarray(hidden)[:real])
    np.testing.assert_allclose(np.concatenate(got), expected, atol=2e-5, rtol=2e-5)
    hidden, _ = extend(spec, params, cache, [1] * 8, 17)
    assert np.isnan(np.asarray(hidden)).all()  # 17 + 8 is more than the cache holds


def test_the_functions_work_within_a_compiled_one(qwen3):
    spec, params = qwen3
    packed, _ = branched([[([1, 2], [[3], [4, 5]])]], 8, PREFIX)

    @jax.jit
    def scores(params, packed: BranchedTokens, rubric):
        hidden = hidden_states(spec, params, packed, prefill(spec, params, rubric))
        return token_logits(spec, params, hidden.reshape(-1, spec.width), jnp.array([5, 6]))

    rubric = np.arange(PREFIX)
    hidden = hidden_states(spec, params, packed, prefill(spec, params, rubric))
    expected = token_logits(spec, params, hidden.reshape(-1, spec.width), [5, 6])
    np.testing.assert_allclose(scores(params, packed, rubric), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 4, 2)], ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_eight_devices_score_as_one(name, shape):
    random = np.random.default_rng(3)
    rows = [[(tokens(random, 5), [tokens(random, 2), tokens(random, 3)])] for _ in range(8)]
    packed, ends = branched(rows, 12, PREFIX)
    rubric = np.array(tokens(random, PREFIX))
    answers = np.array([1, 80, 159])

    def score(spec, params, packed):
        hidden = hidden_states(spec, params, packed, prefill(spec, params, rubric))
        assert hidden.shape == (8, 12, spec.width)
        logits = token_logits(spec, params, hidden.reshape(-1, spec.width), answers)
        return np.asarray(logits).reshape(8, 12, 3)[tuple(np.array(ends).T)]

    mesh = make_mesh(ParallelConfig(*shape))
    expected = score(*load_decoder(GOLDEN / name), packed)
    split = BranchedTokens(*(place(field, row_sharding(mesh)) for field in packed))
    np.testing.assert_allclose(score(*load_decoder(GOLDEN / name, mesh=mesh), split), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_comes_close_and_keeps_float32_where_it_matters():
    name = GOLDEN / "llama3"
    packed, _ = plain([tokens(np.random.default_rng(4), 16)], 16, 1)
    odds = []
    for dtype in ("float32", "bfloat16"):
        spec, params = load_decoder(name, dtype)
        assert params["layers"]["0"]["mlp"]["up"]["kernel"].dtype == dtype
        assert params["norm"]["scale"].dtype == "float32"
        hidden = hidden_states(spec, params, packed)
        assert hidden.dtype == "float32" and prefill(spec, params, [1]).keys.dtype == dtype
        odds.append(jax.nn.log_softmax(token_logits(spec, params, hidden[0])))
    difference = np.abs(np.asarray(odds[0] - odds[1]))
    assert 0 < difference.max() < 0.5 and difference.mean() < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_random_parameters_have_the_shape_of_loaded_ones(name):
    spec, params = load_decoder(GOLDEN / name)
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree) for tree in (init_decoder(spec, 0), params)
    ]
    assert shapes[0] == shapes[1]


SPEC = DecoderSpec(
    family="llama", vocab_size=8, layers=1, width=8, heads=4, kv_heads=2, head_width=4, mlp_width=8, max_positions=16
)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"family": "gpt2"}, "family is 'gpt2'"),
        ({"layers": 0}, "layers is 0"),
        ({"kv_heads": 3}, "heads 4 is no multiple of kv_heads 3"),
        ({"head_width": 3}, "head_width is 3"),
        ({"compute_dtype": "float16"}, "compute_dtype is 'float16'"),
        ({"rope_scaling": (1.0,)}, "rope_scaling.*2 positive divisors"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SPEC, **change)


def test_a_cache_beyond_the_model_and_an_empty_prefix_are_refused():
    with pytest.raises(ValueError, match="capacity is 17"):
        empty_cache(SPEC, 17)
    with pytest.raises(ValueError, match="at least one token"):
        prefill(SPEC, init_decoder(SPEC, 0), np.zeros(0, np.int32))
