"""student: the bi-encoder learns clicks, search relevance and the assistant's scores in one multi-task step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import StudentConfig, TaskWeights
from distill.stages.assistant import held_back_items
from distill.stages.base import Context, Stage, files_below, save_model
from distill.stages.judge import judged
from distill.stages.student_negatives import hard_negatives, mining_steps
from distill.stages.student_signals import Signals, task_signals
from distill.stages.warm_start import starting_point, warm_start_hash

if TYPE_CHECKING:
    from distill.data.item_batches import ItemBatch, ItemBatches

# Everything is split by its first axis, so that each device compares its own items with all keyphrases.
ROW_FIELDS = frozenset(
    {
        "rows",
        "item_slots",
        "keyphrase_slots",
        "candidates",
        "teacher",
        "passed",
        "targets",
        "positives",
        "ignored",
        "positive_weights",
        "target_log_q",
    }
)
TABLES = {"clicks": "clicked", "search_relevance": "searched", "distill": "teacher"}


@dataclasses.dataclass(frozen=True)
class _Phase:
    """The steps between two minings of negatives; all of them where none are mined."""

    end: int
    data: dict[str, ItemBatches]  # of each part that has steps here
    turns: dict[str, int]  # steps that each part had before
    compiled: dict[str, Any]


def run(context: Context, folder: Path) -> dict[str, Any]:
    import numpy as np

    from distill.data.mixing import plan_tasks, task_shares
    from distill.data.stream import stream_steps
    from distill.evaluate.validation import ranking_quality
    from distill.models import bi_encoder
    from distill.models.flops import TRAINING, embed_flops
    from distill.parallel.mesh import batch_shards, to_global, to_host
    from distill.retrieval.encoding import embed_texts
    from distill.train.loop import Batch, fit
    from distill.train.objectives import clicks_extras, make_student_loss, student_extras
    from distill.train.optimizer import make_optimizer
    from distill.train.state import create_state
    from distill.train.step import compile_step

    experiment, settings, mesh = context.experiment, context.experiment.student, context.mesh
    seed, row_tokens, prepared = experiment.seed, experiment.encoder.row_tokens, context.prepared
    name = context.arm or "student"
    held_back = held_back_items(context)
    settings, signals = task_signals(context, settings, name)
    # Arms see other signals and so other items, but every arm takes as many steps as the student.
    training_items = int((~prepared.item_is_holdout).sum()) - len(held_back)
    steps = max(1, round(settings.epochs * training_items / settings.batch_items))
    shards = batch_shards(mesh)
    chunk_rows = settings.chunk_rows * shards
    parts = task_parts(settings, signals)
    sizes = {part: sum(len(table[0]) for table in own.values() if table) for part, (_, own) in parts.items()}
    plan = plan_tasks(task_shares(settings, sizes), steps, seed)
    minings = mining_steps(settings.hard_negatives, steps) if signals["clicked"] else [0]

    plain, start = starting_point(context, "student")
    spec = dataclasses.replace(plain, dropout=settings.dropout, remat=experiment.encoder.remat)
    initial = {"encoder": start["encoder"]}
    if settings.tasks.search_relevance:
        initial["search_relevance"] = student_extras()
    if extras := clicks_extras(settings):
        initial["clicks"] = extras
    optimizer = make_optimizer(settings.optimizer, steps)
    state = create_state(initial, optimizer, mesh)

    def compiled(data: ItemBatches, tasks: TaskWeights) -> Any:
        def embed(params: Any, rows: Any, slots: Any, key: Any) -> Any:
            texts = data.budget.texts_per_row
            return bi_encoder.embed(spec, params, rows, slots, texts, dropout_key=key, chunk_rows=chunk_rows)

        return compile_step(
            state, make_student_loss(embed, dataclasses.replace(settings, tasks=tasks)), optimizer, seed
        )

    def make_phase(number: int, params: Any) -> _Phase:
        begin, end = minings[number], [*minings, steps][number + 1]
        negatives = right = None
        if settings.hard_negatives.per_item and signals["clicked"]:
            item, keyphrase, _ = signals["clicked"]
            own = ~np.isin(item, held_back)
            negatives, right = hard_negatives(context, folder, begin, plain, params, (item[own], keyphrase[own]))
        data, turns = {}, {}
        for at, (part, (tasks, tables)) in enumerate(parts.items()):
            before, now = (int((plan.task[:step] == at).sum()) for step in (begin, end))
            if now > before:
                more = {"hard": negatives, "right": right} if tables["clicked"] else {}
                data[part] = make_batches(
                    context, settings, tasks, tables | more, held_back, shards, before, now - before
                )
                turns[part] = before
                context.reporter.line(
                    f"{name}{'' if len(parts) == 1 else ' ' + part}: {data[part].pairs:,} pairs of "
                    f"{data[part].items:,} items, {now - before:,} steps of about {data[part].items_per_step:.0f} "
                    f"items and {data[part].build(0).pairs} pairs, "
                    f"{100 * data[part].real_token_share:.0f} % real tokens"
                )
        return _Phase(end, data, turns, {part: compiled(own, parts[part][0]) for part, own in data.items()})

    phases: dict[int, _Phase] = {}

    def phase(number: int, params: Any = None) -> _Phase:
        """Mines with `params` what was not mined before; holds one phase at a time."""
        if number not in phases:
            phases.clear()
            phases[number] = make_phase(number, params)
        return phases[number]

    def phase_at(step: int) -> int:
        return int(np.searchsorted(minings, step, side="right")) - 1

    def batches(start: int, params: Any) -> Any:
        now = phase(phase_at(start), params)

        def build(step: int) -> tuple[str, dict[str, Any], tuple[int, int, int]]:
            part = plan.names[plan.task[step]]
            batch = now.data[part].build(int(plan.turn[step]) - now.turns[part])
            flops = TRAINING * embed_flops(spec, *now.data[part].budget)
            return part, batch_arrays(batch, settings), (batch.pairs, batch.tokens, flops)

        for part, batch, counts in stream_steps(build, start, now.end):
            yield Batch((now.compiled[part], to_global(mesh, batch, ROW_FIELDS)), *counts)

    def batch_ids(step: int) -> dict[str, list[str]]:
        now, part = phase(phase_at(step)), plan.names[plan.task[step]]
        items, phrases = now.data[part].ids(int(plan.turn[step]) - now.turns[part])
        return {
            "item_id": [prepared.item_ids[i] for i in items],
            "keyphrase": [prepared.keyphrases[i] for i in phrases],
        }

    valid = judged(context)
    valid = {k: v[np.isin(valid["item"], held_back)] for k, v in valid.items()}
    item_ids, item_at = np.unique(valid["item"], return_inverse=True)
    keyphrase_ids, keyphrase_at = np.unique(valid["keyphrase"], return_inverse=True)

    def validate(params: Any) -> dict[str, float]:
        vectors = [
            embed_texts(plain, params, tokens.take(ids), row_tokens=row_tokens, mesh=mesh)
            for tokens, ids in ((context.item_tokens, item_ids), (context.keyphrase_tokens, keyphrase_ids))
        ]
        cosines = np.sum(vectors[0][item_at] * vectors[1][keyphrase_at], axis=1)
        return ranking_quality(valid["item"], valid["grade"], cosines)

    done = fit(
        name=name,
        state=state,
        step_fn=lambda state, batch: batch[0](state, batch[1]),
        batches=batches,
        batch_ids=batch_ids,
        steps=steps,
        validate=validate,
        metric="quality",
        validations=settings.validations,
        directory=folder / "training",
        reporter=context.reporter,
        training=experiment.training,
        profile=context.profile,
    )
    encoder = to_host(done.params["encoder"])
    context.processes.on_first(lambda: save_model(folder / "model", plain, {"encoder": encoder}))
    last = phase(len(minings) - 1).data.values()
    return {
        "pairs": sum(own.pairs for own in last),
        "items": max(own.items for own in last),
        "steps": done.steps,
        "kept_step": done.kept_step,
        "valid_quality": done.kept_metric,
        "examples_per_second": done.examples_per_second,
        "tokens_per_second": done.tokens_per_second,
        "real_token_share": min(own.real_token_share for own in last),
        "left_out_tasks": [task for task in ("clicks", "search_relevance") if context.prepared.training(task) is None],
    }


def make_batches(
    context: Context,
    settings: StudentConfig,
    tasks: TaskWeights,
    tables: Signals,
    held_back: Any,
    shards: int,
    before: int,
    steps: int,
) -> ItemBatches:
    """The batches of `steps` steps on those tables, `before` of which came earlier."""
    from distill.data.item_batches import ItemBatches, Quota
    from distill.data.pair_pool import join_signals

    return ItemBatches(
        join_signals(**tables, keyphrases=len(context.prepared.keyphrases), exclude=held_back),
        context.item_tokens,
        context.keyphrase_tokens,
        batch_items=settings.batch_items,
        topic_items=settings.topic_items,
        quota=Quota(
            teacher=settings.candidates_per_item if tasks.distill else 0,
            searched=settings.searched_per_item if tasks.search_relevance else 0,
            clicked=settings.clicked_per_item if tasks.clicks else 0,
            hard=settings.hard_negatives.per_item if tasks.clicks else 0,
        ),
        row_tokens=context.experiment.encoder.row_tokens,
        shards=shards,
        steps=steps,
        seed=context.experiment.seed,
        chunk_rows=settings.chunk_rows * shards,
        first=before * settings.batch_items,
    )


def batch_arrays(batch: ItemBatch, settings: StudentConfig) -> dict[str, Any]:
    """The batch as `distill.train.objectives.make_student_loss` reads it, with what those settings ask for."""
    from distill.models.encoder import PackedTokens

    optional = {
        "ignored": (batch.ignored, settings.hard_negatives.per_item > 0 and batch.ignored.size > 0),
        "positive_weights": (batch.positive_weights, settings.inverse_propensity),
        "target_log_q": (batch.target_log_q, settings.log_q),
    }
    return {name: array for name, (array, wanted) in optional.items() if wanted} | {
        "rows": PackedTokens(*batch.texts[:4]),
        "item_slots": batch.item_slots,
        "keyphrase_slots": batch.keyphrase_slots,
        "candidates": batch.candidates,
        "teacher": batch.teacher,
        "passed": batch.passed,
        "targets": batch.targets,
        "positives": batch.positives,
    }


def task_parts(settings: StudentConfig, signals: Signals) -> dict[str, tuple[TaskWeights, Signals]]:
    """What a step may train, by name: all tasks together, or each with its own table alone."""
    present = [task for task, table in TABLES.items() if signals[table] is not None]
    if settings.mixing == "joint" or len(present) == 1:
        return {"joint": (settings.tasks, signals)}
    return {
        task: (
            TaskWeights(**{other: getattr(settings.tasks, other) if other == task else 0.0 for other in TABLES}),
            {table: signals[table] if table == TABLES[task] else None for table in TABLES.values()},
        )
        for task in present
    }


STAGE = Stage(
    name="student",
    config=lambda e: (
        {
            "student": e.student,
            "row_tokens": e.encoder.row_tokens,
            "tokens": [e.encoder.item_tokens, e.encoder.keyphrase_tokens],
            "valid_share": e.assistant.valid_share,
            "grade_targets": e.assistant.grade_targets,
            "seed": e.seed,
        }
        | (
            {"index": e.index, "relevant_grade": e.recommend.relevant_grade}
            if e.student.hard_negatives.per_item
            else {}
        )
    ),
    inputs=("prepare", "judge", "score"),
    run=run,
    published=files_below("model"),
    external=lambda context: warm_start_hash(context, "student"),
    everywhere=lambda e: True,
)
