"""Shards of other lengths are embedded and scored by the programs that are compiled already."""

import numpy as np
import pytest

from distill.config import ParallelConfig
from distill.data.ragged import Ragged
from distill.models.bi_encoder import init_bi_encoder
from distill.models.encoder import EncoderSpec
from distill.parallel.mesh import make_mesh
from distill.retrieval import encoding

SPEC = EncoderSpec(vocab_size=50, layers=1, width=16, heads=2, mlp_width=16, max_positions=16)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(ParallelConfig())


def texts(count, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(5, 50, rng.integers(3, 15)).astype(np.int32) for _ in range(count)]
    return Ragged(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64))


def test_twenty_shards_need_few_shapes(mesh):
    plans = [encoding.plan_texts(texts(3000, seed).lengths, 32, mesh) for seed in range(20)]
    assert len({(plan.budget, plan.slots) for plan in plans}) <= 4
    for seed, plan in enumerate(plans):
        assert np.array_equal(np.concatenate([plan.pairs(step) for step in range(plan.steps)]), np.arange(3000))
        assert plan.slots >= np.diff(plan.bounds).max() and plan.slots % 64 == 0, seed
        assert plan.budget.texts_per_row % 4 == 0


@pytest.mark.parametrize("count", [1, 2, 70])
def test_room_that_stays_empty_changes_nothing(mesh, count):
    params, chosen = init_bi_encoder(SPEC, 0), texts(count, 1)
    together = encoding.embed_texts(SPEC, params, chosen, row_tokens=16, mesh=mesh)
    alone = [
        encoding.embed_texts(SPEC, params, chosen.take(np.array([i])), row_tokens=16, mesh=mesh)[0]
        for i in range(0, count, 23)
    ]
    np.testing.assert_allclose(together[::23], alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
