"""Mutated files of every format: an error that names the file, or every row accounted for.

Rows are counted here from the bytes, without the readers. FUZZ_SECONDS and FUZZ_SEED change the long run.
"""

import dataclasses
import decimal
import functools
import gzip
import json
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from distill.config import DataConfig
from distill.data.preparation import readers
from distill.data.preparation.prepare import prepare
from distill.data.preparation.readers import read_table
from distill.data.schema import TABLES, DataError, Problems, read_columns
from tests.data.preparation.damage import write_damaged

SECONDS = float(os.environ.get("FUZZ_SECONDS", "630"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
FORMATS = ("tsv", "csv", "jsonl", "parquet")

TOKENS = (
    *(b'"', b'""', b"\n", b"\r\n", b"\r", b"\n\n", b"\t", b",", b"\0", b"\xff", b"\xc3"),
    *(b"\xef\xbb\xbf", b"\xed\xa0\x80"),  # byte order mark, half a surrogate pair
    *(b"\\", b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]", b"null", b"true", b"1e999", b"-0", b"9" * 400, b"nan"),
    *(b"\x0b", b"\x0c", b"\x1a", b"\x1c", "\x85".encode(), "\u2028".encode(), "\u200b".encode(), b"PAR1"),
    *(b"[" * 20_000, b'{"a":' * 5_000, b"x" * 70_000, b'"' + b"y,\n" * 300, b'"k":' + b'"z"' * 50),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One change of a file, at the fraction `at` of its length."""

    what: str
    at: float
    token: bytes = b""
    size: int = 1

    def apply(self, content: bytes) -> bytes:
        at = int(self.at * len(content))
        if self.what == "flip" and content:
            at = min(at, len(content) - 1)
            return content[:at] + bytes([content[at] ^ (1 + self.size % 255)]) + content[at + 1 :]
        if self.what == "insert":
            return content[:at] + self.token + content[at:]
        if self.what == "delete":
            return content[:at] + content[at + self.size :]
        if self.what == "repeat":
            return content[: at + self.size] + content[at:]
        if self.what == "truncate":
            return content[:at]
        if self.what == "line ends":  # those of the rest of the file
            return content[:at] + content[at:].replace(b"\n", self.token)
        if self.what == "header":  # a column more, or one named twice
            head, separator, rest = content.partition(b"\n")
            return head + self.token + separator + rest
        return content


FRACTION = st.floats(0, 1) | st.floats(0.98, 1)  # Parquet keeps what matters at the end
MUTATION = st.one_of(
    st.builds(Mutation, st.sampled_from(["flip", "delete", "repeat"]), FRACTION, size=st.integers(1, 300)),
    st.builds(Mutation, st.just("insert"), FRACTION, st.sampled_from(TOKENS) | st.binary(max_size=4)),
    st.builds(Mutation, st.just("truncate"), FRACTION),
    st.builds(Mutation, st.just("line ends"), FRACTION, st.sampled_from([b"\r\n", b"\r", b"\n\n", b"\n\r", b""])),
    st.builds(
        Mutation,
        st.just("header"),
        st.just(0.0),
        st.sampled_from([b"\tclicks", b",clicks", b"\t", b',"', b"\r", b"\0"]),
    ),
)
MUTATIONS = st.lists(MUTATION, max_size=6)
VALUE = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=4)),
    st.lists(st.text(max_size=2), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.dates(),
)


@functools.cache
def originals(folder: Path, format_name: str) -> dict[str, bytes]:
    """Content of every table of a small damaged directory."""
    directory = folder / format_name
    written = write_damaged(directory, format_name, rows=30)
    return {table: paths[0].read_bytes() for table, paths in written.files.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("originals")


def unzipped(content: bytes) -> bytes | None:
    """All members of a gzip file, None where it is damaged; zero bytes may pad it."""
    out = b""
    while content:
        member = zlib.decompressobj(wbits=31)
        try:
            out += member.decompress(content)
        except zlib.error:
            return None
        if not member.eof:
            return None
        content = member.unused_data.lstrip(b"\0")
    return out


def lines_of(content: bytes, format_name: str) -> dict[int, bytes]:
    """The lines, by number, that some row must account for: all after the header that are not blank."""
    lines = content.split(b"\n")
    first = 1 if format_name == "jsonl" else 2
    if format_name == "jsonl":
        lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        return {number: raw for number, raw in enumerate(lines, 1) if raw.strip()}
    return {number: raw for number, raw in enumerate(lines, 1) if number >= first and raw.rstrip(b"\r")}


def check_read(path: Path, content: bytes, table: str, format_name: str) -> bool:
    """Reads the file and compares it with its bytes; False: an error that names the file, which must have a cause."""
    path.write_bytes(content)
    plain = unzipped(content) if path.suffix == ".gz" else content
    try:
        chunks = list(read_table(path, TABLES[table]))
    except DataError as error:
        assert path.name in str(error)
        return False
    assert plain is not None, "a damaged gzip file was read"
    rows = [(chunk, row, line) for chunk in chunks for row, line in enumerate(chunk.lines.tolist())]
    for chunk in chunks:
        assert all(len(column) == len(chunk.lines) for column in chunk.columns.values())
        values = read_columns(TABLES[table], chunk.columns, Problems(len(chunk.lines)))
        assert all(len(column) == len(chunk.lines) for column in values.values())
        assert all(0 <= position < len(chunk.lines) for position in chunk.faults)
    numbers = [line for *_, line in rows]
    if format_name == "parquet":
        assert all(isinstance(chunk.raw(row), str) for chunk, row, _ in rows)
        assert numbers == list(range(1, pq.read_metadata(pa.BufferReader(plain)).num_rows + 1))
        return True
    left = lines_of(plain, format_name)
    assert numbers == sorted(set(numbers))
    for chunk, row, line in rows:
        raw = chunk.raw(row)
        if chunk.faults.get(row, "").startswith("a line of more than"):
            assert raw[:90] == left.pop(line).decode("utf-8", "backslashreplace")[:90]
            continue
        held = raw.count("\n") + 1
        expected = [left.pop(number, b"") for number in range(line, line + held)]  # blank lines within a quoted field
        assert raw == b"\n".join(expected).decode("utf-8", "backslashreplace").rstrip("\r\n") or held > 1, line
        assert held == 1 or format_name == "csv"
    assert not left, f"lines of no row: {sorted(left)[:5]}"
    return True


def fuzzed(examples: int, number: int) -> Callable[[Callable], Callable]:
    """Settings of one series of examples; the same number gives the same ones."""
    rules = settings(
        max_examples=examples,
        derandomize=False,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # to shrink an example takes minutes
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(number)(rules(test))


def fuzz_reader(folder: Path, work: Path, format_name: str, examples: int, *, number: int = 0) -> tuple[int, int]:
    """Runs mutated tables through the reader; how many were read, and how many were refused."""
    outcomes = {True: 0, False: 0}

    @fuzzed(examples, number)
    @given(
        table=st.sampled_from(sorted(TABLES)),
        mutations=st.lists(MUTATION, max_size=2 if format_name == "parquet" else 6),
        zipped=st.sampled_from(["", "", "inside", "outside"]),  # damage before or after compressing
        block=st.sampled_from([7, 50, 997, 4 << 20]),
        longest=st.sampled_from([300, 4 << 20]),
    )
    def run(table: str, mutations: list[Mutation], zipped: str, block: int, longest: int) -> None:
        content = originals(folder, format_name)[table]
        if zipped == "outside":
            content = gzip.compress(content, mtime=0)
        for mutation in mutations:
            content = mutation.apply(content)
        if zipped == "inside":
            content = gzip.compress(content, 1, mtime=0)
        path = work / f"{table}.{format_name}{'.gz' if zipped else ''}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(readers, "_BLOCK_BYTES", min(block, longest))
            patch.setattr(readers, "_LINE_BYTES", longest)
            patch.setattr(readers, "_KEPT_BYTES", 100)
            read = check_read(path, content, table, format_name)
        assert read or mutations  # what nobody touched is read
        outcomes[read] += 1
        path.unlink()

    run()
    return outcomes[True], outcomes[False]


TYPES = (
    *(pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.date32(), pa.date64(), pa.time64("us")),
    *(pa.duration("s"), pa.duration("ns"), pa.decimal128(38, 3), pa.bool_(), pa.float16(), pa.uint64(), pa.int8()),
    *(pa.binary(), pa.binary(3), pa.large_string(), pa.large_binary(), pa.string_view(), pa.null()),
    *(
        pa.dictionary(pa.int8(), pa.string()),
        pa.list_(pa.binary()),
        pa.list_(pa.timestamp("s")),
        pa.list_(pa.float32()),
    ),
    *(pa.large_list(pa.string()), pa.map_(pa.string(), pa.list_(pa.date32())), pa.map_(pa.int32(), pa.string())),
    *(pa.struct({"a": pa.binary()}), pa.struct({"a": pa.decimal128(9, 2), "b": pa.list_(pa.int8())})),
)


def typed(kind: pa.DataType, number: int | None) -> Any:
    """A value of the type, made of a number."""
    if number is None or pa.types.is_null(kind):
        return None
    if pa.types.is_map(kind):
        return [(typed(kind.key_type, number), typed(kind.item_type, number))]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [typed(kind.value_type, number), None]
    if pa.types.is_struct(kind):
        return {field.name: typed(field.type, number) for field in kind}
    if pa.types.is_dictionary(kind):
        return typed(kind.value_type, number)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return (b"\xff%d__" % number)[:3]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return str(number)
    if pa.types.is_boolean(kind):
        return number > 0
    if pa.types.is_decimal(kind):
        return decimal.Decimal(number % 1000)
    if pa.types.is_float16(kind):
        return np.float16(number % 1000)
    if pa.types.is_time64(kind):
        return number % 10**9
    bits = 8 if kind in (pa.int8(),) else 31 if pa.types.is_date32(kind) else 63
    return abs(number) % 2 ** (bits - 1)


def fuzz_values(work: Path, examples: int, *, number: int = 0) -> None:
    """Parquet columns of any type, JSON values of any kind."""

    @fuzzed(examples, number)
    @given(
        table=st.sampled_from(["clicks", "items", "human"]),
        columns=st.lists(st.lists(VALUE, min_size=4, max_size=4), min_size=5, max_size=5),
        kinds=st.lists(st.none() | st.sampled_from(TYPES), min_size=5, max_size=5),
        numbers=st.lists(st.sampled_from([None, 0, 1, -1, 7, 2**31, 2**62 + 1]), min_size=4, max_size=4),
        format_name=st.sampled_from(["parquet", "jsonl"]),
    )
    def run(table: str, columns: list[list], kinds: list, numbers: list, format_name: str) -> None:
        names = [column.name for column in TABLES[table].columns]
        path = work / f"{table}.{format_name}"
        if format_name == "jsonl":
            rows = [dict(zip(names, values)) for values in zip(*columns)]
            path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
        else:
            arrays = {}
            for name, values, kind in zip(names, columns, kinds):
                try:
                    arrays[name] = pa.array([typed(kind, n) for n in numbers], kind) if kind else pa.array(values)
                except (ValueError, TypeError, OverflowError, pa.ArrowNotImplementedError):  # mixed: as texts
                    arrays[name] = pa.array([None if value is None else str(value)[:9] for value in values])
            try:
                pq.write_table(pa.table(arrays), path)
            except pa.ArrowException:  # a type or value that Parquet does not have
                return
        check_read(path, path.read_bytes(), table, format_name)
        path.unlink()

    run()


def fuzz_prepare(folder: Path, work: Path, examples: int, *, number: int = 0) -> tuple[int, int]:
    """Runs a directory with a few mutated tables through prepare; how many were prepared, and how many refused."""
    outcomes = {True: 0, False: 0}

    @fuzzed(examples, number)
    @given(
        formats=st.lists(st.sampled_from(FORMATS), min_size=len(TABLES), max_size=len(TABLES)),
        mutated=st.dictionaries(st.sampled_from(sorted(TABLES)), MUTATIONS, max_size=3),
    )
    def run(formats: list[str], mutated: dict[str, list[Mutation]]) -> None:
        source, destination = work / "in", work / "out"
        source.mkdir(exist_ok=True)
        for path in source.iterdir():
            path.unlink()
        counted: dict[str, int | None] = {}
        for format_name, table in zip(formats, sorted(TABLES)):
            content = originals(folder, format_name).get(table)
            if content is None:
                continue
            for mutation in mutated.get(table, []):
                content = mutation.apply(content)
            name = f"{table}.{format_name}"
            (source / name).write_bytes(content)
            if format_name == "parquet":
                try:
                    counted[name] = pq.read_metadata(source / name).num_rows
                except (OSError, pa.ArrowInvalid):
                    counted[name] = None
            elif format_name != "csv":  # a record of CSV may be several lines; check_read knows
                counted[name] = len(lines_of(content, format_name))
        try:
            summary = prepare(source, destination, DataConfig(max_bad_share=1.0))
        except DataError as error:
            assert any(path.name in str(error) for path in source.iterdir()), error
            outcomes[False] += 1
            return
        outcomes[True] += 1
        quarantine = [json.loads(line) for line in (destination / "quarantine.jsonl").open(encoding="utf-8")]
        assert len(quarantine) == len({(bad["file"], bad["line"]) for bad in quarantine})
        for name, table in summary.tables.items():
            assert table.rows == table.kept + table.quarantined + table.merged + table.removed, name
            assert table.rows == counted.get(table.file, table.rows), name
            assert table.quarantined == sum(bad["file"] == table.file for bad in quarantine)
            parts = [destination / f"{name}.parquet", destination / "holdout" / f"{name}.parquet"]
            written = sum(pq.read_metadata(path).num_rows for path in parts if path.exists())
            if name == "clicks" and "events" in summary.tables:  # whose pairs stand among the clicks
                written -= summary.tables["events"].kept
            assert name == "events" or table.kept == written, name

    run()
    return outcomes[True], outcomes[False]


@pytest.mark.parametrize(
    ("format_name", "zipped"), [("tsv", False), ("csv", True), ("jsonl", True), ("parquet", False)]
)
def test_damaged_rows_of_a_dozen_kinds_are_found_where_they_are(tmp_path, format_name, zipped):
    written = write_damaged(tmp_path / "in", format_name, rows=600, zipped=zipped)
    assert len(set(written.kinds.values())) >= 12
    summary = prepare(tmp_path / "in", tmp_path / "out", DataConfig(max_bad_share=0.2))
    written.check(tmp_path / "out" / "quarantine.jsonl")
    for name, table in summary.tables.items():
        assert table.rows == written.rows[name] == table.kept + table.quarantined + table.merged + table.removed
        assert table.quarantined == written.counts(name).total()


@pytest.mark.parametrize("format_name", FORMATS)
def test_mutated_files_are_read_whole_or_refused_by_name(folder, tmp_path, format_name):
    read, refused = fuzz_reader(folder, tmp_path, format_name, 40)
    assert read and refused  # else it is no test


def test_values_of_any_type(tmp_path):
    fuzz_values(tmp_path, 40)


def test_mutated_directories_are_prepared_or_refused_by_name(folder, tmp_path):
    prepared, refused = fuzz_prepare(folder, tmp_path, 10)
    assert prepared and refused


@pytest.mark.slow
def test_for_ten_minutes(folder, tmp_path):
    deadline, number = time.monotonic() + SECONDS, SEED
    while time.monotonic() < deadline:
        number += 1
        for format_name in FORMATS:
            fuzz_reader(folder, tmp_path, format_name, 300, number=number)
        fuzz_values(tmp_path, 200, number=number)
        fuzz_prepare(folder, tmp_path, 60, number=number)
