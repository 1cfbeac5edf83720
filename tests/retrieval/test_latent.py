import numpy as np
import pytest

from distill.retrieval import exact
from distill.retrieval.latent import LatentSemantic

ITEMS = [
    "oak sofa grey", "walnut sofa green", "linen sofa blue", "velvet sofa pink",
    "steel kettle grey", "copper kettle green", "glass kettle blue", "enamel kettle pink",
    "leather wallet grey", "canvas wallet green", "nylon wallet blue", "suede wallet pink",
]  # fmt: skip
KEYPHRASES = ["couch", "sofa", "water boiler", "kettle", "wallet", "zebra"]


def test_clicks_move_synonyms_together():
    # "couch" stands in no title; three sofas were clicked for it. The fourth sofa must be found by it all the same.
    model = LatentSemantic.fit(ITEMS, KEYPHRASES, [0, 1, 2, 4, 5, 6], [0, 0, 0, 2, 2, 2], width=3, seed=0)
    couch, velvet_sofa = model.keyphrases[0], 3
    scores = model.items @ couch
    assert set(np.argsort(-scores)[:4]) == {0, 1, 2, 3}
    assert scores[velvet_sofa] > 0.5 > scores[4:].max()
    best, _ = exact.top_k(model.items[[velvet_sofa]], model.keyphrases, 2)
    assert set(best[0]) == {0, 1}  # couch and sofa


def test_without_clicks_an_unknown_word_is_a_zero_vector():
    model = LatentSemantic.fit(ITEMS, KEYPHRASES, [], [], width=4, seed=0)
    np.testing.assert_array_equal(model.keyphrases[[0, 5]], 0.0)


def test_vectors_are_unit_float32_and_seeded():
    first, second = (LatentSemantic.fit(ITEMS, KEYPHRASES, [0], [0], width=5, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.items, second.items)
    np.testing.assert_array_equal(first.keyphrases, second.keyphrases)
    assert first.items.dtype == first.keyphrases.dtype == np.float32
    assert first.items.shape == (12, 5) and first.keyphrases.shape == (6, 5)
    np.testing.assert_allclose(np.linalg.norm(first.items, axis=1), 1.0, rtol=1e-5)


def test_width_is_bounded_by_what_the_texts_hold():
    model = LatentSemantic.fit(ITEMS[:3], [], [], [], width=128, seed=0)
    assert model.items.shape == (3, 3) and model.keyphrases.shape == (0, 3)


@pytest.mark.parametrize(
    "texts,item,keyphrase,width,word",
    [
        (ITEMS, [12], [0], 4, "clicked_item: holds 12"),
        (ITEMS, [0], [6], 4, "clicked_keyphrase: holds 6"),
        (ITEMS, [0, 1], [0], 4, r"pass \[C\] both"),
        (["", "!"], [], [], 4, "none of the 2 texts"),
        ([], [], [], 4, "none of the 0 texts"),
        (ITEMS, [], [], 0, "width: 0"),
    ],
)
def test_bad_arguments_are_refused(texts, item, keyphrase, width, word):
    with pytest.raises(ValueError, match=word):
        LatentSemantic.fit(texts, KEYPHRASES, item, keyphrase, width=width, seed=0)
