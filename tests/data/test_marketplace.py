import gzip
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from distill.config import MarketplaceConfig
from distill.data.marketplace import World, write_marketplace
from distill.data.marketplace.catalogue import BRAND, TARGET, TYPE_INDEX, TYPES
from distill.data.marketplace.engine import PASS, SearchEngine
from distill.data.marketplace.relevance import ANYTHING, FACET_INDEX, FACETS, ItemFacets, grade
from distill.data.marketplace.searches import make_requirements
from distill.data.marketplace.vocabulary import parse
from distill.data.text import normalise_keyphrase

SMALL = MarketplaceConfig(items=150, keyphrases=300, human_queries=12, searches=5000, search_relevance_per_item=20)
GRADES = {"I": 0, "C": 1, "S": 2, "E": 3}


@pytest.fixture(scope="module", params=[0, 1])
def world(request):
    return World(MarketplaceConfig(), request.param)


@pytest.fixture(scope="module")
def all_pairs(world):
    """Item and keyphrase indices, true grades and engine scores of every pair of a default-size world."""
    item, keyphrase = np.divmod(np.arange(len(world.items) * len(world.keyphrases)), len(world.keyphrases))
    scores = world.engine.by_item(np.arange(len(world.items))).toarray().ravel()
    return item, keyphrase, world.grade(item, keyphrase), scores


@pytest.fixture(scope="module")
def directory(tmp_path_factory, world):
    path = tmp_path_factory.mktemp("marketplace")
    return path, write_marketplace(path, world.config, world.seed)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small")
    return path, write_marketplace(path, SMALL, 5)


def rows(path):
    with gzip.open(path) as file:
        options = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
        table = pyarrow.csv.read_csv(file, parse_options=options)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def digests(path):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())}


def one_grade(kind, states, types, phrases):
    """The grade of one hand-made pair: an item of a type with values by facet; a keyphrase with buyers' phrases."""
    product = TYPES[TYPE_INDEX[kind]]
    stated = np.full((1, len(FACETS)), ANYTHING, np.uint64)
    for facet, key in states.items():
        table = product.facets[facet][0]
        stated[0, FACET_INDEX[facet]] = table.mask((key,))
    wanted = TYPES[TYPE_INDEX[types[0]]]
    allowed = {}
    for facet, phrase in phrases.items():
        allowed[facet] = next(term.allowed for term in wanted.facets[facet][0].terms if term.phrase == phrase)
    items = ItemFacets(np.array([TYPE_INDEX[kind]]), stated)
    return int(grade(items, make_requirements([(types, allowed)]), np.array([0]), np.array([0]))[0])


