import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from distill.models import cross_encoder
from distill.models.cross_encoder import init_cross_encoder
from distill.models.encoder import init_encoder
from tests.models.helpers import TINY, pack_rows, random_texts, scaled, score


def test_packed_scores_equal_scores_alone_and_padding_is_zero():
    texts = random_texts((6, 9, 5, 8))
    types = [np.array([0] * (len(t) // 2) + [1] * (len(t) - len(t) // 2)) for t in texts]
    params = scaled(init_cross_encoder(TINY, 0))
    packed, slots, per_row = pack_rows([texts[:2], texts[2:], [], []], 16, [types[:2], types[2:], [], []])
    alone, _, _ = pack_rows([[t] for t in texts], 16, [[t] for t in types])
    slots, alone_slots = np.append(slots, -1), np.array([0, 2, 4, 6, -1])
    out = score(TINY, params, packed, slots, per_row)
    np.testing.assert_allclose(out, score(TINY, params, alone, alone_slots, per_row), atol=1e-5)
    assert out[4] == 0
    untyped = packed._replace(types=np.zeros_like(packed.types))
    assert not np.allclose(out, score(TINY, params, untyped, slots, per_row), atol=1e-3)


def test_scores_and_gradients_in_chunks_equal_those_at_once():
    shallow = dataclasses.replace(TINY, layers=1)
    texts = random_texts((6, 9, 5, 8, 7))
    params = scaled(init_cross_encoder(shallow, 0))
    packed, slots, per_row = pack_rows([texts[:2], texts[2:3], texts[3:], [], []], 16)

    def gradients(chunk_rows):
        def loss(params):
            out = cross_encoder.score(shallow, params, packed, slots, per_row, chunk_rows=chunk_rows)
            return jnp.square(out).sum(), out

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients(2), gradients(0))


def test_padding_slots_have_no_gradient():
    shallow = dataclasses.replace(TINY, layers=1)
    params = init_cross_encoder(shallow, 0)
    packed, _, per_row = pack_rows([random_texts((5, 4))], 12)
    grads = jax.jit(jax.grad(lambda p: score(shallow, p, packed, jnp.array([-1, -1]), per_row).sum()))(params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_a_given_encoder_and_pooler_are_kept():
    encoder = init_encoder(TINY, 5)
    pooler = {"kernel": jnp.eye(TINY.width), "bias": jnp.zeros(TINY.width)}
    params = init_cross_encoder(TINY, 0, {"encoder": encoder, "pooler": pooler})
    assert params["encoder"] is encoder and params["pooler"] is pooler
    fresh = init_cross_encoder(TINY, 0)
    assert np.array_equal(fresh["classifier"]["kernel"], params["classifier"]["kernel"])
    assert fresh["classifier"]["kernel"].shape == (TINY.width, 1)


def test_dropout_is_a_function_of_the_key():
    spec = dataclasses.replace(TINY, layers=1, dropout=0.3)
    params = scaled(init_cross_encoder(spec, 0))
    packed, slots, per_row = pack_rows([random_texts((5, 4))], 12)
    first, again, other = (score(spec, params, packed, slots, per_row, jax.random.key(i)) for i in (0, 0, 1))
    assert np.array_equal(first, again) and not np.allclose(first, other)
