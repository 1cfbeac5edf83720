import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from distill.models import encoder
from distill.models.encoder import EncoderSpec, dropout, init_encoder
from tests.models.helpers import TINY, embed, encode, pack_rows, random_texts, scaled

LENGTHS = (7, 3, 12, 5, 9, 4)


@pytest.fixture(scope="module")
def params():
    return {"encoder": scaled(init_encoder(TINY, 0))}


@pytest.fixture(scope="module")
def alone():
    """The same texts, one a row, in as many slots a row."""
    fields, _, _ = pack_rows([[text] for text in random_texts(LENGTHS)], 24)
    return fields, np.arange(len(LENGTHS), dtype=np.int32) * 3, 3


@pytest.fixture(scope="module")
def packed():
    """Two rows of three texts, then rows of nothing but padding, so that both shapes are compiled once."""
    texts = random_texts(LENGTHS)
    return pack_rows([texts[:3], texts[3:], [], [], [], []], 24)


@functools.partial(jax.jit, static_argnums=(0, 4))
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def outputs_and_gradients(spec, params, fields, slots, per_row):
    target = jax.random.normal(jax.random.key(1), (len(LENGTHS), spec.width))
    out = embed(spec, params, fields, slots, per_row)
    return (out * target).sum(), out


def test_parameters_are_pure_dicts_and_depend_on_the_seed_alone():
    first, again, other = (init_encoder(TINY, seed) for seed in (1, 1, 2))

    def check(tree):
        assert type(tree) is dict and all(type(key) is str for key in tree)
        for value in tree.values():
            if isinstance(value, dict):
                check(value)
            else:
                assert isinstance(value, jax.Array) and value.dtype == jnp.float32

    check(first)
    same = jax.tree.map(np.array_equal, first, again)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(first["embeddings"]["token"]["embedding"], other["embeddings"]["token"]["embedding"])
    layers = [layer["mlp"]["up"]["kernel"] for layer in first["layers"].values()]
    assert not np.array_equal(layers[0], layers[1])


def test_packing_changes_neither_outputs_nor_gradients(params, packed, alone):
    (_, out), grads = outputs_and_gradients(TINY, params, *packed)
    (_, expected), expected_grads = outputs_and_gradients(TINY, params, *alone)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, expected_grads)


def test_padding_tokens_never_leak(params, packed):
    fields, slots, per_row = packed
    padding = fields.segments == 0
    dirty = fields._replace(
        tokens=np.where(padding, 49, fields.tokens),
        types=np.where(padding, 1, fields.types),
        positions=np.where(padding, 23, fields.positions),
    )
    (_, clean_out), clean = outputs_and_gradients(TINY, params, fields, slots, per_row)
    (_, dirty_out), other = outputs_and_gradients(TINY, params, dirty, slots, per_row)
    assert np.array_equal(clean_out, dirty_out)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), clean, other)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))  # rows of nothing but padding among them
    assert not clean["encoder"]["embeddings"]["token"]["embedding"][0].any()  # no text holds token 0, padding does


def test_a_position_beyond_the_table_is_nan_not_a_wrong_vector(params):
    fields, _, _ = pack_rows([random_texts([24]), [], [], [], [], []], 24)
    beyond = fields._replace(positions=fields.positions + (fields.segments > 0))
    assert np.isfinite(encode(TINY, params["encoder"], fields)).all()
    assert np.isnan(encode(TINY, params["encoder"], beyond)[0]).any()


def test_dropout_is_a_function_of_the_key(params, packed):
    spec = dataclasses.replace(TINY, dropout=0.2)
    keys = [jax.random.key(i) for i in (0, 0, 1)]
    first, again, other = (encode(spec, params["encoder"], packed[0], dropout_key=key) for key in keys)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    without = encode(spec, params["encoder"], packed[0])
    assert np.array_equal(without, encode(TINY, params["encoder"], packed[0], dropout_key=keys[0]))


