"""The judge that the config names, over this run's tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import ConfigError
from distill.stages.base import Context

if TYPE_CHECKING:
    from distill.judge.backends import Judge
    from distill.judge.rubric import Rubric

LANGUAGE_MODELS = ("openai", "batch", "jax")  # backends that are asked, whose answers go through the judgement store
STORE, BATCH = "store", "batch"  # folders below the stage's, which outlive a rerun


def rubric_of(context: Context) -> Rubric:
    from distill.judge.rubric import load_rubric

    try:
        return load_rubric(context.experiment.judge.rubric)
    except (ValueError, OSError) as error:
        raise ConfigError(f"config.judge.rubric={context.experiment.judge.rubric!r}: {error}") from None


def free_judge(context: Context) -> Judge:
    """The `replay` or `simulated` judge, which costs nothing and gives the same answers every time."""
    import numpy as np

    from distill.judge.backends import ReplayJudge, SimulatedJudge

    experiment, prepared = context.experiment, context.prepared
    if experiment.judge.backend == "replay":
        return ReplayJudge(replayed(context))
    from distill.data.marketplace import World

    world = World(experiment.data.marketplace, experiment.seed)
    row_of_item = {item_id: row for row, item_id in enumerate(world.item_ids.tolist())}
    row_of_keyphrase = {keyphrase: row for row, keyphrase in enumerate(world.keyphrases)}
    item_rows = np.array([row_of_item[item_id] for item_id in prepared.item_ids])
    keyphrase_rows = np.array([row_of_keyphrase[keyphrase] for keyphrase in prepared.keyphrases])
    return SimulatedJudge(
        rubric_of(context).name, lambda items, keyphrases: world.judge(item_rows[items], keyphrase_rows[keyphrases])
    )


def replayed(context: Context) -> dict[tuple[int, int], tuple[int, str, str]]:
    """(item, keyphrase) → grade, judge and rubric of the judgements table.

    Where several judges or rubrics graded one pair, the one with the most rows in the table speaks.
    """
    from collections import Counter

    rows = [
        row
        for table in (context.prepared.training("judgements"), context.prepared.holdout("judgements"))
        if table is not None
        for row in zip(*(table[name].tolist() for name in ("item", "keyphrase", "grade", "judge", "rubric")))
    ]
    if not rows:
        raise ValueError(
            f"{context.experiment.data.dir or 'config.data.sources'}: judge.backend='replay' needs a `judgements` "
            "table with at least one usable row (item_id, keyphrase, grade, judge, rubric)"
        )
    order = [voice for voice, _ in sorted(Counter(row[3:] for row in rows).items(), key=lambda one: (-one[1], one[0]))]
    rows.sort(key=lambda row: order.index(row[3:]), reverse=True)
    grades = {row[:2]: row[2:] for row in rows}
    if len(grades) < len(rows):
        context.reporter.line(
            f"judge: {len(rows) - len(grades):,} further grades of pairs that several judges graded are left out; "
            f"{' under '.join(order[0])} goes first"
        )
    return grades  # type: ignore[return-value]


def language_model(context: Context, folder: Path, rubric: Rubric, *, asking: bool = True) -> Any:
    """The judge of one of LANGUAGE_MODELS, which can also tell the `tokens` of a request; no key, if not `asking`."""
    try:
        return _language_model(context, folder, rubric, asking)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"config.judge.backend={context.experiment.judge.backend!r}: needs the package {error.name}; "
            "pip install 'llmdistill4ads[llm]'"
        ) from None


def _language_model(context: Context, folder: Path, rubric: Rubric, asking: bool) -> Any:
    settings = context.experiment.judge

    def notice(text: str) -> None:
        context.reporter.line(f"judge: {text}")

    if settings.backend == "openai":
        from distill.judge.endpoint import EndpointJudge, read_key

        key = read_key(settings.endpoint, os.environ) if asking else None
        return EndpointJudge(
            settings.endpoint, rubric, key, notice=lambda text: context.reporter.line(f"judge: {text}")
        )
    if settings.backend == "batch":
        from distill.judge.batch_files import BatchJudge

        return BatchJudge(settings.endpoint, rubric, folder / BATCH, attempts=settings.attempts, notice=notice)
    from distill.judge.language_model import LanguageModelJudge

    return LanguageModelJudge.load(settings.llm, rubric, context.own_mesh(settings.llm.parallel))


def store_folder(context: Context, folder: Path) -> Path:
    return Path(context.experiment.judge.store) if context.experiment.judge.store else folder / STORE


def secrets(context: Context) -> tuple[str, ...]:
    """What must not be stored, should a service repeat it: the key."""
    value = os.environ.get(context.experiment.judge.endpoint.key_variable, "").strip()
    return (value,) if value else ()
