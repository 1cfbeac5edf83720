"""Units of measure: spellings that meet, texts that must stay, and that no text is damaged."""

import re
import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distill.data.text import fold_tokens, normalise_keyphrase
from distill.data.units import UNIT_RULES, fold_units

SPELLINGS = {
    "12 inch": (
        '12"', "12 in", "12 in.", "12-inch", "12inch", "12 inches", "12”", "12''", "12″", "12in", "12-in", "12 IN.",
        "12-Inches", "１２ ｉｎ．",
    ),
    "5 ft": ("5'", "5’", "5ft", "5-ft", "5 ft.", "5 foot", "5-foot", "5 feet", "5 Feet."),
    "8 oz": ("8oz", "8 oz.", "8-oz", "8 ounce", "8 ounces", "8-ounce", "8 OZ"),
    "8 fl oz": ("8fl oz", "8 fl. oz.", "8 fl.oz", "8 floz", "8 fluid ounces", "8-fluid-ounce"),
    "2.5 lb": ("2.5lb", "2.5 lbs", "2.5lbs.", "2.5 pounds", "2.5-pound"),
    "6 qt": ("6qt", "6 quart", "6-quart", "6 quarts", "6 qts"),
    "5 gallon": ("5gal", "5 gal.", "5-gallon", "5 gallons"),
    "45mm": ("45 mm", "45-mm", "45 millimeters", "45 millimetre", "45 MM"),
    "30cm": ("30 cm", "30 centimeters", "30cm."),
    "10m": ("10 meters", "10-meter", "10 metres"),
    "500ml": ("500 ml", "500 milliliters", "500 ML"),
    "1.5l": ("1.5 liter", "1.5-litre", "1.5 ltr"),
    "500mg": ("500 mg", "500 milligrams"),
    "100g": ("100 grams", "100-gram"),
    "5kg": ("5 kg", "5 kgs", "5 kilograms"),
    "20v": ("20 volt", "20-volt", "20 volts"),
    "60w": ("60 watt", "60-watts"),
    "5,000mah": ("5,000 mAh", "5,000-mah"),
    "64gb": ("64 GB", "64 gigabytes", "64-gb"),
    "2tb": ("2 TB", "2 terabyte"),
    "3 pack": ("3pk", "3 pk", "3-pack", "3 packs", "3pack", "pack of 3", "Pack of 3"),
    "socks (3 pack)": ("socks (pack of 3)", "socks (3-pk)"),
    "100 count": ("100ct", "100 ct", "100-count", "100 counts", "100 ct."),
    "20 piece": ("20 pcs", "20pcs", "20-piece", "20 pieces"),
    "1/2 inch pvc pipe": ('1/2" pvc pipe', "1/2 in pvc pipe", "1/2-inch pvc pipe", "½ in. pvc pipe", '½" pvc pipe'),
    "1 1/2 inch": ('1 1/2"', '1½"', "1 1/2in"),
    "12 inch x 14 inch": ('12"x14"', '12" x 14"', "12 in x 14 in", "12in x 14in", "12inx14in", '12"×14"', "12''x14''"),
    "10 ft 6 inch x 33 inch": ("10'6\" x 33\"", "10’6”x33”", "10ft 6in x 33in"),
    "2 ft x 3 ft rug": ("2' x 3' rug", "2'x3' rug", "2 ft. x 3 ft. rug"),
    "4x6 inch print": ("4x6in print", '4x6" print', "4x6-inch print"),
    "10-12 inch": ('10-12"', "10-12 in", "10-12in"),
    "8 inch case": ('8"case', "8-in case", "8in case"),
}  # fmt: skip

