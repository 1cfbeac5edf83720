"""index: the student embeds every keyphrase; a ScaNN index over them, with measured recall and speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from distill.stages.base import Context, Stage, files_below, load_model

KEYPHRASES, ITEMS, INDEX = "keyphrases.npy", "items.npy", "index"


def run(context: Context, folder: Path) -> dict[str, Any]:
    """Every process embeds; the index itself is the work of one."""
    items, keyphrases = context.embeddings(*load_model(context.folder("student") / "model"))
    return context.processes.on_first(lambda: _build(context, folder, items, keyphrases))


def _build(context: Context, folder: Path, items: Any, keyphrases: Any) -> dict[str, Any]:
    import numpy as np

    from distill.retrieval.scann_index import build_index

    experiment, prepared = context.experiment, context.prepared
    np.save(folder / ITEMS, items)
    np.save(folder / KEYPHRASES, keyphrases)
    items, keyphrases = (indexed_width(context, vectors) for vectors in (items, keyphrases))
    training = np.flatnonzero(~prepared.item_is_holdout)
    sample = np.random.default_rng((experiment.seed, 3)).permutation(training)[:1000]
    index = build_index(
        keyphrases,
        brute_force_below=experiment.index.brute_force_below,
        target_recall=experiment.index.target_recall,
        sample_queries=items[sample],
        seed=experiment.seed,
    )
    index.save(folder / INDEX)
    index.search(items[sample[:10]], 100)
    clock = time.perf_counter()
    index.search(items[sample], 100)
    speed = len(sample) / (time.perf_counter() - clock)
    settings = index.describe()
    context.reporter.line(
        f"index: {len(keyphrases):,} keyphrases × {keyphrases.shape[1]}, {settings['method']}, "
        f"recall@100 {index.recall_at_100:.3f}, {speed:,.0f} queries/s"
    )
    return {
        "keyphrases": len(keyphrases),
        "width": int(keyphrases.shape[1]),
        "method": settings["method"],
        "recall_at_100": index.recall_at_100,
        "queries_per_second": speed,
    }


def indexed_width(context: Context, vectors: Any) -> Any:
    """The Matryoshka prefix that the index holds, as unit vectors."""
    width = context.experiment.index.width
    return prefix(vectors, width) if width else vectors


def prefix(vectors: Any, width: int) -> Any:
    """The first `width` coordinates of unit vectors [N, D], normalised again."""
    import numpy as np

    cut = vectors[:, :width]
    return np.ascontiguousarray(cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12))


STAGE = Stage(
    name="index",
    config=lambda e: {"index": e.index, "row_tokens": e.encoder.row_tokens, "seed": e.seed},
    inputs=("prepare", "student"),
    run=run,
    published=files_below(KEYPHRASES, ITEMS, INDEX),
    everywhere=lambda e: True,
)
