"""A directory of versions of which one is current: published whole, swapped in one write, rolled back in another.

    ROOT/versions/0001/…      each holds what was published together, such as an index and the model that reads it
    ROOT/versions/0001.json   written when that version is complete; without it the folder is rubbish
    ROOT/history.json         what was current when, oldest first
    ROOT/CURRENT              the name of one version

CURRENT is one small file, replaced as a whole and written last, so a reader sees the old version or the new one and
never half of either; no symbolic links and no renamed folders, which object stores lack. Writers exclude each other by
a lock on ROOT/.lock where the file system has locks, and fail rather than wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.artifacts import hash_file, hash_tree, read_json, write_atomic, write_json

CURRENT, VERSIONS, HISTORY, LOCK = "CURRENT", "versions", "history.json", ".lock"
WORK = ".work-"  # folders of ROOT in which a version is being made begin so
_NAME = re.compile(r"\d{4,}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ABANDONED_SECONDS = 24 * 3600  # nobody makes a version for so long
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class VersionError(RuntimeError):
    """A directory of versions that cannot do what was asked; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Version:
    """What is known of a complete version."""

    name: str
    current: bool
    published: str = ""  # UTC, ISO 8601
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name → hash
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what its publisher said of it
    fault: str = ""  # why none of this is known


def publish(
    root: str | Path,
    parts: Mapping[str, str | Path],
    about: Mapping[str, Any] | None = None,
    *,
    expected: str | None = None,
) -> str:
    """Copies folders or files into a new version, makes it current and returns its name, such as `0003`.

    Where the current version holds the same bytes, nothing is published and its name is returned: a publisher that was
    killed may just run again. Parts that lie in a version of this root are linked instead of copied, where links are
    possible: no file of a version ever changes.

    Args:
      root: of the versions; made where it is missing.
      parts: name in the version → folder or file, such as `{"index": …, "model": …}`.
      about: JSON values that `describe` returns.
      expected: the version that must be current still; None: whatever is.

    Raises:
      VersionError: there is no such part, or its name is no plain file name; or a part changed while it was copied,
        another one is current than expected, or another process is writing.
    """
    root = Path(root)
    for name, source in parts.items():
        if not _PART.fullmatch(name):
            raise VersionError(f"parts: {name!r} is no plain file name")
        if not Path(source).exists():
            raise VersionError(f"parts[{name!r}]: {source} does not exist")
        if root.resolve().is_relative_to(Path(source).resolve()):
            raise VersionError(f"parts[{name!r}]: {source} holds {root} itself; publish to another directory")
    if not parts:
        raise VersionError("parts: empty; name what to publish")
    hashes = {part: _hash(Path(source)) for part, source in parts.items()}
    with _writing(root):
        _expect(root, expected)
        now = next((version for version in describe(root) if version.current), None)
        if now and now.parts == hashes:
            return now.name
        # Also above those that were never finished, so that nothing is written among their remains.
        taken = [int(path.name) for path in (root / VERSIONS).glob("*") if _NAME.fullmatch(path.name)]
        name = f"{max([*taken, *map(int, versions(root))], default=0) + 1:04d}"
        folder = root / VERSIONS / name
        folder.mkdir(parents=True)
        for part, source in parts.items():
            _copy(Path(source), folder / part, link=Path(source).resolve().is_relative_to((root / VERSIONS).resolve()))
            if _hash(folder / part) != hashes[part]:
                raise VersionError(f"parts[{part!r}]: {source} changed while it was copied; publish it again")
        write_json(_receipt_path(root, name), {"published": _now(), "parts": hashes, "about": dict(about or {})})
        _swap(root, name, "published")
    return name


def versions(root: str | Path) -> list[str]:
    """The complete versions, oldest first."""
    found = [path.stem for path in (Path(root) / VERSIONS).glob("*.json") if _NAME.fullmatch(path.stem)]
    return sorted(found, key=int)


def describe(root: str | Path) -> list[Version]:
    """The complete versions, oldest first, and what is known of each."""
    root = Path(root)
    now, found = current_name(root), []
    for name in versions(root):
        try:
            found.append(Version(name, name == now, **_receipt(root, name)))
        except VersionError as error:
            found.append(Version(name, name == now, fault=str(error)))
    return found


def history(root: str | Path) -> list[dict[str, str]]:
    """What became current, oldest first: `version`, `at` (UTC) and `how` (published, promoted or rolled back).

    Raises VersionError where the file is damaged.
    """
    path, now = Path(root) / HISTORY, current_name(Path(root))
    try:
        events = read_json(path) if path.is_file() else []
    except ValueError as error:
        raise VersionError(f"{path}: damaged ({error}); move it away, then roll back to a version by name") from error
    # It is written before CURRENT: a writer killed in between leaves an event that never took place.
    while events and events[-1]["version"] != now:
        events.pop()
    return events


def current_name(root: str | Path) -> str:
    """The name in CURRENT, whatever is there of it; empty where nothing was published."""
    path = Path(root) / CURRENT
    return path.read_text().strip() if path.is_file() else ""


