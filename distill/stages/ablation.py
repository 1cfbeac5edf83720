"""A grid of arms and seeds over the pipeline's own stages; arms that read the same share a stage's folder.

A stage runs in `stages/STAGE/FINGERPRINT` of the working directory. The fingerprint covers what the stage reads, so
equal work of two arms is one folder, complete folders are skipped, and a killed run continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.artifacts import ArtifactError
from distill.config import ConfigError, Experiment
from distill.config.ablations import Ablations, Arm
from distill.stages import load_stage, run_one
from distill.stages.base import Context, Stage, files_below, write_table
from distill.stages.judge import GRADED, judged
from distill.stages.judge_backends import LANGUAGE_MODELS

_LABELS = 20  # stream of hashed numbers, apart from those of the judge's choice of pairs
CHECKPOINTS = "training/checkpoints"
ASSISTED = ("assistant", "score")  # stages of which an arm without an assistant knows nothing


@dataclasses.dataclass
class ArmContext(Context):
    """A context whose stages live in folders of their own."""

    folders: dict[str, Path] = dataclasses.field(default_factory=dict)

    def folder(self, stage: str) -> Path:
        if stage not in self.folders:
            raise ArtifactError(f"stage {stage!r} is not among those that this arm needs and runs")
        return self.folders[stage]


@dataclasses.dataclass(frozen=True)
class ArmRun:
    """One arm on one seed: the experiment it ran, and the folder of each of its stages.

    `judge` is what it learnt from, `referee` the judgements that it was measured by.
    """

    arm: str
    seed: int
    experiment: Experiment
    folders: Mapping[str, Path]


def check_arms(grid: Ablations, experiments: Mapping[str, Experiment]) -> None:
    """Raises ConfigError for an arm that cannot be compared with the others."""
    base = grid.base()
    for name, experiment in experiments.items():
        try:
            experiment.validate()
        except ConfigError as error:
            raise ConfigError(f"config.arms.{name}: {error}") from None
        if experiment.data != base.data or experiment.seed != base.seed:
            raise ConfigError(
                f"config.arms.{name}.overrides: data and seed must be those of all arms, or their queries differ; "
                "set them for the whole grid, or make another grid"
            )
        for stage in ("assistant", "student"):
            if directory := getattr(experiment, stage).warm_start:
                raise ConfigError(
                    f"config.{stage}.warm_start={directory!r}: arms start from the initial encoder, as an earlier run "
                    "has learnt from signals that an arm must not know; leave it empty"
                )


def needs_assistant(experiment: Experiment) -> bool:
    """Whether the arm's student reads the assistant's scores, or has its negatives vetoed by it."""
    student = experiment.student
    taught = student.tasks.distill > 0 and student.distill.teacher == "assistant"
    return taught or (student.hard_negatives.per_item > 0 and student.hard_negatives.veto == "assistant")


def run_grid(
    context: Context, grid: Ablations, experiments: Mapping[str, Experiment], force: bool = False
) -> tuple[list[ArmRun], dict[str, str]]:
    """Runs all arms on all seeds, the reference arm of a seed first.

    An arm that fails is left, and the others go on without it; not so where it is the reference, whose judgements are
    the referee's, nor with several processes, of which one alone may have failed.

    Args:
      context: of the grid; its working directory holds `stages/`.
      experiments: each arm's, as `check_arms` accepts them.

    Returns:
      What ran where, of the arms that finished on all seeds; and why each of the others did not.
    """
    order = sorted(experiments, key=lambda name: name != grid.reference)
    folders, runs, failed = StageFolders(context.workdir / "stages", force), [], {}
    for seed in grid.seeds:
        referee: Path | None = None
        for number, name in enumerate(order):
            if name in failed:
                continue
            place = f"arm {number + 1} of {len(order)}, seed {seed}"
            context.reporter.line(f"{name} ({place})")
            experiment = seeded(experiments[name], seed, context.workdir)
            one = ArmContext(
                experiment, context.workdir, context.reporter, processes=context.processes, profile=context.profile
            )
            try:
                run = run_arm(one, grid.arms[name], name, folders, referee)
            except Exception as error:
                if name == grid.reference or context.processes.count > 1:
                    raise
                failed[name] = f"seed {seed}: {type(error).__name__}: {error}"
                context.reporter.line(f"{name}: failed, and is left out: {failed[name]}")
            else:
                referee = run.folders["referee"]
                runs.append(run)
            _forget_compiled()
    return [run for run in runs if run.arm not in failed], failed


def run_arm(context: ArmContext, arm: Arm, name: str, folders: StageFolders, referee: Path | None) -> ArmRun:
    """Runs the stages that the arm needs; without a `referee` its own judgements become that of the other arms."""
    experiment = context.experiment
    folders.ensure(load_stage("prepare"), context)
    judgements = folders.ensure(load_stage("judge"), context)
    if arm.labels:
        context.folders["judge"] = folders.ensure(_labels_stage(name, arm.labels), context)
    student = load_stage("student")
    if needs_assistant(experiment):
        for stage in ASSISTED:
            folders.ensure(load_stage(stage), context)
    else:
        student = dataclasses.replace(student, inputs=tuple(one for one in student.inputs if one not in ASSISTED))
    folders.ensure(student, context)
    # The reference arm comes first on each seed, so its own judgements are the referee's.
    measured = dataclasses.replace(context, folders=context.folders | {"judge": referee or judgements})
    from distill.stages import ablation_measure

    folders.ensure(ablation_measure.STUDENT, measured)
    if "assistant" in context.folders:
        folders.ensure(ablation_measure.ASSISTANT, measured)
    if referee is None:
        folders.ensure(ablation_measure.BASELINES, measured)
    found = measured.folders | {"judge": context.folders["judge"], "referee": measured.folders["judge"]}
    return ArmRun(name, experiment.seed, experiment, found)


class StageFolders:
    """Gives each stage the folder of its fingerprint, and runs it there once."""

    def __init__(self, root: Path, force: bool):
        self._root, self._force = root, force
        self._done: set[Path] = set()

    def ensure(self, stage: Stage, context: ArmContext) -> Path:
        def named() -> str:
            context.folders[stage.name] = self._root  # any: a fingerprint does not depend on where it is
            return context.stage_folder(stage).fingerprint[:12]

        folder = self._root / stage.name / context.processes.on_first(named)
        context.folders[stage.name] = folder
        if folder not in self._done:
            run_one(stage, context, self._force)
            # A grid's checkpoints would fill the disk; a finished model needs none.
            context.processes.on_first(lambda: shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True))
            self._done.add(folder)
        return folder


def seeded(experiment: Experiment, seed: int, workdir: Path) -> Experiment:
    """The arm's experiment on that seed; a language model's answers are shared by all of the grid."""
    judge = experiment.judge
    if judge.backend in LANGUAGE_MODELS and not judge.store:
        judge = dataclasses.replace(judge, store=str(workdir / "judgement_store"))
    return dataclasses.replace(experiment, seed=seed, judge=judge)


def _labels_stage(name: str, labels: int) -> Stage:
    """Keeps `labels` judged training pairs, and all those of held-out listings.

    Pairs are drawn by a hash, a first one of every listing, then a second one, and so on: a smaller number is a part of
    a larger one, and with a pair of every listing the student takes as many steps as with all of them.
    """

    def run(context: Context, folder: Path) -> dict[str, Any]:
        import numpy as np
        import pyarrow.parquet as pq

        from distill.data.hashing import uniform

        pairs = judged(context)
        training = np.flatnonzero(~pairs["holdout"])
        if labels > len(training):
            raise ConfigError(f"config.arms.{name}.labels={labels}: only {len(training)} training pairs are judged")
        item, keyphrase = pairs["item"][training], pairs["keyphrase"][training]
        drawn = uniform(context.experiment.seed, _LABELS, item, keyphrase)
        order = np.lexsort((drawn, item))
        starts = np.flatnonzero(np.diff(item[order], prepend=-1))
        turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        chosen = order[np.lexsort((drawn[order], turn))][:labels]
        keys = item[chosen].astype(np.int64) * len(context.prepared.keyphrases) + keyphrase[chosen]
        table = pq.read_table(context.folder("judge") / GRADED)
        rows = context.prepared.pairs(table.select(["item_id", "keyphrase"]))
        mine = rows["item"].astype(np.int64) * len(context.prepared.keyphrases) + rows["keyphrase"]
        kept = table.filter(np.isin(mine, keys) | table["holdout"].to_numpy())
        write_table(folder / GRADED, kept)
        return {"judged_training_pairs": labels, "judged_listings": len(np.unique(item[chosen]))}

    return Stage(
        name="labels",
        config=lambda e: {"labels": labels, "seed": e.seed},
        inputs=("prepare", "judge"),
        run=run,
        published=files_below(GRADED),
    )


def _forget_compiled() -> None:
    """An arm's compiled steps fit no other arm, and a long grid would keep them all."""
    import jax

    jax.clear_caches()
