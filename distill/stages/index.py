"""index: the student embeds every item and keyphrase; a ScaNN index over the latter, with measured recall and speed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from distill.artifacts import config_dict, hash_file, hash_tree, read_manifest
from distill.config import ConfigError
from distill.stages.base import FOLDERS, Context, Stage, files_below, load_model

KEYPHRASES, ITEMS, INDEX = "keyphrases.npy", "items.npy", "index"
_TIMED_SECONDS = 0.25  # of searching, for the speed that is reported


def run(context: Context, folder: Path) -> dict[str, Any]:
    """Every process embeds; the index itself is the work of one."""
    student = context.folder("student") / "model"
    model = context.processes.on_first(lambda: hash_tree(student))
    embedded = _embed(context, folder, model)
    return context.processes.on_first(lambda: _build(context, folder, model) | embedded)


def _embed(context: Context, folder: Path, model: str) -> dict[str, Any]:
    """Writes ITEMS and KEYPHRASES; returns how many of their rows had to be computed."""
    from distill.retrieval.embedding_files import embed_to_file

    spec, params = load_model(context.folder("student") / "model")
    run_before = context.experiment.index.earlier
    if run_before:
        context.processes.on_first(lambda: _check_earlier(run_before))
    counts: dict[str, Any] = {}
    for name, texts in ((ITEMS, context.item_tokens), (KEYPHRASES, context.keyphrase_tokens)):
        kind, clock = Path(name).stem, time.perf_counter()
        with context.reporter.progress(f"embed {kind}", len(texts.lengths)) as advance:
            done = embed_to_file(
                folder / name,
                spec,
                params,
                texts,
                model=model,
                row_tokens=context.experiment.encoder.row_tokens,
                mesh=context.mesh,
                processes=context.processes,
                earlier=[Path(run_before) / FOLDERS["index"] / name] if run_before else [],
                advance=advance,
            )
        counts |= {f"{kind}_embedded": done["embedded"], f"{kind}_reused": done["reused"]}
        counts[f"{kind}_embedding_seconds"] = round(time.perf_counter() - clock, 3)
    return counts


def _check_earlier(run_before: str) -> None:
    """Raises ConfigError where embeddings that would be copied are not those that the earlier run wrote."""
    folder = Path(run_before) / FOLDERS["index"]
    if not folder.is_dir():
        raise ConfigError(f"config.index.earlier={run_before!r}: no working directory with a folder {FOLDERS['index']}")
    manifest = read_manifest(folder)
    for name in (ITEMS, KEYPHRASES) if manifest else ():
        assert manifest is not None
        if not (folder / name).is_file() or hash_file(folder / name) != manifest["outputs"].get(name):
            raise ConfigError(
                f"config.index.earlier={run_before!r}: {folder / name} is missing or damaged; leave `index.earlier` "
                f"out, or run that index again with --force"
            )


def _build(context: Context, folder: Path, model: str) -> dict[str, Any]:
    import numpy as np

    from distill.retrieval.keyphrase_index import seconds_a_query

    experiment = context.experiment
    items = np.load(folder / ITEMS, mmap_mode="r")
    queries, others = (indexed_width(context, items[rows]) for rows in _samples(context))
    index = _index(context, folder, model, queries)
    recall = index.measure_recall(100, others)
    speed = 1 / seconds_a_query(index, queries, 100, _TIMED_SECONDS)
    settings = index.settings
    context.reporter.line(
        f"index: {settings.count:,} keyphrases × {settings.width}, {settings.method}, "
        f"recall@100 {recall:.3f}, {speed:,.0f} queries/s" + (f"; {settings.note}" if settings.note else "")
    )
    counts = {
        "keyphrases": settings.count,
        "width": settings.width,
        "method": settings.method,
        "recall_at_100": recall,
        "queries_per_second": speed,
        "bytes": sum(path.stat().st_size for path in (folder / INDEX).rglob("*") if path.is_file()),
        "curve": list(index.curve),
    }
    if experiment.index.versions:
        counts["version"] = _publish(context, folder)
    return counts


def _samples(context: Context) -> tuple[Any, Any]:
    """Rows of the training items that the search is tuned on, and of as many others to measure its recall on.

    Where there are no others, the same twice.
    """
    import numpy as np

    rng, most = np.random.default_rng((context.experiment.seed, 3)), context.experiment.index.sample_queries
    holdout = context.prepared.item_is_holdout
    tuned = np.sort(rng.permutation(np.flatnonzero(~holdout))[:most])
    others = np.setdiff1d(np.arange(len(holdout)), tuned)
    measured = np.sort(rng.permutation(others)[:most])
    return tuned, measured if len(measured) else tuned


def _index(context: Context, folder: Path, model: str, queries: Any) -> Any:
    """The index, saved below `folder`; the one that a killed run saved whole is taken as it is."""
    import numpy as np

    from distill.retrieval.index_store import hash_keyphrases
    from distill.retrieval.scann_index import KeyphraseIndex, build_index

    experiment, settings = context.experiment, context.experiment.index
    identity = {"model": model, "keyphrases_sha256": hash_keyphrases(context.prepared.keyphrases)}
    try:
        return KeyphraseIndex.load(folder / INDEX, expected=identity)
    except (FileNotFoundError, ValueError):
        shutil.rmtree(folder / INDEX, ignore_errors=True)
    index = build_index(
        indexed_width(context, np.load(folder / KEYPHRASES, mmap_mode="r")),
        brute_force_below=settings.brute_force_below,
        target_recall=settings.target_recall,
        sample_queries=queries,
        seed=experiment.seed,
        width=settings.width if settings.rescore else 0,
        recall_at=settings.recall_at,
        dtype=settings.dtype,
        tune_seconds=settings.tune_seconds,
        **identity,
    )
    index.save(folder / INDEX)
    return index


def _publish(context: Context, folder: Path) -> str:
    """A new version of what serves together: the index, its keyphrases and the student that embeds for it."""
    from distill.retrieval import versions
    from distill.stages.versions import about_run, run_parts

    root, student = Path(context.experiment.index.versions), context.folder("student")
    about = about_run(context.workdir, config_dict(STAGE.config(context.experiment)), student)
    name = versions.publish(root, run_parts(context.folder("prepare"), student, folder), about)
    gone = versions.prune(root, context.experiment.index.keep_versions)
    context.reporter.line(f"index: version {name} is current in {root}" + (f"; deleted {gone}" if gone else ""))
    return name


def indexed_width(context: Context, vectors: Any) -> Any:
    """What the index takes of full-width unit vectors [N, D]: all, or a Matryoshka prefix that nothing re-scores."""
    index = context.experiment.index
    return prefix(vectors, index.width) if index.width and not index.rescore else vectors


def prefix(vectors: Any, width: int) -> Any:
    """The first `width` coordinates of unit vectors [N, D], normalised again."""
    from distill.retrieval import vectors as unit_vectors

    return unit_vectors.prefix(vectors, width)


STAGE = Stage(
    name="index",
    config=lambda e: {"index": e.index, "row_tokens": e.encoder.row_tokens, "seed": e.seed},
    inputs=("prepare", "student"),
    run=run,
    published=files_below(KEYPHRASES, ITEMS, INDEX),
    everywhere=lambda e: True,
    # Embeddings say themselves what they are of; unchanged texts are not embedded again.
    keeps=tuple(f"{name}.{kind}" for name in ("items", "keyphrases") for kind in ("npy", "texts.npy", "json", "parts")),
)
