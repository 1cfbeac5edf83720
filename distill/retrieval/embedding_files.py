"""Embeddings of many texts in a file: written shard by shard, resumed after a kill, only changed texts embedded again.

    NAME.npy          [N, D] float32, to be memory-mapped
    NAME.texts.npy    [N, 16] uint8, a hash of each text's tokens
    NAME.json         what both hold; written before they are renamed into place, so it decides between old and new
    NAME.parts/…/     shards of a run that is not finished

A text's embedding depends on its tokens and the model alone: where an earlier file of the same model has a row with
the same hash, that row is copied. Memory is that of the tokens and one shard.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from distill.artifacts import hash_json, read_json, write_json
from distill.data.ragged import Ragged
from distill.models.encoder import EncoderSpec
from distill.parallel.processes import Processes
from distill.retrieval.encoding import plan_texts, stream_embeddings

SHARD_BYTES = 64 << 20
_COPIED_ROWS = 1 << 16  # at a time
_HASH_BYTES = 16


def embed_to_file(
    path: Path,
    spec: EncoderSpec,
    params: Any,
    texts: Ragged,
    *,
    model: str,
    row_tokens: int,
    mesh: jax.sharding.Mesh,
    processes: Processes | None = None,
    earlier: Sequence[Path] = (),
    advance: Callable[[int], None] = lambda rows: None,
) -> dict[str, int]:
    """Unit embeddings of N texts (`[CLS] text [SEP]`), float32 [N, D], at `path` (NAME.npy).

    Every process of a run must call it, with `path` on storage that they share; the first one writes. Called again
    after it was killed, it goes on behind the last whole shard and ends in the same bytes.

    Args:
      path: of the file to write; where it is complete already, nothing is done.
      spec: of the encoder.
      params: its parameters.
      texts: token ids of N texts.
      model: hash of the parameters; rows are only taken over from files that give the same.
      row_tokens: length of a packed row.
      mesh: all devices.
      processes: of this run.
      earlier: files of this function, whose rows are taken over where text and model are the same; `path` as it is
        counts too.
      advance: told how many of the N rows have just become known.

    Returns:
      `embedded` and `reused`: rows that were computed and that were copied.
    """
    processes = processes or Processes()
    hashes = hash_texts(texts)
    key = _key(model, spec.width, hashes)

    def complete() -> bool:
        if _settle(path) != key:
            return False
        _tidy(path)
        return True

    if processes.on_first(complete):
        advance(len(hashes))
        return {"embedded": 0, "reused": len(hashes)}
    sources = [_Source(file, model, spec.width) for file in (path, *earlier) if _usable(file, model, spec.width)]
    origin, row = _find(hashes, sources)
    fresh = np.flatnonzero(origin < 0)
    processes.check_same(f"{path.name}: texts to embed", fresh)
    advance(len(hashes) - len(fresh))

    # Shards hold the rows to embed by their place among these, so another choice of them is another folder.
    parts = path.with_suffix(".parts") / hash_json([key, hashlib.sha256(fresh.tobytes()).hexdigest()])[:32]
    chosen = texts if len(fresh) == len(hashes) else texts.take(fresh)
    plan = plan_texts(chosen.lengths, row_tokens, mesh)
    there = set(processes.on_first(lambda: sorted(file.name for file in parts.glob("*.npy"))))
    wanted = []
    for steps in _shards(plan.bounds, SHARD_BYTES // (4 * spec.width)):
        start, stop = int(plan.bounds[steps.start]), int(plan.bounds[steps.stop])
        part = parts / f"{start:012d}-{stop:012d}.npy"
        wanted.append(part)
        if part.name not in there:
            vectors = np.empty((stop - start, spec.width), np.float32)
            for ids, values in stream_embeddings(spec, params, chosen, plan, steps, mesh):
                vectors[ids - start] = values
            processes.on_first(functools.partial(_write_array, part, vectors))
        advance(stop - start)

    def assemble() -> None:
        finished, texts_file = _named(path, key), _named(_texts(path), key)
        output = np.lib.format.open_memmap(finished, mode="w+", dtype=np.float32, shape=(len(hashes), spec.width))
        for number, source in enumerate(sources):
            taken = np.flatnonzero(origin == number)
            for at in range(0, len(taken), _COPIED_ROWS):
                rows = taken[at : at + _COPIED_ROWS]
                output[rows] = source.vectors[row[rows]]
        at = 0
        for part in wanted:
            vectors = np.load(part)
            output[fresh[at : at + len(vectors)]] = vectors
            at += len(vectors)
        output.flush()
        _write_array(texts_file, hashes)
        about = {"key": key, "model": model, "rows": len(hashes), "width": spec.width}
        write_json(path.with_suffix(".json"), about)
        _settle(path)
        _tidy(path)

    processes.gather(0)  # nobody still reads what is about to be replaced
    processes.on_first(assemble)
    return {"embedded": len(fresh), "reused": len(hashes) - len(fresh)}


def hash_texts(texts: Ragged) -> np.ndarray:
    """A hash of each text's tokens, [N, 16] uint8."""
    data, bounds = np.ascontiguousarray(texts.values, "<i4").tobytes(), (4 * texts.offsets).tolist()
    joined = b"".join(
        hashlib.blake2b(data[start:stop], digest_size=_HASH_BYTES).digest()
        for start, stop in itertools.pairwise(bounds)
    )
    return np.frombuffer(joined, np.uint8).reshape(-1, _HASH_BYTES)


