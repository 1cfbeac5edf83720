"""judge: which pairs an LLM (or its stand-in) grades, the grades, and how far they agree with humans.

A language model's answers go into the judgement store as they arrive, and are never asked or paid for twice. On
several hosts the `jax` judge runs on all of them, each with the model on its own devices and a share of the listings.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.artifacts import write_json
from distill.stages.base import Context, Stage, files_below, write_table
from distill.stages.judge_backends import (
    BATCH,
    LANGUAGE_MODELS,
    STORE,
    free_judge,
    language_model,
    rubric_of,
    secrets,
    store_folder,
)
from distill.stages.judge_pairs import GRADE, GRADED, choose_pairs, chosen, earlier_hashes, earlier_judgements
from distill.stages.judge_trust import AGREEMENT, trust_figures

if TYPE_CHECKING:
    import numpy as np

    from distill.judge.asking import Estimate
    from distill.judge.backends import Request

ANSWERS = "answers.parquet"  # all that the judge said of this run's rubric: raw answers, tokens, cost
_CHUNK = 100_000  # pairs in memory as Python objects
_BATCH_CHUNK = 5_000_000  # a batch service is asked for so many at once: what comes after waits for their answers
Columns = dict[str, Any]


def run(context: Context, folder: Path) -> dict[str, Any]:
    asked = context.experiment.judge.backend in LANGUAGE_MODELS
    columns = _ask(context, folder) if asked else _free(context, folder)
    if not context.processes.first:
        return {}
    return _publish(context, folder, columns)


def dry_run(context: Context) -> Estimate:
    """What the stage would ask for: pairs, tokens and cost. Asks nothing and leaves nothing behind."""
    from distill.judge.asking import estimate
    from distill.judge.store import JudgementStore

    settings, folder = context.experiment.judge, context.folder("judge")
    if settings.backend not in LANGUAGE_MODELS:
        raise ValueError(f"--dry_run: judge.backend={settings.backend!r} asks nobody and costs nothing")
    rubric = rubric_of(context)
    judge = language_model(context, folder, rubric, asking=False)
    there = store_folder(context, folder)
    with tempfile.TemporaryDirectory() as directory:
        choose_pairs(context, Path(directory), _known(context, there, judge.name, rubric.hash))
        pairs = chosen(context, Path(directory))
        with JudgementStore(there if there.exists() else Path(directory), process=None) as store:
            return estimate(
                store,
                judge,
                rubric,
                _requests(context, pairs),
                attempts=settings.attempts,
                prompt_price=settings.endpoint.prompt_price,
                completion_price=settings.endpoint.completion_price,
            )


def judged(context: Context) -> dict[str, Any]:
    """Columns item, keyphrase (indices), grade, holdout of all judgements, in a fixed order."""
    import numpy as np
    import pyarrow.parquet as pq

    pairs = context.prepared.pairs(pq.read_table(context.folder("judge") / GRADED))
    order = np.lexsort((pairs["keyphrase"], pairs["item"]))
    columns = {name: pairs[name][order] for name in ("item", "keyphrase", "grade", "holdout")}
    return columns | {"grade": columns["grade"].astype(np.int32)}


def judged_holdout(context: Context) -> dict[str, Any]:
    """The judged pairs of held-out items."""
    pairs = judged(context)
    return {name: column[pairs["holdout"]] for name, column in pairs.items()}


def _free(context: Context, folder: Path) -> Columns:
    """Answers of a judge that costs nothing."""
    import numpy as np

    prepared = context.prepared
    if context.experiment.judge.backend == "replay":
        tables = [t for t in (prepared.training("judgements"), prepared.holdout("judgements")) if t is not None]
        if not sum(len(t["item"]) for t in tables):
            raise ValueError(
                f"{context.experiment.data.dir}: judge.backend='replay' needs a `judgements` table with at least one "
                "usable row (item_id, keyphrase, grade, judge, rubric)"
            )
        item, keyphrase = (np.concatenate([t[name] for t in tables]) for name in ("item", "keyphrase"))
        pairs = {
            "item": item,
            "keyphrase": keyphrase,
            "purpose": np.full(len(item), GRADE, object),
            "repeat": np.zeros(len(item), np.int16),
        }
    else:
        choose_pairs(context, folder)
        pairs = chosen(context, folder)
    judge, answers = free_judge(context), []
    with context.reporter.progress("judge", len(pairs["item"])) as advance:
        for answer in judge.judge(_requests(context, pairs)):
            advance(1)
            answers.append((answer.grade, None, answer.status, answer.judge, answer.rubric))
    return pairs | _answer_columns(answers)


def _ask(context: Context, folder: Path) -> Columns:
    """Answers of a language model; on the first process those to all pairs, on the others none."""
    import numpy as np

    from distill.judge.asking import ask
    from distill.judge.store import JudgementStore

    settings, processes = context.experiment.judge, context.processes
    rubric = rubric_of(context)
    judge = language_model(context, folder, rubric)
    processes.on_first(
        lambda: choose_pairs(context, folder, _known(context, store_folder(context, folder), judge.name, rubric.hash))
    )
    pairs = chosen(context, folder)
    mine = pairs
    if not processes.alone:
        share = pairs["item"] % processes.count == processes.index
        mine = {name: column[share] for name, column in pairs.items()}
    total = len(mine["item"])
    with JudgementStore(store_folder(context, folder), processes.index, secrets(context)) as store:
        with context.reporter.progress("judge", total) as advance:
            summary = ask(
                store,
                judge,
                rubric,
                _requests(context, mine),
                # Our own model gives the same answer every time.
                attempts=1 if settings.backend == "jax" else settings.attempts,
                total=total,
                advance=advance,
                chunk=_BATCH_CHUNK if settings.backend == "batch" else _CHUNK,
            )
        context.reporter.line(
            f"judge: {summary.done - summary.known:,} pairs asked of {judge.name}, {summary.known:,} known already; "
            f"{summary.prompt_tokens + summary.completion_tokens:,} tokens, cost {summary.cost:,.2f}, "
            f"{summary.pairs_per_second:,.1f} pairs/s"
        )
    processes.gather(total)
    if not processes.first:
        return {}
    answers = []
    with JudgementStore(store_folder(context, folder), None) as store:
        from distill.judge.records import key_of

        requests = _requests(context, pairs)
        while chunk := list(itertools.islice(requests, _CHUNK)):
            keys = [key_of(request) for request in chunk]
            records = store.lookup(rubric.hash, judge.name, keys)
            for key in keys:
                record = records[key]
                answers.append((record.grade, record.raw_score, record.status, record.judge, record.rubric))
        store.export(folder / ANSWERS, judge.name, rubric.hash)
    columns = pairs | _answer_columns(answers)
    return columns | {"raw_score": columns["raw_score"].astype(np.float32)}


def _known(context: Context, folder: Path, judge: str, rubric_hash: str) -> tuple[Any, Any] | None:
    """(item, keyphrase) of the pairs of this run's tables that the store has this judge's grade of."""
    import numpy as np

    from distill.data.text import normalise_keyphrase
    from distill.judge.prompt import listing_hash
    from distill.judge.store import JudgementStore

    if not folder.exists():
        return None
    prepared = context.prepared
    with JudgementStore(folder, None) as store:
        graded = [
            (record.listing, record.keyphrase)
            for record in store.records(judge, rubric_hash)
            if record.status == "graded" and record.repeat == 0
        ]
    if not graded:
        return None
    listings: dict[str, list[int]] = {}
    for item in range(len(prepared.item_ids)):
        listings.setdefault(listing_hash(_request(context, item, 0, 0)), []).append(item)
    keyphrases = {normalise_keyphrase(text): row for row, text in enumerate(prepared.keyphrases)}
    pairs = [
        (item, keyphrases[keyphrase])
        for listing, keyphrase in graded
        if keyphrase in keyphrases
        for item in listings.get(listing, ())
    ]
    item, keyphrase = np.array(pairs, np.int64).reshape(-1, 2).T
    return item, keyphrase


def _answer_columns(answers: list[tuple[Any, ...]]) -> Columns:
    import numpy as np

    grade, score, status, judge, rubric = zip(*answers) if answers else ((),) * 5
    return {
        "grade": np.array([-1 if one is None else one for one in grade], np.int8),
        "raw_score": np.array([np.nan if one is None else one for one in score], np.float64),
        "status": np.array(status, object),
        "judge": np.array(judge, object),
        "rubric": np.array(rubric, object),
    }


def _publish(context: Context, folder: Path, columns: Columns) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    prepared, active = context.prepared, context.experiment.judge.active
    teaching = columns["purpose"] == GRADE
    graded = teaching & (columns["status"] == "graded")
    names = ("item", "keyphrase", "grade", "judge", "rubric", "raw_score")
    kept = {name: columns[name][graded] for name in names}
    if active.run:
        kept = _with_earlier(context, kept)
    statuses, number = np.unique(columns["status"][teaching].astype(str), return_counts=True)
    if not len(kept["item"]):
        parts = ", ".join(f"{count:,} {status}" for status, count in zip(statuses, number))
        raise ValueError(
            f"judge: none of {int(teaching.sum()):,} pairs was graded ({parts}), and the assistant needs grades to "
            f"learn from. A language model's answers are in {folder / ANSWERS}; one that starts them otherwise than "
            "the rubric asks may need a smaller judge.llm.least_mass or judge.endpoint.least_mass"
        )
    item, score = kept["item"], kept["raw_score"].astype(np.float32)
    holdout = prepared.item_is_holdout[item]
    table = pa.table(
        {
            **prepared.pair_columns(item, kept["keyphrase"]),
            "grade": pa.array(kept["grade"], pa.int8()),
            "judge": pa.array(kept["judge"], pa.string()),
            "rubric": pa.array(kept["rubric"], pa.string()),
            "raw_score": pa.array(score, mask=np.isnan(score)),
            "holdout": holdout,
        }
    )
    write_table(folder / GRADED, table)
    figures = trust_figures(context, columns)
    if figures:
        write_json(folder / AGREEMENT, figures)
    return {
        "judged_training_pairs": int((~holdout).sum()),
        "judged_holdout_pairs": int(holdout.sum()),
        "unanswered": int(teaching.sum() - graded.sum()),
        **{f"pairs_{status}": int(count) for status, count in zip(statuses, number)},
    }


def _with_earlier(context: Context, asked: Columns) -> Columns:
    """This round's grades, and the earlier run's where this round has none."""
    import numpy as np

    earlier = earlier_judgements(context, context.experiment.judge.active.run)
    row = len(context.prepared.keyphrases)
    keys = [each["item"].astype(np.int64) * row + each["keyphrase"] for each in (asked, earlier)]
    fresh = ~np.isin(keys[1], keys[0])
    return {name: np.concatenate([asked[name], earlier[name][fresh]]) for name in asked}


def _requests(context: Context, pairs: dict[str, np.ndarray]) -> Iterator[Request]:
    for start in range(0, len(pairs["item"]), _CHUNK):
        rows = slice(start, start + _CHUNK)
        parts = (pairs[name][rows].tolist() for name in ("item", "keyphrase", "repeat"))
        for item, keyphrase, repeat in zip(*parts):
            yield _request(context, item, keyphrase, repeat)


def _request(context: Context, item: int, keyphrase: int, repeat: int) -> Request:
    from distill.judge.backends import Request

    prepared = context.prepared
    return Request(
        item,
        keyphrase,
        prepared.titles[item],
        tuple(prepared.categories[item]),
        prepared.attributes[item],
        prepared.keyphrases[keyphrase],
        repeat,
    )


STAGE = Stage(
    name="judge",
    config=lambda e: {"judge": e.judge, "seed": e.seed},
    inputs=("prepare",),
    run=run,
    published=files_below(GRADED, AGREEMENT),
    everywhere=lambda e: e.judge.backend == "jax",
    external=lambda context: {"rubric": rubric_of(context).hash, **earlier_hashes(context)},
    keeps=(STORE, BATCH),
)
