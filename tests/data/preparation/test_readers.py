import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distill.config import SourcesConfig
from distill.data.preparation import readers
from distill.data.preparation.readers import read_table
from distill.data.preparation.sources import find_sources
from distill.data.schema import TABLES, DataError

ROWS = [{"keyphrase": "red boots", "search_volume": 3}, {"keyphrase": 'café “5"”', "search_volume": None}]


def encode(rows: list[dict], kind: str) -> bytes:
    """Rows of a table in one of the four formats, lists and maps as JSON where the format has none."""
    if kind == "parquet":
        sink = io.BytesIO()
        maps = {name for row in rows for name, value in row.items() if isinstance(value, dict)}
        table = pa.Table.from_pylist(
            [
                {name: list(value.items()) if name in maps and value else value for name, value in r.items()}
                for r in rows
            ]
        )
        for name in maps:
            kind_of_map = pa.map_(pa.string(), pa.string())
            values = [list(row[name].items()) for row in rows]
            table = table.set_column(table.column_names.index(name), name, pa.array(values, kind_of_map))
        pq.write_table(table, sink)
        return sink.getvalue()
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    cells = [
        ["" if v is None else json.dumps(v) if isinstance(v, list | dict) else str(v) for v in row.values()]
        for row in rows
    ]
    if kind == "tsv":
        return "".join("\t".join(row) + "\n" for row in [list(rows[0]), *cells]).encode()
    text = io.StringIO(newline="")
    csv.writer(text).writerows([list(rows[0]), *cells])
    return text.getvalue().encode()


def write(directory, name: str, content: bytes):
    path = directory / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def read(path, table="keyphrases"):
    """(line, values or reason) of every row, in order."""
    out = []
    for chunk in read_table(path, TABLES[table]):
        columns = {name: column.to_pylist() for name, column in chunk.columns.items()}
        for row, line in enumerate(chunk.lines.tolist()):
            out.append((line, chunk.faults.get(row) or {name: column[row] for name, column in columns.items()}))
    return out


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "tsv", "csv"])
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_every_format(tmp_path, kind, zipped):
    rows = read(write(tmp_path, f"keyphrases.{kind}{zipped}", encode(ROWS, kind)))
    first = 2 if kind in ("tsv", "csv") else 1
    assert [line for line, _ in rows] == [first, first + 1]
    assert [values["keyphrase"] for _, values in rows] == ["red boots", 'café “5"”']
    assert float(rows[0][1]["search_volume"]) == 3 and rows[1][1]["search_volume"] in (None, "")


def test_a_bad_byte_costs_its_line_only(tmp_path):
    assert read(write(tmp_path, "keyphrases.tsv", b"keyphrase\na\nb\xff\nc\n")) == [
        (2, {"keyphrase": "a"}),
        (3, "not UTF-8"),
        (4, {"keyphrase": "c"}),
    ]
    assert read(write(tmp_path, "keyphrases.csv", b"keyphrase\na\nb\xff\nc\n"))[1] == (3, "not UTF-8")
    rows = read(
        write(tmp_path, "keyphrases.jsonl", b'{"keyphrase":"a"}\n{"keyphrase":"b\xff"}\n{"keyphrase":"\\ud800"}\n')
    )
    assert [values for _, values in rows] == [{"keyphrase": "a"}, "not UTF-8", "not UTF-8"]
    table = pa.table({"keyphrase": pa.array([b"a", b"b\xff", b"c"]).view(pa.string())})
    pq.write_table(table, tmp_path / "keyphrases.parquet")
    assert [values for _, values in read(tmp_path / "keyphrases.parquet")] == [
        {"keyphrase": "a"},
        "not UTF-8",
        {"keyphrase": "c"},
    ]


@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_row_is_good_or_bad_whatever_stands_beside_it(tmp_path, separator):
    """A bad byte in a column that nobody asked for, and a field longer than Python's CSV parser takes by itself."""
    name = "keyphrases.tsv" if separator == "\t" else "keyphrases.csv"
    lines = ["keyphrase,note", "a,b", "c,\udcff", f"{'d' * 200_000},e"]
    for trouble in ([], ["f"]):  # a row without its second field
        text = "\n".join(lines + trouble).replace(",", separator)
        rows = dict(read(write(tmp_path, name, text.encode("utf-8", "surrogateescape"))))
        assert rows[2] == {"keyphrase": "a"} and rows[3] == "not UTF-8" and rows[4] == {"keyphrase": "d" * 200_000}
        assert rows.get(5, "expected").startswith("expected")


