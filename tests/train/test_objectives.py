"""Each task on one device and on eight, in several mesh shapes, its rows encoded at once and in chunks: one result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from distill.config import DistillLoss, ParallelConfig, TaskWeights
from distill.losses.contrastive import info_nce, learnt_temperature
from distill.models import bi_encoder
from distill.parallel.mesh import make_mesh, replicated, to_global
from distill.parallel.partition import tree_shardings
from distill.stages.student import ROW_FIELDS, batch_arrays, task_parts
from distill.train import objectives
from distill.train.objectives import clicks_extras, distill_terms, make_student_loss, pair_cosines
from tests.train.problems import SPEC, batches, config, params

PLAIN = dataclasses.replace(SPEC, dropout=0.0)
TASKS = ("clicks", "search_relevance", "distill")
TERMS = ("pearson", "pearson_items", "mse", "margin_mse", "hybrid", "cosent", "ranknet", "kl")
CHUNK_ROWS = 8


@pytest.fixture(scope="module")
def data():
    return batches(3, pairs=4, keyphrase_tokens=(4, 14), batch_items=26, chunk_rows=CHUNK_ROWS)


def settings(task, **changes):
    terms = DistillLoss(
        pearson_items=0.5, mse=0.5, margin_mse=0.1, hybrid=0.01, cosent=0.1, ranknet=0.1, kl=0.1, kl_temperature=2.0
    )
    weights = TaskWeights(**(dict.fromkeys(TASKS, 0.0) | {task: 1.0}))
    return config(tasks=weights, distill=terms, dropout=0.0, **changes)


EVERY_OPTION = settings("clicks", symmetric=True, learn_temperature=True, temperature=0.1)
SETTINGS = {task: settings(task) for task in TASKS} | {"clicks, every option": EVERY_OPTION}


def initial_params():
    return params() | {"clicks": clicks_extras(EVERY_OPTION)}


def the_batch(data):
    """With what only the clicks task's options read."""
    arrays = batch_arrays(data.build(1), EVERY_OPTION)
    rng = np.random.default_rng(0)
    targets = int((arrays["targets"] >= 0).sum())
    options = {
        "ignored": rng.integers(-1, targets, (len(arrays["positives"]), 2)).astype(np.int32),
        "positive_weights": rng.uniform(1, 3, arrays["positives"].shape).astype(np.float32),
        "target_log_q": np.log(rng.random(arrays["targets"].shape, np.float32)),
    }
    return arrays, options


def losses_and_gradients(data, chunk_rows):
    """Each loss by itself, what it logs and its gradients; all read one encoding, to compile less."""

    def run(params, batch, options):
        @functools.partial(jax.jacrev, has_aux=True)
        def gradients(params):
            slots = batch["item_slots"], batch["keyphrase_slots"]
            texts_per_row = data.budget.texts_per_row
            once = bi_encoder.embed(PLAIN, params, batch["rows"], slots, texts_per_row, chunk_rows=chunk_rows)
            results = {
                name: make_student_loss(lambda *_: once, own)(
                    params, batch | (options if own is EVERY_OPTION else {}), jax.random.key(0)
                )
                for name, own in SETTINGS.items()
            }
            return {name: value for name, (value, _) in results.items()}, results

        return gradients(params)

    return run


