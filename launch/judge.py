"""Runs the judge stage: python -m launch.judge --config=configs/X.py --workdir=DIR [--dry_run]."""

from absl import flags

from distill.stages import Context, run_stage
from distill.stages.judge import STAGE
from distill.stages.judge_asking import dry_run
from launch.main import run

DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be asked and what it costs; ask nothing.")


def work(context: Context, force: bool) -> None:
    if not DRY_RUN.value:
        run_stage("judge", context, force)
        return
    expected = dry_run(context, STAGE)
    print(f"pairs:             {expected.pairs:,}")
    print(f"known already:     {expected.known:,}")
    print(f"to ask:            {expected.to_ask:,}")
    print(f"prompt tokens:     {expected.prompt_tokens:,}")
    print(f"completion tokens: {expected.completion_tokens:,}")
    print(f"cost:              {expected.cost:,.2f}")


if __name__ == "__main__":
    run(work)
