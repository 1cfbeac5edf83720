"""recommend: keyphrases for each item, without what is known already, blocked or not relevant enough.

Beside the recommendations it keeps every candidate with its scores and its fate, so that one can ask why a keyphrase
is not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.artifacts import read_json, write_json
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context, Stage, read_tables, write_table
from distill.stages.index import INDEX, ITEMS, indexed_width

SHARD_ITEMS = 1024  # a shard is the unit of resuming
CANDIDATES = "candidates-"  # before a shard's name: all its candidates and what became of each
FATES = ("kept", "over_limit", "blocked", "below_threshold", "already_recommended", "repeated")
_DROPPED = {"already": "already_recommended", "repeat": "repeated"}


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
                logits = _spread(found.shape, item, rank, logits)
                decided = _filter(context, filters, span, found, logits, threshold)
                counts = _write(path, context, span, found, cosines, logits, decided)
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


def _filter(context: Context, filters: _Filters, items: Any, found: Any, logits: Any, threshold: float) -> Any:
    """Decides each candidate: (row [N], place [N], fate [N] as index into FATES), each item's best first."""
    import numpy as np

    from distill.retrieval.dedupe import deduplicate

    prepared, keep = context.prepared, context.experiment.recommend.keep
    rows, places, fates = [], [], []
    for row, item in enumerate(items.tolist()):
        order = [r for r in np.argsort(-logits[row], kind="stable").tolist() if found[row, r] >= 0]
        fate = {r: "blocked" for r in order if filters.blocks(item, int(found[row, r]))}
        fate |= {r: "below_threshold" for r in order if r not in fate and logits[row, r] < threshold}
        good = [r for r in order if r not in fate]
        texts = [prepared.keyphrases[found[row, r]] for r in good]
        kept, dropped = deduplicate(texts, filters.already.get(item, ()))
        fate |= {good[at]: _DROPPED[why.reason] for at, why in dropped.items()}
        fate |= {good[at]: "kept" if rank < keep else "over_limit" for rank, at in enumerate(kept)}
        rows += [row] * len(order)
        places += order
        fates += [FATES.index(fate[r]) for r in order]
    return np.array(rows, int), np.array(places, int), np.array(fates, int)


def _write(path: Path, context: Context, items: Any, found: Any, cosines: Any, logits: Any, decided: Any) -> dict:
    """Writes one shard's recommendations and all its candidates; returns what happened to these."""
    import numpy as np
    import pyarrow as pa

    row, place, fate = decided
    kept = fate == FATES.index("kept")
    logit = logits[row, place].astype(np.float32)
    candidates = pa.table(
        {
            **context.prepared.pair_columns(items[row], found[row, place]),
            "score": cosines[row, place].astype(np.float32),
            "logit": logit,
            "fate": pa.array(FATES).take(pa.array(fate)),
        }
    )
    chosen = candidates.filter(pa.array(kept))
    per_item = np.bincount(row[kept], minlength=len(items))
    columns = {
        "item_id": chosen["item_id"],
        "keyphrase": chosen["keyphrase"],
        "rank": np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in per_item]),
        "score": chosen["score"],
        "relevance": (1 / (1 + np.exp(-logit[kept].astype(np.float64)))).astype(np.float32),
        "sources": pa.array([["student"]] * len(chosen), pa.list_(pa.string())),
    }
    for name, table in ((path, pa.table(columns)), (path.with_name(CANDIDATES + path.name), candidates)):
        write_table(name, table)
    counts = dict(zip(FATES, np.bincount(fate, minlength=len(FATES)).tolist()))
    return {
        "items": len(items),
        "candidates": len(row),
        **counts,
        "covered_items": int((per_item > 0).sum()),
    }


def recommendations(context: Context) -> Any:
    """The table of all recommendations: item_id, keyphrase, rank, score (cosine), relevance (0–1), sources."""
    return read_tables(context.folder("recommend"), "part-*.parquet")


def candidates(context: Context) -> dict[str, Any]:
    """What was retrieved, as index pairs: item, keyphrase, score, the assistant's logit, fate (one of FATES)."""
    return context.prepared.pairs(read_tables(context.folder("recommend"), f"{CANDIDATES}*.parquet"))


STAGE = Stage(
    name="recommend",
    config=lambda e: {"recommend": e.recommend, "index_width": e.index.width, "row_tokens": e.encoder.row_tokens},
    inputs=("prepare", "assistant", "index"),
    run=run,
    published=lambda folder: sorted(folder.glob("*.parquet")),
)
