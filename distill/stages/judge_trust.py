"""How far the judge can be trusted: against people, and against itself."""

from __future__ import annotations

from typing import Any

from distill.stages.base import Context
from distill.stages.judge_pairs import GRADE, HUMAN, REPEAT

AGREEMENT = "agreement.json"


def trust_figures(context: Context, answers: dict[str, Any]) -> dict[str, Any]:
    """Figures by the names that `distill.evaluate.judge_report` reads, as JSON values; {} where nothing is known.

    Against people stand a language model's answers to human-labelled pairs; for `replay` and `simulated` the table
    `judge_agreement` speaks.

    Args:
      answers: item, keyphrase, purpose, repeat, grade, raw_score, status of all that the judge was asked, [N] each.
    """
    from distill.judge.agreement import json_figures

    pairs = _against_people(context, answers)
    figures: dict[str, Any] = {}
    if pairs is None:
        context.reporter.line("judge: no pair that judge and people both graded, so its agreement with them is unknown")
    else:
        figures |= _agreement(context, pairs)
        context.reporter.line(
            f"judge: {figures['agreement']['pairs']:,} pairs graded by humans too: "
            f"AUC exact {figures['agreement']['auc_exact']:.3f}, quadratic kappa {figures['agreement']['kappa']:.3f}"
        )
    consistency = _consistency(context, answers)
    return json_figures(figures | ({"consistency": consistency} if consistency else {}))


def _against_people(context: Context, answers: dict[str, Any]) -> dict[str, Any] | None:
    """item, keyphrase, grade, score, human (E, S, C, I) and split of the pairs that both graded."""
    import numpy as np

    prepared = context.prepared
    asked = (answers["purpose"] == HUMAN) & (answers["status"] == "graded")
    human = prepared.human()
    if asked.any() and human is not None:
        row = len(prepared.keyphrases)
        keys = human["item"].astype(np.int64) * row + human["keyphrase"]
        order = np.argsort(keys)
        wanted = answers["item"][asked].astype(np.int64) * row + answers["keyphrase"][asked]
        at = order[np.searchsorted(keys[order], wanted)]
        return {
            "item": answers["item"][asked],
            "keyphrase": answers["keyphrase"][asked],
            "grade": answers["grade"][asked],
            "score": answers["raw_score"][asked],
            "human": _letters(human["label"][at], human["gain"][at]),
            "split": human["split"][at],
        }
    # That table's grades are those of whoever made the judgements table, or of the simulation.
    table = prepared.judge_agreement() if context.experiment.judge.backend in ("replay", "simulated") else None
    if table is None or not len(table["item"]):
        return None
    return table | {"score": np.full(len(table["item"]), np.nan)}


def _letters(label: Any, gain: Any) -> Any:
    """E, S, C, I of human labels; of other labels, those letters by their gain."""
    import numpy as np

    by_gain = np.select([gain >= 1, gain >= 0.1, gain > 0], ["E", "S", "C"], "I")
    return np.where(np.isin(label.astype(str), list("ESCI")), label.astype(str), by_gain)


def _agreement(context: Context, pairs: dict[str, Any]) -> dict[str, Any]:
    from distill.judge.agreement import agreement_intervals, agreement_slices, judge_agreement, pair_slices
    from distill.judge.calibration import score_calibration

    prepared, experiment = context.prepared, context.experiment
    resampling = {"resamples": experiment.evaluate.bootstrap, "seed": experiment.seed}
    grade, human, keyphrase = pairs["grade"], pairs["human"], pairs["keyphrase"]
    names = pair_slices(
        [prepared.titles[item] for item in pairs["item"]],
        [prepared.categories[item] for item in pairs["item"]],
        [prepared.keyphrases[row] for row in keyphrase],
    )
    return {
        "agreement": judge_agreement(grade, human),
        "intervals": agreement_intervals(grade, human, keyphrase, pairs["score"], **resampling),
        "slices": {
            dimension: agreement_slices(grade, human, keyphrase, name, **resampling)
            for dimension, name in names.items()
        },
        "calibration": score_calibration(pairs["score"], human, pairs["split"]),
    }


def _consistency(context: Context, answers: dict[str, Any]) -> Any:
    """Figures over the pairs that were asked twice; None without any."""
    import numpy as np

    from distill.judge.consistency import self_consistency

    key = answers["item"].astype(np.int64) * len(context.prepared.keyphrases) + answers["keyphrase"]
    again = answers["purpose"] == REPEAT
    if not again.any():
        return None
    both = again | ((answers["purpose"] == GRADE) & np.isin(key, key[again]))
    grade = answers["grade"][both].astype(np.float64)
    return self_consistency(
        key[both],
        answers["repeat"][both],
        np.where(grade >= 0, grade, np.nan),
        answers["raw_score"][both],
        resamples=context.experiment.evaluate.bootstrap,
        seed=context.experiment.seed,
    )
