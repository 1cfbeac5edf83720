"""Runs the judge stage: python -m launch.judge --config=configs/X.py --workdir=DIR."""

from distill.stages import run_stage
from launch.main import run

if __name__ == "__main__":
    run(lambda context, force: run_stage("judge", context, force))
