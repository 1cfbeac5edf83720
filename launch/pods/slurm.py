"""Submits a stage to Slurm: one process a node, which has all of the node's GPUs.

python -m launch.pods.slurm --nodes=4 --gpus_per_node=8 -- pipeline --config=configs/pod.py --workdir=/shared/run
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from absl import flags

from launch.pods.common import NAME, PYTHON, UsageError, render, run, stage_command, start

NODES = flags.DEFINE_integer("nodes", None, "How many nodes.")
GPUS = flags.DEFINE_integer("gpus_per_node", None, "How many GPUs each of them has.")
HOURS = flags.DEFINE_integer("hours", 24, "The time limit.")
OPTIONS = flags.DEFINE_multi_string("sbatch", [], "Another option of sbatch, as `--partition=gpu`; may be repeated.")


def batch_script(
    *, name: str, nodes: int, gpus_per_node: int, hours: int, options: Sequence[str], command: Sequence[str]
) -> str:
    """The script for sbatch. Raises UsageError for a count below 1 or an option that is none."""
    for flag, value in (("nodes", nodes), ("gpus_per_node", gpus_per_node), ("hours", hours)):
        if value < 1:
            raise UsageError(f"--{flag}={value}: must be at least 1")
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"--name={name}: must be letters, digits, dots, dashes and underscores")
    for option in options:
        if not option.startswith("-") or "\n" in option:
            raise UsageError(f"--sbatch={option}: must be an option of sbatch, as --partition=gpu")
    return render(
        "slurm.sh.jinja", name=name, nodes=nodes, gpus=gpus_per_node, hours=hours, options=options, command=command
    )


def launch(argv: Sequence[str]) -> int:
    if NODES.value is None or GPUS.value is None:
        raise UsageError("--nodes and --gpus_per_node: say how many")
    script = batch_script(
        name=NAME.value,
        nodes=NODES.value,
        gpus_per_node=GPUS.value,
        hours=HOURS.value,
        options=OPTIONS.value,
        command=stage_command(argv, python=PYTHON.value, cluster="slurm"),
    )
    return start(["sbatch"], script)


if __name__ == "__main__":
    run(launch)
