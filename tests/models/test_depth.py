import jax
import numpy as np
import pytest

from distill.models.depth import first_layers
from distill.models.encoder import EncoderSpec, PackedTokens, encode, init_encoder

SPEC = EncoderSpec(vocab_size=20, layers=3, width=8, heads=2, mlp_width=16, max_positions=6)
ROWS = PackedTokens(
    np.array([[1, 2, 3, 4, 5, 0]]),
    np.array([[0, 1, 2, 0, 1, 0]]),
    np.array([[1, 1, 1, 2, 2, 0]]),
    np.zeros((1, 6), int),
)


def test_layers_that_change_nothing_can_be_cut():
    """With the last layer's outputs zero and its norms plain, it only normalises again what is normalised already."""
    params = init_encoder(SPEC, 0)
    last = params["layers"]["2"]
    for block in (last["attention"]["output"], last["mlp"]["down"]):
        block["kernel"] = block["kernel"] * 0
    spec, cut = first_layers(SPEC, params, 2)
    assert spec.layers == 2 and sorted(cut["layers"]) == ["0", "1"]
    np.testing.assert_allclose(encode(spec, cut, ROWS), encode(SPEC, params, ROWS), atol=1e-5)
    assert len(jax.tree.leaves(params)) > len(jax.tree.leaves(cut))


@pytest.mark.parametrize("count", [0, 4])
def test_an_impossible_depth_is_an_error(count):
    with pytest.raises(ValueError, match="1 to 3"):
        first_layers(SPEC, init_encoder(SPEC, 0), count)
