"""One process that embeds numbered texts into a file, to be killed or to be one of two.

python -m tests.retrieval.embedding_process FOLDER TEXTS [INDEX PORT]
"""

import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from distill.config import ParallelConfig
from distill.data.ragged import Ragged
from distill.models.bi_encoder import init_bi_encoder
from distill.models.encoder import EncoderSpec
from distill.parallel.mesh import make_mesh
from distill.parallel.processes import Processes
from distill.parallel.startup import decide, join
from distill.retrieval import embedding_files, encoding

SPEC = EncoderSpec(vocab_size=50, layers=1, width=16, heads=2, mlp_width=16, max_positions=16)


def small_shards() -> None:
    encoding.BATCH_TOKENS = 16
    embedding_files.SHARD_BYTES = 4 * SPEC.width * 32


def texts(count: int, first: int = 0) -> Ragged:
    """Text i is the same whatever the others are."""
    rows = [np.random.default_rng(i).integers(5, 50, 3 + i % 7).astype(np.int32) for i in range(first, first + count)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Ragged(np.concatenate([np.zeros(0, np.int32), *rows]), offsets)


def embed(path: Path, chosen: Ragged, *, seed: int = 0, processes: Processes | None = None, **options):
    small_shards()
    params = init_bi_encoder(SPEC, seed)
    mesh = make_mesh(ParallelConfig(), jax.devices())
    return embedding_files.embed_to_file(
        path, SPEC, params, chosen, model=f"seed {seed}", row_tokens=16, mesh=mesh, processes=processes, **options
    )


def kill_after(shards: int) -> None:
    """SIGKILL in the middle of writing the shard after so many."""
    replace, done = Path.replace, []

    def replacing(path: Path, target: Path) -> Path:
        if ".parts" in str(path):
            done.append(path)
            if len(done) > shards:
                os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = replacing


if __name__ == "__main__":
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    others = None
    if len(sys.argv) > 4:
        index, port = int(sys.argv[3]), int(sys.argv[4])
        others = join(decide({}, coordinator=f"localhost:{port}", processes=2, process=index))
    else:
        kill_after(int(sys.argv[3]))
    embed(folder / "texts.npy", texts(count), processes=others)
