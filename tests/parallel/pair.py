"""Starting two real processes with four fake devices each."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_pair(command: Callable[[int, int], list[str]]) -> list[subprocess.Popen[str]]:
    """`command(index, port)` of each process."""
    port = free_port()
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return [
        subprocess.Popen(
            command(index, port),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 900) -> list[tuple[int, str, str]]:
    """(exit status, standard output, standard error) of each process; a process that hangs is killed and fails."""
    try:
        spoken = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *words) for process, words in zip(processes, spoken)]
