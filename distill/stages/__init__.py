"""The pipeline: each stage reads what earlier ones published and publishes its own folder.

prepare → judge → assistant → score → student (and its arms) → index → recommend → evaluate → export
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence

from distill.artifacts import STARTED, ArtifactError, StageFolder, read_manifest
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
    worked = [run_one(stage, each, force) for each in contexts]
    return any(worked)


def run_one(stage: Stage, context: Context, force: bool) -> bool:
    """The first process decides and publishes; the others take part where the stage runs everywhere, or wait."""
    processes, path, label = context.processes, context.folder(stage.name), context.arm or stage.name
    folder: StageFolder | None = None  # the first process's: only that hashes the inputs

    def due() -> bool:
        nonlocal folder
        folder = context.stage_folder(stage)
        if force:
            folder.clear()
        elif folder.is_complete():
            return False
        folder.open()
        return True

    if not processes.on_first(due):
        context.reporter.line(f"{label}: complete, nothing to do")
        return False
    context.reporter.line(f"{label}: running")
    everywhere = stage.everywhere(context.experiment)
    if everywhere and not (path / STARTED).exists():
        raise ArtifactError(
            f"{path}: process {processes.index} does not see what process 0 wrote there; "
            "--workdir must be on storage that all hosts share"
        )
    clock = time.perf_counter()
    counts = stage.run(context, path) if everywhere else processes.on_first(lambda: stage.run(context, path))

    def publish() -> float:
        assert folder is not None
        return folder.publish(counts, stage.published(path), time.perf_counter() - clock)["seconds"]

    context.reporter.line(f"{label}: done in {processes.on_first(publish):.1f} s")
    return True


def run_pipeline(context: Context, force: bool = False, stages: Sequence[str] = ORDER) -> bool:
    """Runs the stages in order; returns whether any work was done."""
    worked = [run_stage(name, context, force) for name in stages]
    return any(worked)


__all__ = ["ORDER", "Context", "read_manifest", "run_pipeline", "run_stage"]
