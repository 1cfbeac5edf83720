"""What the benchmarks share: a peer in an interpreter of its own, alternating rounds, medians of ratios."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class PeerError(RuntimeError):
    """A peer that cannot be compared with; the message says why."""


class Peer:
    """A long-lived process that answers each JSON line with one, so that its runs can alternate with ours.

    Raises PeerError when it cannot start, reports an error or dies.
    """

    def __init__(self, python: Path, script: Path, **environment: str):
        if not python.exists():
            raise PeerError(f"{python} is missing; run `make peers`")
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **quiet, **environment},
        )
        self.versions: dict[str, str] = self.ask(do="versions")

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"the peer process ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def close(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


@dataclasses.dataclass(frozen=True)
class Measured:
    """One timed run."""

    count: int  # pairs or texts
    seconds: float
    losses: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def alternate(sides: dict[str, Callable[[int], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Each side's runs of all rounds; a round calls every side once, and another one goes first each time."""
    names = list(sides)
    results: dict[str, list[Measured]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(sides[name](number))
    return results


def median_rate(runs: Sequence[Measured]) -> float:
    return statistics.median(run.rate for run in runs)


def ratios(ours: Sequence[Measured], theirs: Sequence[Measured]) -> list[float]:
    """Our rate over theirs, round by round."""
    return [one.rate / other.rate for one, other in zip(ours, theirs, strict=True)]


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Plain text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
    print(flush=True)
