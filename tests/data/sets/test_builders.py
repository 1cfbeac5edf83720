"""TFDS's own test of each builder, on made-up data in the original formats (it reads through TensorFlow)."""

from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="TFDS's own builder test reads through TensorFlow: pip install -e '.[export]'")

import tensorflow_datasets as tfds

from distill.data.sets.builders import AmazonEsci, Marketplace, WayfairWands

FAKE = Path(__file__).parent / "fake_data"


def case(builder: type, config: str, **splits: int) -> type:
    """A test case of TFDS for one config of a builder, with the number of rows expected in each split."""
    return type(
        f"Test_{builder.__name__}_{config}",
        (tfds.testing.DatasetBuilderTestCase,),
        {
            "__module__": __name__,
            "DATASET_CLASS": builder,
            "BUILDER_CONFIG_NAMES_TO_TEST": [config],
            "EXAMPLE_DIR": str(FAKE / builder.name),
            "SPLITS": splits,
        },
    )


# 37 of the 40 queries are in the small version, nine of them in the official test part.
TestEsciItems = case(AmazonEsci, "us_small_items", train=39)
TestEsciKeyphrases = case(AmazonEsci, "jp_large_keyphrases", train=8)
TestEsciHuman = case(AmazonEsci, "us_small_human", valid=3, test=23)
TestEsciJudgements = case(AmazonEsci, "us_small_judgements", train=79)
TestWandsItems = case(WayfairWands, "items", train=30)
TestWandsHuman = case(WayfairWands, "human", valid=8, test=36)
TestOwnItems = case(Marketplace, "items", train=20, holdout=4)
TestOwnClicks = case(Marketplace, "clicks", train=59)
TestOwnSearchRelevance = case(Marketplace, "search_relevance", train=60)
