"""The tables `items` and `keyphrases`, read whole, and the blocklist, whose entries are matched with keyphrases."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.config import ScreeningConfig
from distill.data.preparation.catalogue import ALL_ITEMS, BAD, UNKNOWN, Lookup, keyphrase_lookup
from distill.data.preparation.checking import Columns, TableCounts, read_checked
from distill.data.preparation.sources import TableSource
from distill.data.preparation.token_sets import TokenSets, folded_sets, same_meaning
from distill.data.schema import TABLES, Problems
from distill.data.summary import NOT_THERE, QUARANTINED
from distill.data.text import normalise_keyphrase


def read_items(
    source: TableSource, quarantine: IO[str], counts: TableCounts, screening: ScreeningConfig
) -> tuple[pa.Table, Lookup, int]:
    """Items in order of first appearance, their numbers, and how many identical repetitions were merged."""
    bad: set[str] = set()
    seen: dict[str, int] = {}  # item → hash of its content

    def resolve(values: Columns, problems: Problems) -> None:
        contents = zip(
            values["title"].to_pylist(),
            pc.binary_join(values["category"], "\x1f").to_pylist(),
            (tuple(attributes or ()) for attributes in values["attributes"].to_pylist()),
            values["split"].to_pylist(),
        )
        differs = np.zeros(len(problems.good), bool)
        for row, (item_id, good, content) in enumerate(zip(values["item_id"].to_pylist(), problems.good, contents)):
            if not good:
                bad.add(item_id)
            elif seen.setdefault(item_id, hash(content)) != hash(content):
                differs[row] = True
        problems.add(differs, "item_id: repeated with other content; the first row is kept")

    checked = read_checked(TABLES["items"], source, quarantine, counts, screening, resolve)
    rows = pa.concat_tables([pa.table(values) for values in checked])
    first = _first_rows(rows["item_id"])
    items = rows.take(pa.array(first)).combine_chunks()
    bad -= seen.keys() | {""}
    lookup = Lookup(items["item_id"].combine_chunks(), pa.array(sorted(bad), pa.string()))
    return items, lookup, len(rows) - len(items)


def _first_rows(ids: pa.ChunkedArray) -> np.ndarray:
    """int64: where each distinct id first stands, in order."""
    codes = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    return np.sort(np.unique(codes, return_index=True)[1])


def read_keyphrases(
    source: TableSource, quarantine: IO[str], counts: TableCounts, screening: ScreeningConfig
) -> tuple[np.ndarray, Lookup, int]:
    """Search volume [K] in order of first appearance (the largest among repetitions), numbers, repetitions."""
    bad: set[str] = set()

    def resolve(values: Columns, problems: Problems) -> None:
        normalised = [normalise_keyphrase(text) for text in values["keyphrase"].to_pylist()]
        bad.update(text for text, good in zip(normalised, problems.good) if not good)
        values["keyphrase"] = pa.array(normalised, pa.string())

    index: dict[str, int] = {}
    rows: list[np.ndarray] = [np.zeros(0, np.int64)]
    volumes: list[np.ndarray] = [np.zeros(0)]
    for values in read_checked(TABLES["keyphrases"], source, quarantine, counts, screening, resolve):
        texts = values["keyphrase"].to_pylist()
        rows.append(np.fromiter((index.setdefault(text, len(index)) for text in texts), np.int64, len(texts)))
        volumes.append(np.asarray(values["search_volume"]))
    bad -= index.keys() | {""}
    volume = np.full(len(index), np.nan)
    row = np.concatenate(rows)
    np.fmax.at(volume, row, np.concatenate(volumes))
    lookup = keyphrase_lookup(pa.array(index, pa.string()), pa.array(sorted(bad), pa.string()))
    return volume, lookup, len(row) - len(volume)


@dataclasses.dataclass
class Blocklist:
    """Entries, and what they block."""

    table: pa.Table  # keyphrase, item_id
    entries: int = 0
    merged: int = 0  # rows that repeat an entry
    keyphrases: int = 0  # that entries answer to
    unmatched: int = 0  # entries that no keyphrase answers to: kept, since a later catalogue may have one


def read_blocklist(
    source: TableSource,
    quarantine: IO[str],
    counts: TableCounts,
    screening: ScreeningConfig,
    items: Lookup,
    keyphrases: Sequence[str],
    sets: TokenSets,
    vocabulary: dict[str, int],
) -> Blocklist:
    """An entry blocks every keyphrase of its meaning: order, case, punctuation and plurals make no difference."""

    def resolve(values: Columns, problems: Problems) -> None:
        ids = values.pop("item_id")
        number = items.find(ids)
        problems.add(number == BAD, QUARANTINED["item_id"])
        any_item = pc.equal(ids, "").to_numpy(zero_copy_only=False)
        problems.add((number == UNKNOWN) & ~any_item, NOT_THERE["item_id"])
        values["item"] = np.where(any_item, ALL_ITEMS, number)

    texts: dict[str, int] = {}
    item: list[np.ndarray] = [np.zeros(0, np.int64)]
    text_of: list[int] = []
    for values in read_checked(TABLES["blocklist"], source, quarantine, counts, screening, resolve):
        item.append(values["item"])
        words = map(normalise_keyphrase, values["keyphrase"].to_pylist())
        text_of += [texts.setdefault(text, len(texts)) for text in words]
    others = list(texts)
    other_sets = folded_sets(others, vocabulary)
    meaning = other_sets.distinct()
    rows = np.stack([np.concatenate(item), meaning[np.array(text_of, np.int64)]], axis=1)
    entries = np.unique(rows, axis=0)
    keyphrase, other = same_meaning(keyphrases, sets, others, other_sets)
    chosen = meaning[other] == other
    keyphrase, other = keyphrase[chosen], other[chosen]
    by_meaning: dict[int, list[int]] = {}
    for number, text in zip(keyphrase.tolist(), other.tolist()):
        by_meaning.setdefault(text, []).append(number)
    blocked: list[tuple[int, str]] = []
    unmatched: list[tuple[int, str]] = []
    for number, text in entries.tolist():
        matched = by_meaning.get(text)
        blocked += [(number, keyphrases[row]) for row in matched or ()]
        unmatched += [] if matched else [(number, others[text])]
    written = blocked + sorted(unmatched)
    at = np.array([number for number, _ in written], np.int64)
    table = pa.table(
        {
            "keyphrase": pa.array([text for _, text in written], pa.string()),
            "item_id": items.names.take(pa.array(at, mask=at < 0)),
        }
    )
    return Blocklist(table, len(entries), len(rows) - len(entries), len(set(keyphrase.tolist())), len(unmatched))
