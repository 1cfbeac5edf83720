"""The languages of titles and keyphrases, as far as short texts tell.

py3langid (a naive Bayes classifier over byte n-grams: Lui & Baldwin, "langid.py", ACL 2012), held to languages that
marketplaces are written in: among all that it knows, brands and lists of features pass for rare ones. On English
titles and queries about one long text in a hundred is still taken for another language, and `_RARE` allows for that.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

UNKNOWN = "too short or unclear"
SAMPLE = 20_000  # texts of a column that are looked at, spread evenly
_LETTERS = 16  # of a text in an alphabet of letters; below that a language is a guess
_SIGNS = 3  # letters beyond Latin, a third of all at least, whose script says most
_SURE = 0.7  # probability, calibrated by length by py3langid
_LANGUAGES = (
    "ar bg bn cs da de el en es fa fi fr he hi hr hu id it ja ko lt lv nl no pl pt ro ru sk sl sv ta th tr uk ur vi zh"
)


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(_LANGUAGES.split())
    return identifier


def language(text: str) -> str:
    """ISO 639-1 code of the text's language, or `UNKNOWN`."""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(letter > "\u024f" for letter in letters)  # beyond the Latin blocks
    if len(letters) < _LETTERS and not (foreign >= _SIGNS and 3 * foreign >= len(letters)):
        return UNKNOWN
    found, probability = _identifier().classify(text)
    return found if probability >= _SURE else UNKNOWN


def sample(rows: int) -> np.ndarray:
    """Row numbers of the texts that are looked at: all, or `SAMPLE` spread evenly."""
    return np.arange(rows) if rows <= SAMPLE else np.linspace(0, rows - 1, SAMPLE).astype(np.int64)


def count_languages(texts: Sequence[str]) -> dict[str, int]:
    """Language → how many of `texts`, commonest first, `UNKNOWN` last."""
    counts = collections.Counter(map(language, texts))
    unknown = counts.pop(UNKNOWN, 0)
    ordered = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    return ordered | ({UNKNOWN: unknown} if unknown else {})
