"""A grid's student against sentence-transformers trained on the same examples, by the same referees.

    PYTHONPATH=. python tools/compare_sentence_transformers.py --grid=runs/ablations_esci \
        --config=configs/ablations.py:esci_ads [the --config. settings that launch.ablate was run with] [--seeds=0,1,2]

reads the finished students of a grid (`--arm`, else its reference arm) and trains, in `.venv-peers` (`make peers`),
sentence-transformers' own losses on every example that each student saw, as often as it saw it. Equal on both sides:
the initial weights and tokens, the examples, the number of optimiser steps, AdamW with its schedule, weight decay and
clipping, dropout, Matryoshka widths and weights, and the validations that choose the step. The losses are those
that the library's documentation recommends for such data:

    clicks              MultipleNegativesRankingLoss, no listing and no keyphrase twice in a batch
    search relevance    OnlineContrastiveLoss (`--search_loss`)
    distillation        CoSENTLoss on the teacher's probability (`--distill_loss`)

each in MatryoshkaLoss. `--mix=proportional` is how the library trains on several data sets: a step is a batch of one of
them, all batches alike in size, each data set's share of the steps that of its examples. `--mix=joint` is a step of the
student: the sum of the losses over the student's own batch, by its task weights. `--mix` and `--distill_loss` may be
repeated; each combination is a model of its own.

Both are measured by the code that measured the grid. Prints a table, and writes `sentence_transformers.json` and
`sentence_transformers.md` to the grid's folder, and the page to `--config.docs` too. What is finished is kept: a killed
run continues with the seed and model at which it stopped, and nothing of the grid itself is run or changed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import sentence_transformers_report as report
from absl import flags
from sentence_transformers_stage import DISTILL_LOSSES, MIXES, SEARCH_LOSSES, Variant, make_stage

from distill.artifacts import ArtifactError
from distill.config import ConfigError, Experiment
from distill.config.ablations import Ablations
from distill.stages import Context, load_stage
from distill.stages.ablation import ArmContext, ArmRun, StageFolders, check_arms, run_arm, seeded
from distill.stages.ablation_measure import STUDENT
from distill.stages.base import Stage
from launch.ablate import overridden
from launch.main import run

ROOT = Path(__file__).parents[1]
STUDENT_STAGE = load_stage("student")
MEASURE = dataclasses.replace(STUDENT, name="measure_sentence_transformers")

flags.DEFINE_alias("grid", "workdir")
SEEDS = flags.DEFINE_list("seeds", None, "Seeds of the grid that are compared; all of them where not given.")
ARM = flags.DEFINE_string("arm", None, "The arm whose student is compared; the grid's reference arm where not given.")
MIX = flags.DEFINE_multi_enum("mix", MIXES[:1], MIXES, "How the data sets share the steps; may be repeated.")
DISTILL = flags.DEFINE_multi_enum(
    "distill_loss", DISTILL_LOSSES[:1], DISTILL_LOSSES, "The loss on the teacher's probability; may be repeated."
)
SEARCH = flags.DEFINE_enum("search_loss", SEARCH_LOSSES[0], SEARCH_LOSSES, "The loss on the search engine's verdict.")
PEERS = flags.DEFINE_string("peers", str(ROOT / ".venv-peers/bin/python"), "The interpreter of sentence-transformers.")


def work(context: Context, force: bool) -> None:
    grid = context.experiment
    if not isinstance(grid, Ablations):
        raise ConfigError("--config: get_config() must return a distill.config.ablations.Ablations, the grid's own")
    arm = grid.reference if ARM.value is None else ARM.value
    if arm not in grid.arms:
        raise ConfigError(f"--arm={arm!r}: must be one of {', '.join(grid.arms)}")
    seeds = seeds_of(grid, SEEDS.value)
    experiments = {
        name: overridden(grid.base(), grid.arms[name].overrides, f"config.arms.{name}")
        for name in {grid.reference, arm}
    }
    check_arms(grid, experiments)
    variants = [
        Variant(*one, SEARCH.value) for one in itertools.product(dict.fromkeys(MIX.value), dict.fromkeys(DISTILL.value))
    ]
    finished = {seed: find_arm(context, grid, experiments, arm, seed) for seed in seeds}
    measured = {variant: [_measured(context, finished[seed], variant, force) for seed in seeds] for variant in variants}
    report.write(
        report.Compared(grid, arm, [finished[seed] for seed in seeds], measured),
        context.workdir,
        context.reporter,
        grid.docs,
    )


def find_arm(context: Context, grid: Ablations, experiments: Mapping[str, Experiment], arm: str, seed: int) -> ArmRun:
    """Where a finished arm's stages lie; raises ArtifactError, naming what is not finished."""
    folders = _Finished(context.workdir / "stages", False)

    def find(name: str, referee: Path | None) -> ArmRun:
        experiment = seeded(experiments[name], seed, context.workdir)
        one = ArmContext(experiment, context.workdir, context.reporter, processes=context.processes)
        return run_arm(one, grid.arms[name], name, folders, referee)

    reference = find(grid.reference, None)
    return reference if arm == grid.reference else find(arm, reference.folders["referee"])


class _Finished(StageFolders):
    """Finds the folders of stages that are complete, and runs none."""

    def ensure(self, stage: Stage, context: ArmContext) -> Path:
        context.folders[stage.name] = self._root
        folder = self._root / stage.name / context.stage_folder(stage).fingerprint[:12]
        context.folders[stage.name] = folder
        if not context.stage_folder(stage).is_complete():
            raise ArtifactError(
                f"{folder}: stage {stage.name} of seed {context.experiment.seed} is not finished; run `python -m "
                f"launch.ablate --workdir={context.workdir}` with the same settings first, or name finished --seeds"
            )
        return folder


def seeds_of(grid: Ablations, given: Sequence[str] | None) -> Sequence[int]:
    """The seeds to compare; raises ConfigError for one that the grid has not, or that stands there twice."""
    if given is None:
        return grid.seeds
    wrong = [text for text in given if not (text.isdecimal() and int(text) in grid.seeds)]
    if wrong or not given or len(set(given)) < len(given):
        raise ConfigError(f"--seeds={','.join(given)}: give different seeds of the grid's {grid.seeds}")
    return [int(text) for text in given]


def _measured(context: Context, arm: ArmRun, variant: Variant, force: bool) -> report.Measured:
    """Trains and measures what is not finished yet."""
    context.reporter.line(f"{variant.name}, seed {arm.seed}")
    student = dataclasses.replace(STUDENT_STAGE, inputs=tuple(i for i in STUDENT_STAGE.inputs if i in arm.folders))
    folders = StageFolders(context.workdir / "stages", force)
    own = ArmContext(
        arm.experiment, context.workdir, context.reporter, processes=context.processes, folders=dict(arm.folders)
    )
    trained = folders.ensure(make_stage(student, variant, Path(PEERS.value)), own)
    referee = {"judge": arm.folders["referee"], "student": trained}
    return report.Measured(
        trained, folders.ensure(MEASURE, dataclasses.replace(own, folders=dict(arm.folders) | referee))
    )


if __name__ == "__main__":
    run(work)