@pytest.mark.parametrize(
    ("kind", "states", "types", "phrases", "expected"),
    [
        ("trainers", {}, ("trainers",), {}, 3),  # the general search
        ("trainers", {"colour": "navy"}, ("trainers",), {"colour": "dark blue"}, 3),  # a synonym
        ("trainers", {"colour": "navy"}, ("trainers",), {"colour": "blue"}, 3),  # a group
        ("trainers", {"colour": "navy"}, ("trainers",), {"colour": "red"}, 2),
        ("trainers", {"brand": "Korvo"}, ("trainers",), {"brand": "korvo"}, 3),
        ("trainers", {"brand": "Korvo"}, ("trainers",), {"brand": "zephra"}, 2),
        ("trainers", {"size": "us 9"}, ("trainers",), {"size": "eu 42"}, 3),
        ("trainers", {"size": "us 9"}, ("trainers",), {"size": "size 10"}, 2),
        ("trainers", {}, ("trainers",), {"size": "size 10"}, 3),  # not stated is not held against it
        ("jacket", {"material": "gore-tex"}, ("jacket",), {"material": "waterproof"}, 3),  # an implication
        ("jacket", {"material": "fleece"}, ("jacket",), {"material": "waterproof"}, 2),
        ("pajamas", {"size": "3t"}, ("pajamas",), {"size": "for toddlers"}, 3),
        ("pajamas", {"size": "8y"}, ("pajamas",), {"size": "for toddlers"}, 2),
        ("tee", {"audience": "unisex"}, ("tee",), {"audience": "for her"}, 3),
        ("tee", {"audience": "mens"}, ("tee",), {"audience": "for her"}, 2),
        ("headphones", {"feature": "anc"}, ("headphones",), {"feature": "noise cancelling"}, 3),
        ("headphones", {"feature": "hi res"}, ("headphones",), {"feature": "noise cancelling"}, 2),
        ("jacket", {"trim": "stand collar"}, ("jacket",), {"trim": "without hood"}, 3),  # negations
        ("jacket", {"trim": "hooded"}, ("jacket",), {"trim": "without hood"}, 2),
        ("loafers", {"material": "suede"}, ("loafers",), {"material": "no leather"}, 2),
        ("case", {"target": "Nimbus"}, ("case",), {"target": "for nimbus"}, 3),  # what an accessory fits
        ("case", {"target": "Orbix"}, ("case",), {"target": "for nimbus"}, 2),
        ("case", {"target": "Nimbus"}, ("phone",), {"brand": "nimbus"}, 1),  # a complement
        ("case", {"target": "Orbix"}, ("phone",), {"brand": "nimbus"}, 0),  # of another brand's phone
        ("phone", {"brand": "Nimbus"}, ("case",), {"target": "for nimbus"}, 1),
        ("phone", {"brand": "Orbix"}, ("case",), {"target": "for nimbus"}, 0),
        ("sofa", {"colour": "navy"}, ("armchair",), {"colour": "blue"}, 2),  # a near type
        ("sofa", {"colour": "olive"}, ("armchair",), {"colour": "blue"}, 0),  # a near type that fails too
        (
            "boots",
            {"brand": "Korvo"},
            ("trainers", "boots", "loafers"),
            {"brand": "korvo"},
            3,
        ),  # a family: "korvo shoes"
        ("sofa", {"colour": "navy"}, ("trainers",), {"colour": "dark blue"}, 0),
    ],
)
def test_grade_by_hand(kind, states, types, phrases, expected):
    assert one_grade(kind, states, types, phrases) == expected


def test_a_model_implies_type_and_brand(world):
    """A search for a line's name alone is met by its items, also those whose title names no brand, and by no others."""
    models = {name: brand for kind in TYPES for name, brand in kind.models}
    alone = [(k, text) for k, text in enumerate(world.keyphrases) if text in models]
    assert alone
    every = np.arange(len(world.items))
    for k, name in alone:
        exact = every[world.grade(every, np.full(len(every), k)) == 3]
        assert exact.tolist() == [i for i, item in enumerate(world.items) if name in item.title.lower()]
        assert {world.items[i].attributes["brand"] for i in exact} <= {models[name]}


def test_catalogue_is_consistent():
    assert len({t.path for t in TYPES}) >= 12
    assert all(len(t.path) == 3 for t in TYPES)
    assert max(np.unique([t.path[0] for t in TYPES], return_counts=True)[1]) > 3
    for kind in TYPES:
        assert {*kind.near, *kind.complements} <= TYPE_INDEX.keys(), kind.key
        assert 4 <= len(kind.brands) <= 6
        assert kind.facets.keys() <= FACET_INDEX.keys()
        for table, values in kind.facets.values():
            assert set(values) <= table.forms.keys(), kind.key
    assert list(BRAND.forms) == list(TARGET.forms)  # an accessory's target is compared with a brand, bit by bit


def test_vocabulary_terms():
    table = parse("navy, marine > dark blue\n sky > light blue\n red > red\n blue = navy, sky\n not red != red")
    allowed = {term.phrase: term.allowed for term in table.terms}
    assert allowed == {"dark blue": 0b001, "light blue": 0b010, "red": 0b100, "blue": 0b011, "not red": 0b011}
    assert {t.phrase for t in table.terms_for(("navy", "sky"))} == {
        "dark blue",
        "light blue",
    }  # the others tell nothing
    with pytest.raises(KeyError):
        parse("navy > blue\n red = crimson")
    with pytest.raises(ValueError, match="65 values"):
        parse("\n".join(f"v{i} > p{i}" for i in range(65)))


