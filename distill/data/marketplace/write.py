"""The simulated marketplace as a data directory (DESIGN.md, "A data directory")."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from distill.config import MarketplaceConfig
from distill.data.marketplace.engine import PASS, Impressions
from distill.data.marketplace.world import World

_KEYPHRASES_AT_ONCE = 512
_ITEMS_AT_ONCE = 256
_LABELS, _GAINS = np.array(["I", "C", "S", "E"]), np.array([0.0, 0.01, 0.1, 1.0])  # by grade
_HUMAN_NOISE = 0.05  # share of labels that a tired annotator moved by one
_HUMAN_PAIRS = (25, 45)  # labelled items a query
_EXACT_MATCHES = 3  # at least; fewer leave little to rank
_AGREEMENT_PAIRS = 1500


class _Table:
    """A gzipped TSV that grows by chunks; the same rows give the same bytes."""

    def __init__(self, path: Path, columns: tuple[str, ...]):
        self._file = path.open("wb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=self._file, mtime=0)
        self._gzip.write(("\t".join(columns) + "\n").encode())
        self._columns = columns
        self._options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        self.rows = 0

    def write(self, *columns: np.ndarray | list[str]) -> None:
        table = pa.table(dict(zip(self._columns, (pa.array(column) for column in columns), strict=True)))
        pyarrow.csv.write_csv(table, self._gzip, self._options)
        self.rows += table.num_rows

    def __enter__(self) -> _Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gzip.close()
        self._file.close()


def _chunks(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _labelled_items(world: World, keyphrase: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Items [n] to label for a query and whether the engine shows each; None where there is too little to label.

    Up to half are exact matches, then the engine's best up to half, then anything shown or of the right kind.
    """
    scores = world.engine.by_keyphrase(np.array([keyphrase]))
    passed, _ = world.engine.ranking(scores, 0)
    every = np.arange(len(world.items))
    truth = world.grade(every, np.full(len(every), keyphrase))
    pool = rng.permutation(np.union1d(passed, every[truth >= 2]))
    if len(pool) < _HUMAN_PAIRS[0] or np.count_nonzero(truth == 3) < _EXACT_MATCHES:
        return None
    count = int(rng.integers(_HUMAN_PAIRS[0], _HUMAN_PAIRS[1] + 1))
    exact = rng.permutation(every[truth == 3])[: count // 2]
    chosen = np.concatenate([exact, passed[: count // 2], pool])
    _, first = np.unique(chosen, return_index=True)
    chosen = chosen[np.sort(first)][:count]
    return chosen, np.isin(chosen, passed)


def _write_human(world: World, directory: Path) -> dict[str, int]:
    """The referee's table and the pairs that judge and humans both graded (hard ones: shown, same department)."""
    rng = np.random.default_rng([world.seed, 5])
    quarters = np.array_split(np.argsort(-world.search_volume, kind="stable"), 4)  # head … tail
    wanted = min(world.config.human_queries, len(world.keyphrases))
    queries: list[tuple[int, np.ndarray, np.ndarray]] = []
    for position, quarter in enumerate(quarters):
        share = (wanted * (position + 1)) // 4 - (wanted * position) // 4
        for keyphrase in rng.permutation(quarter):
            if not share:
                break
            if (found := _labelled_items(world, int(keyphrase), rng)) is not None:
                queries.append((int(keyphrase), *found))
                share -= 1
    valid = rng.permutation(len(queries)) < round(len(queries) / 5)

    item = np.concatenate([items for _, items, _ in queries] or [np.empty(0, np.int64)])
    keyphrase = np.repeat([k for k, _, _ in queries], [len(items) for _, items, _ in queries]).astype(np.int64)
    split = np.repeat(np.where(valid, "valid", "test"), [len(items) for _, items, _ in queries])
    shown = np.concatenate([s for _, _, s in queries] or [np.empty(0, bool)])
    label = world.grade(item, keyphrase)
    tired = rng.random(len(label)) < _HUMAN_NOISE
    moved = np.where(label == 0, 1, np.where(label == 3, 2, label + rng.choice((-1, 1), len(label))))
    label = np.where(tired, moved, label)
    ids, texts = world.item_ids, world.keyphrase_array
    with _Table(directory / "human.tsv.gz", ("item_id", "keyphrase", "label", "gain", "split")) as human:
        human.write(ids[item], texts[keyphrase], _LABELS[label], _GAINS[label], split)
    hard = np.flatnonzero(shown & ~world.unrelated(item, keyphrase))
    hard = np.sort(rng.permutation(hard)[:_AGREEMENT_PAIRS])
    with _Table(directory / "judge_agreement.tsv.gz", ("item_id", "keyphrase", "grade", "human", "split")) as both:
        grade = world.judge(item[hard], keyphrase[hard])
        both.write(ids[item[hard]], texts[keyphrase[hard]], grade, _LABELS[label[hard]], split[hard])
    return {"human": human.rows, "judge_agreement": both.rows}


def _write_clicks(world: World, directory: Path) -> tuple[int, np.ndarray]:
    """The click log; returns its row count and the sorted codes item × keyphrases + keyphrase of exposed pairs."""
    total = len(world.keyphrases)
    rng = np.random.default_rng([world.seed, 6])
    searches = rng.multinomial(world.config.searches, world.search_volume / world.search_volume.sum())
    exposed = []
    with _Table(directory / "clicks.tsv.gz", ("item_id", "keyphrase", "impressions", "clicks", "position")) as table:
        for chunk in _chunks(total, _KEYPHRASES_AT_ONCE):
            scores = world.engine.by_keyphrase(chunk)
            logs = []
            for row, keyphrase in enumerate(chunk):
                items, values = world.engine.ranking(scores, row)
                grades = world.grade(items, np.full(len(items), keyphrase))
                logs.append(world.engine.show(int(keyphrase), items, values, grades, int(searches[keyphrase])))
            item, keyphrase, impressions, clicks, position = (
                np.concatenate([getattr(log, field.name) for log in logs]) for field in dataclasses.fields(Impressions)
            )
            exposed.append(item * total + keyphrase)
            table.write(
                world.item_ids[item], world.keyphrase_array[keyphrase], impressions, clicks, np.round(position, 2)
            )
    return table.rows, np.sort(np.concatenate(exposed))


def _engine_rows(scores: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Keyphrases of one item ([keyphrases] scores) whose engine score is published: half its best, half a sample.

    The sample takes pairs that share a word with the query ten times as often as others.
    """
    count = min(count, len(scores))
    order = rng.random(len(scores)) * np.where(scores > 0, 0.1, 1.0)
    order[np.argpartition(-scores, count // 2)[: count // 2]] = -1.0
    return np.sort(np.argpartition(order, count - 1)[:count])


def _write_engine(world: World, directory: Path) -> dict[str, int]:
    """The engine's scores and what other sources, lexical ones too, already recommend."""
    total, per_item = len(world.keyphrases), world.config.search_relevance_per_item
    with (
        _Table(directory / "search_relevance.tsv.gz", ("item_id", "keyphrase", "score", "passed")) as relevance,
        _Table(directory / "recommendations.tsv.gz", ("item_id", "keyphrase", "source")) as recommendations,
    ):
        for chunk in _chunks(len(world.items), _ITEMS_AT_ONCE):
            sparse_scores = world.engine.by_item(chunk)
            shown, offered = [], []
            for row, item in enumerate(chunk):
                rng = np.random.default_rng([world.seed, 7, int(item)])
                scores = np.zeros(total, np.float32)
                part = slice(sparse_scores.indptr[row], sparse_scores.indptr[row + 1])
                scores[sparse_scores.indices[part]] = sparse_scores.data[part]
                if per_item:
                    keyphrases = _engine_rows(scores, per_item, rng)
                    shown.append((np.full(len(keyphrases), item), keyphrases, scores[keyphrases]))
                best = np.argsort(-scores, kind="stable")[:20]
                best = best[scores[best] > 0]
                rules, rest = best[:3], rng.permutation(best[3:])[:2]
                sources = np.repeat(["rules", "seller"], [len(rules), len(rest)])
                offered.append((np.full(len(sources), item), np.concatenate([rules, rest]), sources))
            if shown:
                item, keyphrase, score = (np.concatenate(columns) for columns in zip(*shown))
                passed = (score >= PASS).astype(np.int64)
                relevance.write(
                    world.item_ids[item],
                    world.keyphrase_array[keyphrase],
                    np.round(score.astype(np.float64), 4),
                    passed,
                )
            item, keyphrase, source = (np.concatenate(columns) for columns in zip(*offered))
            recommendations.write(world.item_ids[item], world.keyphrase_array[keyphrase], source)
    return {"search_relevance": relevance.rows, "recommendations": recommendations.rows}


def _write_truth(world: World, path: Path, exposed: np.ndarray) -> int:
    """Every pair of a held-out item with true grade ≥ 1, and whether anyone ever saw it."""
    total = len(world.keyphrases)
    schema = pa.schema(
        [("item_id", pa.string()), ("keyphrase", pa.string()), ("grade", pa.int8()), ("exposed", pa.bool_())]
    )
    rows = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for chunk in np.array_split(np.flatnonzero(world.holdout), max(1, int(world.holdout.sum()) * total >> 20)):
            item, keyphrase = np.repeat(chunk, total), np.tile(np.arange(total), len(chunk))
            grade = world.grade(item, keyphrase)
            kept = np.flatnonzero(grade)
            item, keyphrase = item[kept], keyphrase[kept]
            seen = np.isin(item * total + keyphrase, exposed)
            columns = (world.item_ids[item], world.keyphrase_array[keyphrase], grade[kept], seen)
            writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema)], schema=schema))
            rows += len(kept)
    return rows


def write_marketplace(directory: Path, config: MarketplaceConfig, seed: int) -> dict[str, int]:
    """Writes the simulated marketplace as a data directory, with `truth.parquet` beside the contract's tables.

    `about.json` says that all of it is simulated.

    There is no judgements table: `World.judge` answers. Rows are written in chunks, so memory holds the catalogue, the
    engine's sparse index and one code an exposed pair, never all pairs. The same arguments give the same bytes.

    Returns:
        Table name → rows.

    Raises:
        ValueError: when the config's sizes cannot be made; OSError: when the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    world = World(config, seed)
    counts = {"items": len(world.items), "keyphrases": len(world.keyphrases)}
    with (
        (directory / "items.jsonl.gz").open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as lines,
    ):
        for item in world.items:
            lines.write((json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n").encode())
    with _Table(directory / "keyphrases.tsv.gz", ("keyphrase", "search_volume")) as table:
        table.write(world.keyphrase_array, world.search_volume)
    counts["clicks"], exposed = _write_clicks(world, directory)
    counts |= _write_engine(world, directory)
    counts |= _write_human(world, directory)
    rng = np.random.default_rng([seed, 8])
    blocked = np.sort(
        rng.choice(counts["keyphrases"], min(counts["keyphrases"], 3 + counts["keyphrases"] // 1000), replace=False)
    )
    with _Table(directory / "blocklist.tsv.gz", ("keyphrase",)) as table:
        table.write(world.keyphrase_array[blocked])
    counts["blocklist"] = table.rows
    counts["truth"] = _write_truth(world, directory / "truth.parquet", exposed)
    about = {
        "source": f"the embedded marketplace, seed {seed}: listings, buyers and clicks are made up by a program",
        "simulated": [name for name in counts if name != "truth"],
    }
    (directory / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    return counts
