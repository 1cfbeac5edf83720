"""recommend: keyphrases for each item, without what is known already, blocked or not relevant enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.artifacts import read_json, write_json
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context, Stage
from distill.stages.index import INDEX, ITEMS, indexed_width

SHARD_ITEMS = 1024  # a shard is the unit of resuming


def run(context: Context, folder: Path) -> dict[str, Any]:
    import numpy as np

    from distill.retrieval.scann_index import KeyphraseIndex

    prepared, settings = context.prepared, context.experiment.recommend
    index = KeyphraseIndex.load(context.folder("index") / INDEX)
    vectors = indexed_width(context, np.load(context.folder("index") / ITEMS))
    threshold = read_json(context.folder("assistant") / CALIBRATION)["threshold"]["logit"]
    rows = np.arange(len(prepared.item_ids))
    if settings.items == "holdout":
        rows = rows[prepared.item_is_holdout]
    scorer, filters = context.pair_scorer(), _Filters(context)
    shards = max(1, -(-len(rows) // SHARD_ITEMS))
    total: dict[str, int] = {}
    with context.reporter.progress("recommend", len(rows)) as advance:
        for shard in range(shards):
            span = rows[shard * SHARD_ITEMS : (shard + 1) * SHARD_ITEMS]
            path = folder / f"part-{shard:05d}-of-{shards:05d}.parquet"
            # The counts are written last, so a shard without them is made again.
            if not path.with_suffix(".json").exists():
                found, cosines = index.search(vectors[span], settings.candidates)
                item, rank = np.nonzero(found >= 0)
                logits = scorer(found[item, rank], span[item])
                counts = _write(
                    path, context, filters, span, found, cosines, _spread(found.shape, item, rank, logits), threshold
                )
                write_json(path.with_suffix(".json"), counts)
            for name, count in read_json(path.with_suffix(".json")).items():
                total[name] = total.get(name, 0) + count
            advance(len(span))
    items = max(1, total["items"])
    context.reporter.line(
        f"recommend: {total['kept']:,} keyphrases for {total['items']:,} items; "
        f"{100 * total['covered_items'] / items:.1f} % of the items have at least one"
    )
    return total


def _spread(shape: tuple[int, ...], item: Any, rank: Any, values: Any) -> Any:
    import numpy as np

    spread = np.full(shape, -np.inf, np.float32)
    spread[item, rank] = values
    return spread


class _Filters:
    """What an item's recommendations must not hold."""

    def __init__(self, context: Context):
        prepared = context.prepared
        self.already: dict[int, list[str]] = {}
        other = prepared.recommendations()
        if other is not None:
            for item, keyphrase in zip(other["item"].tolist(), other["keyphrase"].tolist()):
                self.already.setdefault(item, []).append(prepared.keyphrases[keyphrase])
        self.blocked: set[int] = set()
        self.blocked_pairs: set[tuple[int, int]] = set()
        blocklist = prepared.blocklist()
        if blocklist is not None:
            for item, keyphrase in zip(blocklist["item"].tolist(), blocklist["keyphrase"].tolist()):
                if item < 0:
                    self.blocked.add(keyphrase)
                else:
                    self.blocked_pairs.add((item, keyphrase))

    def blocks(self, item: int, keyphrase: int) -> bool:
        return keyphrase in self.blocked or (item, keyphrase) in self.blocked_pairs


def _write(
    path: Path,
    context: Context,
    filters: _Filters,
    items: Any,
    found: Any,
    cosines: Any,
    logits: Any,
    threshold: float,
) -> dict[str, int]:
    """Filters one shard of items and writes it; returns what happened to its candidates."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from distill.retrieval.dedupe import deduplicate

    prepared, keep = context.prepared, context.experiment.recommend.keep
    columns: dict[str, list] = {"item_id": [], "keyphrase": [], "rank": [], "score": [], "relevance": []}
    fates = ("blocked", "below_threshold", "already_recommended", "repeated", "kept")
    counts: dict[str, int] = dict.fromkeys(("items", "candidates", *fates, "covered_items"), 0)
    for row, item in enumerate(items.tolist()):
        order = [r for r in np.argsort(-logits[row], kind="stable").tolist() if found[row, r] >= 0]
        counts["items"] += 1
        counts["candidates"] += len(order)
        free = [r for r in order if not filters.blocks(item, int(found[row, r]))]
        counts["blocked"] += len(order) - len(free)
        good = [r for r in free if logits[row, r] >= threshold]
        counts["below_threshold"] += len(free) - len(good)
        texts = [prepared.keyphrases[found[row, r]] for r in good]
        kept, dropped = deduplicate(texts, filters.already.get(item, ()))
        counts["already_recommended"] += sum(d.reason == "already" for d in dropped.values())
        counts["repeated"] += sum(d.reason == "repeat" for d in dropped.values())
        kept = kept[:keep]
        counts["kept"] += len(kept)
        counts["covered_items"] += bool(kept)
        for rank, at in enumerate(kept, 1):
            place = good[at]
            columns["item_id"].append(prepared.item_ids[item])
            columns["keyphrase"].append(texts[at])
            columns["rank"].append(rank)
            columns["score"].append(float(cosines[row, place]))
            columns["relevance"].append(float(1 / (1 + np.exp(-float(logits[row, place])))))
    types = {"rank": pa.int32(), "score": pa.float32(), "relevance": pa.float32()}
    table = pa.table({name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()})
    sources = pa.array([["student"]] * len(table), pa.list_(pa.string()))
    temporary = path.with_suffix(".tmp")
    pq.write_table(table.append_column("sources", sources), temporary)
    temporary.replace(path)
    return counts


def recommendations(context: Context) -> Any:
    """The table of all recommendations: item_id, keyphrase, rank, score (cosine), relevance (0–1), sources."""
    import pyarrow.dataset as ds

    return ds.dataset(sorted(str(p) for p in context.folder("recommend").glob("part-*.parquet"))).to_table()


STAGE = Stage(
    name="recommend",
    config=lambda e: {"recommend": e.recommend, "index_width": e.index.width, "row_tokens": e.encoder.row_tokens},
    inputs=("prepare", "assistant", "index"),
    run=run,
    published=lambda folder: sorted(folder.glob("part-*.parquet")),
)