def _key(model: str, width: int, hashes: np.ndarray) -> str:
    return hash_json([model, width, hashlib.sha256(hashes.tobytes()).hexdigest()])[:32]


class _Source:
    """An earlier file of the same model."""

    def __init__(self, path: Path, model: str, width: int):
        self.vectors = np.load(path, mmap_mode="r")
        self.hashes = np.load(_texts(path))
        if len(self.vectors) != len(self.hashes) or self.vectors.shape[1] != width:
            raise ValueError(f"{path}: {self.vectors.shape} for {len(self.hashes)} texts; delete it and its neighbours")
        if _key(model, width, self.hashes) != read_json(path.with_suffix(".json"))["key"]:
            raise ValueError(f"{_texts(path)}: is damaged or of other texts; delete it and its neighbours")


def _usable(path: Path, model: str, width: int) -> bool:
    about = path.with_suffix(".json")
    if not (about.is_file() and path.is_file() and _texts(path).is_file()):
        return False
    stored = read_json(about)
    # A run killed between its renames leaves one file of the other's texts; its own next start puts that right.
    unsettled = any(_named(file, stored["key"]).exists() for file in (path, _texts(path)))
    return stored["model"] == model and stored["width"] == width and not unsettled


def _find(hashes: np.ndarray, sources: Sequence[_Source]) -> tuple[np.ndarray, np.ndarray]:
    """For each hash (number of the first source that has it or -1, row there)."""
    origin, row = np.full(len(hashes), -1), np.zeros(len(hashes), np.int64)
    for number, source in enumerate(sources):
        # Looked up by one half and confirmed by the other; of two that share the first, one is embedded once more.
        halves, first = np.unique(_halves(source.hashes)[:, 0], return_index=True)
        if not len(halves):
            continue
        place = np.minimum(np.searchsorted(halves, _halves(hashes)[:, 0]), len(halves) - 1)
        found = (source.hashes[first[place]] == hashes).all(axis=1) & (origin < 0)
        origin[found], row[found] = number, first[place[found]]
    return origin, row


def _halves(hashes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, 2)


def _shards(bounds: np.ndarray, texts: int) -> Iterator[range]:
    """Consecutive steps that together hold at least so many texts, but for the last."""
    start = 0
    for step in range(1, len(bounds)):
        if bounds[step] - bounds[start] >= texts or step == len(bounds) - 1:
            yield range(start, step)
            start = step


def _settle(path: Path) -> str:
    """Renames into place what a killed run had finished; returns the key of the complete file, or an empty string."""
    about = path.with_suffix(".json")
    if not about.is_file():
        return ""
    key = read_json(about)["key"]
    for file in (_texts(path), path):
        if _named(file, key).is_file():
            _named(file, key).replace(file)
    return key if path.is_file() and _texts(path).is_file() else ""


def _tidy(path: Path) -> None:
    """Deletes the shards of a complete file, and what killed runs left of others."""
    shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)
    for left in path.parent.glob(f".{path.stem}.*"):
        left.unlink()


def _write_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)


def _texts(path: Path) -> Path:
    return path.with_suffix(".texts.npy")


def _named(path: Path, key: str) -> Path:
    """The finished file before it takes its place."""
    return path.with_name(f".{path.name}.{key}")
