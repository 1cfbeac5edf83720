"""assistant: the cross-encoder learns the judge's grades; what its validations choose is kept and calibrated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from distill.artifacts import write_json
from distill.stages.base import Context, Stage, files_below, save_model
from distill.stages.judge import judged
from distill.stages.warm_start import starting_point, warm_start_hash

CALIBRATION = "calibration.json"


def run(context: Context, folder: Path) -> dict[str, Any]:
    import numpy as np

    from distill.data.packing import padded
    from distill.data.pair_batches import pack_pairs, plan_pairs
    from distill.data.stream import stream_steps
    from distill.data.tokenizing import pair_tokens
    from distill.evaluate.validation import ranking_quality
    from distill.judge.calibration import Calibration, threshold_for_precision
    from distill.models import cross_encoder
    from distill.models.encoder import PackedTokens
    from distill.models.flops import TRAINING, score_flops
    from distill.parallel.mesh import batch_shards, to_global, to_host
    from distill.retrieval.encoding import ROW_FIELDS, PairScorer
    from distill.train.loop import Batch, fit
    from distill.train.objectives import assistant_extras, make_assistant_loss
    from distill.train.optimizer import make_optimizer
    from distill.train.state import create_state
    from distill.train.step import compile_step

    experiment, settings, mesh = context.experiment, context.experiment.assistant, context.mesh
    seed, row_tokens = experiment.seed, experiment.encoder.row_tokens
    pairs = judged(context)
    held_back = np.isin(pairs["item"], held_back_items(context))
    train = {k: v[~pairs["holdout"] & ~held_back] for k, v in pairs.items()}
    valid = {k: v[~pairs["holdout"] & held_back] for k, v in pairs.items()}

    keyphrases, items = context.pair_parts
    specials = (context.tokenizer.cls_id, context.tokenizer.sep_id)
    lengths = keyphrases.lengths[train["keyphrase"]] + items.lengths[train["item"]] + 3
    shards = batch_shards(mesh)
    chunk_rows = settings.chunk_rows * shards
    plan = plan_pairs(
        lengths,
        total=round(settings.epochs * len(lengths)),
        batch_pairs=settings.batch_pairs,
        row_tokens=row_tokens,
        shards=shards,
        seed=seed,
        chunk_rows=chunk_rows,
    )

    plain, start = starting_point(context, "assistant", settings.depth)
    spec = dataclasses.replace(plain, dropout=settings.dropout, remat=experiment.encoder.remat)
    params = cross_encoder.init_cross_encoder(spec, seed, start)
    params |= {"loss": extras} if (extras := assistant_extras(settings)) else {}
    step_flops = TRAINING * score_flops(spec, *plan.budget, plan.slots)

    def build(step: int) -> tuple[dict[str, Any], tuple[int, int, int]]:
        ids = plan.pairs(step)
        tokens, types = pair_tokens(keyphrases, items, train["keyphrase"][ids], train["item"][ids], *specials)
        packed = pack_pairs(tokens, types, plan)
        grades = padded(train["grade"][ids], plan.slots, 0)
        batch = {"rows": PackedTokens(*packed[:4]), "slots": packed.slots, "grades": grades}
        return batch, (len(ids), int((packed.segments > 0).sum()), step_flops)

    def batches(start: int, _: Any) -> Any:
        for batch, counts in stream_steps(build, start, plan.steps):
            yield Batch(to_global(mesh, batch, ROW_FIELDS), *counts)

    def batch_ids(step: int) -> dict[str, list[str]]:
        chosen = plan.pairs(step)
        return {
            "item_id": [context.prepared.item_ids[i] for i in train["item"][chosen]],
            "keyphrase": [context.prepared.keyphrases[i] for i in train["keyphrase"][chosen]],
        }

    def score(params: Any, rows: Any, slots: Any, key: Any) -> Any:
        return cross_encoder.score(spec, params, rows, slots, plan.budget.texts_per_row, key, chunk_rows)

    def scorer(params: Any) -> PairScorer:
        return PairScorer(plain, params, keyphrases, items, specials=specials, row_tokens=row_tokens, mesh=mesh)

    def validate(params: Any) -> dict[str, float]:
        return ranking_quality(valid["item"], valid["grade"], scorer(params)(valid["keyphrase"], valid["item"]))

    optimizer = make_optimizer(settings.optimizer, plan.steps)
    state = create_state(params, optimizer, mesh)
    context.reporter.line(
        f"assistant: {len(lengths):,} graded pairs, {len(valid['item']):,} held back, {plan.steps:,} steps of about "
        f"{len(plan.order) / plan.steps:.0f} pairs"
    )
    done = fit(
        name="assistant",
        state=state,
        step_fn=compile_step(state, make_assistant_loss(score, settings), optimizer, seed),
        batches=batches,
        batch_ids=batch_ids,
        steps=plan.steps,
        validate=validate,
        metric="quality",
        validations=settings.validations,
        directory=folder / "training",
        reporter=context.reporter,
        training=experiment.training,
        profile=context.profile,
    )
    kept = to_host({k: done.params[k] for k in ("encoder", "pooler", "classifier")})
    logits = scorer(done.params)(valid["keyphrase"], valid["item"])
    relevant = experiment.recommend.relevant_grade

    def publish() -> None:
        save_model(folder / "model", plain, kept)
        calibration = Calibration.fit(logits, valid["grade"], relevant)
        threshold = threshold_for_precision(logits, valid["grade"], relevant, experiment.recommend.precision)
        if not threshold.reached:
            context.reporter.line(
                f"assistant: no threshold reaches precision {experiment.recommend.precision} on the held-back pairs; "
                f"the best one has {threshold.precision:.3f}"
            )
        figures = {"calibration": calibration.to_dict(), "threshold": dataclasses.asdict(threshold)}
        write_json(folder / CALIBRATION, figures | {"relevant_grade": relevant})

    context.processes.on_first(publish)
    return {
        "training_pairs": len(lengths),
        "valid_pairs": len(valid["item"]),
        "steps": done.steps,
        "kept_step": done.kept_step,
        "valid_quality": done.kept_metric,
        "examples_per_second": done.examples_per_second,
        "tokens_per_second": done.tokens_per_second,
    }


def held_back_items(context: Context) -> Any:
    """The judged training items that no model trains on, to choose steps, calibrate and set thresholds: int32 [V]."""
    import numpy as np

    pairs = judged(context)
    items = np.unique(pairs["item"][~pairs["holdout"]])
    count = max(1, round(context.experiment.assistant.valid_share * len(items)))
    if count >= len(items):
        raise ValueError(
            f"judgements: only {len(items)} training items are judged, too few to hold back "
            f"assistant.valid_share={context.experiment.assistant.valid_share} of them"
        )
    return np.sort(np.random.default_rng((context.experiment.seed, 2)).permutation(items)[:count])


STAGE = Stage(
    name="assistant",
    config=lambda e: {
        "assistant": e.assistant,
        "encoder": {"row_tokens": e.encoder.row_tokens},
        "tokens": [e.encoder.item_tokens, e.encoder.keyphrase_tokens],
        "precision": e.recommend.precision,
        "relevant_grade": e.recommend.relevant_grade,
        "seed": e.seed,
    },
    inputs=("prepare", "judge"),
    run=run,
    published=files_below("model", CALIBRATION),
    external=lambda context: warm_start_hash(context, "assistant"),
    everywhere=lambda e: True,
)
