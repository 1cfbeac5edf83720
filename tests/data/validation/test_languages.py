"""Languages of short texts: told where they can be, and unknown otherwise."""

from __future__ import annotations

import gzip
import json

import pytest

from distill.data.validation import languages
from distill.data.validation.validate import check_languages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zapatos de mujer talla 38", "es"),
        ("chaussures pour femmes noires", "fr"),
        ("スマホケース iphone 15", "ja"),
        ("마스크", "ko"),
        ("wasserdichte wanderschuhe herren", "de"),
        ("stainless steel travel mug with handle for women", "en"),
        ("boots", languages.UNKNOWN),
        ("dcd771c2 20v 5ah", languages.UNKNOWN),
        ("", languages.UNKNOWN),
    ],
)
def test_language(text, expected):
    assert languages.language(text) == expected


def test_counts_are_ordered_and_complete():
    texts = ["zapatos de mujer talla 38", "botas para hombre de trabajo", "boots", "chaussures pour femmes noires"]
    counted = languages.count_languages(texts)
    assert list(counted.items()) == [("es", 2), ("fr", 1), (languages.UNKNOWN, 1)]
    assert languages.count_languages([]) == {}


def test_a_sample_is_spread_over_the_whole_column():
    rows = languages.sample(10 * languages.SAMPLE)
    assert len(rows) == languages.SAMPLE and rows[0] == 0 and rows[-1] == 10 * languages.SAMPLE - 1
    assert languages.sample(3).tolist() == [0, 1, 2]


def test_a_language_that_is_asked_for_and_not_offered_is_found():
    shapes = {
        "keyphrase language": {"en": 900, "es": 80, "de": 20, languages.UNKNOWN: 5000},
        "title language": {"en": 997, "es": 3},
    }
    (found,) = check_languages(shapes)
    assert found.check == "language: es" and found.count == 80 and found.share == pytest.approx(0.08)


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"keyphrase language": {"en": 90, "es": 9}, "title language": {"en": 90, "es": 9}},
        {"keyphrase language": {"es": 9}, "title language": {"en": 90}},  # too few to say
        {"keyphrase language": {"es": 900}},  # no title to compare with
    ],
)
def test_nothing_to_say(shapes):
    assert check_languages(shapes) == []


def test_english_data_is_called_english(esci_ads):
    with gzip.open(esci_ads / "keyphrases.tsv.gz", "rt", encoding="utf-8") as lines:
        keyphrases = [line.split("\t")[0] for line in lines][1:2001]
    with gzip.open(esci_ads / "items.jsonl.gz", "rt", encoding="utf-8") as lines:
        titles = [json.loads(line)["title"] for line in lines][:1000]
    shapes = {
        "keyphrase language": languages.count_languages(keyphrases),
        "title language": languages.count_languages(titles),
    }
    assert check_languages(shapes) == []
    for counted in shapes.values():
        counted.pop(languages.UNKNOWN)
        assert counted["en"] >= 0.98 * sum(counted.values())
