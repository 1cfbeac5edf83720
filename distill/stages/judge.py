"""judge: which pairs an LLM (or its stand-in) grades, the grades, and how far they agree with humans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.artifacts import write_json
from distill.stages.base import Context, Stage, files_below

GRADED, AGREEMENT = "judgements.parquet", "agreement.json"


def run(context: Context, folder: Path) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from distill.judge.agreement import judge_agreement

    prepared = context.prepared
    items, keyphrases = _pairs(context)
    judge = _backend(context)
    columns: dict[str, list] = {"item": [], "keyphrase": [], "grade": [], "judge": [], "rubric": []}
    unanswered = 0
    with context.reporter.progress("judge", len(items)) as advance:
        for answer in judge.judge(_requests(context, items, keyphrases)):
            advance(1)
            if answer.grade is None:
                unanswered += 1
                continue
            columns["item"].append(answer.item)
            columns["keyphrase"].append(answer.keyphrase_index)
            columns["grade"].append(answer.grade)
            columns["judge"].append(answer.judge)
            columns["rubric"].append(answer.rubric)
    if not columns["item"]:
        raise ValueError(f"judge: no pair of {len(items):,} was graded; the assistant needs grades to learn from")
    item, keyphrase = np.array(columns["item"]), np.array(columns["keyphrase"])
    table = pa.table(
        {
            **prepared.pair_columns(item, keyphrase),
            "grade": pa.array(columns["grade"], pa.int8()),
            "judge": columns["judge"],
            "rubric": columns["rubric"],
            "holdout": prepared.item_is_holdout[item],
        }
    )
    pq.write_table(table, folder / GRADED)
    counts = {
        "judged_training_pairs": int((~prepared.item_is_holdout[item]).sum()),
        "judged_holdout_pairs": int(prepared.item_is_holdout[item].sum()),
        "unanswered": unanswered,
    }
    agreement = prepared.judge_agreement()
    if agreement is None or not len(agreement["item"]):
        context.reporter.line("judge: no judge_agreement row, so the judge's agreement with humans is not known")
    else:
        figures = judge_agreement(agreement["grade"], agreement["human"])
        write_json(folder / AGREEMENT, figures)
        context.reporter.line(
            f"judge: {len(agreement['grade']):,} pairs graded by humans too: AUC exact {figures['auc_exact']:.3f}, "
            f"quadratic kappa {figures['kappa']:.3f}"
        )
    return counts


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


def _pairs(context: Context) -> tuple[Any, Any]:
    """The pairs to grade: the table's own for `replay`, a chosen mix for a backend that answers."""
    import numpy as np

    from distill.retrieval.candidates import gather_candidates
    from distill.stages.candidates import dense_candidates, lexical_candidates

    prepared, settings = context.prepared, context.experiment.judge
    if settings.backend == "replay":
        tables = [t for t in (prepared.training("judgements"), prepared.holdout("judgements")) if t is not None]
        if not tables or not sum(len(t["item"]) for t in tables):
            raise ValueError(
                f"{context.experiment.data.dir}: judge.backend='replay' needs a `judgements` table with at least one "
                "usable row (item_id, keyphrase, grade, judge, rubric)"
            )
        return tuple(np.concatenate([t[name] for t in tables]) for name in ("item", "keyphrase"))  # type: ignore[return-value]
    items = np.arange(len(prepared.item_ids))
    lexical = round(settings.pairs_per_item * settings.lexical_share)
    dense = round(settings.pairs_per_item * settings.dense_share)
    # A few more of each than asked, every other one kept, so that near and far candidates are graded alike.
    found = gather_candidates(
        sources={
            "lexical": lexical_candidates(context, items, 2 * lexical)[:, ::2],
            "dense": dense_candidates(context, items, 2 * dense)[:, ::2],
        },
        pairs={},
        allowed=prepared.trainable,
        random_per_item=settings.pairs_per_item - lexical - dense,
        seed=context.experiment.seed,
        items=items,
    )
    return found.item, found.keyphrase


def _requests(context: Context, items: Any, keyphrases: Any) -> Iterator[Any]:
    from distill.judge.backends import Request

    prepared = context.prepared
    for item, keyphrase in zip(items.tolist(), keyphrases.tolist()):
        yield Request(
            item,
            keyphrase,
            prepared.titles[item],
            tuple(prepared.categories[item]),
            prepared.attributes[item],
            prepared.keyphrases[keyphrase],
        )


def _backend(context: Context) -> Any:
    import numpy as np

    from distill.judge.backends import ReplayJudge, SimulatedJudge
    from distill.judge.rubric import load_rubric

    experiment, prepared = context.experiment, context.prepared
    rubric = load_rubric(experiment.judge.rubric)
    if experiment.judge.backend == "replay":
        grades: dict[tuple[int, int], int] = {}
        name = rubric_name = ""
        for table in (prepared.training("judgements"), prepared.holdout("judgements")):
            if table is not None and len(table["item"]):
                grades.update(zip(zip(table["item"].tolist(), table["keyphrase"].tolist()), table["grade"].tolist()))
                name, rubric_name = str(table["judge"][0]), str(table["rubric"][0])
        return ReplayJudge(name, rubric_name, grades)
    from distill.data.marketplace import World

    world = World(experiment.data.marketplace, experiment.seed)
    row_of_item = {item_id: row for row, item_id in enumerate(world.item_ids.tolist())}
    row_of_keyphrase = {keyphrase: row for row, keyphrase in enumerate(world.keyphrases)}
    item_rows = np.array([row_of_item[item_id] for item_id in prepared.item_ids])
    keyphrase_rows = np.array([row_of_keyphrase[keyphrase] for keyphrase in prepared.keyphrases])
    return SimulatedJudge(
        rubric.name, lambda items, keyphrases: world.judge(item_rows[items], keyphrase_rows[keyphrases])
    )


STAGE = Stage(
    name="judge",
    config=lambda e: {"judge": e.judge, "seed": e.seed},
    inputs=("prepare",),
    run=run,
    published=files_below(GRADED, AGREEMENT),
)
