"""Texts of strangers made harmless: one line, nothing invisible, nothing that builds structure in a prompt."""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from typing import Any

MOST_MARKS = 8  # combining marks on one letter: more than any language writes

# What builds structure in prompts, JSON, markdown and chat templates, and what looks like it, by what replaces it.
# Letters that look like it stay: they belong to a language.
_REPLACED = {
    "″": '"“”„‟〝〞〟❝❞',
    "’": "`´‵",
    "‹": "<≮❮❰⟨⟪〈《⦑⧼˂",
    "›": ">≯❯❱⟩⟫〉》⦒⧽˃",
    "(": "{[❲❴⟦⟬⦃⦅⦋⦍⦏⦗【〔〖〘〚「『⁅⎡⎢⎣⎧⎨⎩⎛⎝",
    ")": "}]❳❵⟧⟭⦄⦆⦌⦎⦐⦘】〕〗〙〛」』⁆⎤⎥⎦⎫⎬⎭⎞⎠",
    "¦": "|∣│┃┆┇┊┋║╎╏❘❙❚⏐⎪‖∥",
    "/": "\\∖⧵⧹⁄",
    "_": "▁",  # SentencePiece's space
    " ": "\u2800",  # the empty Braille cell, which is no white space to Unicode
    "": "™℠",  # letters to NFKC, glued to the name before them
}
# Invisible though letters, marks or symbols by category: joiners, fillers, variation selectors.
_INVISIBLE = (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, 0xFFA0, *range(0xFE00, 0xFE10))
_INVISIBLE += tuple(range(0xE0100, 0xE01F0))
_FLOOD = re.compile(f"[^\\x00-\\x7f]{{{MOST_MARKS + 1}}}")  # what a flood of marks holds at least; no mark is ASCII
_FRACTION = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞↉])")  # 1½ is 1 1/2, not 11/2


class _Fates(dict[int, Any]):
    """Code point → what `str.translate` puts in its place; filled as characters are met."""

    def __missing__(self, code: int) -> int | str | None:
        character = chr(code)
        fate = " " if character.isspace() else None if unicodedata.category(character)[0] == "C" else code
        self[code] = fate
        return fate


_FATES = _Fates({ord(old): new for new, olds in _REPLACED.items() for old in olds} | dict.fromkeys(_INVISIBLE))


@dataclasses.dataclass(frozen=True)
class Sanitised:
    text: str
    changed: bool  # the text before any cut is not the one given
    cut: bool  # the end was left out to keep the limit


@functools.lru_cache(maxsize=1024)  # a listing comes with many keyphrases
def sanitise(text: str, limit: int) -> Sanitised:
    """Makes untrusted text one harmless line of at most `limit` characters.

    Unicode NFKC; white space to single blanks; no control, format, private-use, surrogate or unassigned character, no
    variation selector, at most 8 combining marks in a row; and typographic stand-ins for `< > { } [ ] | \\ " backtick`
    and their look-alikes (12" becomes 12″). Letters, digits and marks of all languages stay. Idempotent.
    """
    clean = _clean(text)
    kept = clean[:limit].rstrip()
    return Sanitised(kept, clean != text, len(clean) > limit)


def _clean(text: str) -> str:
    previous = None
    while text != previous:  # NFKC may bring structure (＜ is <) and what goes may join letters: to the fixed point
        previous = text
        text = " ".join(text.translate(_FATES).split())
        if not text.isascii():
            # NFKC sorts marks in quadratic time, so floods are bounded before as well.
            text = _bound_marks(unicodedata.normalize("NFKC", _bound_marks(_FRACTION.sub(" ", text))))
            text = text.replace("′′", "″")  # which NFKC takes apart
    return text


def _bound_marks(text: str) -> str:
    if not _FLOOD.search(text):
        return text
    kept, run = [], 0
    for character in text:
        run = run + 1 if unicodedata.category(character)[0] == "M" else 0
        if run <= MOST_MARKS:
            kept.append(character)
    return "".join(kept)
