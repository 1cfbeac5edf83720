"""Whether this process is one of several that train together, and how it joins them.

`decide` reads flags and the environment and only concludes; `join` acts on it. Nothing is distributed unless a flag
asks for it or the environment is certain of it: where process 0 listens, how many processes there are, which this is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from distill.config import ConfigError
from distill.parallel.processes import Processes

CLUSTERS = ("auto", "none", "tpu", "slurm", "openmpi", "kubernetes")
# What a Kubernetes manifest has to set beside the completion index, which Kubernetes sets itself.
COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX"


@dataclasses.dataclass(frozen=True)
class Startup:
    """How a process joins the others. What is None is for JAX's own detection of `method` to find out."""

    processes: int | None = 1
    process: int | None = 0
    coordinator: str | None = None  # host:port of process 0
    method: str | None = None  # JAX's name of a cluster that it detects itself
    local_devices: tuple[int, ...] | None = None  # the accelerators of this process; None leaves the choice to JAX

    @property
    def alone(self) -> bool:
        return self.processes == 1


def decide(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    cluster: str = "auto",
) -> Startup:
    """What the flags ask for, completed by what the environment says of the cluster.

    `cluster` names the one to read, `auto` takes the one that is certain, `none` none. A single process is the answer
    whenever nothing is asked for and nothing certain. Raises ConfigError, naming the flag, when what is asked for
    is incomplete or contradicts itself.
    """
    if cluster not in CLUSTERS:
        raise ConfigError(f"--cluster={cluster}: must be one of {', '.join(CLUSTERS)}")
    if processes is not None and processes < 1:
        raise ConfigError(f"--processes={processes}: must be at least 1")
    asked = (coordinator, process) != (None, None) or processes is not None
    if processes == 1 or (cluster == "none" and not asked):
        return Startup()
    found = _cluster(environment, cluster)
    if found is None and cluster not in ("auto", "none"):
        raise ConfigError(f"--cluster={cluster}: the environment shows no such cluster; {_MISSING[cluster]}")
    if not asked and (found is None or found.alone):
        return Startup()
    if found is None or found.alone:
        found = Startup(None, None)
    start = dataclasses.replace(
        found,
        coordinator=coordinator or found.coordinator,
        processes=found.processes if processes is None else processes,
        process=found.process if process is None else process,
    )
    if start.alone:
        return Startup()
    for flag, value in (
        ("coordinator", start.coordinator),
        ("processes", start.processes),
        ("process", start.process),
    ):
        if value is None and start.method is None:
            raise ConfigError(
                f"--{flag}: is missing; several processes need --coordinator=HOST:PORT, --processes=N and --process=I"
            )
    if start.coordinator and not re.fullmatch(r".+:\d+", start.coordinator):
        raise ConfigError(f"--coordinator={start.coordinator}: must be HOST:PORT, reachable from every process")
    if start.process is not None and start.processes is not None and not 0 <= start.process < start.processes:
        raise ConfigError(f"--process={start.process}: must be from 0 to --processes={start.processes} minus 1")
    return start


def _cluster(environment: Mapping[str, str], cluster: str) -> Startup | None:
    """The first cluster (of that name, or any) that the environment is certain of."""
    for name, read in _READERS.items():
        if cluster in ("auto", name):
            found = read(environment, cluster == name)
            if found is not None:
                return found
    return None


def _kubernetes(environment: Mapping[str, str], asked: bool) -> Startup | None:
    """An indexed job whose manifest names the coordinator behind a headless service."""
    del asked
    if PROCESSES not in environment:
        return None
    for name in (COORDINATOR, PROCESS):
        if name not in environment:
            raise ConfigError(f"{PROCESSES} is in the environment and {name} is not; set both or neither")
    return Startup(_number(environment, PROCESSES), _number(environment, PROCESS), coordinator=environment[COORDINATOR])


def _tpu(environment: Mapping[str, str], asked: bool) -> Startup | None:
    """A TPU slice of several hosts.

    On Kubernetes the environment lists them; on plain TPU machines only the metadata service knows, which JAX asks, so
    there it needs `--cluster=tpu`.
    """
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    if hosts and "TPU_WORKER_ID" in environment:
        several = "," in hosts or environment.get("MEGASCALE_NUM_SLICES", "1") != "1"
        return Startup(None, None, method="gketpu") if several else Startup()
    return Startup(None, None, method="gcetpu") if asked else None


def _openmpi(environment: Mapping[str, str], asked: bool) -> Startup | None:
    del asked
    if not {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"} <= environment.keys():
        return None
    size, rank = _number(environment, "OMPI_COMM_WORLD_SIZE"), _number(environment, "OMPI_COMM_WORLD_RANK")
    if size == 1:
        return Startup()
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return Startup(size, rank, method="ompi")
    # From version 5 on Open MPI does not tell where rank 0 runs.
    return Startup(size, rank, coordinator=environment.get(COORDINATOR))


def _slurm(environment: Mapping[str, str], asked: bool) -> Startup | None:
    """A step of several tasks, started by srun; the body of a batch script is no step."""
    del asked
    needed = ("JOB_ID", "STEP_NODELIST", "STEP_NUM_TASKS", "NTASKS", "PROCID", "LOCALID")
    if not {f"SLURM_{name}" for name in needed} <= environment.keys():
        return None
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS")
    if tasks == 1:
        return Startup()
    # JAX gives each task one accelerator, the one of its number on the host; a task alone on its host is to have all.
    devices = None
    if re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "")):
        devices = tuple(range(int(environment.get("SLURM_GPUS_ON_NODE", "0")))) or None
    return Startup(tasks, _number(environment, "SLURM_PROCID"), method="slurm", local_devices=devices)


_READERS = {"kubernetes": _kubernetes, "tpu": _tpu, "openmpi": _openmpi, "slurm": _slurm}
_MISSING = {
    "kubernetes": f"set {COORDINATOR} and {PROCESSES} in an indexed job",
    "openmpi": "start it by mpirun",
    "slurm": "start it by srun",
}


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ConfigError(f"{name}={environment[name]!r} in the environment: must be a whole number") from None


def join(start: Startup) -> Processes:
    """Joins the other processes and returns what they agree through; must come before any use of a device.

    JAX ends the process, saying why, when the others do not arrive within five minutes. On CPU give each process one
    device: with several, more than about 30 unfinished programs that exchange data block each other for ever.
    """
    if start.alone:
        return Processes()
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # of no effect on accelerators
    jax.distributed.initialize(
        coordinator_address=start.coordinator,
        num_processes=start.processes,
        process_id=start.process,
        local_device_ids=start.local_devices,
        cluster_detection_method=start.method or "deactivate",
    )
    return Processes(jax.process_index(), jax.process_count())
