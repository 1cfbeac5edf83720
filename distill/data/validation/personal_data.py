"""E-mail addresses, phone and card numbers in keyphrases: found strictly, dropped or masked.

Buyers paste what they have in their clipboard into a search box. Yet a marketplace is full of digits that are no
personal data (part numbers, sizes, grits, barcodes), and a keyphrase lost to a false alarm is a loss too, so:

e-mail   `local@domain.tld`, the last part of letters.
card     13–19 digits, blanks or hyphens between them in groups, of an issuer's prefix and length, with Luhn's check
         digit (ISO/IEC 7812-1) and no valid barcode (GTIN) of the same length. Thirteen digits are taken as an EAN.
phone    what Google's libphonenumber calls a valid number of `phone_regions`, grouped exactly as that country writes
         it, or of any country after a +; and it must look like a phone number too: a +, brackets, hyphens or dots
         between its groups, a leading 0 before grouped digits, or a word such as "call" or "tel" before it. Ten bare
         digits are a part number more often than not, so they stay.

A text is read in its NFKC form, so that full-width digits count.
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

KINDS = ("an e-mail address", "a card number", "a phone number")
REASONS = tuple(f"keyphrase: holds {kind}" for kind in KINDS)
_PLACEHOLDERS = ("[email]", "[card]", "[phone]")
# What a text must hold to be looked at: found by RE2 over whole columns.
_SUSPECT = r"\S@\S+\.|\p{Nd}(?:[\pZ().\-/‐‑–]{0,3}\p{Nd}){6}"
_RAW_SUSPECT = re.compile(r"\S@\S+\.|\d(?:[\s().\-/‐‑–]{0,3}\d){6}")
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%'-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?![\w@])")
_CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])")
_PHONE_WORD = re.compile(
    r"\b(?:phone|telephone|tel|call|mobile|cell|whatsapp|sms|fax)\W{0,3}(?:no|number|nr)?\W{0,3}$", re.IGNORECASE
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
    groups = re.split("[ -]", text)
    grouped = len(groups) == 1 or max(map(len, groups)) <= 7  # 4-4-4-4, 4-6-5, 4-6-4; 19 digits end in 3 or 7
    return grouped and min(map(len, groups)) > 1 and _issued(digits) and _luhn(digits) and not _is_gtin(digits)


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


def mask(text: str, regions: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """`text` with `[email]`, `[card]` and `[phone]` in place of what was found, and the numbers of `KINDS` found.

    A text without personal data comes back as it is; one with some comes back in its NFKC form.
    """
    masked = text if text.isascii() else unicodedata.normalize("NFKC", text)
    kinds = []
    for kind, placeholder in enumerate(_PLACEHOLDERS):
        if kind == 0:
            spans = [match.span() for match in _EMAIL.finditer(masked)]
        elif kind == 1:
            spans = [match.span() for match in _CARD.finditer(masked) if _is_card(match[0])]
        else:
            spans = _phones(masked, regions)
        if spans:
            masked = _replaced(masked, spans, placeholder)
            kinds.append(kind)
    return (masked, tuple(kinds)) if kinds else (text, ())


def mask_raw(text: str, regions: Sequence[str], held: bool, kept: int) -> str:
    """A raw row of a file without the personal data in it, so that the quarantine does not write it out again.

    Args:
      text: the row as it stands in the file.
      regions: whose phone numbers are known.
      held: its keyphrase holds personal data; the whole text goes where that is not found, being escaped, say.
      kept: characters of the text that are kept.
    """
    start = text[: kept + _BEYOND]
    masked = mask(start, regions)[0] if _RAW_SUSPECT.search(start) else start
    if held and masked == start:
        return "[masked]"
    if len(text) > len(start):
        masked = masked[:-_BEYOND]  # it may end in half an address
    return masked[:kept]


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
