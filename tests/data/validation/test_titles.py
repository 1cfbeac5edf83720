"""Titles that say little are found; brands and short names that are rare are not."""

from __future__ import annotations

import pyarrow as pa

from distill.data.validation.titles import check_titles


def findings(titles: list[str]):
    ids = [f"i{row}" for row in range(len(titles))]
    return {one.check: one for one in check_titles(*(pa.chunked_array([c], pa.string()) for c in (ids, titles)))}


def plain(count: int) -> list[str]:
    return [f"thing{row} with part{row * 7} and colour{row * 3} number{row}" for row in range(count)]


def test_the_longest_common_opening_is_named_once():
    titles = [f"FREE Shipping - only today: {title}" for title in plain(50)] + plain(950)
    found = findings(titles)
    assert set(found) == {"titles that open alike"}
    opening = found["titles that open alike"]
    assert (opening.count, opening.severity) == (50, "warning")
    assert opening.examples == ("“free shipping only today”: 50 titles",)  # and neither “free shipping” nor its like


def test_a_shorter_opening_that_many_other_titles_have_too_is_named_beside_the_longer():
    titles = [f"brand new in box {title}" for title in plain(30)]
    titles += [f"brand new {title}" for title in plain(1000)[30:90]] + plain(1000)[90:]
    assert findings(titles)["titles that open alike"].examples == (
        "“brand new”: 90 titles",
        "“brand new in box”: 30 titles",
    )


def test_closings_are_found_like_openings():
    titles = [f"{title}, best seller!" for title in plain(40)] + plain(1000)[40:]
    assert findings(titles)["titles that close alike"].examples == ("“best seller”: 40 titles",)


def test_few_titles_are_no_boilerplate():
    titles = [f"free shipping {title}" for title in plain(19)] + plain(500)[19:]
    assert findings(titles) == {}


def test_titles_that_are_nothing_but_the_phrase_are_repetitions():
    found = findings(["gift card"] * 30 + ["ring of silver with a stone"] * 30 + plain(100))
    assert set(found) == {"the same title"}
    assert found["the same title"].count == 60
    assert found["the same title"].severity == "warning"


def test_single_words_capitals_and_repetitions():
    titles = ["Rage", "42", "!!!", "LARGE RED LEATHER BOOT", "IPHONE", "Blue  Hat", "blue  hat", *plain(200)]
    found = findings(titles)
    assert found["titles of one word"].examples == ("i0: Rage", "i1: 42", "i2: !!!")
    assert found["titles of one word"].count == 4  # and IPHONE
    assert (found["titles of capitals"].count, found["titles of capitals"].severity) == (1, "note")
    assert found["the same title"].count == 2


def test_titles_in_other_scripts_have_words_too():
    found = findings(["красные ботинки кожаные", "赤い 革の ブーツ", "हिन्दी शब्द यहाँ"])
    assert found == {}


def test_sizes_and_models_are_no_boilerplate():
    titles = [f"{title} 28 cm" for title in plain(30)] + [f"{title} iPhone 12" for title in plain(90)[30:]]
    titles += [f"Galaxy S21 {title}" for title in plain(150)[90:]] + plain(500)[150:]
    assert findings(titles) == {}


def test_languages_that_part_no_words():
    titles = ["フライパン焦げ付かない直径二十八糎", "เคสโทรศัพท์มือถือกันกระแทก", "指輪"]
    (found,) = findings(titles).values()
    assert found.check == "titles of one word" and found.examples == ("i2: 指輪",)


def test_a_brand_in_capitals_makes_no_title_of_capitals():
    assert findings(["WMF 鉄のフライパン IH対応", "ソニー イヤホン ノイズキャンセリング PS5"]) == {}


def test_no_titles():
    assert findings([]) == {}
    assert set(findings(["one title alone"])) == set()
