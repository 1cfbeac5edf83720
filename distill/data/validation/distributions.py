"""The shape of prepared tables: for each thing that a reader asks about, how many fall into which class.

Classes are fixed, not taken from the data, so that two snapshots can be compared. Tables are streamed.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.data.validation import languages
from distill.data.validation.impossible_clicks import bands

Distribution = dict[str, int]  # class, in words, in the order of reading → how many

NONE, OTHERS = "none", "others"
_ROWS = 131_072  # read at once
_CATEGORIES = 200  # classes of their own; the rest are `OTHERS`
_WORDS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)
_COUNTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)
_VOLUMES = (0, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000)
_RATES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
POSITIONS = (*map(str, range(1, 11)), "11–15", "16–20", "21–30", "31–50", "51+", "unknown")
GRADES = ("0 irrelevant", "1 complement", "2 substitute", "3 exact")


def batches(folder: Path, name: str, columns: Sequence[str]) -> Iterator[dict[str, pa.Array]]:
    """The columns of a prepared table, rows of held-out items behind those of training, in pieces of bounded size.

    `name` may be of a table that does not exist: there is nothing then.
    """
    for path in files(folder, name):
        yield from batches_of(path, columns)


def batches_of(path: Path, columns: Sequence[str]) -> Iterator[dict[str, pa.Array]]:
    """The columns of one file, or folder of parts, in pieces."""
    for part in parts(path):
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(_ROWS, columns=list(columns)):
                yield dict(zip(batch.schema.names, batch.columns))


def parts(path: Path) -> list[Path]:
    """The files of a prepared table that may be a folder of parts."""
    return sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]


def files(folder: Path, name: str) -> list[Path]:
    """Where a prepared table lies: a file, or a folder of parts, of training rows and one of held-out rows."""
    return [path for path in (folder / f"{name}.parquet", folder / "holdout" / f"{name}.parquet") if path.exists()]


def column(folder: Path, name: str, wanted: str) -> pa.ChunkedArray | None:
    """One column of a whole table; None where there is no such table."""
    parts = [batch[wanted] for batch in batches(folder, name, [wanted])]
    return pa.chunked_array(parts) if parts else None


def numbers(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """float64 [rows], NaN for null."""
    return values.cast(pa.float64()).to_numpy(zero_copy_only=False)


def words(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int64 [rows]: words between white space."""
    lengths = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts)))
    empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)
    return pc.if_else(empty, 0, lengths).to_numpy(zero_copy_only=False).astype(np.int64)


def binned(values: np.ndarray, starts: Sequence[int], unknown: str = "") -> Distribution:
    """Whole numbers by classes that begin at `starts`; NaN counts as `unknown` where that has a name.

    Classes at the upper end that hold nothing are left out, so that a plot has no empty tail.
    """
    finite = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(starts, finite, "right"), minlength=len(starts) + 1)
    names = [_range(start, after) for start, after in zip(starts, [*starts[1:], None])]
    out = dict(zip(names, counts[1:].tolist()))
    if counts[0]:
        out = {f"below {starts[0]}": int(counts[0])} | out
    for name in reversed(names):
        if out[name]:
            break
        del out[name]
    missing = len(values) - len(finite)
    return out | ({unknown: missing} if unknown and missing else {})


def _range(start: int, after: int | None) -> str:
    if after is None:
        return f"{start:,}+"
    return f"{start:,}" if after == start + 1 else f"{start:,}–{after - 1:,}"


def rates(values: np.ndarray) -> Distribution:
    """Rates 0–1 by classes; each takes its upper bound in."""
    names = ["0", *(f"≤ {100 * upper:g} %" for upper in _RATES[1:])]
    counts = np.bincount(np.searchsorted(_RATES, values[~np.isnan(values)], "left"), minlength=len(_RATES))
    return dict(zip(names, counts.tolist()))


