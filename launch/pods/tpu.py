"""Runs a stage on every host of a TPU slice, over ssh.

python -m launch.pods.tpu --name=SLICE --zone=ZONE -- pipeline --config=configs/pod.py --workdir=/shared/run
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from absl import flags

from launch.pods.common import NAME, PYTHON, UsageError, run, stage_command, start

ZONE = flags.DEFINE_string("zone", None, "Its zone.")
PROJECT = flags.DEFINE_string("project", None, "Its project; gcloud's own setting when not given.")
DIRECTORY = flags.DEFINE_string("directory", "llmdistill4ads", "The checkout on the hosts, from the home directory.")


def ssh_command(*, name: str, zone: str, project: str | None, directory: str, command: Sequence[str]) -> list[str]:
    """The gcloud call that runs `command` in `directory` on all hosts of a slice at once.

    How many hosts there are, which is which and where the first one listens, JAX asks the slice's metadata.
    """
    return [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", name, f"--zone={zone}"),
        *([f"--project={project}"] if project else []),
        "--worker=all",
        f"--command=cd {shlex.quote(directory)} && {shlex.join(command)}",
    ]


def launch(argv: Sequence[str]) -> int:
    if not ZONE.value:
        raise UsageError("--zone: is missing; say where the slice is")
    command = stage_command(argv, python=PYTHON.value, cluster="tpu")
    return start(
        ssh_command(name=NAME.value, zone=ZONE.value, project=PROJECT.value, directory=DIRECTORY.value, command=command)
    )


if __name__ == "__main__":
    run(launch)
