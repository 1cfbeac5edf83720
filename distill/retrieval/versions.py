"""A directory of versions of which one is current: published whole, swapped in one write, rolled back in another.

    ROOT/versions/0001/…      each holds what was published together, such as an index and the model that reads it
    ROOT/versions/0001.json   written when that version is complete; without it the folder is rubbish
    ROOT/CURRENT              the name of one version

CURRENT is one small file, replaced as a whole and written last, so a reader sees the old version or the new one and
never half of either; no symbolic links and no renamed folders, which object stores lack. One writer at a time.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from distill.artifacts import hash_file, hash_tree, read_json, write_atomic, write_json

CURRENT, VERSIONS = "CURRENT", "versions"
_NAME = re.compile(r"\d{4,}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class VersionError(RuntimeError):
    """A directory of versions that cannot do what was asked; the message says what to do."""


def publish(root: str | Path, parts: Mapping[str, str | Path]) -> str:
    """Copies folders or files into a new version, makes it current and returns its name, such as `0003`.

    Args:
      root: of the versions; made where it is missing.
      parts: name in the version → folder or file, such as `{"index": …, "model": …}`.

    Raises:
      VersionError: there is no such part, or its name is no plain file name.
    """
    root = Path(root)
    for name, source in parts.items():
        if not _PART.fullmatch(name):
            raise VersionError(f"parts: {name!r} is no plain file name")
        if not Path(source).exists():
            raise VersionError(f"parts[{name!r}]: {source} does not exist")
    if not parts:
        raise VersionError("parts: empty; name what to publish")
    # Also above those that were never finished, so that nothing is written among their remains.
    taken = [int(path.name) for path in (root / VERSIONS).glob("*") if _NAME.fullmatch(path.name)]
    name = f"{max([*taken, *map(int, versions(root))], default=0) + 1:04d}"
    folder = root / VERSIONS / name
    folder.mkdir(parents=True)
    for part, source in parts.items():
        copy = shutil.copytree if Path(source).is_dir() else shutil.copyfile
        copy(source, folder / part)
    write_json(_receipt(root, name), {part: _hash(folder / part) for part in parts})
    write_atomic(root / CURRENT, name + "\n")
    return name


def versions(root: str | Path) -> list[str]:
    """The complete versions, oldest first."""
    found = [path.stem for path in (Path(root) / VERSIONS).glob("*.json") if _NAME.fullmatch(path.stem)]
    return sorted(found, key=int)


def current(root: str | Path) -> Path:
    """The folder of the current version.

    It stays as it is for as long as it is kept (`prune`), so a reader may go on with it after another one became
    current.

    Raises:
      VersionError: nothing was published.
    """
    root = Path(root)
    path = root / CURRENT
    if not path.is_file():
        raise VersionError(f"{path}: missing; nothing was published there")
    name = path.read_text().strip()
    if name not in versions(root):
        raise VersionError(f"{path}: names version {name!r}; there are {versions(root)}; roll back to one of them")
    return root / VERSIONS / name


def rollback(root: str | Path, to: str = "") -> str:
    """Makes an earlier version current, by default the one before, and returns its name.

    Raises:
      VersionError: there is none, or its files are not those that were published.
    """
    root = Path(root)
    there = versions(root)
    if not to:
        path = root / CURRENT
        now = path.read_text().strip() if path.is_file() else ""
        before = [name for name in there if _NAME.fullmatch(now) and int(name) < int(now)]
        if not before:
            raise VersionError(f"{root}: there is no version before {now or 'the first'!r}; there are {there}")
        to = before[-1]
    if to not in there:
        raise VersionError(f"{root}: there is no version {to!r}; there are {there}")
    check(root, to)
    write_atomic(root / CURRENT, to + "\n")
    return to


def check(root: str | Path, name: str) -> None:
    """Raises VersionError, naming the part, unless the version's files are those that were published."""
    root = Path(root)
    for part, digest in read_json(_receipt(root, name)).items():
        path = root / VERSIONS / name / part
        if not path.exists() or _hash(path) != digest:
            raise VersionError(f"{path}: not what was published; use another version")


def prune(root: str | Path, keep: int) -> list[str]:
    """Deletes all but the newest `keep` versions and the current one; returns the names of the deleted ones.

    What a killed `publish` left behind goes too, so do not call it beside one.
    """
    if keep < 1:
        raise VersionError(f"keep: {keep}; pass at least 1")
    root = Path(root)
    kept = {*versions(root)[-keep:], current(root).name}
    gone = [name for name in versions(root) if name not in kept]
    for name in gone:
        _receipt(root, name).unlink()  # first what calls it complete
    for folder in (root / VERSIONS).glob("*"):
        if folder.is_dir() and _NAME.fullmatch(folder.name) and folder.name not in kept:
            shutil.rmtree(folder)
    return gone


def _receipt(root: Path, name: str) -> Path:
    return root / VERSIONS / f"{name}.json"


def _hash(path: Path) -> str:
    return hash_tree(path) if path.is_dir() else hash_file(path)
