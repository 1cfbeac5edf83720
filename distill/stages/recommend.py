"""recommend: keyphrases for each item, without what is known already, blocked or not relevant enough.

Items go through in shards: what memory holds beside the tables and the index is one shard's candidates. Beside the
recommendations stand all candidates with their scores and their fates, so that one can ask why a keyphrase is not
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.artifacts import read_json, write_json
from distill.retrieval.selection import FATES
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context, Stage, read_tables, write_table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from distill.retrieval.selection import Decided, Rules
    from distill.retrieval.union import Found

PART = "part-"
CANDIDATES = "candidates-"  # before a shard's name: all its candidates and what became of each


def run(context: Context, folder: Path) -> dict[str, Any]:
    import numpy as np

    prepared, settings = context.prepared, context.experiment.recommend
    rows = np.arange(len(prepared.item_is_holdout))
    if settings.items == "holdout":
        rows = rows[prepared.item_is_holdout]
    shards = max(1, -(-len(rows) // settings.shard_items))
    names = [f"{PART}{shard:05d}-of-{shards:05d}" for shard in range(shards)]
    # The counts are written last, so a shard without them is made again.
    due = [shard for shard, name in enumerate(names) if not (folder / f"{name}.json").exists()]
    if due:
        _recommend(context, folder, rows, names, due)
    total: dict[str, int] = {}
    for name in names:
        for key, count in read_json(folder / f"{name}.json").items():
            total[key] = total.get(key, 0) + count
    items = max(1, total["items"])
    context.reporter.line(
        f"recommend: {total['kept']:,} keyphrases for {total['items']:,} items; "
        f"{100 * total['covered_items'] / items:.1f} % of the items have at least one"
    )
    return total


def _recommend(context: Context, folder: Path, rows: np.ndarray, names: Sequence[str], due: Sequence[int]) -> None:
    """Makes the shards that are due."""
    from distill.retrieval.selection import decide
    from distill.stages.recommend_sources import Sources

    size = context.experiment.recommend.shard_items
    sources, scorer = Sources(context), context.pair_scorer()
    rules = _rules(context, sources.keyphrase_vectors)
    with context.reporter.progress("recommend", len(rows), len(rows) - _items(rows, due, size)) as advance:
        for shard in due:
            items = rows[shard * size : (shard + 1) * size]
            found, score = sources.find(items)
            logit = scorer(found.keyphrase, items[found.row])
            decided = decide(found.row, items[found.row], found.keyphrase, score, logit, rules)
            table = _candidates_table(context, items, found, score, logit, decided, sources.names)
            write_table(folder / f"{CANDIDATES}{names[shard]}.parquet", table)
            write_table(folder / f"{names[shard]}.parquet", _recommended(table))
            counts = _counts(len(items), found, decided, sources.names)
            write_json(folder / f"{names[shard]}.json", counts)
            advance(len(items))


def _items(rows: np.ndarray, shards: Sequence[int], size: int) -> int:
    return sum(len(rows[shard * size : (shard + 1) * size]) for shard in shards)


def _rules(context: Context, keyphrase_vectors: np.ndarray) -> Rules:
    import numpy as np

    from distill.retrieval.dedupe import meanings
    from distill.retrieval.mixing import head_or_tail, reserved_places
    from distill.retrieval.selection import Exclusions, Pairs, Rules

    prepared, settings = context.prepared, context.experiment.recommend

    def pairs(table: dict[str, np.ndarray] | None) -> Pairs | None:
        return None if table is None else Pairs(table["item"], table["keyphrase"])

    already = prepared.recommendations() if settings.others == "exclude" else None
    reserved = reserved_places(settings.keep, head=settings.mix.head, tail=settings.mix.tail)
    if any(reserved.values()) and np.isnan(prepared.search_volume).all():
        context.reporter.line("recommend: no search volume is known, so recommend.mix has no effect")
    return Rules(
        keep=settings.keep,
        threshold=read_json(context.folder("assistant") / CALIBRATION)["threshold"]["logit"],
        exclusions=Exclusions(meanings(prepared.keyphrases), pairs(prepared.blocklist()), pairs(already)),
        mmr_lambda=settings.mmr_lambda,
        vectors=keyphrase_vectors,
        kind=head_or_tail(prepared.search_volume, settings.mix.head_volume) if any(reserved.values()) else None,
        reserved=reserved,
    )


def _candidates_table(
    context: Context,
    items: np.ndarray,
    found: Found,
    score: np.ndarray,
    logit: np.ndarray,
    decided: Decided,
    names: Sequence[str],
) -> pa.Table:
    """One shard's candidates: by item, those kept by rank, then the others, best first."""
    import numpy as np
    import pyarrow as pa

    from distill.data.ragged import Ragged

    order = decided.order
    sources = Ragged(found.source, found.source_starts).take(order)
    same_as = pa.array(np.maximum(decided.same_as, 0), mask=decided.same_as < 0)
    columns = context.prepared.pair_columns(items[found.row[order]], found.keyphrase[order])
    return pa.table(
        {
            **columns,
            "rank": pa.array(decided.rank, mask=decided.rank == 0),
            "score": score[order],
            "logit": logit[order],
            "fate": pa.array(FATES).take(pa.array(decided.fate)),
            "same_as": context.prepared.keyphrase_column.take(same_as),
            "sources": pa.ListArray.from_arrays(
                pa.array(sources.offsets, pa.int32()), pa.array(names, pa.string()).take(pa.array(sources.values))
            ),
        }
    )


