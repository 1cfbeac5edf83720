"""Where the tables lie: one data directory, or files, globs and object stores by name (`data.sources`).

Every place but this machine's own disks is reached through fsspec: s3:// needs s3fs installed, gs:// gcsfs, hdfs:// a
Hadoop client. A glob is expanded once, at the start; the files of a table are read in the order of their names.
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from distill.artifacts import hash_file, hash_json
from distill.config import SourceConfig, SourcesConfig
from distill.data.schema import FORMATS, TABLES, TRUTH, DataError

_SUFFIXES = {kind: kind for kind in FORMATS} | {"json": "jsonl", "ndjson": "jsonl", "pq": "parquet"}
# What a file system tells of a file that changes when its content does; each store has its own name for it.
_MARKS = ("etag", "ETag", "md5Hash", "checksum", "generation", "mtime", "LastModified", "last_modified", "updated")
_NEEDED = "Expected items and keyphrases at least, each as NAME.parquet, .jsonl, .tsv or .csv, optionally .gz."


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One file of a table: a path or a URL, and how it is to be read."""

    location: str
    name: str  # in messages and in the quarantine
    format: str  # one of `FORMATS`
    zipped: bool = False

    @property
    def is_local(self) -> bool:
        return "://" not in self.location

    def open(self) -> IO[bytes]:
        """Raises DataError when the place cannot be reached."""
        if self.is_local:
            return Path(self.location).open("rb")
        return _reach(self.location, lambda system, path: system.open(path, "rb"))

    @property
    def packed(self) -> bool:
        """Whether its rows take much more room as text than in the file."""
        return self.zipped or self.format == "parquet"

    def size(self) -> int:
        """Bytes of the file as it lies there."""
        if self.is_local:
            return Path(self.location).stat().st_size
        return _reach(self.location, lambda system, path: int(system.info(path).get("size") or 0))

    def mark(self) -> list[Any]:
        """What tells this content from another: a hash of the bytes, or what a store says without reading them.

        Of a remote file that is its name, size and etag, checksum or time of change, whichever the store gives.
        """
        if self.is_local:
            return [hash_file(Path(self.location))]
        told = _reach(self.location, lambda system, path: system.info(path))
        marks = {key: str(told[key]) for key in (*_MARKS, "created") if told.get(key)}
        return [self.location.rsplit("/", 1)[-1], told.get("size"), marks]


def data_file(location: str | Path, form: str = "", name: str = "", field: str = "") -> DataFile:
    """The file at a path or URL; its format is told by the suffix unless given.

    Raises:
      DataError: the format is not given and no suffix tells it; `field` is the setting to name.
    """
    location = str(location).removeprefix("file://")
    last = location.rsplit("/", 1)[-1]
    parts = last.lower().split(".")
    zipped = parts[-1] in ("gz", "gzip")
    suffix = parts[-2 if zipped else -1] if len(parts) > 1 + zipped else ""
    form = form or _SUFFIXES.get(suffix, "")
    if not form:
        raise DataError(
            f"{location}: its name does not tell the format"
            + (f"; set config.{field}.format to one of {', '.join(FORMATS)}" if field else "")
        )
    return DataFile(location, name or location, form, zipped)


@dataclasses.dataclass(frozen=True)
class TableSource:
    """The files of a table, in the order of reading, and what its columns are called there."""

    files: tuple[DataFile, ...]
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # contract's name → the files'; "": none

    @property
    def title(self) -> str:
        """How messages name the files together."""
        first, *more = (file.name for file in self.files)
        return f"{first} and {len(more):,} more" if more else first

    @property
    def place(self) -> str:
        """The same with the place, for errors."""
        first, *more = (file.location for file in self.files)
        return f"{first} and {len(more):,} more files" if more else first


@dataclasses.dataclass
class Sources:
    """All that a run reads."""

    tables: dict[str, TableSource]  # in the order of `TABLES`
    strangers: list[str]  # data files in the directory that belong to no table
    truth: Path | None  # of a simulated marketplace

    def content_hash(self) -> str:
        """One hash over the contents; where they lie does not matter, in which order they are read does."""
        return hash_json({name: [file.mark() for file in table.files] for name, table in self.tables.items()})


