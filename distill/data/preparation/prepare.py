"""Tables as their owner has them → the checked, split, leak-free ones that every later stage reads (`tables.Prepared`).

Items, keyphrases and the small tables of people's labels are read whole; logs of pairs are streamed (`pair_tables`) or
given to Beam (`beam_prepare`). For every table: rows in = training + held out (or just kept) + quarantined + merged as
duplicates + removed as leaks.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.artifacts import write_atomic
from distill.config import DataConfig
from distill.data import tables
from distill.data.preparation.catalogue import Catalogue
from distill.data.preparation.catalogue_tables import read_blocklist, read_items, read_keyphrases
from distill.data.preparation.checking import TableCounts, check_share
from distill.data.preparation.leakage import leaked_keyphrases
from distill.data.preparation.pair_rows import MergeCounts, tasks
from distill.data.preparation.pair_tables import SPILL, Outcome, PairRunner, in_process, run_task
from distill.data.preparation.ranks import RankSample
from distill.data.preparation.sources import Sources, find_sources
from distill.data.preparation.splits import Twins, choose_holdout, earlier_split, find_earlier
from distill.data.preparation.token_sets import folded_sets
from distill.data.schema import TABLES, TRUTH, DataError
from distill.data.summary import Summary, TableSummary
from distill.data.text import item_text
from distill.data.validation import click_screen
from distill.data.validation.about import read_about
from distill.data.validation.validate import validate

_LONG_TITLE_WORDS = 200
_EXTRA_COLUMNS = 10  # that are named


def prepare(
    directory: Path | None, destination: Path, config: DataConfig, run_pairs: PairRunner = in_process
) -> Summary:
    """Checks, splits and cleans tables and writes what training and evaluation read.

    Written to `destination`: `tables` describes the layout; beside it `quarantine.jsonl` (file, line, reason and raw
    text of every bad row), `summary.json` and `validation.json`, what there is to say about the data. The same input
    gives the same bytes.

    Args:
      directory: a data directory, unless all tables are given by `config.sources`.
      destination: folder of the prepared tables.
      config: where else tables lie, shares and thresholds.
      run_pairs: what prepares logs of pairs.

    Raises:
      DataError: a directory or file is missing, a needed table or column is, a file is damaged or holds too many bad
        rows.
    """
    if directory is not None and directory.resolve() == destination.resolve():
        raise DataError(f"{directory}: a data directory cannot be prepared into itself. Choose another destination.")
    previous = find_earlier(config.previous)
    if previous is not None and previous.resolve() == destination.resolve():
        raise DataError(f"config.data.previous={config.previous!r}: is where this run writes. Name an earlier run's.")
    sources = find_sources(directory, config.sources)
    about = read_about(directory, config.simulated)
    tables.clear(destination)
    shutil.rmtree(destination / SPILL, ignore_errors=True)
    summary, ranks = _prepare_tables(sources, destination, config, run_pairs)
    pa.default_memory_pool().release_unused()  # what merging took; checks need some too
    shutil.rmtree(destination / SPILL, ignore_errors=True)
    if sources.truth is not None:
        (destination / "truth").mkdir(exist_ok=True)
        shutil.copyfile(sources.truth, destination / "truth" / TRUTH)
    clicks = click_screen.screen_clicks(destination, config.screening)
    summary.remove_clicks(clicks.dropped_pairs)
    if ranks is not None:
        if clicks.dropped_pairs:
            ranks.remove(*_impossible_pairs(destination))
        _estimate_position_bias(ranks, destination, summary)
    summary.tables = {name: summary.tables[name] for name in TABLES if name in summary.tables}
    write_atomic(
        destination / "summary.json", json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False) + "\n"
    )
    validate(destination, summary, about, clicks, config)
    return summary


def _prepare_tables(
    sources: Sources, destination: Path, config: DataConfig, run_pairs: PairRunner
) -> tuple[Summary, RankSample | None]:
    """All tables, and clicks by rank; what else they took of memory is free again afterwards."""
    with (destination / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        preparation = _Preparation(sources, destination, config, quarantine)
        catalogue = preparation.catalogue()
        pairs = tasks(sources, tables.SPLIT, config.screening)
        for task, outcome in run_pairs(pairs, catalogue, destination, quarantine):
            preparation.take(task.target.name, outcome)
    return preparation.summary, preparation.ranks


def _impossible_pairs(destination: Path) -> tuple[np.ndarray, np.ndarray]:
    """Items and keyphrases, by number, of the pairs that screening took out of the clicks."""
    found = pq.read_table(destination / click_screen.FILE, columns=["item_id", "keyphrase"])
    numbers = []
    for table, column in (("items", "item_id"), ("keyphrases", "keyphrase")):
        names = pq.read_table(destination / f"{table}.parquet", columns=[column])[column]
        numbers.append(pc.index_in(found[column], names.combine_chunks()).to_numpy())
    return numbers[0], numbers[1]


def _estimate_position_bias(ranks: RankSample, destination: Path, summary: Summary) -> None:
    """Writes the chance of examination by rank, if the log has pairs that were shown at different ranks."""
    try:
        bias = ranks.position_bias()
    except DataError as error:
        summary.notices.append(f"position bias is not estimated: {error}")
        return
    if bias is None:
        return
    values = dataclasses.asdict(bias) | {"propensity": bias.propensity.tolist()}
    write_atomic(destination / tables.PROPENSITY, json.dumps(values, indent=1) + "\n")
    summary.position_bias = (
        f"a rank is examined as rank^-{bias.eta:.2f} (± {bias.eta_error:.2f}), from {bias.clicks:,} clicks on "
        "pairs that were shown at different ranks"
    )


class _Preparation:
    """Goes through the tables in their order and keeps the summary."""

    def __init__(self, sources: Sources, destination: Path, config: DataConfig, quarantine: IO[str]):
        self._sources, self._destination, self._config = sources, destination, config
        self._quarantine = quarantine
        found = sources.tables
        self.ranks: RankSample | None = None  # of `clicks`
        self.summary = Summary(
            left_out={
                name: table.left_out
                for name, table in TABLES.items()
                if table.left_out and name not in found and not (name == "clicks" and "events" in found)
            },
            notices=[_about_stranger(name) for name in sources.strangers],
        )

    def catalogue(self) -> Catalogue:
        """Items, keyphrases and all small tables: written, and what rows of pairs refer to."""
        counts = TableCounts()
        source, screening = self._sources.tables["items"], self._config.screening
        items, item_lookup, merged = read_items(source, self._quarantine, counts, screening)
        self._close("items", counts, MergeCounts(kept=len(items), merged=merged))
        counts = TableCounts()
        source = self._sources.tables["keyphrases"]
        volume, lookup, merged = read_keyphrases(source, self._quarantine, counts, screening)
        self._close("keyphrases", counts, MergeCounts(kept=len(lookup), merged=merged))
        for name in ("items", "keyphrases"):
            if not self.summary.tables[name].kept:
                place = self._sources.tables[name].place
                raise DataError(f"{place}: the table has no usable row. At least one is needed.")
        catalogue = Catalogue(item_lookup, lookup, self._split(items), np.ones(len(lookup), bool))
        self._notice_items(items)
        writer = tables.Writer(self._destination, item_lookup.names, lookup.names)
        texts = [item_text(*row) for row in zip(items["title"].to_pylist(), items["category"].to_pylist())]
        writer.items(items, texts, catalogue.holdout)
        del items, texts
        queries: set[str] = set()
        for task in tasks(self._sources, ("human", "judge_agreement"), self._config.screening):
            met = queries if task.target.name == "human" else None
            self.take(task.target.name, run_task(task, catalogue, self._destination, self._quarantine, met=met))
        self._keyphrases(catalogue, queries)
        writer.keyphrases(volume, catalogue.trainable)
        return catalogue

    def _keyphrases(self, catalogue: Catalogue, queries: set[str]) -> None:
        """Finds the keyphrases that must not be trained on and those that are blocked."""
        texts, vocabulary = catalogue.keyphrases.names.to_pylist(), {}
        sets = folded_sets(texts, vocabulary)
        same, near = leaked_keyphrases(texts, queries, self._config.near_duplicate_jaccard, sets, vocabulary)
        catalogue.trainable = ~(same | near)
        summary = self.summary
        summary.human_queries, summary.near_duplicates = int(same.sum()), int(near.sum())
        if (source := self._sources.tables.get("blocklist")) is not None:
            counts = TableCounts()
            blocklist = read_blocklist(
                source, self._quarantine, counts, self._config.screening, catalogue.items, texts, sets, vocabulary
            )
            self._close("blocklist", counts, MergeCounts(kept=blocklist.entries, merged=blocklist.merged))
            summary.blocked_keyphrases, summary.unmatched_blocks = blocklist.keyphrases, blocklist.unmatched
            with tables.TableWriter(self._destination / "blocklist.parquet", blocklist.table.schema) as file:
                file.write(blocklist.table)

    def take(self, name: str, outcome: Outcome) -> None:
        """Notes the outcome of a table of pairs, and of the events in it."""
        for table, counts in outcome.checked.items():
            self._close(table, counts, outcome.merged[table])
        if name in tables.SPLIT and not any(self.summary.tables[table].training for table in outcome.checked):
            self.summary.notices.append(f"{name}: no training row is left")
        if name == "human":
            self._notice_human()
        if outcome.ranks is not None:
            self.ranks = outcome.ranks

    def _close(self, name: str, counts: TableCounts, merged: MergeCounts) -> None:
        """Notes a table's counts; stops where too many rows are bad."""
        source = self._sources.tables[name]
        self.summary.tables[name] = TableSummary(
            source.title,
            rows=counts.rows,
            kept=merged.kept,
            training=merged.training if name in (*tables.SPLIT, "events") else 0,
            holdout=merged.holdout,
            quarantined=counts.quarantined,
            consequences=counts.consequences,
            merged=merged.merged,
            removed=merged.removed,
            reasons=(reasons := counts.worst_first()),
            examples={
                reason: [f"{source.files[file].name}:{line}" for file, line in places]
                for reason, places in sorted(counts.examples.items())
                if reason in reasons
            },
            personal=dict(sorted(counts.personal.items())),
            masked=self._config.screening.personal_data == "mask",
        )
        self.summary.unseen_clicks += merged.unseen_clicks
        if counts.extra:
            extra = ", ".join(sorted(counts.extra)[:_EXTRA_COLUMNS])
            if (more := len(counts.extra) - _EXTRA_COLUMNS) > 0:
                extra += f" and {more:,} more"
            self.summary.notices.append(f"{source.title}: columns not of the contract are ignored: {extra}")
        self._quarantine.flush()
        check_share(source, counts, self._config.max_bad_share)

    def _split(self, items: pa.Table) -> np.ndarray:
        """Bool [N]: the held-out items, from the items table where it has a split, else by title clusters."""
        summary, config = self.summary, self._config
        twins = Twins(items["title"].to_pylist(), config.twin_title_jaccard)
        given = np.array(items["split"].to_pylist(), object)
        if (given != "").any():
            summary.split_from = "items table"
            holdout = given == "holdout"
            if (given == "").any():
                summary.notices.append(f"items: {(given == '').sum():,} rows have an empty split: taken as train")
            if config.previous:
                summary.notices.append("items: the table has a split of its own, so data.previous decides none")
        else:
            known = earlier_split(Path(config.previous), items["item_id"]) if config.previous else None
            summary.split_from = "title clusters" if known is None else "earlier run"
            split = choose_holdout(items["item_id"].to_pylist(), twins, config.holdout_share, known)
            holdout, summary.known_items = split.holdout, split.kept
            summary.items_after_twins, summary.items_between_twins = split.followed, split.torn
        summary.twins_across_splits = twins.across(holdout)
        if not holdout.any():
            summary.notices.append("items: none is held out, so the metrics holdout/* cannot be measured")
        if holdout.all():
            summary.notices.append("items: all are held out, so there is nothing to train on")
        summary.train_items, summary.holdout_items = int((~holdout).sum()), int(holdout.sum())
        return holdout

    def _notice_items(self, items: pa.Table) -> None:
        words = pc.add(pc.count_substring(items["title"], " "), 1).to_numpy()
        if (words > _LONG_TITLE_WORDS).any():
            longest = items["item_id"][int(words.argmax())].as_py()
            self.summary.notices.append(
                f"items: {(words > _LONG_TITLE_WORDS).sum():,} titles have more than {_LONG_TITLE_WORDS} words "
                f"(longest: {words.max():,}, item {longest}); the encoder reads the beginning only"
            )

    def _notice_human(self) -> None:
        human = tables.read(self._destination / "human.parquet").select(["keyphrase", "split"])
        both = len(human.group_by(["keyphrase", "split"]).aggregate([])) - len(human["keyphrase"].unique())
        if both:
            self.summary.notices.append(
                f"human: {both:,} queries have both valid and test rows; tuning on valid sees them"
            )


def _about_stranger(name: str) -> str:
    table = name.split(".")[0].lower()
    if table not in TABLES:
        return f"{name} is no table of the contract: ignored"
    return (
        f"{name} is ignored: in a data directory the table is one file {table}.parquet, .jsonl, .tsv or .csv, "
        f"optionally .gz; name anything else in data.sources.{table}.files"
    )
