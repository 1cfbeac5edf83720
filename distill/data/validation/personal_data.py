"""E-mail addresses, phone and card numbers in keyphrases: found strictly, dropped or masked.

Buyers paste what they have in their clipboard into a search box. Yet a marketplace is full of digits that are no
personal data (part numbers, sizes, grits, barcodes), and a keyphrase lost to a false alarm is a loss too, so:

e-mail   `local@domain.tld`, the last part of letters.
card     14–19 digits in one piece or in the groups of a card (`_CARD_GROUPS`), whatever date or code stands beside
         them, of an issuer's prefix and length, with Luhn's check digit (ISO/IEC 7812-1) and no valid barcode (GTIN) of
         the same length. Thirteen digits are taken as an EAN.
phone    what Google's libphonenumber calls a valid number of `phone_regions`, grouped exactly as that country writes
         it, or of any country after a +; and it must look like a phone number too: a +, brackets, hyphens or dots
         between its groups, a leading 0 before grouped digits, or a word such as "call" or "tel" before it. Ten bare
         digits are a part number more often than not, so they stay.

A text is read in the form that is kept of it (NFKC, lower case, single blanks, nothing invisible), with one kind of
hyphen: what can be seen in the prepared tables must not have been overlooked here.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.config import ScreeningConfig
from distill.data.schema import Problems
from distill.data.text import fold_and_clean

KINDS = ("an e-mail address", "a card number", "a phone number")
REASONS = tuple(f"keyphrase: holds {kind}" for kind in KINDS)
_PLACEHOLDERS = ("[email]", "[card]", "[phone]")
_DASHES = "‐‑‒–—−"
_HYPHENS = dict.fromkeys(map(ord, _DASHES), "-")
# What a text must hold to be looked at: found by RE2 over whole columns.
_SUSPECT = rf"\S@\S+\.|\p{{Nd}}(?:[\pZ\pC().\-/{_DASHES}]*\p{{Nd}}){{6}}"
_RAW_SUSPECT = re.compile(r"\S@\S+\.|\d(?:[\W_]*\d){6}")
_SEPARATOR = re.compile(r'([\t,"]+)')  # of the fields of a raw row
# A field that every log has, and that is slow to be told from a phone number.
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d:?\d\d)?")
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%'-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?![\w@])")
_CARD_GROUPS = ((4, 4, 4, 4, 3), (4, 4, 4, 7), (4, 4, 4, 4), (8, 8), (4, 6, 5), (4, 6, 4))
_CARD_FORMS = [rf"\d{{{first}}}([ -])" + r"\2".join(rf"\d{{{size}}}" for size in rest) for first, *rest in _CARD_GROUPS]
# Looked for at every place, so that a date or a code beside a card does not hide it. The digits of a fraction are none.
_CARDS = [re.compile(rf"(?<![\w-])(?<!\d[.,])(?=({form})(?!\w|-\w))") for form in (*_CARD_FORMS, r"\d{14,19}")]
_PHONE_WORD = re.compile(
    r"(?:\b(?:phone|telephone|tel|call|mobile|cell|whatsapp|sms|fax|telefon|telefono|teléfono|téléphone)|電話(?:番号)?)"
    r"\W{0,3}(?:\b(?:no|number|nr|me|us|at|on|is)\b\W{0,3}){0,2}$",
    re.IGNORECASE,
)
_AREA_CODE = re.compile(r"\(0?\d{1,5}\) ?\d")
_BEYOND = 400  # characters of a raw row read beyond those kept, so that an address at the cut is found; none is longer
_NATIONAL_DIGITS = 9  # of a number without its country, at least: shorter ones are sizes
_TRUNK_DIGITS = 10  # of one that only its leading 0 gives away


def _luhn(digits: str) -> bool:
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[::-2]))) % 10 == 0


def _is_gtin(digits: str) -> bool:
    """A barcode's check digit: weights 3 and 1 alternate from the right (GS1 General Specifications)."""
    if len(digits) not in (8, 12, 13, 14):
        return False
    return (3 * sum(map(int, digits[-2::-2])) + sum(map(int, digits[::-2]))) % 10 == 0


