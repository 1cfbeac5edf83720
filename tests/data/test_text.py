import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.text import fold_tokens, item_text, jaccard, leaf_labels, normalise_keyphrase


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Red   BOOTS ", "red boots"),
        ("red\tboots\n\x00size\x079", "red boots size 9"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("STRASSE straße", "strasse strasse"),
        ("ﬁsh", "fish"),
        ("\ufeffso\u00adft", "soft"),
        ("caf\u0065\u0301", "café"),
        ("\u200b \u2060", ""),
        ("", ""),
    ],
)
def test_normal_form(text, expected):
    assert normalise_keyphrase(text) == expected


def test_zero_width_non_joiner_is_kept_because_it_spells():
    assert normalise_keyphrase("می\u200cخواهم") == "می\u200cخواهم"


@given(st.text())
def test_normal_form_is_idempotent_and_has_single_spaces(text):
    once = normalise_keyphrase(text)
    assert normalise_keyphrase(once) == once
    assert once == " ".join(once.split())


@given(st.text(alphabet=st.characters(max_codepoint=0x7F)))
def test_the_ascii_path_agrees_with_the_general_one(text):
    assert normalise_keyphrase(text + "é") == normalise_keyphrase(text + "x")[:-1] + "é"


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("boots", "boot"),
        ("dresses", "dress"),
        ("batteries", "battery"),
        ("hoodies", "hoodie"),
        ("movies", "movie"),
        ("shoes", "shoe"),
        ("boxes", "box"),
        ("watches", "watch"),
        ("houses", "house"),
        ("cases", "case"),
        ("buses", "bus"),
        ("glasses", "glass"),
        ("pies", "pie"),
        ("knives", "knife"),
        ("men's", "man"),
        ("mens", "man"),
        ("cameras", "camera"),
    ],
)
def test_plural_meets_singular(plural, singular):
    assert fold_tokens(plural) == fold_tokens(singular)


@pytest.mark.parametrize(
    "word", ["boot", "dress", "battery", "glass", "series", "bus", "canvas", "6s", "gas", "tennis"]
)
def test_singulars_stay(word):
    assert fold_tokens(word) == {word}


def test_tokens():
    assert fold_tokens("Red-Boots, 0.5 inch (red)") == {"red", "boot", "0.5", "inch"}
    assert fold_tokens("iPhone 6s") != fold_tokens("iPhone 6")
    assert fold_tokens("!!! --") == frozenset()


def test_jaccard():
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 2 / 4
    assert jaccard({"a"}, {"a"}) == 1
    assert jaccard(set(), set()) == jaccard(set(), {"a"}) == 0


def test_item_text_is_leaf_category_then_title():
    assert item_text("Chelsea boot", ["Clothing", "Shoes"]) == "Shoes Chelsea boot"
    assert item_text("Chelsea boot", []) == "Chelsea boot"


def test_leaves_of_one_name_below_two_parents_have_two_labels():
    paths = [("Home", "Mugs"), ["Cars"], (), ("Home", "Covers"), ("Cars", "Covers"), ("Home", "Mugs")]
    assert leaf_labels(paths) == ["Mugs", "Cars", "no category", "Home > Covers", "Cars > Covers", "Mugs"]