def find_sources(directory: Path | None, config: SourcesConfig) -> Sources:
    """The tables in `directory`, if there is one, and those that the config names.

    Raises:
      DataError: the directory is missing, a pattern matches nothing, a table is given twice, or a needed one is not
        given.
    """
    found: dict[str, TableSource] = {}
    strangers: list[str] = []
    if directory is not None:
        files, strangers = find_tables(directory)
        found = {name: TableSource((data_file(path, name=path.name),)) for name, path in files.items()}
    for name in TABLES:
        settings: SourceConfig = getattr(config, name)
        columns = dict(pair.split("=", 1) for pair in settings.columns)
        if settings.files:
            if name in found:
                raise DataError(
                    f"table {name!r} is given twice: {found[name].place} and config.data.sources.{name}.files="
                    f"{settings.files}. Remove one of them."
                )
            found[name] = TableSource(_expand(name, settings), columns)
        elif columns and name in found:
            found[name] = dataclasses.replace(found[name], columns=columns)
    place = f"data directory {directory}" if directory is not None else "config.data.sources"
    if not found:
        raise DataError(f"{place}: it holds no table. {_NEEDED}")
    for name, table in TABLES.items():
        if table.needed and name not in found:
            raise DataError(f"{place}: table {name!r} is missing (found: {_titles(found)}). {_NEEDED}")
    truth = directory / TRUTH if directory is not None and (directory / TRUTH).exists() else None
    return Sources({name: found[name] for name in TABLES if name in found}, strangers, truth)


def _titles(found: Mapping[str, TableSource]) -> str:
    return ", ".join(source.title for source in found.values())


def find_tables(directory: Path) -> tuple[dict[str, Path], list[str]]:
    """The file of each table in `directory`, and the names of data files that belong to no table.

    Raises:
      DataError: when the directory is missing or a table has two files.
    """
    if not directory.is_dir():
        raise DataError(f"data directory {directory}: there is no such directory. {_NEEDED}")
    found: dict[str, Path] = {}
    strangers: list[str] = []
    for path in sorted(directory.iterdir()):
        name, *suffixes = path.name.split(".")
        if not path.is_file() or suffixes not in [[kind, *zipped] for kind in FORMATS for zipped in ([], ["gz"])]:
            continue
        if name not in TABLES:
            if path.name != TRUTH:
                strangers.append(path.name)
        elif name in found:
            raise DataError(
                f"{directory}: {found[name].name} and {path.name} are both table {name!r}. Remove one of them."
            )
        else:
            found[name] = path
    return found, strangers


def _expand(table: str, settings: SourceConfig) -> tuple[DataFile, ...]:
    """The files that the patterns match, each once, by name. A folder stands for all files below it."""
    field = f"data.sources.{table}"
    locations: set[str] = set()
    for pattern in settings.files:
        matched = _local(pattern) if "://" not in pattern.removeprefix("file://") else _remote(pattern)
        if not matched:
            raise DataError(f"config.{field}.files: {pattern!r} matches no file. Correct or remove it.")
        locations.update(matched)
    return tuple(data_file(location, settings.format, field=field) for location in sorted(locations))


def _local(pattern: str) -> list[str]:
    pattern = pattern.removeprefix("file://")
    paths = [Path(pattern)]
    if not paths[0].exists():
        paths = [Path(path) for path in glob.glob(pattern, recursive=True) if _is_data([Path(path).name])]  # noqa: PTH207
    files = [path for path in paths if path.is_file()]
    for folder in [path for path in paths if path.is_dir()]:
        files += [path for path in folder.rglob("*") if path.is_file() and _is_data(path.relative_to(folder).parts)]
    return [str(path) for path in files]


def _remote(pattern: str) -> list[str]:
    def match(system: Any, path: str) -> list[str]:
        paths = [path] if system.exists(path) else []
        if not paths and glob.has_magic(path):
            paths = [one for one in system.glob(path) if _is_data([one.rsplit("/", 1)[-1]])]
        files = [one for one in paths if system.isfile(one)]
        for folder in [one for one in paths if one not in files]:
            below = system.find(folder)
            files += [one for one in below if _is_data(one[len(folder) :].strip("/").split("/"))]
        return [system.unstrip_protocol(one) for one in files]

    return _reach(pattern, match)


def _is_data(parts: Sequence[str]) -> bool:
    """Not a mark such as _SUCCESS or a hidden file."""
    return not any(part.startswith(("_", ".")) for part in parts)


def _reach(location: str, ask: Callable[[Any, str], Any]) -> Any:
    """`ask(file system, path)`, with what goes wrong on the way as one error that names the place."""
    from fsspec.core import url_to_fs

    try:
        return ask(*url_to_fs(location))
    except FileNotFoundError as error:
        raise DataError(f"{location}: there is no such file.") from error
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{location}: cannot be reached ({error}).") from error
