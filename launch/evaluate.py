"""Runs the evaluate stage: python -m launch.evaluate --config=configs/X.py --workdir=DIR [--protocol]."""

from absl import flags

from distill.stages import Context, run_stage
from launch.main import run

PROTOCOL = flags.DEFINE_bool(
    "protocol", False, "Also compare the sources of keyphrases by the evaluation protocol (docs/protocol.md)."
)


def work(context: Context, force: bool) -> None:
    if PROTOCOL.value:
        context.experiment.evaluate.protocol.run = True
    run_stage("evaluate", context, force)


if __name__ == "__main__":
    run(work)
