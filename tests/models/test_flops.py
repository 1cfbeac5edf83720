"""The analytic count against what XLA says of the compiled program."""

import jax
import jax.numpy as jnp
import pytest

from distill.models import bi_encoder, cross_encoder
from distill.models.encoder import EncoderSpec, PackedTokens
from distill.models.flops import TRAINING, embed_flops, encoder_flops, score_flops

SPEC = EncoderSpec(vocab_size=3000, layers=2, width=384, heads=12, mlp_width=1536, max_positions=128)
ROWS, LENGTH, TEXTS = 4, 128, 6


def xla_flops(function, *arguments):
    """Of the compiled program; nothing is run."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def inputs(init):
    params = jax.eval_shape(lambda: init(SPEC, 0))
    rows = PackedTokens(*[jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)] * 4)
    return params, rows, jax.ShapeDtypeStruct((ROWS * TEXTS,), jnp.int32)


@pytest.mark.parametrize(
    ("init", "apply", "count"),
    [
        (bi_encoder.init_bi_encoder, bi_encoder.embed, embed_flops(SPEC, ROWS, LENGTH, TEXTS)),
        (
            cross_encoder.init_cross_encoder,
            cross_encoder.score,
            score_flops(SPEC, ROWS, LENGTH, TEXTS, pairs=ROWS * TEXTS),
        ),
    ],
    ids=["bi-encoder", "cross-encoder"],
)
def test_forward_and_training_flops_are_those_of_xla(init, apply, count):
    def forward(params, rows, slots):
        return apply(SPEC, params, rows, slots, TEXTS)

    # XLA counts element-wise operations too, so it is a little above.
    assert count <= xla_flops(forward, *inputs(init)) <= 1.05 * count
    training = xla_flops(jax.value_and_grad(lambda *a: forward(*a).sum()), *inputs(init))
    assert TRAINING * count == pytest.approx(training, rel=0.06)


def test_a_layer_by_hand():
    """One layer of width 2, MLP 3, over one row of 5 tokens: products [m, k] · [k, n] of 2 m k n each."""
    spec = EncoderSpec(vocab_size=1, layers=1, width=2, heads=1, mlp_width=3, max_positions=5)
    qkv, output = 2 * 5 * 2 * 6, 2 * 5 * 2 * 2
    logits, mixing = 2 * 5 * 2 * 5, 2 * 5 * 5 * 2
    up, down = 2 * 5 * 2 * 3, 2 * 5 * 3 * 2
    assert encoder_flops(spec, 1, 5) == qkv + output + logits + mixing + up + down
