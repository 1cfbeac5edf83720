"""What the student learns from: each enabled task's pairs, the teacher's targets, the weights of clicks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from distill.config import DistillLoss, StudentConfig
from distill.stages.base import Context
from distill.stages.judge import judged
from distill.stages.score import scored

if TYPE_CHECKING:
    from distill.data.propensity import PositionBias

Signals = dict[str, Any]  # `teacher`, `searched`, `clicked` as `distill.data.pair_pool.join_signals` reads them


def task_signals(context: Context, settings: StudentConfig, name: str) -> tuple[StudentConfig, Signals]:
    """The enabled tasks' pair tables; a task whose table is missing is left out, and the run says so."""
    import numpy as np

    tasks = dataclasses.replace(settings.tasks)
    prepared = context.prepared
    teacher = searched = clicked = None
    if tasks.clicks:
        positives = _positives(context, settings, exact=settings.exact_as_clicked and tasks.distill > 0, name=name)
        if len(positives[0]):
            clicked = positives
        else:
            tasks.clicks = 0.0
            context.reporter.line(f"{name}: no clicked pair to learn from, so the clicks task is left out")
    if tasks.search_relevance:
        table = prepared.training("search_relevance")
        if table is None or not len(table["item"]):
            tasks.search_relevance = 0.0
            context.reporter.line(f"{name}: no search_relevance table, so that task is left out")
        else:
            searched = (table["item"], table["keyphrase"], table["passed"].astype(np.float32))
    if tasks.distill:
        teacher = _teacher(context, settings.distill)
    if not (tasks.clicks or tasks.search_relevance or tasks.distill):
        raise ValueError(f"{name}: every enabled task's table is missing; add clicks, search_relevance or judgements")
    signals = {"teacher": teacher, "searched": searched, "clicked": clicked}
    return dataclasses.replace(settings, tasks=tasks), signals


def _positives(context: Context, settings: StudentConfig, exact: bool, name: str) -> tuple[Any, Any, Any]:
    """(item, keyphrase, weight) of the clicks task's positives: what was clicked and, if wanted, what is graded 3."""
    import numpy as np

    tables = []
    if exact:
        graded = judged(context)
        chosen = ~graded["holdout"] & (graded["grade"] == 3)
        tables.append((graded["item"][chosen], graded["keyphrase"][chosen], np.ones(chosen.sum(), np.float32)))
    if (clicks := context.prepared.training("clicks")) is not None:
        chosen = clicks["clicks"] > 0
        weights = np.ones(chosen.sum(), np.float32)
        if settings.inverse_propensity:
            weights = _inverse_propensities(context, clicks, chosen, settings.propensity_clip, name)
        tables.append((clicks["item"][chosen], clicks["keyphrase"][chosen], weights))
    empty = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return tuple(np.concatenate(columns) for columns in zip(empty, *tables))  # type: ignore[return-value]


def _inverse_propensities(context: Context, clicks: dict[str, Any], chosen: Any, clip: float, name: str) -> Any:
    """Weights of the rows `chosen`; 1, their mean, where the position is not known."""
    import numpy as np

    from distill.data.propensity import inverse_propensity_weights

    bias = context.prepared.position_bias() or _position_bias(context, clicks)
    position = clicks["position"][chosen]
    known = np.isfinite(position)
    context.reporter.line(
        f"{name}: position bias by rank^-{bias.eta:.2f} (± {bias.eta_error:.2f}), from {bias.clicks:,} clicks compared "
        f"within {bias.basis}; {int((~known).sum()):,} of {len(known):,} clicked pairs have no position and weight 1"
    )
    weights = np.ones(len(position), np.float32)
    weights[known] = inverse_propensity_weights(position[known], bias.propensity, clip=clip)
    return weights


def _position_bias(context: Context, clicks: dict[str, Any]) -> PositionBias:
    """The estimate from one row a pair, where the log had no pairs at different ranks for `prepare` to compare.

    Pairs of one grade count as equally attractive where a grade is known: the estimate may read the judge, since a
    worse one would flatter what clicks are compared with.
    """
    import numpy as np

    from distill.data.pair_pool import pair_keys
    from distill.data.propensity import estimate_position_bias

    graded, keyphrases = judged(context), len(context.prepared.keyphrases)
    keys = pair_keys(graded["item"], graded["keyphrase"], keyphrases)  # sorted
    shown = pair_keys(clicks["item"], clicks["keyphrase"], keyphrases)
    at = np.minimum(np.searchsorted(keys, shown), len(keys) - 1)
    columns = (clicks[column] for column in ("item", "keyphrase", "impressions", "clicks", "position"))
    return estimate_position_bias(*columns, strata=np.where(keys[at] == shown, graded["grade"][at], -1))


def _teacher(context: Context, settings: DistillLoss) -> tuple[Any, Any, Any]:
    """(item, keyphrase, raw logit) of the pairs that the student imitates."""
    import numpy as np

    from distill.data.pair_pool import pair_keys

    graded = judged(context)
    train = ~graded["holdout"]
    label = np.array(context.experiment.assistant.grade_targets)[graded["grade"][train]]
    keyphrases = len(context.prepared.keyphrases)
    if settings.teacher == "judge":
        item, keyphrase, target = graded["item"][train], graded["keyphrase"][train], label
    else:
        pairs = scored(context)
        item, keyphrase = pairs["item"], pairs["keyphrase"]
        if not settings.grade_share:
            return item, keyphrase, pairs["logit"]
        target = 1 / (1 + np.exp(-pairs["logit"].astype(np.float64)))
        keys = pair_keys(item, keyphrase, keyphrases)
        order = np.argsort(keys)
        asked = pair_keys(graded["item"][train], graded["keyphrase"][train], keyphrases)
        at = order[np.searchsorted(keys, asked, sorter=order)]  # every judged pair was scored too
        target[at] += settings.grade_share * (label - target[at])
    # As logits; sharp labels stay finite.
    target = np.clip(target, 0.01, 0.99)
    return item, keyphrase, np.log(target / (1 - target))
