"""Files by path, glob, folder or URL, on this machine or in an object store.

Every place but this machine's own disks is reached through fsspec: s3:// needs s3fs installed, gs:// gcsfs, hdfs:// a
Hadoop client.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from distill.data.schema import DataError

_SCHEME = "file://"


def is_local(location: str) -> bool:
    """Whether it is a path on this machine."""
    return "://" not in location.removeprefix(_SCHEME)


def reach(location: str, ask: Callable[[Any, str], Any]) -> Any:
    """`ask(file system, path)`, with what goes wrong on the way as one DataError that names the place."""
    from fsspec.core import url_to_fs

    try:
        return ask(*url_to_fs(location))
    except FileNotFoundError as error:
        raise DataError(f"{location}: there is no such file.") from error
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{location}: cannot be reached ({error}).") from error


def match_files(pattern: str) -> set[str]:
    """The files that a path, glob, folder or URL stands for; a folder for all below it, through links too.

    Marks such as _SUCCESS, hidden files, and whatever lies in a folder of such a name (_temporary) are left out, unless
    the pattern names them itself.

    Raises:
      DataError: a place cannot be reached, or a link leads nowhere.
    """
    return _local(pattern.removeprefix(_SCHEME)) if is_local(pattern) else _remote(pattern)


def each_once(locations: Iterable[str]) -> list[str]:
    """The locations by name; of several names of one file the first that is not a link."""
    by_file: dict[str, str] = {}
    for location in sorted(locations, key=lambda one: (is_local(one) and Path(one).is_symlink(), one)):
        by_file.setdefault(os.path.realpath(location) if is_local(location) else location, location)
    return sorted(by_file.values())


def _local(pattern: str) -> set[str]:
    if Path(pattern).is_file():
        return {pattern}
    paths = [pattern] if Path(pattern).is_dir() else glob.glob(pattern, recursive=True)  # noqa: PTH207
    data = [path for path in paths if _is_data(path, pattern)]
    for folder in [path for path in data if Path(path).is_dir()]:
        data += _below(folder, pattern)
    for path in data:
        if not Path(path).exists():
            there = Path(path).readlink()
            raise DataError(f"{path}: is a link to {there}, where there is nothing. Correct or remove it.")
    return {path for path in data if Path(path).is_file()}


def _below(folder: str, pattern: str) -> Iterator[str]:
    """The data files below a folder, through links too; what several links lead to is entered once: circles end."""
    entered = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        place = place.rstrip("/")
        # Before they are entered: a hidden link must not stand for the folder that it leads to.
        folders[:] = sorted(name for name in folders if _is_data(f"{place}/{name}", pattern))
        yield from (path for name in names if _is_data(path := f"{place}/{name}", pattern))


def _remote(pattern: str) -> set[str]:
    def match(system: Any, path: str) -> set[str]:
        paths = [path] if system.exists(path) else []
        if not paths and glob.has_magic(path):
            paths = system.glob(path)
        files = [one for one in paths if system.isfile(one)]
        for folder in [one for one in paths if one not in files]:
            files += system.find(folder)
        return {system.unstrip_protocol(one) for one in files if _is_data(one, path)}

    return reach(pattern, match)


def _is_data(path: str, pattern: str) -> bool:
    """Whether no part of the path is a mark or hidden but by the pattern's own words."""
    asked = [part for part in pattern.split("/") if part.startswith(("_", "."))]
    return not any(
        part.startswith(("_", ".")) and not any(fnmatch.fnmatchcase(part, one) for one in asked)
        for part in path.split("/")
    )
