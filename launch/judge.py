"""Runs the judge stage: python -m launch.judge --config=configs/X.py --workdir=DIR [--dry_run]."""

from absl import flags

from distill.stages import Context, run_stage
from distill.stages.judge import STAGE
from distill.stages.judge_asking import dry_run
from launch.main import run
from launch.summary import print_estimate

DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be asked and what it costs; ask nothing.")


def work(context: Context, force: bool) -> None:
    if not DRY_RUN.value:
        run_stage("judge", context, force)
        return
    print_estimate(dry_run(context, STAGE))


if __name__ == "__main__":
    run(work)
