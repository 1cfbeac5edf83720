"""What a run cost and how large its products are, read from the stages' folders."""

from __future__ import annotations

from pathlib import Path

from distill.artifacts import read_manifest
from distill.evaluate.report_contents import IndexFacts, JudgeCost
from distill.stages.base import Context
from distill.stages.judge_asking import ANSWERS
from distill.stages.judge_backends import LANGUAGE_MODELS

_STAGES = ("prepare", "judge", "assistant", "score", "student", "index", "recommend")


def stage_folders(context: Context) -> dict[str, Path]:
    """The stages that come before the report, and the arms' students by the arms' names."""
    folders = {name: context.folder(name) for name in _STAGES[:5]}
    folders |= {arm: context.for_arm(arm).folder("student") for arm in context.experiment.evaluate.arms}
    return folders | {name: context.folder(name) for name in _STAGES[5:]}


def stage_seconds(context: Context) -> dict[str, float]:
    manifests = {name: read_manifest(folder) for name, folder in stage_folders(context).items()}
    return {name: manifest["seconds"] for name, manifest in manifests.items() if manifest}


def revisions(context: Context) -> dict[str, str]:
    """Stage → git revision of the code that it ran, where that was known."""
    manifests = {name: read_manifest(folder) for name, folder in stage_folders(context).items()}
    return {name: one["git_revision"] for name, one in manifests.items() if one and one["git_revision"]}


def judge_cost(context: Context) -> JudgeCost | None:
    """What a language model was asked for in this working directory; None where the judge is none."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    settings = context.experiment.judge
    file = context.folder("judge") / ANSWERS
    if settings.backend not in LANGUAGE_MODELS or not file.exists():
        return None
    names = ["attempts", "prompt_tokens", "completion_tokens", "cost"]
    answers = pq.read_table(file, columns=names)
    calls, prompt, completion, cost = (pc.sum(answers[name]).as_py() or 0 for name in names)  # type: ignore[attr-defined]
    priced = settings.endpoint.prompt_price or settings.endpoint.completion_price
    known = bool(priced) or settings.backend == "jax"
    return JudgeCost(answers.num_rows, calls, prompt, completion, float(cost) if known else None)


def index_facts(context: Context) -> IndexFacts | None:
    manifest = read_manifest(context.folder("index"))
    if manifest is None:
        return None
    counts, settings = manifest["counts"], context.experiment.index
    curve = [(point["recall"], point["queries_per_second"]) for point in counts["curve"]]
    names = ("keyphrases", "width", "method", "bytes", "recall_at_100", "queries_per_second")
    return IndexFacts(**{name: counts[name] for name in names}, curve=curve, curve_at=settings.recall_at)


def sizes(context: Context) -> dict[str, int]:
    """Bytes of the models. Not of the export, which comes later: a report must not depend on what ran after it."""
    return {f"{name} model": _bytes(context.folder(name) / "model") for name in ("student", "assistant")}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