def test_grade_is_elementwise_and_checks_shapes(world):
    rng = np.random.default_rng(0)
    item, keyphrase = rng.integers(0, 1500, 70_000), rng.integers(0, 3000, 70_000)  # more than one internal chunk
    whole = world.grade(item, keyphrase)
    np.testing.assert_array_equal(whole[69_000:], world.grade(item[69_000:], keyphrase[69_000:]))
    assert world.grade(item[:0], keyphrase[:0]).shape == (0,)
    with pytest.raises(ValueError, match="one of each per pair"):
        world.grade(item[:3], keyphrase[:1])


def test_size_of_the_truth(world, all_pairs):
    item, _, truth, _ = all_pairs
    exact = np.bincount(item[truth == 3], minlength=len(world.items))
    assert 12 <= np.median(exact) <= 22
    assert np.percentile(exact, 95) < 45
    assert (truth == 2).sum() > 2 * (truth == 3).sum()


def test_words_are_few_and_need_learning(world):
    typed = {word for text in world.keyphrases for word in text.split()}
    assert 500 <= len(typed) <= 900
    titles = " ".join(item.title.lower() for item in world.items)
    # Buyers' names of these products are all but absent from titles.
    for buyers, sellers in (
        ("sneakers", "trainers"),
        ("couch", "settee"),
        ("dark blue", "navy"),
        ("wireless", "bt 5.0"),
    ):
        assert sum(buyers in text for text in world.keyphrases) >= 5
        assert titles.count(buyers) < 0.25 * titles.count(sellers)


def test_keyphrases_are_normalised_distinct_and_zipf(world):
    assert len(set(world.keyphrases)) == len(world.keyphrases) == world.config.keyphrases
    assert all(text == normalise_keyphrase(text) for text in world.keyphrases)
    volume = np.sort(world.search_volume)[::-1]
    assert volume[-1] >= 1 and volume[:300].sum() > 0.5 * volume.sum()
    assert sum("without" in text.split() or "no" in text.split() for text in world.keyphrases) > 30


def test_middleman_hides_relevant_pairs_and_passes_irrelevant_ones(all_pairs):
    _, _, truth, score = all_pairs
    passed = score >= PASS
    assert 0.3 <= 1 - passed[truth == 3].mean() <= 0.7
    assert passed[truth == 3].mean() > 5 * passed.mean()  # it is a search engine all the same
    assert (truth[passed] == 0).mean() > 0.05


def test_engine_directions_agree(world):
    keyphrases, items = np.arange(5, 15), np.arange(3, 9)
    np.testing.assert_array_equal(
        world.engine.by_keyphrase(keyphrases).toarray()[:, items],
        world.engine.by_item(items).toarray()[:, keyphrases].T,
    )


def test_engine_ranks_by_words():
    texts = ["red wool hat", "blue cotton hat", "garden hose"]
    engine = SearchEngine(texts, ["red hat", "hats", "zebra", "beanie"], {"beanie": "hat"}, seed=0)
    scores = engine.by_keyphrase(np.arange(4)).toarray()
    assert scores[0, 0] == 1.0 and scores[0, 0] > scores[0, 1] > scores[0, 2] == 0.0
    assert scores[1, :2].min() > 0 and scores[1, 2] == 0.0  # plurals fold
    assert not scores[2].any()  # no word known
    assert scores[3, :2].min() > 0  # the engine's own synonym
    items, values = engine.ranking(engine.by_keyphrase(np.array([0])), 0)
    assert items[0] == 0 and (np.diff(values) <= 0).all()


def test_clicks_fall_with_position_and_rise_with_grade():
    engine = SearchEngine(["hat"] * 40, ["hat"], {}, seed=0)
    items, flat = np.arange(40), np.ones(40)
    same = engine.show(0, items, flat, np.full(40, 3), 200_000)
    rate = same.clicks / same.impressions
    top, middle, low = (rate[(same.position >= a) & (same.position < b)] for a, b in ((1, 8), (8, 16), (16, 31)))
    assert min(part.size for part in (top, middle, low)) and top.mean() > middle.mean() > low.mean()
    assert np.corrcoef(same.position, rate)[0, 1] < -0.5
    by_grade = [engine.show(0, items, flat, np.full(40, g), 200_000).clicks.sum() for g in range(4)]
    assert by_grade == sorted(by_grade) and by_grade[3] > 3 * by_grade[2]
    assert (same.clicks <= same.impressions).all() and same.position.max() <= 30
    assert not engine.show(0, items, flat, np.full(40, 3), 0).item.size
    assert not engine.show(0, items[:0], flat[:0], items[:0], 10).item.size