def _issued(digits: str) -> bool:
    """Whether an issuer of payment cards uses this prefix with this length."""
    length, two, four = len(digits), int(digits[:2]), int(digits[:4])
    return (
        (digits[0] == "4" and length in (16, 19))  # Visa
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and length == 16)  # Mastercard
        or (two in (34, 37) and length == 15)  # American Express
        or ((four == 6011 or two in (62, 65) or 644 <= four // 10 <= 649) and length >= 16)  # Discover, UnionPay
        or (3528 <= four <= 3589 and length >= 16)  # JCB
        or ((300 <= four // 10 <= 305 or two in (36, 38, 39)) and length == 14)  # Diners Club
    )


def _is_card(text: str) -> bool:
    digits = "".join(str(unicodedata.digit(letter)) for letter in text if letter.isdecimal())
    return _issued(digits) and _luhn(digits) and not _is_gtin(digits)


def _cards(text: str) -> list[tuple[int, int]]:
    """Spans of card numbers: of some that overlap the first, of some that begin together the longest."""
    spans = {match.span(1) for form in _CARDS for match in form.finditer(text) if _is_card(match[1])}
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not found or start >= found[-1][1]:
            found.append((start, end))
    return found


def _looks_like_phone(before: str, number: str) -> bool:
    if number.startswith("+") or _PHONE_WORD.search(before) or _AREA_CODE.match(number):
        return True
    inner = number.strip("()")
    if any(mark in inner for mark in "-.‐‑–"):
        return True
    return inner.startswith("0") and " " in inner and sum(map(str.isdecimal, inner)) >= _TRUNK_DIGITS


def _phones(text: str, regions: Sequence[str]) -> list[tuple[int, int]]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    found = []
    for region in regions or (None,):
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.EXACT_GROUPING):
            long = sum(map(str.isdecimal, match.raw_string)) >= _NATIONAL_DIGITS
            if (long or match.raw_string.startswith("+")) and _looks_like_phone(text[: match.start], match.raw_string):
                found.append((match.start, match.end))
    return found


def _replaced(text: str, spans: Sequence[tuple[int, int]], placeholder: str) -> str:
    for start, end in sorted(set(spans), reverse=True):
        text = text[:start] + placeholder + text[end:]
    return text


def _readable(text: str) -> str:
    """`text` in the normal form of keyphrases, but for units, and with one kind of hyphen."""
    return " ".join(fold_and_clean(unicodedata.normalize("NFKC", text)).translate(_HYPHENS).split())


def mask(text: str, regions: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """`text` with `[email]`, `[card]` and `[phone]` in place of what was found, and the numbers of `KINDS` found.

    A text without personal data comes back as it is; one with some comes back as it was read, see above.
    """
    masked, kinds = _masked(_readable(text), regions)
    return (masked, kinds) if kinds else (text, ())


def _masked(text: str, regions: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    kinds = []
    for kind, placeholder in enumerate(_PLACEHOLDERS):
        if kind == 0:
            spans = [match.span() for match in _EMAIL.finditer(text)]
        else:
            spans = _cards(text) if kind == 1 else _phones(text, regions)
        if spans:
            text = _replaced(text, spans, placeholder)
            kinds.append(kind)
    return text, tuple(kinds)


def mask_raw(text: str, regions: Sequence[str], held: bool, kept: int) -> str:
    """A raw row of a file without the personal data in it, so that the quarantine does not write it out again.

    Args:
      text: the row as it stands in the file.
      regions: whose phone numbers are known.
      held: its keyphrase holds personal data; the whole text goes where that is not found, being escaped, say.
      kept: characters of the text that are kept.
    """
    start = text[: kept + _BEYOND]
    masked = start
    plain = start if start.isascii() else unicodedata.normalize("NFKC", start)
    if _RAW_SUSPECT.search(plain):
        fields = [_masked_field(field, regions) for field in _SEPARATOR.split(plain)]
        if None in fields:
            return "[masked]"
        masked = "".join(field for field in fields if field)
        masked = start if masked == plain else masked
    if held and masked == start:
        return "[masked]"
    if len(text) > len(start):
        masked = masked[:-_BEYOND]  # it may end in half an address
    return masked[:kept]


def _masked_field(field: str, regions: Sequence[str]) -> str | None:
    """A field of a raw row, masked; None where invisible characters or blanks hide what should be."""
    if not _RAW_SUSPECT.search(field) or _TIME.fullmatch(field):
        return field
    masked = _masked(field, regions)[0]
    return None if mask(masked, regions)[1] else masked


@dataclasses.dataclass(frozen=True)
class Screened:
    """A column of keyphrases, looked through.

    Attributes:
      kind: int8 [rows], the number in `KINDS` of the first thing found, -1 for none.
      texts: string [rows], masked.
      empty: bool [rows]: nothing but placeholders is left, so there is no keyphrase to keep.
    """

    kind: np.ndarray
    texts: pa.Array
    empty: np.ndarray


def screen(texts: pa.Array, regions: Sequence[str]) -> Screened:
    """Looks for personal data in a string array [rows] without nulls; each distinct suspect text is read once."""
    rows = len(texts)
    none = Screened(np.full(rows, -1, np.int8), texts, np.zeros(rows, bool))
    if not rows:
        return none
    readable = texts if pc.all(pc.string_is_ascii(texts)).as_py() else pc.utf8_normalize(texts, "NFKC")
    suspects = np.flatnonzero(pc.match_substring_regex(readable, _SUSPECT).to_numpy(zero_copy_only=False))
    if not suspects.size:
        return none
    encoded = texts.take(pa.array(suspects)).dictionary_encode()
    masked, kinds, empty = [], [], []
    for text in encoded.dictionary.to_pylist():
        replaced, found = mask(text, regions)
        masked.append(replaced)
        kinds.append(found[0] if found else -1)
        empty.append(bool(found) and not any(letter.isalnum() for letter in _without_placeholders(replaced)))
    codes = encoded.indices.to_numpy()
    none.kind[suspects] = np.array(kinds, np.int8)[codes]
    none.empty[suspects] = np.array(empty)[codes]
    found = none.kind >= 0
    if not found.any():
        return none
    changed = pa.array(masked, pa.string()).take(encoded.indices).filter(pa.array(found[suspects]))
    return dataclasses.replace(none, texts=pc.replace_with_mask(texts, pa.array(found), changed))


def screen_keyphrases(
    values: dict[str, Any], problems: Problems, screening: ScreeningConfig
) -> tuple[Counter[str], np.ndarray]:
    """Applies the settings to the column `keyphrase` of a chunk, if it has one.

    Under `drop` rows that hold personal data become problems; under `mask` the column is masked, and only rows of which
    nothing else is left become problems; under `keep` they are counted alone.

    Returns:
      kind, in words → how many rows, otherwise good, hold it; and bool [rows]: those that hold any.
    """
    if "keyphrase" not in values:
        return Counter(), np.zeros(len(problems.codes), bool)
    found = screen(values["keyphrase"], screening.phone_regions)
    fresh = found.kind[problems.good & (found.kind >= 0)]
    if screening.personal_data == "mask":
        values["keyphrase"] = found.texts
    out = {"drop": found.kind >= 0, "mask": found.empty, "keep": np.zeros(len(found.kind), bool)}
    for kind, reason in enumerate(REASONS):
        problems.add(out[screening.personal_data] & (found.kind == kind), reason)
    counts = Counter({name: int((fresh == kind).sum()) for kind, name in enumerate(KINDS) if (fresh == kind).any()})
    return counts, found.kind >= 0


def _without_placeholders(text: str) -> str:
    for placeholder in _PLACEHOLDERS:
        text = text.replace(placeholder, "")
    return text
