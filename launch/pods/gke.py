"""Runs a stage as a JobSet on Kubernetes: one pod a host, on GPU nodes or on one TPU slice.

python -m launch.pods.gke --image=IMAGE --claim=CLAIM --hosts=4 --devices_per_host=8 --gpu=nvidia-h100-80gb \
    -- pipeline --config=configs/pod.py --workdir=/shared/run
python -m launch.pods.gke --image=IMAGE --claim=CLAIM --hosts=8 --devices_per_host=4 --tpu=tpu-v5-lite-podslice \
    --topology=4x8 -- pipeline --config=configs/pod.py --workdir=/shared/run
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from absl import flags

from distill.parallel.startup import COORDINATOR, PROCESSES
from launch.pods.common import NAME, PYTHON, UsageError, render, run, stage_command, start

SHARED, PORT = "/shared", 8476

IMAGE = flags.DEFINE_string("image", None, "The container image: this checkout, installed with its extra.")
CLAIM = flags.DEFINE_string("claim", None, f"A volume claim that all hosts can write; it is mounted at {SHARED}.")
HOSTS = flags.DEFINE_integer("hosts", None, "How many hosts.")
DEVICES = flags.DEFINE_integer("devices_per_host", None, "How many GPUs or TPU chips each of them has.")
GPU = flags.DEFINE_string("gpu", None, "The kind of GPU, as GKE names it.")
TPU = flags.DEFINE_string("tpu", None, "The kind of TPU, as GKE names it.")
TOPOLOGY = flags.DEFINE_string("topology", None, "The TPU slice's topology, as 4x8.")
RESTARTS = flags.DEFINE_integer("restarts", 10, "How often all hosts start again after one of them failed.")


@dataclasses.dataclass(frozen=True)
class Job:
    """What the manifest is made of."""

    name: str
    image: str
    claim: str
    hosts: int
    devices_per_host: int
    gpu: str | None
    tpu: str | None
    topology: str | None
    restarts: int


def manifest(job: Job, argv: Sequence[str], python: str) -> str:
    """The JobSet as YAML. Raises UsageError when the counts or names do not fit together."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", job.name):
        raise UsageError(f"--name={job.name}: must be at most 40 small letters, digits and dashes")
    if job.hosts < 1 or job.devices_per_host < 1:
        raise UsageError(f"--hosts={job.hosts} --devices_per_host={job.devices_per_host}: must be at least 1")
    if (job.gpu is None) == (job.tpu is None):
        raise UsageError("--gpu, --tpu: name the kind of one of them")
    if job.tpu:
        if not re.fullmatch(r"\d+(x\d+){1,2}", job.topology or ""):
            raise UsageError(f"--topology={job.topology}: must be the TPU slice's, as 4x8")
        chips = math.prod(int(side) for side in str(job.topology).split("x"))
        if chips != job.hosts * job.devices_per_host:
            raise UsageError(
                f"--topology={job.topology}: has {chips} chips, which --hosts={job.hosts} "
                f"--devices_per_host={job.devices_per_host} does not fit"
            )
    command = stage_command(argv, python=python, cluster="tpu" if job.tpu else "kubernetes")
    if not any(argument.startswith(f"--workdir={SHARED}/") for argument in command):
        raise UsageError(f"--workdir: must lie below {SHARED}, where the claim is mounted")
    return render(
        "gke.yaml.jinja",
        job=job,
        coordinator=f"{job.name}-host-0-0.{job.name}:{PORT}",
        coordinator_variable=COORDINATOR,
        processes_variable=PROCESSES,
        shared=SHARED,
        port=PORT,
        command=command,
    )


def launch(argv: Sequence[str]) -> int:
    given = {"image": IMAGE.value, "claim": CLAIM.value, "hosts": HOSTS.value, "devices_per_host": DEVICES.value}
    for flag, value in given.items():
        if value is None:
            raise UsageError(f"--{flag}: is missing")
    job = Job(name=NAME.value, gpu=GPU.value, tpu=TPU.value, topology=TOPOLOGY.value, restarts=RESTARTS.value, **given)
    return start(["kubectl", "apply", "-f", "-"], manifest(job, argv, PYTHON.value))


if __name__ == "__main__":
    run(launch)
