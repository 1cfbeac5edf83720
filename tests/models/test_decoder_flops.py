"""The analytic count of a decoder against what XLA says of the compiled program, and by hand."""

import jax
import jax.numpy as jnp

from distill.models.decoder import BranchedTokens, DecoderSpec, KeyValues, hidden_states, init_decoder, token_logits
from distill.models.flops import decoder_flops

SPEC = DecoderSpec("llama", 1000, 2, 192, 6, 2, 32, 512, 512, tied_embeddings=True)
ROWS, LENGTH, PREFIX, SCORED = 1, 128, 64, 24  # of a loop over rows XLA counts one


def xla_flops(function, *arguments):
    """Of the compiled program; nothing is run."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_flops_are_those_of_xla():
    params = jax.eval_shape(lambda: init_decoder(SPEC, 0))
    rows = BranchedTokens(*[jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)] * 4)
    prefix = KeyValues(*[jax.ShapeDtypeStruct((SPEC.layers, PREFIX, SPEC.kv_heads, SPEC.head_width), jnp.float32)] * 2)

    last = jax.ShapeDtypeStruct((SCORED, SPEC.width), jnp.float32)
    counted = xla_flops(lambda params, *inputs: hidden_states(SPEC, params, *inputs), params, rows, prefix)
    counted += xla_flops(lambda params, last: token_logits(SPEC, params, last), params, last)
    expected = decoder_flops(SPEC, ROWS, LENGTH, PREFIX, SCORED)
    # XLA counts element-wise operations too, and blocks of attention that reach past a token.
    assert expected <= counted <= 1.1 * expected


def test_a_layer_by_hand():
    """One layer of width 4, two heads of width 4 over one key-value head, MLP 5, on one row of 6 tokens after 2."""
    spec = DecoderSpec("llama", 7, 1, 4, 2, 1, 4, 5, 16)
    query, key_value, output = 2 * 6 * 4 * 8, 2 * 6 * 4 * 2 * 4, 2 * 6 * 8 * 4
    attention = 2 * (2 * 8 * (6 * 2 + 1 + 2 + 3 + 4 + 5 + 6))
    mlp = 3 * 2 * 6 * 4 * 5
    logits = 2 * 3 * 4 * 7
    assert decoder_flops(spec, 1, 6, prefix=2, scored=3) == query + key_value + output + attention + mlp + logits
