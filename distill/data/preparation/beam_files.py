"""What launcher and workers of a Beam pipeline hand each other as files: a shared folder, and the totals of a task."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill.data.preparation.checking import TableCounts
from distill.data.preparation.pair_rows import MergeCounts
from distill.data.preparation.ranks import RankSample


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder that launcher and workers reach: a path or a URL (s3://, gs://, hdfs:// …, through fsspec)."""

    location: str

    @property
    def is_local(self) -> bool:
        return "://" not in self.location

    def _reach(self, name: str) -> tuple[Any, str]:
        """The file system, and the path in it."""
        from fsspec.core import url_to_fs

        return url_to_fs(posixpath.join(self.location, name))

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """A file that appears whole or not at all; whoever writes it again, as runners may, replaces it."""
        system, path = self._reach(name)
        folder, last = posixpath.split(path)
        system.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{last}.{uuid.uuid4().hex}"
        with system.open(temporary, "wb") as stream:
            yield stream
        system.mv(temporary, path)

    def send(self, folder: Path, name: str) -> None:
        """Copies the files of a local folder here."""
        for path in folder.iterdir():
            with self.write(f"{name}/{path.name}") as out, path.open("rb") as source:
                shutil.copyfileobj(source, out)

    def fetch(self, name: str, folder: Path) -> None:
        """Copies what lies below `name` into a local folder; nothing where there is nothing."""
        system, path = self._reach(name)
        for one in system.find(path):
            target = folder / one[len(path) :].lstrip("/")
            if not target.name.startswith("."):  # left by a bundle that was stopped
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(one, str(target))

    def remove(self) -> None:
        system, path = self._reach("")
        if system.exists(path):
            system.rm(path, recursive=True)


@dataclasses.dataclass
class Total:
    """What some files and partitions of a task came to."""

    checked: dict[str, TableCounts] = dataclasses.field(default_factory=dict)  # by table
    merged: dict[str, MergeCounts] = dataclasses.field(default_factory=dict)  # by table
    ranks: RankSample | None = None
    errors: dict[int, str] = dataclasses.field(default_factory=dict)  # by file, then by partition: what stops the run
    parts: int = 0  # partitions that were written

    def add(self, other: Total) -> None:
        for table, counts in other.checked.items():
            self.checked.setdefault(table, TableCounts()).add(counts)
        for table, merged in other.merged.items():
            self.merged.setdefault(table, MergeCounts()).add(merged)
        if other.ranks is not None:
            if self.ranks is None:
                self.ranks = RankSample()
            self.ranks.merge(other.ranks)
        self.errors |= other.errors
        self.parts += other.parts

    def save(self, place: Place, number: int) -> None:
        """Writes the totals of task `number`."""
        if self.ranks is not None:
            table = pa.table(self.ranks.cells()).replace_schema_metadata({"share": repr(self.ranks.share)})
            with place.write(f"totals/{number}.parquet") as out:
                pq.write_table(table, out)
        told = {
            "checked": {name: vars(counts) for name, counts in self.checked.items()},
            "merged": {name: vars(counts) for name, counts in self.merged.items()},
            "errors": self.errors,
            "parts": self.parts,
        }
        with place.write(f"totals/{number}.json") as out:
            out.write(json.dumps(told, default=sorted).encode())

    @classmethod
    def load(cls, folder: Path, number: int) -> Total:
        """Reads what `save` wrote, from a local folder."""
        told = json.loads((folder / f"totals/{number}.json").read_bytes())
        checked = {name: _counts(counts) for name, counts in told["checked"].items()}
        ranks = None
        if (path := folder / f"totals/{number}.parquet").exists():
            table = pq.read_table(path)
            ranks = RankSample()
            ranks.share = float((table.schema.metadata or {})[b"share"])
            ranks.add({name: table[name].to_numpy() for name in table.column_names})
        return cls(
            checked,
            {name: MergeCounts(**counts) for name, counts in told["merged"].items()},
            ranks,
            {int(number): message for number, message in told["errors"].items()},
            told["parts"],
        )


def _counts(told: dict[str, Any]) -> TableCounts:
    """The counts again of what JSON made of their `vars`."""
    counts = TableCounts(**told)
    counts.reasons, counts.personal = collections.Counter(counts.reasons), collections.Counter(counts.personal)
    counts.examples = {reason: [(file, line) for file, line in places] for reason, places in counts.examples.items()}
    counts.extra = set(counts.extra)
    return counts
