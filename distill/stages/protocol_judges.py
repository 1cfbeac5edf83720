"""Who says whether a pair of the protocol is relevant: the run's judge, or its assistant calibrated to that judge."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

from distill.artifacts import read_json
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context
from distill.stages.judge_asking import expected, requests
from distill.stages.judge_backends import LANGUAGE_MODELS, free_judge, language_model, rubric_of, secrets, store_folder

if TYPE_CHECKING:
    import numpy as np

    from distill.judge.asking import Estimate
    from distill.judge.backends import Judgement


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What one judge says of pairs [N]."""

    label: str  # in the names of figures: `replay`, `simulated`, `llm` or `assistant`
    name: str  # who it is, in words
    relevant: np.ndarray  # float [N]: 1, 0, or NaN where it does not know
    statuses: dict[str, int]  # graded, abstained, unparsable or failed (no answer) → pairs


def verdicts(context: Context, judge: str, item: np.ndarray, keyphrase: np.ndarray, assistant: Any) -> Verdicts:
    """The verdicts of `judge` ("judge" or "assistant") on distinct index pairs.

    Relevant is a grade of at least the assistant's `relevant_grade`; the assistant says so where its calibrated
    probability is at least one half. A language model is asked through the judge stage's store, so that it is never
    asked about a pair twice.

    Args:
      assistant: the model of that name in `load_models`.

    Raises:
      WaitingForBatch: the backend is `batch` and some answers are still to come; run the same command again then.
    """
    import numpy as np

    saved = read_json(context.folder("assistant") / CALIBRATION)
    if judge == "assistant":
        from distill.judge.calibration import Calibration

        calibration = Calibration.from_dict(saved["calibration"])
        probability = calibration.probability(assistant.score(keyphrase, item)) if len(item) else np.zeros(0)
        relevant = (probability >= 0.5).astype(np.float64)
        return Verdicts("assistant", "the assistant, calibrated to the judge", relevant, {"graded": len(item)})
    pairs = _once(item, keyphrase)
    backend = context.experiment.judge.backend
    if backend in LANGUAGE_MODELS:
        label, (name, answers) = "llm", _ask(context, pairs)
    else:
        label, answers = backend, list(free_judge(context).judge(requests(context, pairs)))
        voices = sorted({f"{one.judge} under {one.rubric}" for one in answers if one.status == "graded"})
        name = ("the judgements table: " if backend == "replay" else "") + (", ".join(voices) or "no grade")
    place = {pair: row for row, pair in enumerate(zip(item.tolist(), keyphrase.tolist()))}
    relevant = np.full(len(item), np.nan)
    for one in answers:
        if one.grade is not None:
            relevant[place[one.item, one.keyphrase_index]] = one.grade >= saved["relevant_grade"]
    return Verdicts(label, name, relevant, dict(sorted(Counter(one.status for one in answers).items())))


def cost_of_verdicts(context: Context, item: np.ndarray, keyphrase: np.ndarray) -> Estimate:
    """What `verdicts` of the judge, a language model, would ask for about these pairs; nothing is asked."""
    rubric = rubric_of(context)
    return expected(
        context,
        language_model(context, context.folder("judge"), rubric, asking=False),
        rubric,
        _once(item, keyphrase),
    )


def _once(item: np.ndarray, keyphrase: np.ndarray) -> dict[str, np.ndarray]:
    import numpy as np

    return {"item": item, "keyphrase": keyphrase, "repeat": np.zeros(len(item), np.int16)}


def _ask(context: Context, pairs: dict[str, np.ndarray]) -> tuple[str, list[Judgement]]:
    from distill.judge.asking import ask
    from distill.judge.store import JudgementStore

    settings, folder, rubric = context.experiment.judge, context.folder("judge"), rubric_of(context)
    judge = language_model(context, folder, rubric)
    answers: list[Judgement] = []
    total = len(pairs["item"])
    with (
        JudgementStore(store_folder(context, folder), 0, secrets(context)) as store,
        context.reporter.progress("protocol", total) as advance,
    ):
        summary = ask(
            store,
            judge,
            rubric,
            requests(context, pairs),
            attempts=1 if settings.backend == "jax" else settings.attempts,
            total=total,
            advance=advance,
            receive=answers.extend,
        )
    context.reporter.line(
        f"protocol: {total - summary.known:,} pairs asked of {judge.name}, {summary.known:,} known already; "
        f"cost {summary.cost:,.2f}"
    )
    return f"{judge.name} under {rubric.name}", answers
