"""What all binaries share: flags, a readable console, errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from distill.artifacts import ArtifactError
from distill.config import ConfigError, Experiment
from distill.stages import Context

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="A Python file whose get_config() returns an Experiment."
)
WORKDIR = flags.DEFINE_string("workdir", None, "The working directory; made when it does not exist.")
FORCE = flags.DEFINE_bool("force", False, "Run again even what is complete.")


class Console:
    """Lines and progress bars on standard error, metrics and results on standard output."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole

        self._rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        self._rich.print(text, markup=False)

    @contextlib.contextmanager
    def progress(self, name: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """A bar on a terminal; a line every half minute where there is none."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        bar = Progress(*columns, console=self._rich, transient=True, disable=not self._rich.is_terminal)
        reached, spoken = done, time.monotonic()
        begun = spoken
        with bar:
            task = bar.add_task(name, total=total, completed=done, figures="")

            def advance(count: int = 1, **figures: float) -> None:
                nonlocal reached, spoken
                reached += count
                text = "  ".join(f"{_label(key)} {value:,.4g}" for key, value in figures.items())
                bar.update(task, completed=reached, figures=text)
                now = time.monotonic()
                if not self._rich.is_terminal and now - spoken > 30:
                    spoken = now
                    left = (now - begun) / max(1, reached - done) * (total - reached)
                    self.line(f"{name}: {reached:,} of {total:,}, {left:,.0f} s left  {text}")

            yield advance


def _label(name: str) -> str:
    return "examples/s" if name == "examples_per_second" else name


def run(work: Callable[[Context, bool], object]) -> None:
    """Parses the flags, validates the config and calls `work(context, force)`; failures become one line, exit 1."""

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f"error: unexpected argument {argv[1]!r}; settings are given as --config.FIELD=VALUE")
        # The libraries' own bookkeeping is not for a person's eyes.
        logging.set_verbosity(logging.WARNING)
        try:
            context = _context()
            work(context, FORCE.value)
        except (ConfigError, ArtifactError, ValueError, OSError, RuntimeError) as error:
            if os.environ.get("DISTILL_TRACEBACK"):
                raise
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command continues where it stopped")

    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        first = str(error).strip("'\"\n ").splitlines()
        sys.exit(f"error: {first[0] if first else type(error).__name__}")


def _context() -> Context:
    config = CONFIG.value
    if not isinstance(config, Experiment):
        sys.exit(f"error: --config: get_config() returned {type(config).__name__}, not a distill.config.Experiment")
    experiment = dataclasses.replace(config).validate()
    workdir = Path(str(WORKDIR.value))
    workdir.mkdir(parents=True, exist_ok=True)
    return Context(experiment, workdir, Console())