def test_judge_agrees_as_the_real_one_does(world, directory, all_pairs):
    path, _ = directory
    table = rows(path / "judge_agreement.tsv.gz")
    human = np.array([GRADES[label] for label in table["human"]])
    assert (human == table["grade"]).mean() == pytest.approx(0.63, abs=0.05)
    assert cohen_kappa_score(human, table["grade"], weights="quadratic") == pytest.approx(0.54, abs=0.06)
    item, keyphrase, truth, _ = all_pairs
    wrong = np.abs(human - table["grade"])
    assert (wrong == 1).sum() > 0.55 * (wrong > 0).sum()
    some = np.random.default_rng(0).choice(len(item), 50_000, replace=False)
    assert (world.judge(item[some], keyphrase[some]) == truth[some]).mean() > 0.85  # random pairs are easy
    # A higher truth is graded higher on average: noise does not hide the order.
    candidates = np.flatnonzero(truth > 0)[::7]
    grades = world.judge(item[candidates], keyphrase[candidates])
    means = [grades[truth[candidates] == g].mean() for g in (1, 2, 3)]
    assert means[0] + 0.3 < means[1] and means[1] + 0.3 < means[2]


def test_judge_errors_are_correlated_within_an_item(world, all_pairs):
    item, keyphrase, truth, _ = all_pairs
    near = np.flatnonzero(truth == 2)
    shift = world.judge(item[near], keyphrase[near]) - 2.0
    odd = np.arange(len(near)) % 2 == 1

    def mean_by_item(which):
        count = np.bincount(item[near][which], minlength=len(world.items))
        return np.bincount(item[near][which], shift[which], minlength=len(world.items)) / np.maximum(count, 1), count

    (first, n), (second, m) = mean_by_item(odd), mean_by_item(~odd)
    many = (n >= 10) & (m >= 10)
    assert np.corrcoef(first[many], second[many])[0, 1] > 0.3