def test_a_parquet_footer_with_a_wrong_byte_never_loses_rows(tmp_path):
    """Arrow reads what the row groups hold and does not compare it with the number of rows that the file tells."""
    whole = encode([{"keyphrase": f"word {row}"} for row in range(10)], "parquet")
    path, unequal = tmp_path / "keyphrases.parquet", 0
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(start, len(whole) - 8):
        for flip in (0x04, 0x14):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            try:
                rows = sum(len(chunk.lines) for chunk in read_table(path, TABLES["keyphrases"]))
            except DataError as error:
                unequal += "rows and there are" in str(error)
                continue
            assert rows == pq.read_metadata(path).num_rows
    assert unequal > 0


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.binary(3), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())]
)
def test_parquet_texts_of_any_type_lose_a_row_to_a_bad_byte(tmp_path, kind):
    values = pa.array([b"red", b"bl\xff", b"old"], getattr(kind, "value_type", kind))
    pq.write_table(pa.table({"keyphrase": values.cast(kind)}), tmp_path / "keyphrases.parquet")
    assert [row for _, row in read(tmp_path / "keyphrases.parquet")] == [
        {"keyphrase": "red"},
        "not UTF-8",
        {"keyphrase": "old"},
    ]


@pytest.mark.parametrize("kind", ["float64", "float32", "jsonl"])
def test_ids_that_a_gap_made_floats_are_whole_numbers_again(tmp_path, kind):
    """pandas does that. Where floats skip integers the id is not known any more."""
    exact = 2**24 if kind == "float32" else 2**53
    values = [7.0, float(exact - 1), None, float(exact), 1.5, float("nan"), -3.0]
    if kind == "jsonl":
        lines = [json.dumps({"item_id": value, "keyphrase": "a", "score": 1, "passed": 1}) for value in values]
        path = write(tmp_path, "search_relevance.jsonl", "\n".join(lines).encode())
    else:
        path = tmp_path / "search_relevance.parquet"
        ids = pa.array(values, pa.type_for_alias(kind))
        pq.write_table(pa.table({"item_id": ids, "keyphrase": ["a"] * 7, "score": [1] * 7, "passed": [1] * 7}), path)
    found = [row if isinstance(row, str) else row["item_id"] for _, row in read(path, "search_relevance")]
    bad = "item_id: not text"
    assert found == ["7", str(exact - 1), None, bad, bad, bad, "-3"]


def test_wrong_number_of_fields(tmp_path):
    content = b"keyphrase,search_volume\na,1\nb\nc,1,2\nd,4\n"
    expected = [
        (2, {"keyphrase": "a", "search_volume": "1"}),
        (3, "expected 2 fields, found 1"),
        (4, "expected 2 fields, found 3"),
        (5, {"keyphrase": "d", "search_volume": "4"}),
    ]
    assert read(write(tmp_path, "keyphrases.csv", content)) == expected
    assert read(write(tmp_path, "keyphrases.tsv", content.replace(b",", b"\t"))) == expected


def test_malformed_json_and_things_that_are_no_rows(tmp_path):
    deep = b"[" * 100_000
    lines = [b'{"keyphrase": "a"}', b'{"keyphrase": ', b"[1]", b"", deep, b'{"keyphrase": ["a"]}', b'{"keyphrase": 7}']
    rows = read(write(tmp_path, "keyphrases.jsonl", b"\n".join(lines)))
    assert [line for line, _ in rows] == [1, 2, 3, 5, 6, 7]
    assert rows[0][1] == {"keyphrase": "a"} and rows[5][1] == {"keyphrase": "7"}
    assert [str(values).split(":")[0] for _, values in rows[1:4]] == ["malformed JSON"] * 3
    assert rows[4][1] == "keyphrase: not text"


def test_a_key_that_stands_twice_in_an_object_loses_no_value_silently(tmp_path):
    lines = [b'{"keyphrase": "a", "search_volume": 1}', b'{"keyphrase": "b", "search_volume": 2, "keyphrase": "c"}']
    rows = read(write(tmp_path, "keyphrases.jsonl", b"\n".join(lines)))
    assert rows[0][1] == {"keyphrase": "a", "search_volume": 1.0}
    assert rows[1] == (2, "malformed JSON: key 'keyphrase' twice in a JSON object")


def test_tsv_has_no_quoting_and_csv_has(tmp_path):
    assert read(write(tmp_path, "keyphrases.tsv", b'keyphrase\n5" shelf\n"a"\n')) == [
        (2, {"keyphrase": '5" shelf'}),
        (3, {"keyphrase": '"a"'}),
    ]
    content = b'keyphrase,search_volume\n"a, ""b""",1\n"two\nlines",2\n5" shelf,3\n'
    assert read(write(tmp_path, "keyphrases.csv", content)) == [
        (2, {"keyphrase": 'a, "b"', "search_volume": "1"}),
        (3, {"keyphrase": "two\nlines", "search_volume": "2"}),
        (5, {"keyphrase": '5" shelf', "search_volume": "3"}),
    ]


def test_a_stray_quote_costs_one_row(tmp_path):
    lines = ["keyphrase,search_volume", "a,1", '"b,2', *(f'"c{row}",{row}' for row in range(500))]
    rows = read(write(tmp_path, "keyphrases.csv", "\n".join(lines).encode()))
    assert [line for line, values in rows if isinstance(values, str)] == [3]
    assert len(rows) == 502


