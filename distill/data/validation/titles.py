"""Titles that say little: boilerplate that opens or closes many, one word, capitals, the same title again."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.data.validation.findings import Finding, finding

_LONGEST, _SHORTEST = 6, 2  # words of boilerplate
_SHARE, _TITLES = 0.02, 20  # of all titles, and titles: what boilerplate must stand in
_WHOLE = 0.8  # of a phrase's titles also have the longer one: the longer one is named
_COMMON = 0.05  # share of titles from which capitals, single words and repetitions are a warning
_CAPITALS = 12  # characters that a title of capitals must have: shorter ones are brands and models
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"  # scripts that part no words
_SEVERAL = 5  # letters of these that are more than a word


def check_titles(ids: pa.ChunkedArray, titles: pa.ChunkedArray) -> list[Finding]:
    """Findings about titles, string [N], of the items `ids`, string [N]."""
    distinct = _tokens(pa.chunked_array([titles.unique()]))  # a title that comes again is no boilerplate
    return [
        *_boilerplate(distinct),
        *_single_words(_tokens(titles), ids, titles),
        *_capitals(ids, titles),
        *_repeated(titles),
    ]


def _severity(count: int, of: int) -> str:
    return "warning" if count > _COMMON * of else "note"


def _tokens(titles: pa.ChunkedArray) -> pa.Array:
    """list<string> [N]: lower-case words without punctuation."""
    plain = pc.replace_substring_regex(pc.utf8_lower(titles), r"[^\pL\pM\pN]+", " ")
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(plain)).combine_chunks()


def _ends(tokens: pa.Array, lengths: np.ndarray, size: int, opening: bool) -> pa.Array:
    """The first or last `size` words of each title that has more than these."""
    rows = np.flatnonzero(lengths > size)
    if not opening:
        offsets = tokens.offsets.to_numpy()
        at = (offsets[rows + 1] - size)[:, None] + np.arange(size)
        words = tokens.values.take(pa.array(at.ravel()))
        return pc.binary_join(pa.ListArray.from_arrays(np.arange(0, len(words) + 1, size, dtype=np.int32), words), " ")
    return pc.binary_join(pc.list_slice(tokens.take(pa.array(rows)), 0, size), " ")


def _boilerplate(tokens: pa.Array) -> Iterator[Finding]:
    lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False)
    least = max(_TITLES, int(np.ceil(_SHARE * len(tokens))))
    for opening in (True, False):
        found: dict[str, int] = {}  # longest first
        for size in range(_LONGEST, _SHORTEST - 1, -1):
            counted = _ends(tokens, lengths, size, opening).value_counts()
            often = counted.filter(pc.greater_equal(counted.field("counts"), least))
            for entry in sorted(often.to_pylist(), key=lambda e: (-e["counts"], e["values"])):
                text, count = entry["values"], entry["counts"]
                if any(map(str.isdecimal, text)):
                    continue  # a size, a model or a pack: what tells listings apart
                longer = [
                    n for t, n in found.items() if (t.startswith(text + " ") if opening else t.endswith(" " + text))
                ]
                if sum(longer) < _WHOLE * count:
                    found[text] = count
        if found:
            names = sorted(found, key=lambda text: (-found[text], text))
            most = found[names[0]]
            where = "open" if opening else "close"
            yield finding(
                f"titles that {where} alike",
                "warning",
                "items",
                most,
                len(tokens),
                f"The same words {where} many titles: {most:,} of them ({most / len(tokens):.0%}) “{names[0]}”"
                f"{f', and {len(names) - 1} more such phrases' if len(names) > 1 else ''}.",
                "Take boilerplate out before the data comes here: it makes unlike listings alike. Leave brands "
                "and what the thing is.",
                [f"“{text}”: {found[text]:,} titles" for text in names],
            )


def _shown(ids: pa.ChunkedArray, titles: pa.ChunkedArray, rows: np.ndarray) -> list[str]:
    first = pa.array(rows[:3])
    return [f"{id_}: {title}" for id_, title in zip(ids.take(first).to_pylist(), titles.take(first).to_pylist())]


def _such_titles(
    check: str, what: str, do: str, rows: np.ndarray, ids: pa.ChunkedArray, titles: pa.ChunkedArray
) -> Iterator[Finding]:
    """A finding about the titles in `rows`, if there are any."""
    if rows.size:
        message = f"{rows.size:,} of {len(titles):,} titles {what}."
        severity = _severity(rows.size, len(titles))
        yield finding(check, severity, "items", rows.size, len(titles), message, do, _shown(ids, titles, rows))


def _single_words(tokens: pa.Array, ids: pa.ChunkedArray, titles: pa.ChunkedArray) -> Iterator[Finding]:
    single = pc.less_equal(pc.list_value_length(tokens), 1)
    unspaced = pc.greater_equal(pc.count_substring_regex(titles, _UNSPACED), _SEVERAL).combine_chunks()
    rows = np.flatnonzero(pc.and_not(single, unspaced).to_numpy(zero_copy_only=False))
    do = "Ask for the whole title: one word does not say what keyphrases fit."
    return _such_titles("titles of one word", "with one word at most", do, rows, ids, titles)


def _capitals(ids: pa.ChunkedArray, titles: pa.ChunkedArray) -> Iterator[Finding]:
    long = pc.greater_equal(pc.utf8_length(titles), _CAPITALS)
    capitals, letters = (pc.count_substring_regex(titles, form) for form in (r"\p{Lu}", r"\pL"))
    mostly = pc.greater(pc.multiply(capitals, 2), letters)  # letters of other scripts have no case
    rows = np.flatnonzero(pc.and_(pc.and_(pc.utf8_is_upper(titles), mostly), long).to_numpy())
    do = "Nothing where the tokenizer lower-cases (uncased BERT models do); lower-case them for a cased one."
    return _such_titles("titles of capitals", "in capitals", do, rows, ids, titles)


def _repeated(titles: pa.ChunkedArray) -> Iterator[Finding]:
    counted = pc.utf8_lower(pc.utf8_trim_whitespace(titles)).value_counts()
    often = counted.filter(pc.greater(counted.field("counts"), 1))
    if not len(often):
        return
    items = int(pc.sum(often.field("counts")).as_py())
    worst = sorted(often.to_pylist(), key=lambda e: (-e["counts"], e["values"]))[:3]
    yield finding(
        "the same title",
        _severity(items, len(titles)),
        "items",
        items,
        len(titles),
        f"{items:,} of {len(titles):,} items with the title of another item (distinct: {len(often):,}).",
        "Where they are one listing, export it once; where they differ, let the title say how.",
        [f"{entry['counts']:,} items: {entry['values']}" for entry in worst],
    )
