"""The index stage: what it reports of the index that it built."""

import itertools

import numpy as np
import pytest

from distill.artifacts import read_manifest
from distill.retrieval.keyphrase_index import KeyphraseIndex
from tests.stages.serving_versions import WORDS, make_run

PHRASES = [" ".join(words) for words in itertools.islice(itertools.permutations(WORDS, 3), 0, 6000, 3)]


@pytest.mark.parametrize("sample", [30, 1000])
def test_recall_is_reported_of_items_that_the_search_was_not_tuned_on(tmp_path, sample):
    workdir = make_run(tmp_path, PHRASES, brute_force_below=0, target_recall=0.7, recall_at=10, sample_queries=sample)
    manifest, index = read_manifest(workdir / "index"), KeyphraseIndex.load(workdir / "index" / "index")
    items = np.load(workdir / "index" / "items.npy")
    assert manifest is not None and index.settings.method == "tree_ah"
    tuned_on = [any(np.array_equal(item, query) for query in index.sample) for item in items]
    assert len(index.sample) == min(sample, len(items)) == sum(tuned_on)
    if sample < len(items):
        assert manifest["counts"]["recall_at_100"] != index.measure_recall(100)
        recalls = [index.measure_recall(100, item[None]) for item, tuned in zip(items, tuned_on) if not tuned]
        # Of the 50 others, 30 were drawn.
        assert min(recalls) <= manifest["counts"]["recall_at_100"] <= max(recalls)
        assert round(manifest["counts"]["recall_at_100"] * 30 * 100, 6).is_integer()
    else:
        assert manifest["counts"]["recall_at_100"] == index.measure_recall(100)