def current(root: str | Path) -> Path:
    """The folder of the current version.

    It stays as it is for as long as it is kept (`prune`), so a reader may go on with it after another one became
    current.

    Raises:
      VersionError: nothing was published.
    """
    root = Path(root)
    name = current_name(root)
    if not name:
        raise VersionError(f"{root / CURRENT}: missing; nothing was published there")
    if name not in versions(root):
        there = ", ".join(versions(root)) or "none"
        raise VersionError(f"{root / CURRENT}: names version {name!r}; there are {there}; roll back to one of them")
    return root / VERSIONS / name


def previous(root: str | Path) -> str:
    """The version that a rollback goes to: what was current before the current one; empty where there is none."""
    root = Path(root)
    there, now, before = versions(root), current_name(root), []
    events = history(root)
    if not events and _NAME.fullmatch(now):  # CURRENT was written by hand
        return next((name for name in reversed(there) if int(name) < int(now)), "")
    for event in events:
        if event["how"] == "rolled back" and event["version"] in before:
            while before.pop() != event["version"]:
                pass
        before.append(event["version"])
    return next((name for name in reversed(before[:-1]) if name in there and name != now), "")


def promote(root: str | Path, name: str, *, expected: str | None = None) -> str:
    """Makes any complete version current, after checking its files.

    Args:
      root: of the versions.
      name: of the version.
      expected: as for `publish`.

    Raises:
      VersionError: there is no such version, or its files are not those that were published.
    """
    return _go(Path(root), name, "promoted", expected)


def rollback(root: str | Path, to: str = "", *, expected: str | None = None) -> str:
    """Makes an earlier version current, by default the one that was current before, and returns its name.

    A version that was rolled back from is not gone to again: after 1, 2, 3, back to 2 and a new 4, it is 2 again.

    Args:
      root: of the versions.
      to: the version; empty: `previous`.
      expected: the version that must be current still. Without it, two operators who both roll back go two back.

    Raises:
      VersionError: there is none, or its files are not those that were published.
    """
    return _go(Path(root), to, "rolled back", expected)


def check(root: str | Path, name: str) -> None:
    """Raises VersionError, naming the part, unless the version's files are those that were published."""
    root = Path(root)
    for part, digest in _receipt(root, name)["parts"].items():
        path = root / VERSIONS / name / part
        if not path.exists() or _hash(path) != digest:
            raise VersionError(f"{path}: not what was published; use another version")


def prune(root: str | Path, keep: int) -> list[str]:
    """Deletes all but the newest `keep` versions, the current one and the one before it; returns the deleted ones.

    What killed writers left behind goes too; folders in which versions are made, when they are a day old. A reader that
    is about to open a deleted version finds nothing: keep more than become current while a reader starts.
    """
    if keep < 1:
        raise VersionError(f"keep: {keep}; pass at least 1")
    root = Path(root)
    with _writing(root):
        kept = {*versions(root)[-keep:], current(root).name, previous(root)}
        gone = [name for name in versions(root) if name not in kept]
        for name in gone:
            _receipt_path(root, name).unlink()  # first what calls it complete
        for folder in (root / VERSIONS).glob("*"):
            if folder.is_dir() and _NAME.fullmatch(folder.name) and folder.name not in kept:
                shutil.rmtree(folder)
        for folder in root.glob(f"{WORK}*"):
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(folder)
    return gone


def _go(root: Path, to: str, how: str, expected: str | None) -> str:
    there = versions(root)
    if not there:
        raise VersionError(f"{root}: holds no versions; publish one first")
    with _writing(root):
        _expect(root, expected)
        if not to:
            to, now = previous(root), current_name(root)
            if not to:
                raise VersionError(
                    f"{root}: nothing was current before {now or 'the first'}, so there is nothing to roll back to; "
                    f"there are {', '.join(there)}: name one of them"
                )
        if to not in there:
            raise VersionError(f"{root}: there is no version {to!r}; there are {', '.join(there)}")
        check(root, to)
        if to != current_name(root):
            _swap(root, to, how)
    return to


def _swap(root: Path, name: str, how: str) -> None:
    write_json(root / HISTORY, [*history(root), {"version": name, "at": _now(), "how": how}])
    write_atomic(root / CURRENT, name + "\n")


def _expect(root: Path, expected: str | None) -> None:
    now = current_name(root)
    if expected is not None and now != expected:
        raise VersionError(f"{root}: {now or 'no version'} is current, not {expected}; nothing was changed: look again")


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Keeps other writers out; the lock ends with the process that holds it, however that ends."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VersionError(f"{root}: another process is changing it; try again when that is done") from None
        except ImportError:
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def _copy(source: Path, target: Path, link: bool) -> None:
    copy = _link if link else shutil.copyfile
    if source.is_dir():
        shutil.copytree(source, target, copy_function=copy)
    else:
        copy(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _receipt_path(root: Path, name: str) -> Path:
    return root / VERSIONS / f"{name}.json"


def _receipt(root: Path, name: str) -> dict[str, Any]:
    path = _receipt_path(root, name)
    try:
        stored = read_json(path)
        return {name: stored[name] for name in ("published", "parts", "about")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VersionError(f"{path}: cannot be read ({error}); use another version") from error


def _hash(path: Path) -> str:
    return hash_tree(path) if path.is_dir() else hash_file(path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
