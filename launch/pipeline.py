"""Runs all stages in order, skipping complete ones: python -m launch.pipeline --config=configs/X.py --workdir=DIR."""

from __future__ import annotations

from distill.stages import Context, run_pipeline
from launch.main import run
from launch.summary import print_summary


def work(context: Context, force: bool) -> None:
    if not run_pipeline(context, force):
        context.reporter.line("all stages are complete; nothing to do (--force runs them again)")
    if context.processes.first:
        print_summary(context)


if __name__ == "__main__":
    run(work)
