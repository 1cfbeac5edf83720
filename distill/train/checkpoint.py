"""Checkpoints of a training run: the newest few, and the best by a validation metric. The only module that knows Orbax.

Discs and copies fail, and Orbax loads an array with a flipped byte without complaint. So a checkpoint carries a
checksum of each of its arrays, taken before it is written and compared after it is read. A damaged checkpoint is moved
out of the way, never deleted, and the one before it is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from jax.experimental import multihost_utils
from jax.typing import ArrayLike

from distill.parallel.partition import path_string
from distill.reporting import Reporter
from distill.train.selection import Validated, preference
from distill.train.state import TrainState, abstract_state

_policies = ocp.training.preservation_policies
_METADATA, _METRICS = "_CHECKPOINT_METADATA", "metrics/metrics"


class CheckpointError(RuntimeError):
    """Checkpoints that cannot be used; the message names the folder and what to do."""


class Restored(NamedTuple):
    step: int
    state: TrainState
    metrics: Mapping[str, float]  # of the validation at this step; empty where it was saved without one


class Stored(NamedTuple):
    """A checkpoint as it lies on disc, read without the model that it belongs to."""

    step: int
    metrics: Mapping[str, float]  # as above
    arrays: dict[str, np.ndarray]  # path, as `params/encoder/…` → values
    fault: str  # what does not match its checksum; empty when all is sound


def checksum(values: jax.Array, start: ArrayLike | None = None, whole: ArrayLike | None = None) -> jax.Array:
    """A checksum of an array, uint32 []: exact, whatever the order of summation.

    Each element's bits and place go through MurmurHash3's finaliser, a bijection, and are summed modulo 2^32: any
    change of one element is seen, any other with probability 1 - 2^-32. Of a piece at `start` [ndim] of an array of
    the shape `whole` [ndim] it is that piece's part of the sum.
    """
    words = {1: jnp.uint8, 2: jnp.uint16}.get(values.dtype.itemsize, jnp.uint32)
    bits = values if values.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(values, words)
    start = jnp.zeros(bits.ndim, jnp.uint32) if start is None else jnp.asarray(start, jnp.uint32)
    whole = jnp.asarray(bits.shape if whole is None else whole, jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), jnp.uint32(1)
    for axis in reversed(range(bits.ndim)):
        place += (start[axis] + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)) * stride
        stride *= whole[axis]
    mixed = bits.astype(jnp.uint32) ^ (place * jnp.uint32(0x9E3779B1))
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


_checksum = jax.jit(checksum)


def checksums(tree: Any) -> dict[str, int]:
    """Path → checksum of each leaf, the same however the leaves are split over devices and processes.

    Every device sums what it holds, with no exchange among them: many small programs that exchange, queued at once, can
    wait for one another for ever on a CPU.
    """
    parts: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        pieces = [piece for piece in leaf.addressable_shards if piece.replica_id == 0]
        parts[path_string(path)] = [
            _checksum(piece.data, _array([place.start or 0 for place in piece.index]), _array(leaf.shape))
            for piece in pieces
        ]
    sums = {name: sum(map(int, values)) for name, values in jax.device_get(parts).items()}
    if jax.process_count() > 1:
        mine = np.asarray([value % 2**32 for value in sums.values()], np.uint32)
        total = np.asarray(multihost_utils.process_allgather(mine), np.uint64).sum(axis=0)
        sums = dict(zip(sums, total.tolist()))
    return {name: value % 2**32 for name, value in sums.items()}


def _array(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, np.uint32)


class Checkpoints:
    """Asynchronously saved train states under one folder, one sub-folder a step.

    Kept are the newest `keep_last` (one may be cut off while it is written) and the `keep_best` best by `metric`,
    higher is better; `metric`_error, where a validation gives it, is that figure's standard error. A state is restored
    in the shape and onto the mesh of `like`, whatever mesh saved it. Every process of a multi-host run makes the same
    calls.
    """

    def __init__(
        self,
        directory: Path,
        like: TrainState,
        *,
        metric: str,
        reporter: Reporter,
        keep_last: int = 2,
        keep_best: int = 1,
    ):
        self.directory = Path(directory).absolute()
        self._metric, self._reporter = metric, reporter
        self._like = abstract_state(like)._asdict()
        steps = _steps(self.directory)
        faulty = [(step, fault) for step in steps if (fault := _missing(self.directory / str(step)))]
        _barrier("checkpoints listed")
        for step, fault in faulty:
            self._move_aside(step, fault, superseded=step < steps[-1])
        self._checkpointer = ocp.training.Checkpointer(
            str(self.directory),
            preservation_policy=_policies.AnyPreservationPolicy(  # type: ignore[arg-type]
                [
                    _policies.LatestN(keep_last),
                    _policies.BestN(n=keep_best, get_metric_fn=self._value, keep_checkpoints_without_metrics=False),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def _value(self, metrics: Any) -> float:
        return float(metrics[self._metric])

    def _validated(self, metrics: Any) -> Validated:
        return Validated(self._value(metrics), float(metrics.get(f"{self._metric}_error", 0.0)))

    def save(self, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
        """Starts a save of `state`, with `metrics` when it was validated; returns once the arrays are copied.

        A checkpoint of the same step is replaced.
        """
        tree = state._asdict()
        described: dict[str, Any] = {"checksums": checksums(tree)}
        self._checkpointer.save_async(
            int(state.step),
            tree,
            metrics=None if metrics is None else dict(metrics),
            custom_metadata=described,
            force=True,
            overwrite=True,
        )

    def wait(self) -> None:
        """Until the save that has begun is complete; raises what went wrong with it."""
        self._checkpointer.wait()

    def latest_step(self) -> int:
        """The step of the newest complete checkpoint; 0 when there is none."""
        self.wait()
        latest = self._checkpointer.latest
        return 0 if latest is None else latest.step

    def restore_latest(self) -> Restored | None:
        """The newest sound checkpoint, or None when there is none."""
        while (latest := self._checkpointer.latest) is not None:
            if (restored := self._load(latest)) is not None:
                return restored
        return None

    def restore_chosen(self) -> Restored:
        """The sound checkpoint that `distill.train.selection.preference` puts first.

        Raises CheckpointError when there is none.
        """
        self.wait()
        validated = {c.step: c for c in self._checkpointer.checkpoints if c.metrics is not None}
        for step in preference({step: self._validated(c.metrics) for step, c in validated.items()}):
            if (restored := self._load(validated[step])) is not None:
                return restored
        raise CheckpointError(f"{self.directory}: no sound checkpoint with a validation is left; run with --force")

    def _load(self, checkpoint: Any) -> Restored | None:
        """None when it is damaged; it is then no longer among the checkpoints."""
        step, tree, expected, fault = checkpoint.step, {}, {}, ""
        try:
            expected = _expected(self.directory / str(step))
            # Orbax describes what it cannot read as nothing at all.
            if stored := _described(self._checkpointer.metadata(step).metadata):
                self._require_same(step, stored)
            tree = self._checkpointer.load(step, self._like)
        except CheckpointError:
            raise
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own kinds for what cannot be read
            fault = f"cannot be read ({type(error).__name__})"
        if _any_process(bool(fault)):
            fault = fault or "cannot be read by another process"
        else:
            fault = _changed(checksums(tree), expected)
        if fault:
            self._move_aside(step, fault)
            self._checkpointer.reload()
            return None
        return Restored(step, TrainState(**tree), checkpoint.metrics or {})

    def _require_same(self, step: int, stored: dict[str, tuple]) -> None:
        wanted = _described(self._like)
        for name in sorted(wanted.keys() | stored.keys()):
            if wanted.get(name) != stored.get(name):
                raise CheckpointError(
                    f"{self.directory / str(step)}: {name} is {_words(stored.get(name))} there and "
                    f"{_words(wanted.get(name))} in this run; it belongs to another model. "
                    f"Name another directory or run with --force"
                )

    def _move_aside(self, step: int, fault: str, superseded: bool = False) -> None:
        source, target = self.directory / str(step), self.directory.parent / "damaged" / str(step)
        if jax.process_index() == 0:
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        _barrier(f"checkpoint {step} moved aside")
        self._reporter.line(
            f"the old checkpoint {source} is incomplete, as after a kill while it was being deleted ({fault}); "
            f"it is moved to {target}"
            if superseded
            else f"WARNING: the checkpoint {source} is damaged: {fault}. It is moved to {target}; "
            f"the one before it is used, and without one training starts again"
        )

    def close(self) -> None:
        """Waits for the saves that have begun."""
        self._checkpointer.close()


def read_checkpoint(directory: Path, step: int | None = None) -> Stored:
    """A checkpoint of the folder that `Checkpoints` wrote, as numpy arrays; the newest where `step` is None.

    Raises CheckpointError when there is none, no such step, or it cannot be read.
    """
    directory = Path(directory).absolute()
    steps = _steps(directory)
    if not steps or (step is not None and step not in steps):
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise CheckpointError(f"{directory}: {wanted}; there are {', '.join(map(str, steps)) or 'none'}")
    step = steps[-1] if step is None else step
    folder = directory / str(step)
    if fault := _missing(folder):
        raise CheckpointError(f"{folder}: {fault}")
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    try:
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host), ocp.metadata(str(folder)).metadata
        )
        tree: Any = ocp.load(str(folder), abstract)
    except Exception as error:  # as above
        raise CheckpointError(f"{folder}: cannot be read ({type(error).__name__}: {_first_line(error)})") from error
    arrays = {path_string(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    fault = _changed(checksums(tree), _expected(folder))
    metrics = folder / _METRICS
    return Stored(step, json.loads(metrics.read_text()) if metrics.exists() else {}, arrays, fault)


def _steps(directory: Path) -> list[int]:
    """Steps whose save was finished; Orbax gives a folder its plain name last."""
    return sorted(int(p.name) for p in directory.glob("*") if p.name.isdigit())


def _missing(folder: Path) -> str:
    """What of a checkpoint's small files is missing or unreadable; Orbax is less strict. Empty when nothing is."""
    try:
        parts = json.loads((folder / _METADATA).read_text())["item_handlers"]
        _expected(folder)
        if "metrics" in parts:
            json.loads((folder / _METRICS).read_text())
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"its metadata cannot be read ({type(error).__name__})"
    return ""


def _expected(folder: Path) -> dict[str, int]:
    """Path → checksum, as it was before the checkpoint was written."""
    return json.loads((folder / _METADATA).read_text())["custom_metadata"]["checksums"]


def _described(tree: Any) -> dict[str, tuple]:
    """Path → (shape, type) of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_string(path): (tuple(leaf.shape), jnp.dtype(leaf.dtype).name) for path, leaf in leaves}


def _words(described: tuple | None) -> str:
    return "absent" if described is None else f"{described[1]} {list(described[0])}"


def _changed(found: dict[str, int], expected: dict[str, int]) -> str:
    wrong = [name for name, value in found.items() if expected.get(name) != value]
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more} changed since it was saved" if wrong else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _any_process(flag: bool) -> bool:
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
