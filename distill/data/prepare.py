"""A data directory → the checked, split, leak-free tables that every later stage reads (`tables.Prepared`).

For every table: rows in = training + held out (or just kept) + quarantined + merged as duplicates + removed as leaks.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import collections
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.config import DataConfig
from distill.data import tables
from distill.data.leakage import leaked_keyphrases
from distill.data.readers import read_table
from distill.data.schema import TABLES, DataError, Problems, Table, find_tables, read_columns
from distill.data.splits import choose_holdout, twins_across
from distill.data.tables import Columns
from distill.data.text import item_text, normalise_keyphrase

_RAW_CHARACTERS = 2000  # of a bad row that the quarantine keeps
_LONG_TITLE_WORDS = 200
_QUARANTINED = {"item_id": "item_id: its item was quarantined", "keyphrase": "keyphrase: itself quarantined"}
_UNKNOWN_KEYPHRASE = "keyphrase: not in the keyphrases table"
_UNKNOWN, _BAD, _ALL_ITEMS = -1, -2, -1


@dataclasses.dataclass
class TableSummary:
    """Counts of one table; `rows` is the sum of `kept`, `quarantined`, `merged` and `removed`."""

    file: str
    rows: int = 0
    kept: int = 0
    training: int = 0  # of the kept rows
    holdout: int = 0  # of the kept rows
    quarantined: int = 0
    consequences: int = 0  # of the quarantined rows: only their item or keyphrase was bad; not part of the bad share
    merged: int = 0
    removed: int = 0  # training rows on a human query or a near-duplicate of one
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)  # of the quarantined rows


@dataclasses.dataclass
class Summary:
    """What `prepare` did with a data directory."""

    tables: dict[str, TableSummary] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)  # missing table → what the run does without
    notices: list[str] = dataclasses.field(default_factory=list)
    split_from: str = ""  # `items table` or `title clusters`
    train_items: int = 0
    holdout_items: int = 0
    twins_across_splits: int = 0  # held-out items with a twin title in training
    human_queries: int = 0  # keyphrases that are one
    near_duplicates: int = 0  # keyphrases that nearly are one

    def lines(self) -> list[str]:
        """The summary for a reader, a line each."""
        out = []
        for name, table in self.tables.items():
            parts = [f"{table.kept:,} kept"]
            if table.training or table.holdout:
                parts[0] += f" ({table.training:,} training, {table.holdout:,} held out)"
            parts += [f"{getattr(table, what):,} {what}" for what in ("quarantined", "merged", "removed")]
            out.append(f"{name}: {table.rows:,} rows in {table.file} = {' + '.join(parts)}")
            out += [f"  quarantined {count:,}: {reason}" for reason, count in table.reasons.items()]
        out.append(
            f"split from the {self.split_from}: {self.train_items:,} train, {self.holdout_items:,} holdout items; "
            f"{self.twins_across_splits:,} holdout items have a twin title in train"
        )
        out.append(
            f"kept out of training: {self.human_queries:,} keyphrases that are human queries, "
            f"{self.near_duplicates:,} near-duplicates of one"
        )
        out += [f"no table {name}: left out is {what}" for name, what in self.left_out.items()]
        return out + [f"notice: {notice}" for notice in self.notices]


class _Reader:
    """Reads tables row-checked, sends bad rows to the quarantine and counts."""

    def __init__(self, files: dict[str, Path], quarantine: IO[str], config: DataConfig, summary: Summary):
        self._files, self._quarantine, self._config, self._summary = files, quarantine, config, summary

    def rows(self, table: Table, resolve: Callable[[Columns, Problems], None]) -> Iterator[Columns]:
        """The good rows of each chunk; `resolve` adds and replaces columns and notes further problems."""
        path = self._files[table.name]
        counts = self._summary.tables[table.name] = TableSummary(path.name)
        reasons: collections.Counter[str] = collections.Counter()
        examples: dict[str, list[int]] = {}
        extra: dict[str, None] = {}
        for chunk in read_table(path, table):
            problems = Problems(len(chunk.lines))
            for reason in dict.fromkeys(chunk.faults.values()):
                faulty = [position for position, why in chunk.faults.items() if why == reason]
                problems.add(np.isin(np.arange(len(chunk.lines)), faulty), reason)
            values = read_columns(table, chunk.columns, problems)
            resolve(values, problems)
            for row in np.flatnonzero(~problems.good).tolist():
                reason, line = problems.reason(row), int(chunk.lines[row])
                reasons[reason] += 1
                if len(examples.setdefault(reason, [])) < 3:
                    examples[reason].append(line)
                record = {"file": path.name, "line": line, "reason": reason, "raw": chunk.raw(row)[:_RAW_CHARACTERS]}
                self._quarantine.write(json.dumps(record, ensure_ascii=False) + "\n")
            extra |= dict.fromkeys(name for name in chunk.found if name not in {c.name for c in table.columns})
            counts.rows += len(chunk.lines)
            good = pa.array(problems.good)
            yield {
                name: column.filter(good) if isinstance(column, pa.Array) else column[problems.good]
                for name, column in values.items()
            }
        counts.reasons = dict(reasons.most_common())
        counts.quarantined = reasons.total()
        harmless = set(_QUARANTINED.values()) | (set() if table.unknown_keyphrase_counts else {_UNKNOWN_KEYPHRASE})
        counts.consequences = sum(reasons[reason] for reason in harmless)
        if extra:
            self._summary.notices.append(f"{path.name}: columns not of the contract are ignored: {', '.join(extra)}")
        self._check_share(path, counts, examples)

    def _check_share(self, path: Path, counts: TableSummary, examples: dict[str, list[int]]) -> None:
        bad, of = counts.quarantined - counts.consequences, counts.rows - counts.consequences
        if bad > self._config.max_bad_share * of:
            self._quarantine.flush()
            worst = "; ".join(
                f"{count:,} × {reason} (lines {', '.join(map(str, examples[reason]))})"
                for reason, count in list(counts.reasons.items())[:3]
            )
            raise DataError(
                f"{path}: {bad:,} of {of:,} rows are bad ({bad / of:.1%}), more than data.max_bad_share="
                f"{self._config.max_bad_share:g}. Commonest: {worst}. Repair the file (quarantine.jsonl lists all), "
                "or raise data.max_bad_share."
            )


@dataclasses.dataclass
class _Catalogue:
    """Ids of one kind: those kept, with their row, and those whose every row was bad."""

    index: dict[str, int] = dataclasses.field(default_factory=dict)
    bad: set[str] = dataclasses.field(default_factory=set)
    normalise: Callable[[str], str] = str

    def find(self, texts: pa.Array) -> np.ndarray:
        """int32 [rows]: row of each text in the catalogue, or `_UNKNOWN`, or `_BAD`."""
        encoded = texts.dictionary_encode()
        found = np.empty(len(encoded.dictionary), np.int32)
        for position, text in enumerate(encoded.dictionary.to_pylist()):
            key = self.normalise(text)
            found[position] = self.index.get(key, _BAD if key in self.bad else _UNKNOWN)
        return found[encoded.indices.to_numpy()]


def _read_items(reader: _Reader) -> tuple[pa.Table, _Catalogue, int]:
    """Items in order of first appearance, their catalogue, and how many identical repetitions were merged."""
    catalogue = _Catalogue()
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
                catalogue.bad.add(item_id)
            elif seen.setdefault(item_id, hash(content)) != hash(content):
                differs[row] = True
        problems.add(differs, "item_id: repeated with other content; the first row is kept")

    rows = pa.concat_tables([pa.table(values) for values in reader.rows(TABLES["items"], resolve)])
    first = np.zeros(len(rows), bool)
    for row, item_id in enumerate(rows["item_id"].to_pylist()):
        if item_id not in catalogue.index:
            catalogue.index[item_id] = len(catalogue.index)
            first[row] = True
    catalogue.bad -= catalogue.index.keys() | {""}
    return rows.filter(pa.array(first)).combine_chunks(), catalogue, int((~first).sum())


def _read_keyphrases(reader: _Reader) -> tuple[np.ndarray, _Catalogue, int]:
    """Search volume [K] in order of first appearance (the largest among repetitions), catalogue, repetitions."""
    catalogue = _Catalogue(normalise=normalise_keyphrase)

    def resolve(values: Columns, problems: Problems) -> None:
        normalised = [normalise_keyphrase(text) for text in values["keyphrase"].to_pylist()]
        catalogue.bad.update(text for text, good in zip(normalised, problems.good) if not good)
        values["keyphrase"] = pa.array(normalised, pa.string())

    texts: list[str] = []
    volumes: list[np.ndarray] = [np.zeros(0)]
    for values in reader.rows(TABLES["keyphrases"], resolve):
        texts += values["keyphrase"].to_pylist()
        volumes.append(np.asarray(values["search_volume"]))
    rows = [catalogue.index.setdefault(text, len(catalogue.index)) for text in texts]
    catalogue.bad -= catalogue.index.keys() | {""}
    volume = np.full(len(catalogue.index), np.nan)
    np.fmax.at(volume, rows, np.concatenate(volumes))
    return volume, catalogue, len(rows) - len(volume)


def _read_pairs(reader: _Reader, table: Table, items: _Catalogue, keyphrases: _Catalogue) -> tuple[Columns, set[str]]:
    """The good rows with int32 `item` and `keyphrase` in place of the ids, and every keyphrase text that was met."""
    met: set[str] = set()

    def resolve(values: Columns, problems: Problems) -> None:
        texts = values.pop("keyphrase")
        if table.name == "human":
            met.update(texts.unique().to_pylist())
        ids = values.pop("item_id")
        item = items.find(ids)
        problems.add(item == _BAD, _QUARANTINED["item_id"])
        any_item = pc.equal(ids, "").to_numpy(zero_copy_only=False)  # only blocklist rows may leave it empty
        problems.add((item == _UNKNOWN) & ~any_item, "item_id: not in the items table")
        keyphrase = keyphrases.find(texts)
        problems.add(keyphrase == _BAD, _QUARANTINED["keyphrase"])
        problems.add(keyphrase == _UNKNOWN, _UNKNOWN_KEYPHRASE)
        values |= {"item": np.where(any_item, _ALL_ITEMS, item).astype(np.int32), "keyphrase": keyphrase}

    chunks = list(reader.rows(table, resolve))
    joined: Columns = {}
    for name, first in chunks[0].items() if chunks else ():
        parts = [chunk[name] for chunk in chunks]
        joined[name] = pa.concat_arrays(parts) if isinstance(first, pa.Array) else np.concatenate(parts)
    return joined, met


def prepare(source: Path, destination: Path, config: DataConfig) -> Summary:
    """Checks, splits and cleans the data directory `source` and writes what training and evaluation read.

    Written to `destination`: `tables` describes the layout; beside it `quarantine.jsonl` (file, line, reason and raw
    text of every bad row) and `summary.json`. The same input gives the same bytes.

    Raises:
      DataError: `source` is missing, lacks a needed table or column, is damaged, or has too many bad rows.
    """
    if source.resolve() == destination.resolve():
        raise DataError(f"{source}: a data directory cannot be prepared into itself. Choose another destination.")
    files, strangers = find_tables(source)
    tables.clear(destination)
    truth = source / tables.TRUTH
    summary = Summary(left_out={name: table.left_out for name, table in TABLES.items() if name not in files})
    summary.notices += [f"{name} is no table of the contract: ignored" for name in strangers if name != truth.name]
    with (destination / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        reader = _Reader(files, quarantine, config, summary)
        items, item_catalogue, summary.tables["items"].merged = _read_items(reader)
        volume, keyphrase_catalogue, summary.tables["keyphrases"].merged = _read_keyphrases(reader)
        for name, catalogue in (("items", item_catalogue), ("keyphrases", keyphrase_catalogue)):
            summary.tables[name].kept = len(catalogue.index)
            if not catalogue.index:
                raise DataError(f"{files[name]}: the table has no usable row. At least one is needed.")
        holdout = _split(items, config, summary)
        keyphrases = list(keyphrase_catalogue.index)
        queries: set[str] = set()
        pairs: dict[str, Columns] = {}
        for name in [name for name in TABLES if name in files and name not in ("items", "keyphrases")]:
            columns, met = _read_pairs(reader, TABLES[name], item_catalogue, keyphrase_catalogue)
            queries |= met
            pairs[name], summary.tables[name].merged = tables.merge_duplicates(TABLES[name], columns)
    if "human" in pairs:
        _notice_human(pairs["human"], summary)
    same, near = leaked_keyphrases(keyphrases, queries, config.near_duplicate_jaccard)
    summary.human_queries, summary.near_duplicates = int(same.sum()), int(near.sum())
    trainable = ~(same | near)
    _notice_items(items, summary)
    writer = tables.Writer(destination, items["item_id"].combine_chunks(), pa.array(keyphrases))
    writer.items(
        items, [item_text(*row) for row in zip(items["title"].to_pylist(), items["category"].to_pylist())], holdout
    )
    writer.keyphrases(volume, trainable)
    for name, columns in pairs.items():
        counts = summary.tables[name]
        if name in tables.SPLIT:
            held = holdout[columns["item"]]
            train = ~held & trainable[columns["keyphrase"]]
            counts.training, counts.holdout = int(train.sum()), int(held.sum())
            counts.removed = len(held) - counts.training - counts.holdout
            counts.kept = counts.training + counts.holdout
            if not counts.training:
                summary.notices.append(f"{name}: no training row is left")
            writer.pairs(TABLES[name], columns, train, name)
            writer.pairs(TABLES[name], columns, held, f"holdout/{name}")
        else:
            counts.kept = len(columns["item"])
            writer.pairs(TABLES[name], columns, np.ones(counts.kept, bool), name)
    if truth.exists():
        shutil.copyfile(truth, writer.path(f"truth/{truth.stem}"))
    text = json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False)
    (destination / "summary.json").write_text(text + "\n", encoding="utf-8")
    return summary


def _split(items: pa.Table, config: DataConfig, summary: Summary) -> np.ndarray:
    """Bool [N]: the held-out items, from the items table where it has a split, else by title clusters."""
    titles = items["title"].to_pylist()
    given = np.array(items["split"].to_pylist(), object)
    if (given == "").all():
        summary.split_from = "title clusters"
        holdout = choose_holdout(items["item_id"].to_pylist(), titles, config.holdout_share, config.twin_title_jaccard)
    else:
        summary.split_from = "items table"
        holdout = given == "holdout"
        summary.twins_across_splits = twins_across(titles, holdout, config.twin_title_jaccard)
        if (given == "").any():
            summary.notices.append(f"items: {(given == '').sum():,} rows have an empty split: taken as train")
    if not holdout.any():
        summary.notices.append("items: none is held out, so the metrics holdout/* cannot be measured")
    summary.train_items, summary.holdout_items = int((~holdout).sum()), int(holdout.sum())
    return holdout


def _notice_items(items: pa.Table, summary: Summary) -> None:
    words = pc.add(pc.count_substring(items["title"], " "), 1).to_numpy()
    if (words > _LONG_TITLE_WORDS).any():
        longest = items["item_id"][int(words.argmax())].as_py()
        summary.notices.append(
            f"items: {(words > _LONG_TITLE_WORDS).sum():,} titles have more than {_LONG_TITLE_WORDS} words (longest: "
            f"{words.max():,}, item {longest}); the encoder reads the beginning only"
        )


def _notice_human(human: Columns, summary: Summary) -> None:
    splits = human["split"].to_numpy(zero_copy_only=False)
    both = np.intersect1d(human["keyphrase"][splits == "valid"], human["keyphrase"][splits == "test"])
    if len(both):
        summary.notices.append(f"human: {len(both):,} queries have both valid and test rows; tuning on valid sees them")
