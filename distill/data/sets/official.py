"""The official files of public sets: where they are, under which licence, and whether a file is the official one."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.client
import shutil
import urllib.request
from pathlib import Path

from distill.artifacts import hash_file
from distill.data.schema import DataError

_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_BLOCK = 1 << 20
_SECONDS = 60  # without a byte, then a download fails


@dataclasses.dataclass(frozen=True)
class OfficialFile:
    """A file as it is in the official repository; one of the two checksums is known."""

    name: str
    url: str
    size: int = 0  # bytes; 0: not known
    sha256: str = ""
    git_blob: str = ""  # SHA-1 that Git gives to the content


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """A public data set: what it is, whose it is, and its files."""

    name: str  # of the builder
    title: str
    description: str
    page: str
    folder: str  # of the files in the official repository
    revision: str
    licence: str
    citation: str
    files: tuple[OfficialFile, ...]

    def instructions(self, directory: Path | str = "DIR") -> str:
        """What to put where, for a person."""
        lines = [f"{self.title} is published at {self.page} (folder {self.folder}/) under {self.licence}."]
        lines.append(f"Read the licence, then put these files into {directory}:")
        for file in self.files:
            size = f", {file.size:,} bytes" if file.size else ""
            lines.append(f"  {file.name}  ({file.url}{size})")
        lines.append(f"`python -m launch.dataset --name={self.name} --source={directory} --download` fetches them.")
        return "\n".join(lines)

    def find(self, directory: Path) -> dict[str, Path]:
        """The path of each file: in `directory` itself, or in the repository's folder below it.

        Raises:
          DataError: names every file that is missing or only a Git LFS pointer, and says where to get it.
        """
        found: dict[str, Path] = {}
        faults = []
        for file in self.files:
            places = [
                place for place in (directory / file.name, directory / self.folder / file.name) if place.is_file()
            ]
            if not places:
                faults.append(f"{directory / file.name} is missing{_elsewhere(directory, self.folder, file.name)}")
            elif is_lfs_pointer(places[0]):
                faults.append(f"{places[0]} is a Git LFS pointer, not the file (`git lfs pull` gets it)")
            else:
                found[file.name] = places[0]
        if faults:
            raise DataError(f"{'; '.join(faults)}.\n{self.instructions(directory)}")
        return found

    def unofficial(self, paths: dict[str, Path]) -> list[str]:
        """Names of the files whose content is not that of the official revision."""
        return [file.name for file in self.files if not matches(file, paths[file.name])]


def _elsewhere(directory: Path, folder: str, name: str) -> str:
    """Where the file lies instead, if it is near, for a message."""
    for packed in (f"{name}.gz", f"{name}.zip"):
        if (directory / packed).is_file():
            return f" ({packed} is there: unpack it)"
    for place in (*directory.glob(f"*/{name}"), *directory.glob(f"*/{folder}/{name}")):
        return f" (one is in {place.parent}: if it is the right one, name that directory)"
    return ""


def is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_LFS_POINTER)) == _LFS_POINTER


def matches(file: OfficialFile, path: Path) -> bool:
    """Whether the file at `path` has the official checksum."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return False
    if file.sha256:
        return file_hash(path) == file.sha256
    digest = hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == file.git_blob


def file_hash(path: Path) -> str:
    """SHA-256 of the file, computed once while its size and time stay the same: public files are large."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash(path: Path, size: int, changed: int) -> str:
    return hash_file(path)


def download(public: PublicSet, directory: Path) -> list[str]:
    """Downloads the files that `directory` lacks, each complete and with the official checksum or not at all.

    Returns:
      The names of the files that were downloaded.

    Raises:
      DataError: a file cannot be had from its official page, or what came is not the official file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    fetched = []
    for file in public.files:
        target = directory / file.name
        if target.is_file() and not is_lfs_pointer(target):
            continue
        partial = target.with_name(f".{target.name}.partial")
        try:
            with urllib.request.urlopen(file.url, timeout=_SECONDS) as response, partial.open("wb") as stream:
                shutil.copyfileobj(response, stream, _BLOCK)
            if not matches(file, partial):
                raise DataError(
                    f"{file.url}: what was downloaded ({partial.stat().st_size:,} bytes) does not have the official "
                    f"checksum ({file.sha256 or file.git_blob}). Try again, or get the file by hand.\n"
                    f"{public.instructions(directory)}"
                )
            partial.replace(target)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{file.url}: no download ({error}).\n{public.instructions(directory)}") from error
        finally:
            partial.unlink(missing_ok=True)
        fetched.append(file.name)
    return fetched
