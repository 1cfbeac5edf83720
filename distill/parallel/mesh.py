"""The device mesh, and how host arrays become global ones on it.

Axes: `data` splits batches, `fsdp` splits batches and parameters (ZeRO-3), `tensor` splits the width of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from distill.config import ConfigError, ParallelConfig

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: ParallelConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges all devices as [data, fsdp, tensor]; an axis of -1 takes what the others leave.

    Raises ConfigError when the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices()) if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if math.prod(sizes) != len(devices):
        raise ConfigError(
            f"config.parallel data={config.data} fsdp={config.fsdp} tensor={config.tensor}: "
            f"does not fit {len(devices)} device(s); set one axis to -1 or make the product equal"
        )
    return Mesh(np.asarray(devices).reshape(sizes), AXES)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split; row counts must be a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def row_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def place(array: Any, sharding: NamedSharding) -> jax.Array:
    """A global array of a host array that every process holds alike; each device takes its part of it."""
    array = np.asarray(array)
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def to_global(mesh: Mesh, batch: Mapping[str, Any], row_fields: frozenset[str]) -> dict[str, Any]:
    """Puts a host batch on the mesh: arrays under `row_fields` are split by their first axis, the rest replicated.

    Every process builds the same global batch (a pure function of the step), because which texts share a row depends
    on all of them; only the slices of its own devices leave the host.
    """
    rows, whole = row_sharding(mesh), replicated(mesh)
    return {
        name: jax.tree.map(lambda array, sharding=rows if name in row_fields else whole: place(array, sharding), value)
        for name, value in batch.items()
    }


def to_host(tree: Any) -> Any:
    """Whole numpy arrays of a tree that may be split over the devices of several processes; all must call it."""
    # Leaf by leaf, so that no device holds more than one whole array beside its own parts.
    return jax.tree.map(lambda leaf: multihost_utils.process_allgather(leaf, tiled=True), tree)