UNTOUCHED = (
    "2 in 1 laptop", "2-in-1 laptop", "2-in 1 laptop", "2in1", "two 2 in one", "5 in stock", "12 in a box",
    "made in 2020", "size 12 in black", "size 12 in", "us 10.5 in wide", "iphone 12 in blue", "levis 501 in rinse",
    "50 cent", "7 for all mankind", "m 4", "g shock", "8x10", "8 x 10 frame", "5g phone", "20g nose ring", "size 8 m",
    "34 w 32 l jeans", "16w pants", "3 v neck tee", "1 g 2 l", '"area 51" poster', "'area 51' shirt", "“area 51” mug",
    "‘area 51’ cap", 'the "12" album', "80's rock", "80' s rock", "10'6 paddle board", "14 ct gold", "1.25 ct ring",
    "6 foot massager", "2-foot pump", "1 pound cake mix", "2 pound puppies", "2012 volt mats", "2 packs of 12",
    "2 pk of 12", "wd40 oz", "12 incí", "12 inchworms", "5 footstools", "4 packers", "3 mmm", "pack of wolves",
    "pack of 3 socks", "4k tv", "b12 vitamin", "5 galaxy", '"', "12 ' x", "ounces 12", "no 5", "1 in a million",
)  # fmt: skip


@pytest.mark.parametrize("form", SPELLINGS)
def test_spellings_meet(form):
    assert {normalise_keyphrase(text) for text in SPELLINGS[form]} == {form}
    assert normalise_keyphrase(form) == form
    around = [normalise_keyphrase(f"blue {text}, new") for text in SPELLINGS[form] if not text.endswith((" in", "-in"))]
    assert set(around) == {f"blue {form}, new"}


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_may_mean_something_else_stays(text):
    assert normalise_keyphrase(text) == text


def test_titles_and_keyphrases_share_their_tokens():
    assert fold_tokens("12 inch skillet 2 lb") <= fold_tokens('Lodge Cast-Iron Skillet, 12", 2 lbs. (Pack of 1)')
    assert fold_tokens('12" skillet') != fold_tokens("12 ft skillet")
    assert fold_tokens("20 Volt drill") == fold_tokens("20v drills") == {"20v", "drill"}


@pytest.mark.parametrize("part", ["1-", "1,1", "1 ", '"1', " 'a", "12 in x ", "1.1", "size 1."])
def test_no_text_takes_long(part):
    text = normalise_keyphrase(part * 20_000 + "q ft in ct lb mm")
    started = time.process_time()
    fold_units(text)
    assert time.process_time() - started < 5  # where the time grows with the square of the length: a minute and more


# Texts that are made of what the rules look at.
_WORDS = """in inch inches ft foot feet oz fl ounces fluid packs pk ct count pcs mm m meter l liter g gram kg v volt w
watts gb lb pound cake 1 2 12 30 100 1.5 2012 é s a size one by wide tv gal quarts of １ İ ß massager"""
PARTS = st.sampled_from([*"\"'”’“‘′″x×-.,/()[]±¼½ \u00a0\u0308\u0301\u200b\x01", *_WORDS.split(), "pack of"])
TEXTS = st.lists(PARTS, max_size=12).map("".join) | st.lists(PARTS, max_size=8).map(" ".join) | st.text()


def digits(text):
    return re.sub("[^0-9]", "", unicodedata.normalize("NFKC", text))


@given(TEXTS)
@example("1.5 feet. ")
@example('12" \u0308')
def test_folding_is_idempotent_and_loses_no_digit(text):
    once = normalise_keyphrase(text)
    assert normalise_keyphrase(once) == once == " ".join(once.split())
    assert digits(once) == digits(text.casefold())


@given(TEXTS.map(lambda text: text.encode("ascii", "ignore").decode()))
def test_case_does_not_matter(text):
    assert normalise_keyphrase(text.upper()) == normalise_keyphrase(text) == normalise_keyphrase(text.lower())


@given(TEXTS)
def test_the_quick_tests_hide_no_match(text):
    """What a SavedModel does: every rule, one after the other."""
    clean = " ".join(text.lower().replace("\x01", " ").split())
    slow = clean
    for rule in UNIT_RULES:
        slow = re.sub(rule.pattern, rule.rewrite, slow, flags=re.ASCII)
    assert fold_units(clean) == slow
    assert bool(slow) == bool(clean)