@pytest.fixture(scope="module")
def expected(data):
    arrays = jax.tree.map(jnp.asarray, the_batch(data))
    return jax.device_get(jax.jit(losses_and_gradients(data, 0))(initial_params(), *arrays))


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_every_task_in_chunks_on_any_mesh_equals_one_device_at_once(data, expected, shape, monkeypatch):
    monkeypatch.setattr("distill.parallel.chunks.ENTRIES_AT_ONCE", 1024)  # similarities and cosines in chunks too
    mesh = make_mesh(ParallelConfig(*shape), devices=jax.devices()[: int(np.prod(shape))])
    batch, options = the_batch(data)
    assert len(batch["rows"].tokens) > CHUNK_ROWS
    split = jax.device_put(initial_params(), tree_shardings(mesh, initial_params()))
    run = jax.jit(losses_and_gradients(data, CHUNK_ROWS), out_shardings=replicated(mesh))
    placed = to_global(mesh, batch, ROW_FIELDS), to_global(mesh, options, frozenset(options))
    found = jax.device_get(run(split, *placed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    assert all(np.any(leaf) for name in SETTINGS for leaf in jax.tree.leaves(found[0][name]["encoder"]["layers"]))
    assert found[0]["clicks, every option"]["clicks"]["log_scale"] != 0 == found[0]["clicks"]["clicks"]["log_scale"]


@pytest.mark.parametrize("name", ["clicks", "clicks, every option"])
def test_the_clicks_task_is_info_nce_over_all_items_of_the_batch(data, expected, name):
    batch = data.build(1)
    arrays, extra = the_batch(data)
    slots = arrays["item_slots"], arrays["keyphrase_slots"]
    items, keyphrases = bi_encoder.embed(PLAIN, params(), arrays["rows"], slots, data.budget.texts_per_row, width=8)
    positives = np.zeros((len(batch.positives), len(batch.targets)), bool)
    row, column = np.nonzero(batch.positives >= 0)
    positives[row, batch.positives[row, column]] = True
    weights = np.zeros(positives.shape, np.float32)
    weights[row, batch.positives[row, column]] = extra["positive_weights"][row, column]
    options = {"temperature": 0.05}
    if name != "clicks":
        options = {"temperature": 0.1, "symmetric": True, "weights": weights, "log_q": extra["target_log_q"]}
    real = (batch.item_slots >= 0)[:, None] & (batch.targets >= 0)
    assert not real.all()
    if name != "clicks":
        row, column = np.nonzero(extra["ignored"] >= 0)
        real[row, extra["ignored"][row, column]] = False
    by_hand = info_nce(
        items,
        keyphrases[np.maximum(batch.targets, 0)],
        positives=positives,
        negatives_allowed=real,
        **options,
    )
    np.testing.assert_allclose(expected[1][name][1]["clicks/8"], by_hand, rtol=1e-5)


def test_a_task_alone_logs_its_own_scalars_under_the_same_names(expected):
    assert expected[1]["clicks"][1].keys() == {"clicks/8", "clicks/16"}
    assert expected[1]["search_relevance"][1].keys() == {"search_relevance/8", "search_relevance/16"}
    every_option = {"clicks/8", "clicks/16", "clicks/temperature"}
    assert expected[1]["clicks, every option"][1].keys() == every_option
    names = ("distill", *(f"distill/{term}" for term in TERMS))
    assert expected[1]["distill"][1].keys() == {f"{name}/{width}" for name in names for width in (8, 16)}


def test_distillation_terms_by_hand():
    """Two items: the first has three scored keyphrases, the second one."""
    cosines = np.float32([[0.9, 0.4, 0.1], [0.3, 0.2, 0.8]])
    teacher = np.float32([[2.0, 3.0, -1.0], [1.0, np.nan, np.nan]])
    weights = DistillLoss(**dict.fromkeys(TERMS, 1.0), scale=5.0, kl_temperature=2.0, hybrid_margin_weight=0.5)
    terms = jax.jit(lambda *scores: distill_terms(*scores, weights))(cosines, teacher)
    logits, known = 5 * cosines, np.isfinite(teacher)
    probability = scipy.special.expit(teacher)
    correlation = [scipy.stats.pearsonr(cosines[at], probability[at]).statistic for at in (known, np.s_[0])]
    off = logits - teacher
    margins = np.mean([(off[0, i] - off[0, j]) ** 2 for i in range(3) for j in range(3) if i != j])
    # CoSENT: by the teacher's logits 3 > 2 > 1 > -1, over both items.
    falling = np.array([logits[0, 1], logits[0, 0], logits[1, 0], logits[0, 2]])
    inversions = sum(np.exp(falling[j] - falling[i]) for i in range(4) for j in range(i + 1, 4))
    # The teacher ranks the first item's keyphrases 2, 1, 3.
    pairs = np.log1p(np.exp([logits[0, 0] - logits[0, 1], logits[0, 2] - logits[0, 1], logits[0, 2] - logits[0, 0]]))
    p, q = scipy.special.softmax(teacher[0] / 2), scipy.special.softmax(logits[0] / 2)
    expected = {
        "pearson": 1 - correlation[0],
        "pearson_items": 1 - correlation[1],
        "mse": np.mean((cosines - probability)[known] ** 2),
        "margin_mse": margins,
        "hybrid": (np.mean(off[0] ** 2) + 0.5 * margins + off[1, 0] ** 2) / 2,
        "cosent": np.log1p(inversions),
        "ranknet": np.average(pairs, weights=[1 / 3, 1 / 4, 1 / 5]),
        "kl": 4 * scipy.stats.entropy(p, q),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    assert distill_terms(jnp.asarray(cosines), jnp.asarray(teacher), DistillLoss()).keys() == {"pearson"}


def test_a_learnt_temperature_starts_at_the_config():
    (parameter,) = clicks_extras(config(learn_temperature=True, temperature=0.07)).values()
    np.testing.assert_allclose(learnt_temperature(parameter), 0.07, rtol=1e-6)
    assert clicks_extras(config()) == {}
    assert clicks_extras(config(learn_temperature=True, tasks=TaskWeights(0.0, 1.0, 1.0))) == {}


def test_cosines_in_chunks(monkeypatch):
    items, keyphrases = (jax.random.normal(jax.random.key(i), (n, 4)) for i, n in enumerate((7, 5)))
    candidates = np.random.default_rng(0).integers(-1, 5, (7, 3))
    by_hand = np.einsum("bd,bkd->bk", items, np.asarray(keyphrases)[np.maximum(candidates, 0)])
    monkeypatch.setattr("distill.parallel.chunks.ENTRIES_AT_ONCE", 24)
    assert objectives.rows_at_once(3 * 4) == 2
    np.testing.assert_allclose(pair_cosines(items, keyphrases, jnp.asarray(candidates)), by_hand, rtol=1e-5)


def test_cosines_are_not_rounded_where_products_would_be():
    """On an accelerator a product is made of TF32 or bfloat16 numbers unless one asks for more."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 8), (6, 8))]
    made = jax.make_jaxpr(pair_cosines)(*shapes, jax.ShapeDtypeStruct((4, 3), jnp.int32))
    (product,) = [one for one in made.eqns if one.primitive.name == "dot_general"]
    assert set(product.params["precision"]) == {jax.lax.Precision.HIGHEST}


def test_parts_of_the_mixing_schedules():
    signals = {"teacher": ("t",), "searched": ("s",), "clicked": None}
    mixed = config(tasks=TaskWeights(0.0, 0.5, 1.0), mixing="fixed")
    none = {"teacher": None, "searched": None, "clicked": None}
    assert task_parts(mixed, signals) == {
        "search_relevance": (TaskWeights(0.0, 0.5, 0.0), none | {"searched": ("s",)}),
        "distill": (TaskWeights(0.0, 0.0, 1.0), none | {"teacher": ("t",)}),
    }
    joint = dataclasses.replace(mixed, mixing="joint")
    assert task_parts(joint, signals) == {"joint": (joint.tasks, signals)}
    assert task_parts(mixed, none | {"teacher": ("t",)}).keys() == {"joint"}
