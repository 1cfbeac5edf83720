"""What the launchers of pods share: the command that every host runs, and running or printing what starts it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
from absl import app, flags

from distill.stages import ORDER

NAME = flags.DEFINE_string("name", "llmdistill4ads", "Name of the job, or of the TPU slice.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be run and run nothing.")
PYTHON = flags.DEFINE_string("python", ".venv/bin/python", "The interpreter on the hosts.")


class UsageError(ValueError):
    """A launcher's flags that cannot work; the message names the flag and what to do."""


def stage_command(argv: Sequence[str], *, python: str, cluster: str) -> list[str]:
    """`[STAGE, FLAG, …]` as given behind `--` → the command for each host. Raises UsageError for what cannot run."""
    names = (*ORDER, "pipeline")
    if not argv or argv[0] not in names:
        raise UsageError(f"give the stage and its flags behind `--`; the stages are {', '.join(names)}")
    for flag in ("config", "workdir"):
        if not any(argument.startswith(f"--{flag}=") for argument in argv):
            raise UsageError(f"--{flag}: is missing behind `--`")
    workdir = next(argument.split("=", 1)[1] for argument in argv if argument.startswith("--workdir="))
    if "://" not in workdir and not Path(workdir).is_absolute():
        raise UsageError(f"--workdir={workdir}: must be an absolute path on storage that all hosts share")
    return [python, "-m", f"launch.{argv[0]}", f"--cluster={cluster}", *argv[1:]]


def render(template: str, **values: object) -> str:
    """A template of this folder, filled in; a value that it needs and does not get is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = shlex.quote
    return environment.get_template(template).render(**values)


def start(command: Sequence[str], document: str = "") -> int:
    """Runs `command` with `document` as its input, or prints both with --dry_run; returns the exit status."""
    if not DRY_RUN.value:
        return subprocess.run(command, input=document or None, text=True, check=False).returncode
    print(document or shlex.join(command))
    if document:
        print(f"would be the input of: {shlex.join(command)}", file=sys.stderr)
    return 0


def run(launch: Callable[[Sequence[str]], int]) -> None:
    """Parses the flags and calls `launch` with what stands behind `--`; a UsageError becomes one line."""

    def main(argv: list[str]) -> None:
        try:
            sys.exit(launch(argv[1:]))
        except UsageError as error:
            sys.exit(f"error: {error}")

    app.run(main)
