"""A data directory says what it is; a file that cannot be understood is an error, not silence."""

from __future__ import annotations

import json

import pytest

from distill.config import DataConfig, MarketplaceConfig
from distill.data.marketplace import write_marketplace
from distill.data.preparation.prepare import prepare
from distill.data.schema import DataError
from distill.data.validation.about import About, read_about
from distill.data.validation.validate import read_validation
from tests.data.preparation.test_prepare import marketplace, save


def test_without_a_file_nothing_is_claimed(tmp_path):
    assert read_about(tmp_path) == About()
    assert read_about(None) == About()


def test_the_file_and_the_settings_together(tmp_path):
    record = {"source": "shop", "licence": "MIT", "note": "n", "simulated": ["clicks", "keyphrases.search_volume"]}
    (tmp_path / "about.json").write_text(json.dumps(record))
    about = read_about(tmp_path, ("judgements", "clicks"))
    assert about == About("shop", "MIT", "n", ("clicks", "judgements", "keyphrases.search_volume"))
    assert about.is_simulated("clicks") and not about.is_simulated("keyphrases")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "about.json"),
        ("[]", "one JSON object"),
        ('{"license": "MIT"}', "'license' is no key"),
        ('{"source": 3}', "'source' must be a text"),
        ('{"simulated": "clicks"}', "must be a list"),
        ('{"simulated": [3]}', "must be a list"),
        ('{"simulated": ["clickz"]}', "'clickz'"),
        ('{"simulated": ["clicks.colour"]}', "'clicks.colour'"),
        ("\xff", "about.json"),
    ],
)
def test_what_cannot_be_understood_is_named(tmp_path, text, named):
    (tmp_path / "about.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=named):
        read_about(tmp_path)


def test_settings_are_checked_too():
    with pytest.raises(DataError, match=r"data\.simulated"):
        read_about(None, ("everything",))


def test_prepare_reads_it_as_no_table(tmp_path):
    source = save(tmp_path / "data", marketplace())
    (source / "about.json").write_text('{"simulated": ["clicks"]}')
    summary = prepare(source, tmp_path / "out", DataConfig(simulated=("human",)))
    assert not any("about" in notice for notice in summary.notices)
    assert read_validation(tmp_path / "out").about.simulated == ("clicks", "human")


def test_the_embedded_marketplace_says_that_it_is_made_up(tmp_path):
    config = MarketplaceConfig(items=60, keyphrases=120, searches=500, human_queries=10)
    write_marketplace(tmp_path, config, 0)
    about = read_about(tmp_path)
    assert {"items", "keyphrases", "clicks", "human", "search_relevance"} <= set(about.simulated)