@pytest.mark.parametrize("name", ["keyphrases.tsv", "keyphrases.csv"])
def test_windows_line_ends_byte_order_mark_and_blank_lines(tmp_path, name):
    rows = read(write(tmp_path, name, b"\xef\xbb\xbfkeyphrase\r\na\r\n\r\nb\r\n"))
    assert rows == [(2, {"keyphrase": "a"}), (4, {"keyphrase": "b"})]


CELLS = st.text(st.sampled_from('ab é"\n,\t\r'), max_size=6)


@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=30), size=st.sampled_from([7, 30, 1 << 20]))
def test_csv_round_trip_whatever_the_block_size(tmp_path_factory, rows, size):
    rows = [(keyphrase or "x", volume) for keyphrase, volume in rows]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("keyphrase", "search_volume"), *rows])
    path = write(tmp_path_factory.mktemp("csv"), "keyphrases.csv", text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_BLOCK_BYTES", size)
        found = read(path)
    assert [(values["keyphrase"], values["search_volume"]) for _, values in found] == rows


@given(content=st.binary(max_size=60) | st.text(st.sampled_from('a"\n,\t\r{}:é'), max_size=60).map(str.encode))
@example(content=b"\xef\xbb\xbf")
@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_any_bytes_give_every_line_once_whatever_the_block_size(tmp_path_factory, kind, content):
    head = b"" if kind == "jsonl" else b"keyphrase\tsearch_volume\n" if kind == "tsv" else b"keyphrase,search_volume\n"
    directory = tmp_path_factory.mktemp("any")
    path = write(directory, f"keyphrases.{kind}", head + content)
    outcomes = []
    for size in (5, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(readers, "_BLOCK_BYTES", size)
            try:
                outcomes.append([(line, isinstance(values, str)) for line, values in read(path)])
            except DataError:
                outcomes.append("error")
    assert outcomes[0] == outcomes[1]
    if kind != "csv" and outcomes[0] != "error":
        lines = (head + content).removeprefix(b"\xef\xbb\xbf").split(b"\n")
        blank = {
            number for number, raw in enumerate(lines, 1) if not (raw.strip() if kind == "jsonl" else raw.rstrip(b"\r"))
        }
        expected = [n for n in range(1 + bool(head), len(lines) + 1) if n not in blank]
        assert [line for line, _ in outcomes[0]] == expected


def test_missing_column_names_file_column_and_what_there_is(tmp_path):
    for kind in ("parquet", "jsonl", "tsv", "csv"):
        path = write(tmp_path, f"keyphrases.{kind}", encode([{"query": "a", "volume": 1}], kind))
        with pytest.raises(
            DataError, match=r"keyphrases\.\w+: .*needs the column 'keyphrase' and has only query, volume"
        ):
            read(path)


def test_damaged_files(tmp_path):
    whole = gzip.compress(b"keyphrase\n" + b"\n".join(str(n).encode() for n in range(5000)))
    for damaged in (whole[: len(whole) // 2], whole[:200] + b"\0" * 50 + whole[250:], b"keyphrase\na\n"):
        path = tmp_path / "keyphrases.tsv.gz"
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"keyphrases\.tsv\.gz: damaged or cut-off gzip"):
            read(path)
    path = tmp_path / "keyphrases.jsonl.gz"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"keyphrases\.jsonl\.gz: damaged or cut-off gzip file \(it is empty\)"):
        read(path)
    path = tmp_path / "keyphrases.parquet"
    path.write_bytes(encode(ROWS, "parquet")[:-20])
    with pytest.raises(DataError, match=r"keyphrases\.parquet: damaged or not a Parquet file"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header line"),
        (b"keyphrase\tkeyphrase\na\tb\n", "the column 'keyphrase' comes twice"),
        ("keyphrase\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_unusable_headers(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, "keyphrases.tsv", content))


def test_which_files_are_tables(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: there is no such directory\. Expected items and keyphrases"):
        find_sources(tmp_path / "nowhere", SourcesConfig())
    with pytest.raises(DataError, match="holds no table"):
        find_sources(tmp_path, SourcesConfig())
    for name in ("items.jsonl.gz", "README.md", "click.tsv", "notes.txt"):
        write(tmp_path, name, b"")
    with pytest.raises(DataError, match=r"table 'keyphrases' is missing \(found: items\.jsonl\.gz\)"):
        find_sources(tmp_path, SourcesConfig())
    write(tmp_path, "keyphrases.csv", b"")
    sources = find_sources(tmp_path, SourcesConfig())
    assert {name: source.title for name, source in sources.tables.items()} == {
        "items": "items.jsonl.gz",
        "keyphrases": "keyphrases.csv",
    }
    assert sources.strangers == ["click.tsv"]
    write(tmp_path, "items.tsv", b"")
    with pytest.raises(DataError, match=r"items\.jsonl\.gz and items\.tsv are both table 'items'"):
        find_sources(tmp_path, SourcesConfig())
