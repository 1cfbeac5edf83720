"""Runs a grid of arms and seeds: python -m launch.ablate --config=configs/ablations.py --workdir=DIR.

Writes DIR/evidence.json, DIR/evidence.md and its figures; `--config.docs=docs/evidence.md` copies the page there.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

from distill.config import ConfigError, Experiment
from distill.config.ablations import Ablations
from distill.stages import Context
from distill.stages.ablation import check_arms, run_grid
from distill.stages.ablation_evidence import write_evidence
from launch.main import run


def work(context: Context, force: bool) -> None:
    grid = context.experiment
    if not isinstance(grid, Ablations):
        raise ConfigError("--config: get_config() must return a distill.config.ablations.Ablations for a grid of arms")
    experiments = {
        name: overridden(grid.base(), arm.overrides, f"config.arms.{name}") for name, arm in grid.selected().items()
    }
    check_arms(grid, experiments)
    runs, failed = run_grid(context, grid, experiments, force)
    if context.processes.first:
        command = ["python", "-m", "launch.ablate", *sys.argv[1:]]
        write_evidence(grid, runs, context.workdir, command, context.reporter, failed)
    if failed:
        raise RuntimeError("arms failed: " + "; ".join(f"{name} ({why})" for name, why in failed.items()))


def overridden(base: Experiment, overrides: tuple[str, ...], field: str) -> Experiment:
    """A copy of `base` with `dotted.path=value` settings, read and checked as the command line's `--config.` flags are.

    Raises ConfigError, naming `field` and the override, for an unknown setting or a value of another type.
    """
    experiment: Any = copy.deepcopy(base)
    for override in overrides:
        path, equals, _ = override.partition("=")
        words = ["ablate", f"--config.{override}"]
        values = flags.FlagValues()
        try:
            if not equals or not path:
                raise ValueError("must be SETTING=VALUE")
            config_flags.DEFINE_config_dataclass("config", experiment, flag_values=values, sys_argv=words)
            values(words)
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
            first = str(error).strip("'\"\n ").splitlines()
            raise ConfigError(f"{field}: {override}: {first[0] if first else type(error).__name__}") from None
        experiment = values["config"].value
    return experiment


if __name__ == "__main__":
    run(work)
