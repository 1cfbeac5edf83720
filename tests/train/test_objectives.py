"""Each task on one device and on eight, in several mesh shapes, its rows encoded at once and in chunks: one result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.config import DistillLoss, ParallelConfig, TaskWeights
from distill.losses.contrastive import info_nce
from distill.models import bi_encoder
from distill.parallel.mesh import make_mesh, replicated, to_global
from distill.parallel.partition import tree_shardings
from distill.stages.student import ROW_FIELDS, _parts, batch_arrays
from distill.train import objectives
from distill.train.objectives import make_student_loss, pair_cosines
from tests.train.problems import SPEC, batches, config, params

PLAIN = dataclasses.replace(SPEC, dropout=0.0)
TASKS = ("clicks", "search_relevance", "distill")
CHUNK_ROWS = 8


@pytest.fixture(scope="module")
def data():
    return batches(3, pairs=4, keyphrase_tokens=(4, 14), batch_items=26, chunk_rows=CHUNK_ROWS)


def settings(**tasks):
    terms = DistillLoss(pearson_items=0.5, mse=0.5, margin_mse=0.1, cosent=0.1)
    weights = TaskWeights(**(dict.fromkeys(TASKS, 0.0) | tasks))
    return config(tasks=weights, distill=terms, dropout=0.0)


def losses_and_gradients(data, chunk_rows):
    """Of each task by itself its loss, what it logs and its gradients; all three read one encoding, to compile less."""

    def run(params, batch):
        @functools.partial(jax.jacrev, has_aux=True)
        def gradients(params):
            slots = batch["item_slots"], batch["keyphrase_slots"]
            texts_per_row = data.budget.texts_per_row
            once = bi_encoder.embed(PLAIN, params, batch["rows"], slots, texts_per_row, chunk_rows=chunk_rows)
            tasks = {name: make_student_loss(lambda *_: once, settings(**{name: 1.0})) for name in TASKS}
            results = {name: loss(params, batch, jax.random.key(0)) for name, loss in tasks.items()}
            return {name: value for name, (value, _) in results.items()}, results

        return gradients(params)

    return run


@pytest.fixture(scope="module")
def expected(data):
    arrays = jax.tree.map(jnp.asarray, batch_arrays(data.build(1)))
    return jax.device_get(jax.jit(losses_and_gradients(data, 0))(params(), arrays))


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_every_task_in_chunks_on_any_mesh_equals_one_device_at_once(data, expected, shape, monkeypatch):
    monkeypatch.setattr("distill.parallel.chunks.ENTRIES_AT_ONCE", 1024)  # similarities and cosines in chunks too
    mesh = make_mesh(ParallelConfig(*shape), devices=jax.devices()[: int(np.prod(shape))])
    batch = batch_arrays(data.build(1))
    assert len(batch["rows"].tokens) > CHUNK_ROWS
    split = jax.device_put(params(), tree_shardings(mesh, params()))
    run = jax.jit(losses_and_gradients(data, CHUNK_ROWS), out_shardings=replicated(mesh))
    found = jax.device_get(run(split, to_global(mesh, batch, ROW_FIELDS)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    assert all(np.any(leaf) for name in TASKS for leaf in jax.tree.leaves(found[0][name]["encoder"]["layers"]))


def test_the_clicks_task_is_info_nce_over_all_items_of_the_batch(data, expected):
    batch = data.build(1)
    arrays = batch_arrays(batch)
    slots = arrays["item_slots"], arrays["keyphrase_slots"]
    items, keyphrases = bi_encoder.embed(PLAIN, params(), arrays["rows"], slots, data.budget.texts_per_row, width=8)
    positives = np.zeros((len(batch.positives), len(batch.targets)), bool)
    row, column = np.nonzero(batch.positives >= 0)
    positives[row, batch.positives[row, column]] = True
    real = batch.targets >= 0
    by_hand = info_nce(
        items,
        keyphrases[np.maximum(batch.targets, 0)],
        positives=positives,
        negatives_allowed=np.tile(real, (len(positives), 1)),
        temperature=0.05,
    )
    np.testing.assert_allclose(expected[1]["clicks"][1]["clicks/8"], by_hand, rtol=1e-5)


def test_a_task_alone_logs_its_own_scalars_under_the_same_names(expected):
    assert expected[1]["clicks"][1].keys() == {"clicks/8", "clicks/16"}
    assert expected[1]["search_relevance"][1].keys() == {"search_relevance/8", "search_relevance/16"}
    names = ("distill", *(f"distill/{term}" for term in ("pearson", "pearson_items", "mse", "margin_mse", "cosent")))
    assert expected[1]["distill"][1].keys() == {f"{name}/{width}" for name in names for width in (8, 16)}


def test_cosines_in_chunks(monkeypatch):
    items, keyphrases = (jax.random.normal(jax.random.key(i), (n, 4)) for i, n in enumerate((7, 5)))
    candidates = np.random.default_rng(0).integers(-1, 5, (7, 3))
    by_hand = np.einsum("bd,bkd->bk", items, np.asarray(keyphrases)[np.maximum(candidates, 0)])
    monkeypatch.setattr("distill.parallel.chunks.ENTRIES_AT_ONCE", 24)
    assert objectives.rows_at_once(3 * 4) == 2
    np.testing.assert_allclose(pair_cosines(items, keyphrases, jnp.asarray(candidates)), by_hand, rtol=1e-5)


def test_parts_of_the_mixing_schedules():
    signals = {"teacher": ("t",), "searched": ("s",), "clicked": None}
    mixed = dataclasses.replace(settings(search_relevance=0.5, distill=1.0), mixing="fixed")
    none = {"teacher": None, "searched": None, "clicked": None}
    assert _parts(mixed, signals) == {
        "search_relevance": (TaskWeights(0.0, 0.5, 0.0), none | {"searched": ("s",)}),
        "distill": (TaskWeights(0.0, 0.0, 1.0), none | {"teacher": ("t",)}),
    }
    joint = dataclasses.replace(mixed, mixing="joint")
    assert _parts(joint, signals) == {"joint": (joint.tasks, signals)}
    assert _parts(mixed, none | {"teacher": ("t",)}).keys() == {"joint"}
