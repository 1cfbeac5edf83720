"""score: the assistant reads far more pairs than the judge did; shards already written are kept on a restart."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from distill.stages.base import Context, Stage, read_tables, write_table
from distill.stages.candidates import dense_candidates, lexical_candidates
from distill.stages.judge import judged


def run(context: Context, folder: Path) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    from distill.retrieval.candidates import gather_candidates, source_names

    prepared, settings = context.prepared, context.experiment.score
    items = np.flatnonzero(~prepared.item_is_holdout)
    pairs = judged(context)
    train = ~pairs["holdout"]
    known = {"judged": (pairs["item"][train], pairs["keyphrase"][train])}
    clicks = prepared.training("clicks")
    if clicks is not None:
        clicked = clicks["clicks"] > 0
        known["clicked"] = (clicks["item"][clicked], clicks["keyphrase"][clicked])
    sources = {
        "lexical": lexical_candidates(context, items, settings.lexical),
        "dense": dense_candidates(context, items, settings.dense),
    }
    found = gather_candidates(
        sources=sources,
        pairs=known,
        allowed=prepared.trainable,
        random_per_item=settings.random,
        seed=context.experiment.seed,
        items=items,
    )
    context.processes.check_same("score: candidates", found.item, found.keyphrase)
    scorer = context.pair_scorer()
    shards = -(-len(found.item) // settings.shard_pairs)
    there = set(context.processes.on_first(lambda: sorted(path.name for path in folder.glob("part-*.parquet"))))
    clock, scored = time.perf_counter(), 0
    with context.reporter.progress("score", len(found.item)) as advance:
        for shard in range(shards):
            span = slice(shard * settings.shard_pairs, (shard + 1) * settings.shard_pairs)
            path = folder / f"part-{shard:05d}-of-{shards:05d}.parquet"
            item, keyphrase = found.item[span], found.keyphrase[span]
            if path.name not in there:
                logits = scorer(keyphrase, item)
                scored += len(item)
                table = pa.table(
                    {
                        **prepared.pair_columns(item, keyphrase),
                        "logit": logits,
                        "sources": found.source_bits[span],
                    }
                )
                context.processes.on_first(functools.partial(write_table, path, table))
            advance(len(item), examples_per_second=scored / max(time.perf_counter() - clock, 1e-9))
    names = source_names(sources, known)
    by_source = {f"from_{name}": int((found.source_bits >> b & 1).sum()) for b, name in enumerate(names)}
    rate = scored / max(time.perf_counter() - clock, 1e-9)
    return {"scored_pairs": len(found.item), "examples_per_second": rate, **by_source}


def scored(context: Context) -> dict[str, Any]:
    """Columns item, keyphrase (indices) and logit of all scored pairs."""
    table = read_tables(context.folder("score"), "part-*.parquet", ["item_id", "keyphrase", "logit"])
    return context.prepared.pairs(table)


STAGE = Stage(
    name="score",
    config=lambda e: {
        "score": e.score,
        "row_tokens": e.encoder.row_tokens,
        "tokens": [e.encoder.item_tokens, e.encoder.keyphrase_tokens],
        "seed": e.seed,
    },
    inputs=("prepare", "judge", "assistant"),
    run=run,
    published=lambda folder: sorted(folder.glob("part-*.parquet")),
    everywhere=lambda e: True,
)
