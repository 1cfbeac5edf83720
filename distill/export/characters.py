"""What the training tokenizer makes of each character, as a table that a TensorFlow graph looks up.

BERT's normaliser and pre-tokenizer treat characters one by one, but for one thing: NFD puts combining marks that follow
each other into canonical order. So the table needs no Unicode data of its own: the tokenizer is asked about every code
point and about the order of those marks, and whatever Unicode version it was built with is in the answer.

A code point becomes elements, int32 each: a character in the low 21 bits and the marks below. What stands between two
word ends is a word; WordPiece of the words gives the ids.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill.data.tokenizing import Tokenizer

CODE_POINTS = 0x110000
CHARACTER = (1 << 21) - 1  # the bits of the character; all set: the code point itself, so that most pages are equal
BEFORE, AFTER = 1 << 21, 1 << 22  # a word ends before, after the element
DROPPED = 1 << 23  # the element is no character: it only ends a word or a run of marks
STARTS_RUN = 1 << 24  # marks are not moved across it
RANK_SHIFT = 25  # the rest: 0, or the place in canonical order of a combining mark that the normaliser keeps
NOTHING = 0xD800  # a surrogate, which no text holds: a code point without elements
PAGE = 256  # code points that share an entry of `pages`

_BETWEEN = "|"  # a starter that stays as it is; stands between the characters that are asked about
_HIGH, _LOW = "\u302e", "\u1b44"  # marks of a high and a low combining class (224, 9) that no normaliser strips
_AT_ONCE = 1 << 16


class PagedTable(NamedTuple):
    """Elements of code point c: `elements[start[e] : start[e] + length[e]]`, e = pages[c // PAGE] * PAGE + c % PAGE."""

    pages: np.ndarray  # int32
    start: np.ndarray  # int32
    length: np.ndarray  # int32
    elements: np.ndarray  # int32


class CharacterTable(NamedTuple):
    """What a tokenizer makes of each code point; the code of `added[i]` is CODE_POINTS + i."""

    paged: PagedTable
    added: tuple[str, ...]  # tokens such as `[SEP]` that are recognised in the text itself
    max_characters: int  # of a word; longer ones are unknown
    unknown: str  # the token of unknown words
    continuation: str  # what begins a token that does not begin a word


def character_table(tokenizer: Tokenizer) -> CharacterTable:
    """The table of a tokenizer.

    Raises:
      ValueError: the tokenizer is none of BERT's kind, or recognises tokens in a way that depends on their neighbours.
    """
    settings = json.loads(tokenizer._json)
    model = settings["model"]
    for part, wanted in (
        ("normalizer", "BertNormalizer"),
        ("pre_tokenizer", "BertPreTokenizer"),
        ("model", "WordPiece"),
    ):
        found = (settings[part] or {}).get("type")
        if found != wanted:
            raise ValueError(f"the tokenizer's {part} is {found}; only {wanted} can be written into a SavedModel")
    added = _added_tokens(settings["added_tokens"])
    normaliser, pre_tokenizer = tokenizer._backend.normalizer, tokenizer._backend.pre_tokenizer
    normalise = functools.partial(_each, normaliser.normalize_str)
    rows: list[tuple[int, ...]] = [()] * (CODE_POINTS + len(added))
    asked: list[str] = []
    for at in range(0, CODE_POINTS, PAGE):
        page = [chr(c) for c in range(at, at + PAGE) if not 0xD800 <= c < 0xE000]
        if _are_plain(page, normaliser, pre_tokenizer):
            rows[at : at + PAGE] = [(CHARACTER | STARTS_RUN,)] * PAGE
        else:
            asked += page
    texts = normalise(asked)
    kinds = _kinds(pre_tokenizer, set().union(*texts))
    ranks = _ranks(normalise, [c for c in kinds if kinds[c] != "space"])
    for character, text, starts in zip(asked, texts, _start_runs(normalise, asked)):
        if text or (ranks and starts):
            rows[ord(character)] = _elements(character, text, kinds, ranks, starts)
    for i, token in enumerate(added):
        marks = [0] * len(token)
        marks[0] |= BEFORE | STARTS_RUN
        marks[-1] |= AFTER
        rows[CODE_POINTS + i] = tuple(ord(c) | mark for c, mark in zip(token, marks))
    return CharacterTable(
        paged(rows), added, model["max_input_chars_per_word"], model["unk_token"], model["continuing_subword_prefix"]
    )


def _added_tokens(listed: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    tokens: list[str] = []
    for token in listed:
        for name in ("single_word", "lstrip", "rstrip", "normalized"):
            if token[name]:
                raise ValueError(
                    f"the tokenizer's added token {token['content']!r} has {name}=true; a SavedModel can only "
                    "recognise tokens that stand as they are"
                )
        tokens.append(token["content"])
    for a in tokens:
        for b in tokens:
            inside = a is not b and a in b
            shared = any(a.endswith(b[:n]) for n in range(1, min(len(a), len(b))))
            if inside or shared:
                raise ValueError(
                    f"the tokenizer's added tokens {a!r} and {b!r} can overlap in a text; "
                    "a SavedModel could not tell which one is meant"
                )
    return tuple(tokens)


def _each(normalise: Any, texts: Sequence[str]) -> list[str]:
    """What the normaliser makes of each text, asked in few calls; the texts begin and end with whatever they like."""
    results: list[str] = []
    for at in range(0, len(texts), _AT_ONCE):
        part = texts[at : at + _AT_ONCE]
        own = [i for i, text in enumerate(part) if _BETWEEN in text]
        joined = _BETWEEN.join("" if _BETWEEN in text else text for text in part)
        pieces = normalise(joined).split(_BETWEEN)
        for i in own:
            pieces[i] = normalise(part[i])
        results += pieces
    return results


def _around(character: str) -> str:
    return f"a{_HIGH}{character}{_LOW}"


def _are_plain(characters: Sequence[str], normaliser: Any, pre_tokenizer: Any) -> bool:
    """Whether all of them stay as they are, hold marks in place and belong to words: a quick answer for most pages."""
    around = _BETWEEN.join(map(_around, characters))
    one_word = "".join(characters)
    return (
        bool(characters)
        and normaliser.normalize_str(around) == around
        and [piece for piece, _ in pre_tokenizer.pre_tokenize_str(one_word)] == [one_word]
    )


def _kinds(pre_tokenizer: Any, characters: set[str]) -> dict[str, str]:
    """Of each character: `space` (between words), `alone` (a word of its own) or `word`."""
    kinds, ordered = {}, sorted(characters)
    for at in range(0, len(ordered), _AT_ONCE):
        part = ordered[at : at + _AT_ONCE]
        # In "a", character, "a", "\n" it stands at 4 i + 1.
        pieces = pre_tokenizer.pre_tokenize_str("".join(f"a{c}a\n" for c in part))
        stands = np.full(4 * len(part), -1)
        for i, (_, (start, end)) in enumerate(pieces):
            stands[start:end] = i
        of = stands.reshape(-1, 4)
        alone = (of[:, 1] != of[:, 0]) & (of[:, 1] != of[:, 2])
        names = np.where(of[:, 1] < 0, "space", np.where(alone, "alone", "word"))
        kinds |= dict(zip(part, names.tolist()))
    return kinds


def _ranks(normalise: Any, kept: Sequence[str]) -> dict[str, int]:
    """Places in canonical order, from 1, of the combining marks among the `kept` characters.

    A mark is what changes places with a mark of a higher or lower class.
    """
    after_high = normalise([f"a{_HIGH}{c}" for c in kept])
    before_low = normalise([f"a{c}{_LOW}" for c in kept])
    marks = [
        c
        for c, high, low in zip(kept, after_high, before_low)
        if high == f"a{c}{_HIGH}" != f"a{_HIGH}{c}" or low == f"a{_LOW}{c}" != f"a{c}{_LOW}"
    ]
    if not marks:  # a tokenizer that keeps accents orders nothing
        return {}
    pairs = [(a, b) for a in marks for b in marks]
    swapped = normalise([f"a{a}{b}" for a, b in pairs])
    lower = dict.fromkeys(marks, 0)  # how many marks must stand before it
    for (a, b), text in zip(pairs, swapped):
        lower[a] += a != b and text == f"a{b}{a}"
    order = sorted(set(lower.values()))
    return {c: 1 + order.index(lower[c]) for c in marks}


def _start_runs(normalise: Any, characters: Sequence[str]) -> list[bool]:
    """Whether marks on the two sides of each character stay in place."""
    return [text.index(_HIGH) < text.index(_LOW) for text in normalise([_around(c) for c in characters])]


def _elements(own: str, text: str, kinds: dict[str, str], ranks: dict[str, int], starts_run: bool) -> tuple[int, ...]:
    elements: list[int] = []
    pending = 0
    for character in text:
        if kinds[character] == "space":
            if elements:
                elements[-1] |= AFTER
            pending = BEFORE
            continue
        marks = pending | (BEFORE | AFTER if kinds[character] == "alone" else 0)
        code = CHARACTER if character == own else ord(character)
        elements.append(code | marks | ranks.get(character, 0) << RANK_SHIFT)
        pending = 0
    if not elements:
        elements = [DROPPED | (BEFORE | AFTER if text else 0)]
    if starts_run:
        elements[0] |= STARTS_RUN
    return tuple(elements)


def paged(rows: Sequence[tuple[int, ...]]) -> PagedTable:
    """The elements of each code point in a table that keeps equal pages once."""
    pages: list[int] = []
    known: dict[tuple[tuple[int, ...], ...], int] = {}
    kept: list[tuple[int, ...]] = []
    for at in range(0, len(rows), PAGE):
        page = tuple(rows[at : at + PAGE])
        page += ((),) * (PAGE - len(page))
        if page not in known:
            known[page] = len(known)
            kept += page
        pages.append(known[page])
    length = np.array([len(row) for row in kept], np.int32)
    elements = np.array([e for row in kept for e in row], np.int32)
    start = (np.cumsum(length) - length).astype(np.int32)
    return PagedTable(np.array(pages, np.int32), start, length, elements)
