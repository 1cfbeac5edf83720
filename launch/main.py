"""What all binaries share: flags, joining the other processes, a readable console, errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from distill.artifacts import ArtifactError
from distill.config import ConfigError, Experiment
from distill.parallel.processes import Processes
from distill.parallel.startup import CLUSTERS, decide, join
from distill.reporting import Silent
from distill.stages import Context

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="A Python file whose get_config() returns an Experiment."
)
WORKDIR = flags.DEFINE_string("workdir", None, "The working directory; made when it does not exist.")
FORCE = flags.DEFINE_bool("force", False, "Run again even what is complete.")
PROFILE = flags.DEFINE_bool("profile", False, "Trace a few training steps into the stage's training/profile.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port where process 0 listens; for several processes.")
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes run this command together.")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this one is, from 0.")
CLUSTER = flags.DEFINE_enum("cluster", "auto", CLUSTERS, "The cluster whose environment tells what is not given here.")

EXPECTED = (ConfigError, ArtifactError, ValueError, OSError, RuntimeError)
LINGER_SECONDS = 2  # the coordination service dies with process 0; the others first read why


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

            def advance(count: int = 1, seconds_left: float | None = None, **figures: float) -> None:
                nonlocal reached, spoken
                reached += count
                text = "  ".join(f"{_label(key)} {value:,.4g}" for key, value in figures.items())
                bar.update(task, completed=reached, figures=text)
                now = time.monotonic()
                if not self._rich.is_terminal and now - spoken > 30:
                    spoken = now
                    left = seconds_left
                    if left is None:
                        left = (now - begun) / max(1, reached - done) * (total - reached)
                    self.line(f"{name}: {reached:,} of {total:,}, {left:,.0f} s left  {text}")

            yield advance


def _label(name: str) -> str:
    return name.replace("_per_second", "/s").replace("_", " ")


def run(work: Callable[[Context, bool], object]) -> None:
    """Parses the flags, validates the config and calls `work(context, force)`; failures become one line, exit 1."""

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f"error: unexpected argument {argv[1]!r}; settings are given as --config.FIELD=VALUE")
        # The libraries' own bookkeeping is not for a person's eyes.
        logging.set_verbosity(logging.WARNING)
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns that PyTorch is absent
        processes = Processes()
        try:
            experiment = _experiment()
            start = decide(
                os.environ,
                coordinator=COORDINATOR.value,
                processes=PROCESSES.value,
                process=PROCESS.value,
                cluster=CLUSTER.value,
            )
            processes = join(start)
            work(_context(experiment, processes), FORCE.value)
        except BaseException as error:
            if processes.count > 1:
                _leave(error, processes)
            if isinstance(error, KeyboardInterrupt) or _is_expected(error):
                sys.exit(_words(error))
            raise

    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=_parse)


def _is_expected(error: BaseException) -> bool:
    return isinstance(error, EXPECTED) and not os.environ.get("DISTILL_TRACEBACK")


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command continues where it stopped"
    return f"error: {error}" if _is_expected(error) else "".join(traceback.format_exception(error))


def _leave(error: BaseException, processes: Processes) -> NoReturn:
    """Ends this process of several at once: a usual exit would wait for the others, who may be waiting for this one."""
    processes.fail(error)
    print(f"process {processes.index}: {_words(error)}", file=sys.stderr, flush=True)
    if processes.first:
        time.sleep(LINGER_SECONDS)
    os._exit(1)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        first = str(error).strip("'\"\n ").splitlines()
        sys.exit(f"error: {first[0] if first else type(error).__name__}")


def _experiment() -> Experiment:
    config = CONFIG.value
    if not isinstance(config, Experiment):
        raise ConfigError(f"--config: get_config() returned {type(config).__name__}, not a distill.config.Experiment")
    return dataclasses.replace(config).validate()


def _context(experiment: Experiment, processes: Processes) -> Context:
    workdir = Path(str(WORKDIR.value))
    processes.on_first(lambda: workdir.mkdir(parents=True, exist_ok=True))
    reporter = Console() if processes.first else Silent()
    return Context(experiment, workdir, reporter, processes=processes, profile=PROFILE.value)