def distributions(folder: Path) -> dict[str, Distribution]:
    """All distributions of a folder of prepared tables; what there is no data of is left out."""
    found = _texts(folder) | _clicks(folder) | _signals(folder)
    return {name: one for name, one in found.items() if sum(one.values())}


def _texts(folder: Path) -> dict[str, Distribution]:
    titles, category = column(folder, "items", "title"), column(folder, "items", "category")
    keyphrases, volume = column(folder, "keyphrases", "keyphrase"), column(folder, "keyphrases", "search_volume")
    found: dict[str, Distribution] = {}
    if titles is not None and category is not None:
        found["title words"] = binned(words(titles), _WORDS)
        found["title language"] = _languages(titles)
        found["top category"] = _categories(category)
    if keyphrases is not None and volume is not None:
        found["keyphrase words"] = binned(words(keyphrases), _WORDS)
        found["keyphrase language"] = _languages(keyphrases)
        found["search volume"] = binned(numbers(volume), _VOLUMES, "unknown")
    return found


def _languages(texts: pa.ChunkedArray) -> Distribution:
    return languages.count_languages(texts.take(pa.array(languages.sample(len(texts)))).to_pylist())


def _categories(category: pa.ChunkedArray) -> Distribution:
    """Items by the most general name of their category, commonest first."""
    tops = pc.list_flatten(pc.list_slice(category, 0, 1))
    counted = sorted(((e["counts"], e["values"]) for e in tops.value_counts().to_pylist()), key=lambda p: (-p[0], p[1]))
    out = {name: count for count, name in counted[:_CATEGORIES]}
    others = sum(count for count, _ in counted[_CATEGORIES:])
    for name, more in ((OTHERS, others), (NONE, len(category) - len(tops))):
        if more:  # a category may be called so, too
            out[name] = out.pop(name, 0) + more
    return out


def _clicks(folder: Path) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    shown_at, clicked_at = np.zeros(len(POSITIONS)), np.zeros(len(POSITIONS))
    for batch in batches(folder, "clicks", ["impressions", "clicks", "position"]):
        impressions, clicks, position = (numbers(batch[name]) for name in ("impressions", "clicks", "position"))
        shown = impressions > 0
        _add(found, "impressions of a pair", binned(impressions, _COUNTS))
        _add(found, "clicks of a pair", binned(clicks, _COUNTS))
        _add(found, "CTR of a pair", rates(clicks[shown] / impressions[shown]))
        shown_at += np.bincount(bands(position), impressions, len(POSITIONS))
        clicked_at += np.bincount(bands(position), clicks, len(POSITIONS))
    found["impressions by position"] = dict(zip(POSITIONS, shown_at.astype(int).tolist()))
    found["clicks by position"] = dict(zip(POSITIONS, clicked_at.astype(int).tolist()))
    return found


def _signals(folder: Path) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    for batch in batches(folder, "search_relevance", ["passed"]):
        passed = int(pc.sum(batch["passed"]).as_py() or 0)
        _add(found, "search engine", {"passed": passed, "not passed": len(batch["passed"]) - passed})
    for path in files(folder, "judgements"):
        part = "held-out" if path.parent.name == "holdout" else "training"
        for batch in batches_of(path, ["grade"]):
            counts = np.bincount(numbers(batch["grade"]).astype(int), minlength=4)
            _add(found, f"grades of {part} items", dict(zip(GRADES, counts.tolist())))
    for batch in batches(folder, "human", ["gain", "split"]):
        gain, split = numbers(batch["gain"]), batch["split"].to_numpy(zero_copy_only=False)
        for part in ("valid", "test"):
            own = gain[split == part]
            _add(
                found, f"gains of {part} queries", {f"{value:g}": int((own == value).sum()) for value in np.unique(own)}
            )
    return found


def _add(found: dict[str, Distribution], name: str, more: Distribution) -> None:
    one = found.setdefault(name, {})
    for label, count in more.items():
        one[label] = one.get(label, 0) + count
