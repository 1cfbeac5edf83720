"""The saved index: `index.json` written last, with a hash of every other file, all checked before a load."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill.artifacts import hash_file, write_json
from distill.retrieval.index_settings import IndexSettings, check_settings

FORMAT = 2
MANIFEST, ASSETS, VECTORS, SAMPLE, CURVE = "index.json", "scann", "vectors.npy", "sample.npy", "curve.json"
_PARTS = (ASSETS, VECTORS, SAMPLE, CURVE)
_ASSET_KINDS = (".npy", ".pb", ".pbtxt")
_EXACT_ASSET = "dataset.npy"  # ScaNN's own float32 copy of what it searches


def hash_keyphrases(keyphrases: Iterable[str]) -> str:
    """SHA-256 of the texts in their order; an index and the table that its rows are looked up in must share it."""
    digest = hashlib.sha256()
    for keyphrase in keyphrases:
        # Escaped, so that no text can hold the end of one.
        digest.update(keyphrase.encode().replace(b"\1", b"\1\2").replace(b"\0", b"\1\1") + b"\0")
    return digest.hexdigest()


def write_manifest(directory: Path, settings: IndexSettings) -> None:
    """Hashes every file below `directory` into its manifest, which makes it a complete index."""
    files = {_name(directory, path): hash_file(path) for path in _files(directory)}
    write_json(directory / MANIFEST, {"format": FORMAT, **dataclasses.asdict(settings), "files": files})


def read_settings(directory: Path) -> IndexSettings:
    """The settings of a complete index, whose files are not looked at.

    Raises:
      FileNotFoundError: there is no index.
      ValueError: the manifest is damaged, or of another format.
    """
    return _read(directory)[0]


def read_manifest(directory: Path) -> IndexSettings:
    """The settings of a complete, undamaged index.

    Raises:
      FileNotFoundError: there is no index.
      ValueError: the manifest or a file is damaged, or of another format.
    """
    settings, files = _read(directory)
    present = {_name(directory, file) for file in _files(directory)}
    # A stray file is refused too: scann would unpickle a `scann_docids.pkl`.
    if present != set(files):
        raise ValueError(f"{directory}: files {sorted(present ^ set(files))} are missing or not of this index")
    for name, digest in files.items():
        if hash_file(directory / name) != digest:
            raise ValueError(f"{directory / name}: not the file that was written; build the index again")
    return settings


def _read(directory: Path) -> tuple[IndexSettings, dict[str, str]]:
    path = directory / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; pass a directory written by the index stage")
    try:
        manifest = json.loads(path.read_text())
        stored = manifest.pop("format")
        if stored != FORMAT:
            raise ValueError(f"format {stored}, this code reads {FORMAT}")
        files = dict(manifest.pop("files"))
        settings = IndexSettings(**manifest)
        check_settings(settings)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); build the index again") from error
    return settings, files


def remove_unfinished(directory: Path) -> None:
    """Deletes what a killed `KeyphraseIndex.save` left: parts of an index without the manifest that comes last."""
    assets = directory / ASSETS  # made first
    if not assets.is_dir() or (directory / MANIFEST).exists():
        return
    entries = list(directory.iterdir())
    ours = all(entry.name in _PARTS or entry.name.startswith((f".{MANIFEST}.", f".{CURVE}.")) for entry in entries)
    if ours and all(file.is_file() and file.suffix in _ASSET_KINDS for file in assets.iterdir()):
        for entry in entries:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def check_expected(directory: Path, settings: IndexSettings, expected: Mapping[str, Any]) -> None:
    """Raises ValueError, naming every setting that is not as expected: another model's index finds nonsense."""
    unknown = sorted(set(expected) - {field.name for field in dataclasses.fields(settings)})
    if unknown:
        raise ValueError(f"expected: {unknown} are no settings of an index; pass names of IndexSettings")
    wrong = [
        f"{name} is {getattr(settings, name)!r}, not {value!r}"
        for name, value in expected.items()
        if getattr(settings, name) != value
    ]
    if wrong:
        raise ValueError(
            f"{directory / MANIFEST}: {'; '.join(wrong)}; build the index again, or load the one that fits"
        )


def keeps_exact_vectors(settings: IndexSettings) -> bool:
    """Whether ScaNN's own files hold the full-width float32 vectors."""
    return settings.dtype == "float32" and settings.width == settings.full_width


def map_vectors(directory: Path, settings: IndexSettings) -> np.ndarray:
    """The full-width vectors [N, D] float32, memory-mapped."""
    path = directory / ASSETS / _EXACT_ASSET if keeps_exact_vectors(settings) else directory / VECTORS
    vectors = np.load(path, mmap_mode="r")
    if vectors.shape != (settings.count, settings.full_width) or vectors.dtype != np.float32:
        raise ValueError(
            f"{path}: {vectors.dtype} {vectors.shape}; the index holds float32 "
            f"{(settings.count, settings.full_width)}; build it again"
        )
    return vectors


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)


def _name(directory: Path, path: Path) -> str:
    return path.relative_to(directory).as_posix()