_WORLD = World(SMALL, 0)
_PAIR = st.tuples(st.integers(0, SMALL.items - 1), st.integers(0, SMALL.keyphrases - 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(_PAIR, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_judge_does_not_depend_on_the_batch(pairs, random):
    together = _WORLD.judge(*np.array(pairs).T)
    order = list(range(len(pairs)))
    random.shuffle(order)
    np.testing.assert_array_equal(_WORLD.judge(*np.array(pairs)[order].T), together[order])
    alone = [int(_WORLD.judge(np.array([i]), np.array([k]))[0]) for i, k in pairs]
    assert alone == together.tolist() and set(alone) <= {0, 1, 2, 3}


def test_same_seed_same_bytes(small, tmp_path):
    path, counts = small
    script = (
        "import sys, pathlib; from distill.config import MarketplaceConfig as C; "
        "from distill.data.marketplace import write_marketplace as w; "
        f"w(pathlib.Path(sys.argv[1]), C(**{vars(SMALL)!r}), 5)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "again")], check=True, env=environment)
    assert digests(tmp_path / "again") == digests(path)
    assert write_marketplace(tmp_path / "other", SMALL, 6).keys() == counts.keys()
    other = digests(tmp_path / "other")
    assert all(other[name] != digest for name, digest in digests(path).items())


def test_tables_hold_the_contract(directory, world):
    path, counts = directory
    with gzip.open(path / "items.jsonl.gz", "rt") as file:
        items = [json.loads(line) for line in file]
    assert items[0].keys() == {"item_id", "title", "category", "attributes", "split"}
    assert sum(item["split"] == "holdout" for item in items) == round(0.2 * len(items)) == world.holdout.sum()
    ids, keyphrases = {item["item_id"] for item in items}, set(world.keyphrases)
    assert len(ids) == counts["items"] == 1500
    columns = {
        "clicks": ["item_id", "keyphrase", "impressions", "clicks", "position"],
        "search_relevance": ["item_id", "keyphrase", "score", "passed"],
        "human": ["item_id", "keyphrase", "label", "gain", "split"],
        "judge_agreement": ["item_id", "keyphrase", "grade", "human", "split"],
        "recommendations": ["item_id", "keyphrase", "source"],
        "blocklist": ["keyphrase"],
        "keyphrases": ["keyphrase", "search_volume"],
    }
    for name, expected in columns.items():
        table = rows(path / f"{name}.tsv.gz")
        assert list(table) == expected
        assert len(table["keyphrase"]) == counts[name] > 0
        assert set(table["keyphrase"]) <= keyphrases
        if "item_id" in table:
            assert set(table["item_id"]) <= ids
            pairs = list(zip(table["item_id"], table["keyphrase"]))
            assert len(set(pairs)) == len(pairs), name
    relevance = rows(path / "search_relevance.tsv.gz")
    assert counts["search_relevance"] == 40 * len(items)
    assert set(relevance["passed"]) == {0, 1}
    clicks = rows(path / "clicks.tsv.gz")
    assert (clicks["clicks"] <= clicks["impressions"]).all() and (clicks["impressions"] > 0).all()


def test_human_labels(directory, world):
    path, _ = directory
    human = rows(path / "human.tsv.gz")
    queries, sizes = np.unique(human["keyphrase"], return_counts=True)
    assert len(queries) == 120 and sizes.min() >= 25 and sizes.max() <= 45
    assert len(set(human["keyphrase"][human["split"] == "valid"])) == 24
    assert not set(human["keyphrase"][human["split"] == "valid"]) & set(human["keyphrase"][human["split"] == "test"])
    gains = dict(zip(human["label"], human["gain"]))
    assert gains == {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
    volume = dict(zip(world.keyphrases, world.search_volume))
    quarters = np.quantile(world.search_volume, [0.25, 0.5, 0.75])
    assert min(np.bincount(np.searchsorted(quarters, [volume[q] for q in queries]), minlength=4)) >= 20  # head and tail
    item = {name: i for i, name in enumerate(world.item_ids)}
    keyphrase = {text: k for k, text in enumerate(world.keyphrases)}
    truth = world.grade(
        np.array([item[i] for i in human["item_id"]]), np.array([keyphrase[k] for k in human["keyphrase"]])
    )
    labels = np.array([GRADES[label] for label in human["label"]])
    assert (labels != truth).mean() == pytest.approx(0.05, abs=0.015)
    assert np.abs(labels - truth).max() == 1


def test_truth_table_and_exposure(small):
    path, counts = small
    world = World(SMALL, 5)
    item, keyphrase = (a.ravel() for a in np.meshgrid(np.flatnonzero(world.holdout), np.arange(300), indexing="ij"))
    truth = world.grade(item, keyphrase)
    clicks = rows(path / "clicks.tsv.gz")
    seen = set(zip(clicks["item_id"], clicks["keyphrase"]))
    expected = {
        (world.items[i].item_id, world.keyphrases[k], g, (world.items[i].item_id, world.keyphrases[k]) in seen)
        for i, k, g in zip(item.tolist(), keyphrase.tolist(), truth.tolist())
        if g
    }
    table = pyarrow.parquet.read_table(path / "truth.parquet")
    assert table.column_names == ["item_id", "keyphrase", "grade", "exposed"]
    assert len(expected) == table.num_rows == counts["truth"]
    assert set(zip(*(table[name].to_pylist() for name in table.column_names))) == expected


def test_much_of_the_truth_is_never_exposed(directory):
    table = pyarrow.parquet.read_table(directory[0] / "truth.parquet")
    exact = np.array(table["grade"].to_pylist()) == 3
    exposed = np.array(table["exposed"].to_pylist())
    assert 0.4 <= 1 - exposed[exact].mean() <= 0.8


def test_sizes_that_cannot_be_made():
    with pytest.raises(ValueError, match="at least one"):
        World(MarketplaceConfig(items=0), 0)


@pytest.mark.parametrize("items, keyphrases", [(1, 1), (3, 200)])
def test_tiny_worlds_are_written(tmp_path, items, keyphrases):
    config = MarketplaceConfig(items=items, keyphrases=keyphrases, searches=10)
    counts = write_marketplace(tmp_path, config, 0)
    assert counts["items"] == items and counts["keyphrases"] == keyphrases
    assert counts["search_relevance"] == items * min(40, keyphrases)