@pytest.mark.parametrize("width", [8, 13])
def test_dropout_keeps_the_expectation_and_drops_the_rate(width):
    values = jnp.full((400, 50, width), 2.0)
    out = np.asarray(dropout(values, 0.1, jax.random.key(3)))
    assert abs((out == 0).mean() - 0.1) < 0.005
    assert abs(out.mean() - 2.0) < 0.01
    assert len(np.unique(out)) == 2
    assert np.array_equal(dropout(values, 0.1, None), values)


def test_bfloat16_is_close_to_float32(params, packed):
    fields, slots, per_row = packed
    spec = dataclasses.replace(TINY, compute_dtype="bfloat16")
    small = {"encoder": scaled(init_encoder(TINY, 0), 3.0)}
    out = embed(spec, small, fields, slots, per_row)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, embed(TINY, small, fields, slots, per_row), atol=2e-2)


@pytest.mark.parametrize("remat", ["layer", "dots"])
def test_remat_changes_no_gradient(params, packed, remat):
    _, plain = outputs_and_gradients(TINY, params, *packed)
    _, again = outputs_and_gradients(dataclasses.replace(TINY, remat=remat), params, *packed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again)


def test_remat_keeps_less():
    fields = encoder.PackedTokens(*np.ones((4, 8, 128), np.int32))
    abstract = jax.eval_shape(lambda: init_encoder(TINY, 0))

    def kept(remat):
        spec = dataclasses.replace(TINY, remat=remat)
        backward = jax.eval_shape(lambda p: jax.vjp(lambda p: encoder.encode(spec, p, fields), p)[1], abstract)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    tokens, weights = 8 * 128, sum(leaf.size for leaf in jax.tree.leaves(abstract))
    attention = TINY.layers * 8 * TINY.heads * 128 * 128
    assert kept("layer") < kept("dots") < kept("none") - attention
    products = TINY.layers * tokens * (5 * TINY.width + TINY.mlp_width)
    assert kept("dots") - kept("layer") <= products + weights


def test_attention_equals_that_of_jax(packed):
    segments = jnp.asarray(packed[0].segments)
    same_text = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
    heads = jax.random.normal(jax.random.key(0), (3, *segments.shape, 4, 8))

    def gradients(function):
        def loss(heads):
            out = function(heads[0] / 8**0.5, *heads[1:])
            return (jnp.square(out) * (segments > 0)[:, :, None, None]).sum(), out

        return jax.jit(jax.grad(loss, has_aux=True))(heads)

    def oracle(query, key, value):
        return jax.nn.dot_product_attention(query, key, value, mask=same_text[:, None], scale=1.0)

    ours, theirs = gradients(lambda *parts: encoder.attend(*parts, same_text)), gradients(oracle)
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(ours[1][real], theirs[1][real], atol=1e-5)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_in_bfloat16_only_products_and_activations_are_not_float32(params, packed):
    spec = dataclasses.replace(TINY, compute_dtype="bfloat16")
    fields, slots, per_row = packed
    gradient = jax.value_and_grad(lambda p: embed(spec, p, fields, slots, per_row).sum())
    seen = {}
    for equation in equations(jax.make_jaxpr(gradient)(params).jaxpr):
        for variable in equation.invars:
            if jnp.issubdtype(variable.aval.dtype, jnp.floating):
                seen.setdefault(equation.primitive.name, set()).add(str(variable.aval.dtype))
    assert "bfloat16" in seen["dot_general"]
    # Softmax, layer norm, pooling, unit vectors, and the gradients of biases and scales.
    for name in ("reduce_sum", "reduce_max", "rsqrt"):
        assert seen[name] == {"float32"}, name
    grads = jax.jit(gradient)(params)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_one_compilation_per_shape(params, packed):
    traced = []

    @jax.jit
    def run(params, fields):
        traced.append(1)
        return encoder.encode(TINY, params["encoder"], fields)

    run(params, packed[0])
    run(jax.tree.map(lambda x: x + 1, params), packed[0])
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", 5),
        ("layers", 0),
        ("activation", "relu"),
        ("compute_dtype", "float16"),
        ("dropout", 1.0),
        ("remat", True),
        ("attention", "flash"),
        ("attention", "cudnn"),
    ],
)
def test_a_spec_that_cannot_work_names_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        EncoderSpec(**{**dataclasses.asdict(TINY), field: value})
