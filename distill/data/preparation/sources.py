"""Where the tables lie: one data directory, or files, globs and object stores by name (`data.sources`).

A glob is expanded once, at the start (`places`); the files of a table are read in the order of their names, each once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from distill.artifacts import hash_file, hash_json
from distill.config import SourceConfig, SourcesConfig
from distill.data.preparation.chunks import Names
from distill.data.preparation.places import each_once, is_local, match_files, reach
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
        return is_local(self.location)

    def open(self) -> IO[bytes]:
        """Raises DataError when the place cannot be reached."""
        if self.is_local:
            return Path(self.location).open("rb")
        return reach(self.location, lambda system, path: system.open(path, "rb"))

    @property
    def packed(self) -> bool:
        """Whether its rows take much more room as text than in the file."""
        return self.zipped or self.format == "parquet"

    def size(self) -> int:
        """Bytes of the file as it lies there."""
        if self.is_local:
            return Path(self.location).stat().st_size
        return reach(self.location, lambda system, path: int(system.info(path).get("size") or 0))

    def mark(self) -> list[Any]:
        """What tells this content from another: a hash of the bytes, or what a store says without reading them.

        Of a remote file that is its name, size and etag, checksum or time of change, whichever the store gives.
        """
        if self.is_local:
            return [hash_file(Path(self.location))]
        told = reach(self.location, lambda system, path: system.info(path))
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
    """The files of a table, in the order of reading, and what its columns and values are called there."""

    files: tuple[DataFile, ...]
    names: Names = dataclasses.field(default_factory=Names)

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
        """One hash over the contents and formats; where they lie does not matter, in which order they are read does."""
        return hash_json(
            {
                name: [[file.format, file.zipped, *file.mark()] for file in table.files]
                for name, table in self.tables.items()
            }
        )


def find_sources(directory: Path | None, config: SourcesConfig) -> Sources:
    """The tables in `directory`, if there is one, and those that the config names.

    Raises:
      DataError: the directory is missing, a pattern matches nothing, a table is given twice, a needed one is not
        given, or columns are named that no table has or of a table that is not given.
    """
    found: dict[str, TableSource] = {}
    strangers: list[str] = []
    if directory is not None:
        files, strangers = find_tables(directory)
        found = {name: TableSource((data_file(path, name=path.name),)) for name, path in files.items()}
    for name in TABLES:
        settings: SourceConfig = getattr(config, name)
        field, names = f"config.data.sources.{name}", _names(name, settings)
        if settings.files:
            if name in found:
                raise DataError(
                    f"table {name!r} is given twice: {found[name].place} and {field}.files={settings.files}. Remove "
                    "one of them."
                )
            found[name] = TableSource(_expand(name, settings), names)
        elif settings.format:
            raise DataError(
                f"{field}.format={settings.format!r}: is for files that {field}.files names; in a data directory the "
                "suffix tells it. Remove the setting, or name the files."
            )
        elif name in found:
            found[name] = dataclasses.replace(found[name], names=names)
        elif names != Names():
            given = "columns" if settings.columns else "values"
            raise DataError(
                f"{field}.{given}={getattr(settings, given)}: there is no such table in {directory}. Set {field}.files "
                "too, or remove the setting."
            )
    place = f"data directory {directory}" if directory is not None else "config.data.sources"
    if not found:
        raise DataError(f"{place}: it holds no table. {_NEEDED}")
    for name, table in TABLES.items():
        if table.needed and name not in found:
            raise DataError(f"{place}: table {name!r} is missing (found: {_titles(found)}). {_NEEDED}")
    truth = directory / TRUTH if directory is not None and (directory / TRUTH).exists() else None
    return Sources({name: found[name] for name in TABLES if name in found}, strangers, truth)


def _names(table: str, settings: SourceConfig) -> Names:
    """Raises DataError for a column that the table has not, and for a value that the column cannot have."""
    field, known = f"config.data.sources.{table}", {column.name: column for column in TABLES[table].columns}
    columns = dict(pair.split("=", 1) for pair in settings.columns)
    if unknown := [column for column in columns if column not in known]:
        raise DataError(
            f"{field}.columns={settings.columns}: table {table!r} has no column {unknown[0]!r}. Name one of "
            f"{', '.join(known)}, then =, then your name for it."
        )
    values: dict[str, dict[str, str]] = {}
    choices = {name: column.choices for name, column in known.items() if column.choices}
    for triple in settings.values:
        column, pair = triple.split(":", 1)
        yours, contract = pair.rsplit("=", 1)
        if column not in choices:
            raise DataError(
                f"{field}.values={settings.values}: table {table!r} has no column {column!r} of named values. "
                + (f"Name one of {', '.join(choices)}." if choices else "Remove the setting.")
            )
        if contract not in ("", *choices[column]):
            raise DataError(
                f"{field}.values={settings.values}: {column!r} cannot be {contract!r}. Name one of "
                f"{', '.join(choices[column])}, or nothing, which leaves those rows out."
            )
        values.setdefault(column, {})[yours.strip().lower()] = contract
    return Names(columns, values)


def _titles(found: Mapping[str, TableSource]) -> str:
    return ", ".join(source.title for source in found.values())


def find_tables(directory: Path) -> tuple[dict[str, Path], list[str]]:
    """The file of each table in `directory`, and the names of what looks like a table and is none.

    That is data files of other names, and folders and other formats that bear a table's name.

    Raises:
      DataError: the directory is missing, a table has two files or is a link to nothing.
    """
    if not directory.is_dir():
        raise DataError(f"data directory {directory}: there is no such directory. {_NEEDED}")
    found: dict[str, Path] = {}
    strangers: list[str] = []
    for path in sorted(directory.iterdir()):
        name, *suffixes = path.name.split(".")
        is_data = suffixes in [[kind, *zipped] for kind in FORMATS for zipped in ([], ["gz"])]
        if is_data and name in TABLES and not path.exists():
            raise DataError(f"{path}: is a link to {path.readlink()}, where there is nothing. Correct or remove it.")
        if not is_data or not path.is_file():
            if name.lower() in TABLES:
                strangers.append(path.name)
        elif name not in TABLES:
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
        matched = match_files(pattern)
        if not matched:
            raise DataError(f"config.{field}.files: {pattern!r} matches no file. Correct or remove it.")
        locations.update(matched)
    return tuple(data_file(location, settings.format, field=field) for location in each_once(locations))
