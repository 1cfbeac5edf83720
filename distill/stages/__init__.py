"""The pipeline: each stage reads what earlier ones published and publishes its own folder.

prepare → judge → assistant → score → student (and its arms) → index → recommend → evaluate → export
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from distill.artifacts import read_manifest
from distill.stages.base import FOLDERS, Context, Stage

ORDER = tuple(FOLDERS)


def load_stage(name: str) -> Stage:
    """The stage of that name; its module is imported only now, so that skipping stays cheap."""
    if name not in FOLDERS:
        raise ValueError(f"unknown stage {name!r}; there are {', '.join(ORDER)}")
    return importlib.import_module(f"distill.stages.{name}").STAGE


def run_stage(name: str, context: Context, force: bool = False) -> bool:
    """Runs one stage (the student's arms too) unless it is complete and current; returns whether any work was done."""
    stage = load_stage(name)
    contexts = [context]
    if name == "student":
        contexts += [context.for_arm(arm) for arm in context.experiment.evaluate.arms]
    worked = False
    for each in contexts:
        folder = each.stage_folder(stage)
        label = each.arm or name
        if force:
            folder.clear()
        elif folder.is_complete():
            context.reporter.line(f"{label}: complete, nothing to do")
            continue
        context.reporter.line(f"{label}: running")
        manifest = folder.run(lambda path, each=each: stage.run(each, path), stage.published)
        context.reporter.line(f"{label}: done in {manifest['seconds']:.1f} s")
        worked = True
    return worked


def run_pipeline(context: Context, force: bool = False, stages: Sequence[str] = ORDER) -> bool:
    """Runs the stages in order; returns whether any work was done."""
    worked = [run_stage(name, context, force) for name in stages]
    return any(worked)


__all__ = ["ORDER", "Context", "read_manifest", "run_pipeline", "run_stage"]
