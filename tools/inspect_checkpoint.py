"""Shows what a training checkpoint or a finished model holds, without the config that made it.

    python tools/inspect_checkpoint.py runs/quickstart/student [--step N] [--all]

The folder is a stage's (its finished model and its checkpoints), its `training` or `checkpoints`, or one checkpoint.
For each array: type, shape, bytes and Euclidean norm. The exit code is 1 when an array does not match its checksum.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from distill.models.storage import load_params
from distill.train.checkpoint import CheckpointError, read_checkpoint


def print_arrays(arrays: dict[str, np.ndarray]) -> None:
    width = max(map(len, arrays), default=4)
    print(f"  {'array':<{width}}  {'type':<9} {'shape':<18} {'bytes':>13} {'norm':>12}")
    for name, array in sorted(arrays.items()):
        norm = float(np.linalg.norm(array.astype(np.float64)))
        print(f"  {name:<{width}}  {array.dtype.name:<9} {array.shape!s:<18} {array.nbytes:>13,} {norm:>12.5g}")
    print(f"  {len(arrays)} arrays, {sum(a.size for a in arrays.values()):,} numbers, ", end="")
    print(f"{sum(a.nbytes for a in arrays.values()):,} bytes")


def flatten(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for name, node in tree.items():
        flat |= flatten(node, f"{prefix}{name}/") if isinstance(node, dict) else {f"{prefix}{name}": node}
    return flat


def show_model(folder: Path) -> None:
    print(f"model {folder}")
    print(f"  {(folder / 'spec.json').read_text().strip()}")
    print_arrays(flatten(load_params(folder / "params.safetensors")))


def show_checkpoint(folder: Path, step: int | None, everything: bool) -> bool:
    """Prints one checkpoint of the folder; whether it is sound."""
    stored = read_checkpoint(folder, step)
    print(f"checkpoint {folder / str(stored.step)}")
    print(f"  step {stored.step}, {json.dumps(stored.metrics) if stored.metrics else 'saved without a validation'}")
    print(f"  checksums: {stored.fault or 'all match'}")
    hidden = {} if everything else {name for name in stored.arrays if name.startswith("opt_state/")}
    print_arrays({name: array for name, array in stored.arrays.items() if name not in hidden})
    if hidden:
        print(f"  and {len(hidden)} of the optimiser (--all shows them)")
    return not stored.fault


def main(arguments: list[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step", type=int, help="which checkpoint; the newest by default")
    parser.add_argument("--all", action="store_true", help="the optimiser's arrays too")
    options = parser.parse_args(arguments)
    folder, step = options.folder.absolute(), options.step
    if (folder / "_CHECKPOINT_METADATA").exists() or (folder / "state").is_dir():
        folder, step = folder.parent, int(folder.name)
    checkpoints = next((p for p in (folder / "training/checkpoints", folder / "checkpoints") if p.is_dir()), folder)
    model = folder / "model"
    try:
        if (model / "params.safetensors").exists() and step is None:
            show_model(model)
            if checkpoints == folder:
                return 0
        return 0 if show_checkpoint(checkpoints, step, options.all) else 1
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
