"""A marketplace so small that the whole pipeline runs in seconds; each stage is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).parent / "small_config.py"


def command(stage: str, workdir: Path, *flags: str, config: Path = CONFIG) -> list[str]:
    return [sys.executable, "-m", f"launch.{stage}", f"--config={config}", f"--workdir={workdir}", *flags]


def environment() -> dict[str, str]:
    """One device and the test suite's quick compiling."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}


def run(stage: str, workdir: Path, *flags: str, config: Path = CONFIG) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(stage, workdir, *flags, config=config),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
