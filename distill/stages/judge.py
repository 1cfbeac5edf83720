"""judge: which pairs an LLM (or its stand-in) grades, the grades, and how far they agree with humans.

A language model's answers go into the judgement store as they arrive, and are never asked or paid for twice. On
several hosts the `jax` judge runs on all of them, each with the model on its own devices and a share of the listings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.artifacts import config_dict, write_json
from distill.config import Experiment
from distill.stages.base import Context, Stage, files_below, write_table
from distill.stages.judge_asking import ANSWERS, ask_pairs, requests
from distill.stages.judge_backends import BATCH, LANGUAGE_MODELS, STORE, free_judge, replayed, rubric_of
from distill.stages.judge_pairs import GRADE, GRADED, choose_pairs, chosen, earlier_hashes, earlier_judgements
from distill.stages.judge_trust import AGREEMENT, trust_figures

Columns = dict[str, Any]


def run(context: Context, folder: Path) -> dict[str, Any]:
    asked = context.experiment.judge.backend in LANGUAGE_MODELS
    columns = _asked(context, folder) if asked else _free(context, folder)
    return {} if columns is None else _publish(context, folder, columns)


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

    if context.experiment.judge.backend == "replay":
        item, keyphrase = np.array(sorted(replayed(context))).T
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
        for answer in judge.judge(requests(context, pairs)):
            advance(1)
            answers.append((answer.grade, None, answer.status, answer.judge, answer.rubric))
    return pairs | _answer_columns(answers)


def _asked(context: Context, folder: Path) -> Columns | None:
    """Answers of a language model to all pairs; None on all processes but the first."""
    records = ask_pairs(context, folder)
    if not context.processes.first:
        return None
    answers = [(one.grade, one.raw_score, one.status, one.judge, one.rubric) for one in records]
    return chosen(context, folder) | _answer_columns(answers)


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
    if not (holdout | prepared.trainable[kept["keyphrase"]]).all():
        raise RuntimeError("judge: a pair for training is on a human query; this is a defect, please report it")
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


def _reads(experiment: Experiment) -> dict[str, Any]:
    """The judge's settings without those that change no answer: how it is reached, at what price, how fast."""
    judge = config_dict(experiment.judge)
    del judge["store"]
    for group, names in (
        ("endpoint", ("url", "key_variable", "concurrency", "timeout", "tries", "prompt_price", "completion_price")),
        ("llm", ("batch_rows", "parallel")),
    ):
        for name in names:
            del judge[group][name]
    return {"judge": judge, "seed": experiment.seed, "bootstrap": experiment.evaluate.bootstrap}


STAGE = Stage(
    name="judge",
    config=_reads,
    inputs=("prepare",),
    run=run,
    published=files_below(GRADED, AGREEMENT),
    everywhere=lambda e: e.judge.backend == "jax",
    external=lambda context: {"rubric": rubric_of(context).hash, **earlier_hashes(context)},
    keeps=(STORE, BATCH),
)
