"""Rows through Grain: the same element for the same (seed, number), however it is reached."""

import os
import subprocess
import sys

import pytest

from distill.data.sets.reading import rows


def key(row) -> tuple:
    return row["item_id"], row["keyphrase"]


@pytest.fixture(scope="module")
def judgements(esci) -> str:
    """A data set's directory: 79 rows, no pair twice."""
    return os.fspath(esci.builders["judgements"].data_path)


def test_in_the_order_of_the_files_without_a_seed(judgements, esci):
    dataset = rows(judgements, "train")
    assert len(dataset) == 79
    assert key(dataset[0]) == ("US00", "red lamp") and key(dataset[78]) == ("US12", "black rug")
    assert list(dataset) == list(rows(esci.builders["judgements"], "train"))
    assert dataset[0] == {
        "item_id": "US00",
        "keyphrase": "red lamp",
        "grade": 3,
        "judge": "humans:amazon_esci",
        "rubric": "esci-labels",
    }


def test_random_access_equals_iteration_and_every_epoch_is_another_permutation(judgements):
    dataset = rows(judgements, "train", 7, epochs=2)
    iterated = [key(row) for row in dataset]
    assert len(dataset) == len(iterated) == 158
    again = rows(judgements, "train", 7, epochs=2)
    for i in (157, 0, 78, 79, 33):
        assert key(again[i]) == iterated[i]
    first, second = iterated[:79], iterated[79:]
    in_order = [key(row) for row in rows(judgements, "train")]
    assert sorted(first) == sorted(second) == sorted(in_order)
    assert first != second and first != in_order
    other = [key(row) for row in rows(judgements, "train", 8, epochs=2)]
    assert other[:79] not in (first, second)  # seeds are no shifted epochs of each other
    assert [key(row) for row in dataset.to_iter_dataset()] == iterated  # read ahead by threads


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_interleave_to_the_one_global_order(judgements, shards):
    whole = [key(row) for row in rows(judgements, "train", 3, epochs=2)]
    parts = [rows(judgements, "train", 3, epochs=2, shard=shard, shards=shards) for shard in range(shards)]
    assert [key(parts[i % shards][i // shards]) for i in range(len(whole))] == whole


def test_an_iterator_resumes_where_it_stopped(judgements):
    def endless():
        return iter(rows(judgements, "train", 5, epochs=None, shard=1, shards=2).to_iter_dataset())

    iterator = endless()
    for _ in range(100):
        next(iterator)
    state = iterator.get_state()
    expected = [key(next(iterator)) for _ in range(60)]
    resumed = endless()
    resumed.set_state(state)
    assert [key(next(resumed)) for _ in range(60)] == expected


def test_every_kind_of_column_comes_back_as_it_was(own, esci, wands):
    clicks = rows(own.builders["clicks"], "train")
    assert clicks[1] == {"item_id": "i1", "keyphrase": "black lamp", "impressions": 6, "clicks": 1, "position": 1.5}
    assert clicks[0]["position"] != clicks[0]["position"]  # NaN: none
    scores = [row["score"] for row in rows(own.builders["search_relevance"], "train")]
    assert scores == [row / 60 for row in range(60)]  # all 53 bits
    assert rows(own.builders["search_relevance"], "train")[1]["passed"] is True
    assert rows(own.builders["items"], "train")[1] == {
        "item_id": "i1",
        "title": "blue kettle &amp; no. 1",
        "category": ["Home", "Kettle"],
        "attributes": {"brand": "Acme", "note": "two\nlines"},
        "split": "train",
    }
    assert {row["split"] for row in rows(own.builders["items"], "holdout")} == {"holdout"}
    titles = {row["item_id"]: row["title"] for row in rows(esci.builders["items"], "train")}
    assert titles["US07"] == "Two\nlines\tand a tab" and titles["US21"] == 'The 27" “smart” rug'
    names = {row["item_id"]: row["title"] for row in rows(wands.builders["items"], "train")}
    assert (
        names["4"] == 'round 24" mirror' and names["5"] == "tab\tin a name" and names["6"] == "name with\na line break"
    )


def test_what_cannot_be_read(judgements):
    with pytest.raises(ValueError, match=r"shard=2, shards=2"):
        rows(judgements, "train", shard=2, shards=2)
    with pytest.raises(ValueError, match="test"):
        rows(judgements, "test")


def test_reads_where_tensorflow_is_not_installed(judgements):
    code = f"""
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "tensorflow" else super().find_spec(name, path, target)
sys.meta_path = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from distill.data.sets.reading import rows
print(rows({judgements!r}, "train", 1)[0]["judge"], "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["humans:amazon_esci", "False"], done.stderr
