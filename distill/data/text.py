"""Text of items and keyphrases: one normal form, one notion of tokens, one way to write an item down.

Whatever compares or keys keyphrases does so by `normalise_keyphrase` or `fold_tokens`. Items are shown and encoded as
their sellers wrote them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence, Set

from distill.data.units import fold_units

# Invisible format characters that carry no meaning in a search: soft hyphen, direction marks, word joiners, BOM.
# Zero-width (non-)joiners stay: Persian, Indic scripts and emoji need them.
_DELETED = {0x00AD: None, 0xFEFF: None, 0x200E: None, 0x200F: None}
_DELETED |= dict.fromkeys((*range(8234, 8239), *range(8288, 8298)))
_SPACED = dict.fromkeys((*range(32), *range(127, 160), 8203), " ")
_SPACED |= dict.fromkeys((code for code in range(0x3001) if chr(code).isspace()), " ")
_CLEAN = _SPACED | _DELETED | {0x2044: "/"}  # NFKC makes 1⁄2 of ½

# A number and a fraction, whose digits NFKC would join (2½ to 21⁄2), and how they are kept apart; for `re` and RE2.
FRACTION, SEPARATED = "([0-9])([¼-¾⅐-⅞↉])", r"\1 \2"

_NO_CATEGORY = "no category"
_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:['’][^\W_]+)*")

_UNCHANGED = frozenset(
    [
        "adidas",
        "alias",
        "always",
        "atlas",
        "bias",
        "canvas",
        "christmas",
        "gas",
        "kansas",
        "lens",
        "news",
        "series",
        "species",
        "texas",
        "vegas",
        "yes",
    ]
)
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "mice": "mouse",
    "geese": "goose", "knives": "knife", "shelves": "shelf", "leaves": "leaf", "scarves": "scarf", "wolves": "wolf",
    "lenses": "lens", "fuses": "fuse", "potatoes": "potato", "tomatoes": "tomato", "heroes": "hero",
    "mangoes": "mango", "dominoes": "domino", "tornadoes": "tornado",
}  # fmt: skip


def normalise_keyphrase(text: str) -> str:
    """The form in which keyphrases are kept and compared: NFKC, case-folded, single spaces, one spelling of units.

    Idempotent. A text of blanks and invisible characters alone becomes "". `distill.data.units` says which units, and
    `distill.export.graph_text` does the same in a SavedModel.
    """
    if text.isascii():
        return fold_units(" ".join(text.lower().translate(_SPACED).split()))
    text = re.sub(FRACTION, SEPARATED, text)
    previous = None
    while text != previous:  # case folding may undo NFKC and the reverse; a few rounds reach the fixed point
        previous = text
        text = fold_and_clean(unicodedata.normalize("NFKC", text))
    return fold_units(" ".join(text.split()))


def fold_and_clean(text: str) -> str:
    """`text` case-folded, with blanks and control characters as spaces and without format characters.

    Each character by itself, whatever stands beside it.
    """
    return text.casefold().translate(_CLEAN)


def _fold_plural(word: str) -> str:
    """The singular that `word` is compared by; singular and plural meet, though not always in a dictionary word.

    -y, -ie and -ies all become -y (battery, batteries; hoody, hoodie, hoodies), so that no list of -ie nouns is needed.
    Words with digits, of up to three letters, or in -ss, -us, -is stay as they are.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not (word.isascii() and word.isalpha()) or word in _UNCHANGED:
        return word
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith("ie"):
        return word[:-2] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    if word.endswith("uses") and not word.endswith("ouses"):  # buses, viruses; not houses, blouses
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return _IRREGULAR.get(word[:-1], word[:-1])
    return word


@functools.lru_cache(maxsize=1 << 18)
def _fold_word(word: str) -> str:
    word = re.sub("['’]s$", "", word)
    return _fold_plural(re.sub("['’]", "", word))


def fold_tokens(text: str) -> frozenset[str]:
    """The set of word tokens of `text`, normalised (units too), with plurals and possessives folded to the singular.

    boots → boot, dresses → dress, batteries → battery, men's → man; glass, series, bus and "6s" stay.
    """
    return frozenset(_fold_word(token) for token in _TOKEN.findall(normalise_keyphrase(text)))


def jaccard(left: Set[str], right: Set[str]) -> float:
    """Shared ÷ all tokens, 0–1; 0 where either set is empty (two texts without words need not be alike)."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


def item_text(title: str, category: Sequence[str]) -> str:
    """The text that stands for an item everywhere: its leaf category, a space, its title (title alone without one)."""
    return f"{category[-1]} {title}" if category else title


def top_labels(categories: Sequence[Sequence[str]]) -> list[str]:
    """The most general category of each path, "no category" for an empty one."""
    return [path[0] if len(path) else _NO_CATEGORY for path in categories]


def leaf_labels(categories: Sequence[Sequence[str]]) -> list[str]:
    """A label of each path's leaf, "no category" for an empty path: equal labels are equal paths.

    That is the leaf's own name, and the whole path, "Home > Mugs", where another path of these ends in the same name.
    """
    paths = [tuple(path) for path in categories]
    shared = Counter(path[-1] for path in set(paths) if path)
    return [_NO_CATEGORY if not path else path[-1] if shared[path[-1]] == 1 else " > ".join(path) for path in paths]
