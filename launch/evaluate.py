"""Runs the evaluate stage: python -m launch.evaluate --config=configs/X.py --workdir=DIR [--protocol [--dry_run]]."""

from absl import flags

from distill.stages import Context, run_stage
from distill.stages.evaluate import STAGE
from distill.stages.models import load_models
from distill.stages.protocol import protocol_dry_run
from launch.main import run
from launch.summary import print_estimate

PROTOCOL = flags.DEFINE_bool(
    "protocol", False, "Also compare the sources of keyphrases by the evaluation protocol (docs/protocol.md)."
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "With --protocol: print what a language model would be asked and what it costs; ask nothing."
)


def work(context: Context, force: bool) -> None:
    if DRY_RUN.value:
        if not PROTOCOL.value:
            raise ValueError("--dry_run: without --protocol, evaluate asks nobody")
        context.stage_folder(STAGE)  # says what to run first, where that is not done
        print_estimate(protocol_dry_run(context, load_models(context)))
        return
    if PROTOCOL.value:
        context.experiment.evaluate.protocol.run = True
    run_stage("evaluate", context, force)


if __name__ == "__main__":
    run(work)
