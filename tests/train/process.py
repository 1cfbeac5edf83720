"""The small training as a process of its own: python -m tests.train.process DIR STEPS [COORDINATOR PROCESS].

With the last two it is one of two processes, which train together.
Says each step on standard output before it is taken, writes the final parameters to DIR/final.npz, and ends as the
binaries do: a failure is one line and exit code 1.
"""

import sys
import zlib
from pathlib import Path

import jax
import numpy as np

from distill.config import ParallelConfig, TrainingConfig
from distill.parallel.mesh import make_mesh, to_host
from distill.parallel.partition import path_string
from distill.parallel.startup import Startup, join
from distill.reporting import Silent
from tests.train.problems import train


def write(file, text):
    file.write(text + "\n")
    file.flush()


class Spoken(Silent):
    """A reporter on standard error."""

    def line(self, text):
        write(sys.stderr, text)


def quality(params):
    """A number that jumps up and down with the parameters, so that the best step may be any."""
    return {"quality": zlib.crc32(to_host(params["search_relevance"]["bias"]).tobytes()) / 2**32}


def main(directory: Path, steps: int) -> None:
    try:
        done = train(
            directory,
            steps,
            mesh=make_mesh(ParallelConfig()),
            validate=quality,
            training=TrainingConfig(checkpoint_steps=3),
            reporter=Spoken(),
            before=lambda step: write(sys.stdout, str(step)),
        )
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    leaves = jax.tree_util.tree_leaves_with_path(to_host(done.params))
    if jax.process_index() == 0:
        arrays = {path_string(path): leaf for path, leaf in leaves}
        np.savez(directory / "final.npz", best_step=done.kept_step, **arrays)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        join(Startup(2, int(sys.argv[4]), sys.argv[3]))
    main(Path(sys.argv[1]), int(sys.argv[2]))