def _recommended(candidates: pa.Table) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    kept = candidates.filter(candidates["rank"].is_valid())
    relevance = 1 / (1 + np.exp(-kept["logit"].to_numpy().astype(np.float64)))
    names = ("item_id", "keyphrase", "rank", "score")
    columns = {name: kept[name] for name in names}
    return pa.table({**columns, "relevance": relevance.astype(np.float32), "sources": kept["sources"]})


def _counts(items: int, found: Found, decided: Decided, names: Sequence[str]) -> dict[str, int]:
    import numpy as np

    fates = np.bincount(decided.fate, minlength=len(FATES)).tolist()
    kept = np.zeros(len(found.row), bool)
    kept[decided.order] = decided.rank > 0
    of_pair = np.repeat(kept, np.diff(found.source_starts))
    by_source = {
        f"{what}_from_{name}": int(np.count_nonzero(chosen & (found.source == number)))
        for number, name in enumerate(names)
        for what, chosen in (("candidates", np.ones(len(of_pair), bool)), ("kept", of_pair))
    }
    covered = len(np.unique(found.row[kept]))
    return {"items": items, "candidates": len(kept), **dict(zip(FATES, fates)), "covered_items": covered, **by_source}


def recommendations(context: Context, item_ids: Sequence[str] | None = None) -> pa.Table:
    """The recommendations of all items, or of those named: item_id, keyphrase, rank, score (cosine), relevance (0–1),
    sources."""
    if item_ids is None:
        return read_tables(context.folder("recommend"), f"{PART}*.parquet")
    return _rows(context, PART, item_ids)


def candidates(context: Context, item_ids: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """What was retrieved for the items named, as index pairs: item, keyphrase, and further `columns` of the files.

    These are rank, score, the assistant's logit, fate (one of FATES), same_as and sources.
    """
    return context.prepared.pairs(_rows(context, CANDIDATES, item_ids, ["item_id", "keyphrase", *columns]))


def _rows(context: Context, prefix: str, item_ids: Sequence[str], columns: list[str] | None = None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as ds

    files = sorted(str(path) for path in context.folder("recommend").glob(f"{prefix}*.parquet"))
    named = ds.field("item_id").isin(pa.array(item_ids, pa.string()))
    return ds.dataset(files).to_table(columns=columns, filter=named)


STAGE = Stage(
    name="recommend",
    config=lambda e: {"recommend": e.recommend, "index_width": e.index.width, "row_tokens": e.encoder.row_tokens},
    inputs=("prepare", "assistant", "index"),
    run=run,
    published=lambda folder: sorted(folder.glob("*.parquet")),
)
