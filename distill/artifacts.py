"""The working directory: one folder a stage, complete when it has a manifest, skipped while its inputs stay the same.

A stage writes `started.json` first and `manifest.json` last. Both hold a fingerprint of what the stage reads: its part
of the config, the hashes of its inputs and the data format version. A folder whose fingerprint is out of date is
emptied, but for what its stage keeps; one that is current but unfinished is resumed by the stage itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT_VERSION = 2  # of everything under a working directory; raising it makes every stage run again
MANIFEST, STARTED = "manifest.json", "started.json"
_PACKAGES = (
    *("llmdistill4ads", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "transformers", "scann"),
    *("tensorflow", "tensorflow-text"),
)


class ArtifactError(RuntimeError):
    """A working directory that cannot be used as asked; the message says what to run."""


def write_atomic(path: Path, data: str | bytes) -> None:
    """Writes a whole file or nothing: a temporary neighbour is renamed over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Raises ValueError, which names the file, where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); run what wrote it again") from error


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(directory: Path) -> str:
    """One hash over the names and contents of all files below `directory`."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return hash_json([[p.relative_to(directory).as_posix(), hash_file(p)] for p in files])


def hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def config_dict(config: Any) -> Any:
    """Dataclasses, tuples and numbers as plain JSON values."""
    return json.loads(json.dumps(config, default=dataclasses.asdict))


@dataclasses.dataclass(frozen=True)
class StageFolder:
    """One stage's folder, and what it reads."""

    name: str
    path: Path
    config: Mapping[str, Any]  # the part of the experiment that the stage reads, as plain values
    inputs: Mapping[str, str]  # input name → hash
    keeps: tuple[str, ...] = ()  # entries that stay when the folder is emptied: they say themselves what they hold

    @property
    def fingerprint(self) -> str:
        return hash_json({"config": self.config, "inputs": self.inputs, "format": FORMAT_VERSION})

    def is_complete(self) -> bool:
        manifest = read_manifest(self.path)
        return manifest is not None and manifest["fingerprint"] == self.fingerprint

    def open(self) -> None:
        """Makes the folder ready for work: a stale one is emptied, an unfinished one keeps what it has."""
        started = self.path / STARTED
        if not started.exists() or read_json(started)["fingerprint"] != self.fingerprint:
            self.clear()
            write_json(started, {"fingerprint": self.fingerprint})
        (self.path / MANIFEST).unlink(missing_ok=True)

    def publish(self, counts: dict[str, Any], outputs: list[Path], seconds: float) -> dict[str, Any]:
        """Writes the manifest and returns it.

        `counts` are figures of the work. `outputs` are the files whose bytes define the stage's output for those that
        read it; curves and checkpoints are not among them.
        """
        manifest = {
            "stage": self.name,
            "fingerprint": self.fingerprint,
            "format_version": FORMAT_VERSION,
            "config": self.config,
            "inputs": dict(self.inputs),
            "outputs": {p.relative_to(self.path).as_posix(): hash_file(p) for p in sorted(outputs)},
            "packages": package_versions(),
            "git_revision": git_revision(),
            "seconds": round(seconds, 3),
            "counts": counts,
        }
        write_json(self.path / MANIFEST, manifest)
        return manifest

    def clear(self) -> None:
        """Empties the folder, so that the next run starts from nothing but what it `keeps`."""
        # First what calls it complete or resumable: whoever finds the rest half deleted must not believe it whole.
        for name in (MANIFEST, STARTED):
            (self.path / name).unlink(missing_ok=True)
        for entry in list(self.path.iterdir()) if self.path.exists() else ():
            if entry.name in self.keeps:
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None."""
    file = path / MANIFEST
    return read_json(file) if file.exists() else None


def output_hash(path: Path, command: str) -> str:
    """The hash of a finished stage's published files; ArtifactError, naming the `command` to run, when unfinished."""
    manifest = read_manifest(path)
    if manifest is None:
        raise ArtifactError(f"{path}: has no {MANIFEST}, so that stage is not finished; run `{command}` first")
    return hash_json(manifest["outputs"])


def package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_revision() -> str | None:
    """The revision of this code, when it runs from a checkout; recorded, never a reason to run again."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
