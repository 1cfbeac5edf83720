"""A data directory of every table with damaged rows of named kinds, whose files, lines and kinds are known.

Rows repeat (also in other spellings of a keyphrase and across shards), so that merging has work to do; pairs of a
human query are there, so that removing has some.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import gzip
import io
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill.data.schema import TABLES

Row = dict[str, Any]

# Kind of damage → what the quarantine's reason must begin with or hold, in whatever format.
KINDS: dict[str, tuple[str, ...]] = {
    "unknown item": ("item_id: not in the items table",),
    "unknown keyphrase": ("keyphrase: not in the keyphrases table",),
    "empty text": (": empty text",),
    "invisible text": (": empty text",),
    "clicks above impressions": ("clicks > impressions",),
    "NaN": (": NaN or infinite",),
    "text in a number": (": not a number",),
    "not UTF-8": ("not UTF-8",),
    "missing field": ("fields, found", ": empty"),  # fewer fields in a line; elsewhere an absent value
    "unclosed quote": ("a quote is never closed", "malformed JSON", "fields, found", "not a JSON list of names"),
    "bad JSON": ("not a JSON list of names", "malformed JSON"),
    "negative count": (": negative",),
    "fraction of a count": (": not a whole number",),
    "bad choice": (": not one of",),
    "quarantined item": ("item_id: its item was quarantined",),  # nothing is wrong with the row itself
}
WITHOUT = {"tsv": {"unclosed quote"}, "parquet": {"unclosed quote"}}  # kinds that a format cannot have


@dataclasses.dataclass
class Damaged:
    """What was written: `rows` of each table, and the kind of every damaged row by (file, line)."""

    files: dict[str, list[Path]]
    rows: dict[str, int]
    kinds: dict[tuple[str, int], str]

    def counts(self, table: str) -> collections.Counter[str]:
        names = {path.name for path in self.files[table]}
        return collections.Counter(kind for (name, _), kind in self.kinds.items() if name in names)

    def check(self, quarantine: Path) -> None:
        """Every damaged row is in the quarantine, for the reason that it was damaged, and no other row."""
        records = [json.loads(line) for line in quarantine.open(encoding="utf-8")]
        found = {(Path(bad["file"]).name, bad["line"]): bad["reason"] for bad in records}
        assert len(found) == len(records)
        assert found.keys() == self.kinds.keys()
        for place, kind in self.kinds.items():
            assert any(part in found[place] for part in KINDS[kind]), (place, kind, found[place])


def _marketplace(rng: random.Random, rows: int) -> dict[str, list[Row]]:
    """Clean tables; the pair tables have `rows` rows each."""
    # Names of three letters: no title is another's twin and no keyphrase nearly another.
    words = ["".join(letters) for letters in itertools.product("bdfgkmnprt", "aeiou", "lnrstx")]
    rng.shuffle(words)
    items = [
        {
            "item_id": f"i{n}",
            "title": f"{words[n]} {words[-n - 1]} café №{n}" + (' 5" "deep"' if n % 7 == 0 else ""),
            "category": ["Home, Garden", words[n % 5]] if n % 3 else [],
            "attributes": {"brand": words[n], "size": str(n)} if n % 2 else {},
            "split": "holdout" if n % 6 == 0 else "train",
        }
        for n in range(100)
    ]
    keyphrases = [{"keyphrase": f"{words[n]} {words[n + 60]}", "search_volume": n or None} for n in range(80)]

    def pairs(count: int) -> Iterator[Row]:
        for _ in range(count):
            text = keyphrases[int(80 * rng.random() ** 2)]["keyphrase"]
            yield {
                "item_id": f"i{int(100 * rng.random() ** 2)}",
                "keyphrase": text.upper() if rng.random() < 0.2 else text,
            }

    def clicks() -> Row:
        shown = rng.randrange(60)
        placed = rng.random() < 0.9
        return {
            "impressions": shown,
            "clicks": rng.randrange(shown + 1),
            "position": round(rng.uniform(1, 9), 3) if placed else None,
        }

    few = max(10, rows // 10)
    return {
        "items": [*items, *rng.sample(items, 10)],
        "keyphrases": [
            *keyphrases,
            *({"keyphrase": row["keyphrase"].upper(), "search_volume": 7} for row in keyphrases[:9]),
        ],
        "human": [
            pair
            | {
                "keyphrase": keyphrases[n % 5]["keyphrase"],
                "label": "E",
                "gain": round(rng.random(), 2),
                "split": "valid" if n % 5 else "test",
            }
            for n, pair in enumerate(pairs(few))
        ],
        "clicks": [pair | clicks() for pair in pairs(rows)],
        "events": [
            pair | {"event": "click" if rng.random() < 0.1 else "impression", "position": rng.randrange(1, 6)}
            for pair in pairs(rows)
        ],
        "search_relevance": [
            pair | {"score": rng.uniform(-3, 9), "passed": rng.choice([0, 1, "true", "false"])} for pair in pairs(rows)
        ],
        "judgements": [
            pair | {"grade": rng.randrange(4), "judge": rng.choice(["llm", "größer"]), "rubric": rng.choice("ab")}
            for pair in pairs(rows)
        ],
        "judge_agreement": [
            pair | {"grade": rng.randrange(4), "human": rng.choice("ESCI"), "split": "test"} for pair in pairs(few)
        ],
        "recommendations": [pair | {"source": rng.choice(["rules", "co-click"])} for pair in pairs(rows)],
        "blocklist": [
            {"keyphrase": pair["keyphrase"], "item_id": rng.choice([None, pair["item_id"]])} for pair in pairs(few)
        ],
    }


def _kinds_of(table: str, format_name: str) -> list[str]:
    columns = {column.name: column for column in TABLES[table].columns}
    kinds = {column.kind for column in columns.values()}
    possible = {"missing field", "unclosed quote", "not UTF-8", "empty text", "invisible text"}
    if "keyphrase" in kinds and table != "blocklist":  # of a policy list, unknown keyphrases are no damage
        possible |= {"unknown item", "unknown keyphrase", "quarantined item"}
    if "names" in kinds:
        possible |= {"bad JSON"}
    if "number" in kinds:
        possible |= {"NaN", "text in a number"}
    if "integer" in kinds:
        possible |= {"fraction of a count", "text in a number"}
    if any(column.choices for column in columns.values()):
        possible |= {"bad choice"}
    if any(column.kind == "integer" and column.low == 0 and column.high == float("inf") for column in columns.values()):
        possible |= {"negative count"}
    if table == "clicks":
        possible |= {"clicks above impressions"}
    return sorted(possible - WITHOUT.get(format_name, set()))


def _harm(kind: str, table: str, row: Row, number: int) -> Row:
    """The row with a value of the named kind; kinds of a line's form leave it as it is."""
    first = {column.kind: column.name for column in reversed(TABLES[table].columns)}
    text = "title" if table == "items" else "keyphrase"
    counted = first.get("integer", "")
    change: Row = {
        "unknown item": {"item_id": f"nobody {number}"},
        "unknown keyphrase": {"keyphrase": f"unheard of {number}"},
        "empty text": {text: " "},
        "invisible text": {text: "\u200b\u2060\t\x00" if table != "items" else "\u200b\u2060"},
        "clicks above impressions": {"impressions": 3, "clicks": 4},
        "NaN": {first.get("number", ""): float("nan")},
        "text in a number": {counted or first.get("number", ""): "many"},
        "negative count": {counted: -1},
        "fraction of a count": {counted: 1.5},
        "bad choice": {first.get("choice", ""): "tset"},
        "quarantined item": {"item_id": "bad item"},
    }.get(kind, {})
    return row | change


def _cell(value: Any) -> str:
    return (
        "" if value is None else json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    )


def _tsv(row: Row, kind: str) -> bytes:
    cells = [_cell(value).replace("\t", " ") for value in row.values()]
    if kind == "bad JSON":
        cells[list(row).index("category")] = '["Home'
    return "\t".join(cells[:-1] if kind == "missing field" else cells).encode() + b"\n"


def _csv(row: Row, kind: str) -> bytes:
    cells = [_cell(value) for value in row.values()]
    if kind == "bad JSON":
        cells[list(row).index("category")] = '["Home'
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(cells[:-1] if kind == "missing field" else cells)
    return (('"' if kind == "unclosed quote" else "") + out.getvalue()).encode()


def _jsonl(row: Row, kind: str, required: str) -> bytes:
    if kind == "missing field":
        row = {name: value for name, value in row.items() if name != required}
    text = json.dumps(row, ensure_ascii=False)
    if kind == "unclosed quote":
        text = text.replace('":', ":", 1)
    return (text[:-1] if kind == "bad JSON" else text).encode() + b"\n"


def _spoilt(line: bytes, row: Row, table: str) -> bytes:
    """The line with a byte of the title or keyphrase that is not UTF-8, where the id can still be read."""
    text = str(row["title" if table == "items" else "keyphrase"]).encode()
    return line.replace(text[:4], text[:2] + b"\xff" + text[3:4], 1)


def _parquet(rows: list[Row], kinds: list[str], table: str, required: str) -> bytes:
    text = "title" if table == "items" else "keyphrase"
    columns = {}
    for name in rows[0]:
        values = [None if kind == "missing field" and name == required else row[name] for row, kind in zip(rows, kinds)]
        if name == "category":  # as JSON text, that some of it can be damaged
            values = ['["Home' if kind == "bad JSON" else json.dumps(value) for value, kind in zip(values, kinds)]
        elif name == "attributes":
            values = pa.array([list(value.items()) for value in values], pa.map_(pa.string(), pa.string()))
        elif len(types := {type(value) for value in values} - {type(None)}) > 1 and types != {int, float}:
            values = [None if value is None else str(value) for value in values]
        if name == text:
            spoilt = [
                str(value)[:2].encode() + b"\xff" if kind == "not UTF-8" else None if value is None else value.encode()
                for value, kind in zip(values, kinds)
            ]
            columns[name] = pa.array(spoilt, pa.binary()).view(pa.string())
        else:
            columns[name] = pa.array(values)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=500)
    return sink.getvalue()


def write_damaged(
    directory: Path,
    format_name: str,
    *,
    rows: int = 1000,
    share: float = 0.05,
    shards: int = 1,
    zipped: bool = False,
    seed: int = 0,
) -> Damaged:
    """Writes `directory` with `share` of each table's rows damaged, kind after kind.

    With one shard the files are the contract's NAME.FORMAT; with more they are NAME/NAME-0000S.FORMAT.
    """
    rng = random.Random(seed)
    out = Damaged({}, {}, {})
    suffix = f"{format_name}.gz" if zipped else format_name
    for table, clean in _marketplace(rng, rows).items():
        kinds = [""] * len(clean)
        possible = _kinds_of(table, format_name)
        wanted = max(round(share * len(clean)), 2 * len(possible) if rows >= 500 and "impressions" in clean[0] else 1)
        spread = rng.sample(range(len(clean)), wanted)
        for number, position in enumerate(spread):
            kinds[position] = possible[(number + len(table)) % len(possible)]
        harmed = [_harm(kind, table, row, n) for n, (row, kind) in enumerate(zip(clean, kinds))]
        if table == "items":  # one more, which pairs refer to; the damaged rows above are further rows, of other ids
            harmed = [row | {"item_id": f"x{n}"} if kind else row for n, (row, kind) in enumerate(zip(harmed, kinds))]
            harmed += [row for row, kind in zip(clean, kinds) if kind]
            kinds += [""] * wanted
            harmed.append(clean[0] | {"item_id": "bad item", "split": "tset"})
            kinds.append("bad choice")
        elif table == "keyphrases":
            harmed += [row for row, kind in zip(clean, kinds) if kind]
            kinds += [""] * wanted
        out.rows[table] = len(harmed)
        out.files[table] = []
        for shard in range(shards):
            part = slice(shard * len(harmed) // shards, (shard + 1) * len(harmed) // shards)
            name = f"{table}.{suffix}" if shards == 1 else f"{table}/{table}-{shard:05}.{suffix}"
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content, lines = _content(harmed[part], kinds[part], table, format_name)
            path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
            out.files[table].append(path)
            out.kinds |= {(path.name, line): kind for line, kind in zip(lines, kinds[part]) if kind}
    return out


def _content(rows: list[Row], kinds: list[str], table: str, format_name: str) -> tuple[bytes, list[int]]:
    """The file and the line of each row."""
    required = (
        next(name for name in TABLES[table].required if name not in ("item_id", "keyphrase"))
        if (len(TABLES[table].required) > 2)
        else TABLES[table].required[-1]
    )
    if format_name == "parquet":
        return _parquet(rows, kinds, table, required), list(range(1, len(rows) + 1))
    write: Callable[[Row, str], bytes] = {
        "tsv": _tsv,
        "csv": _csv,
        "jsonl": lambda row, kind: _jsonl(row, kind, required),
    }[format_name]
    header = [] if format_name == "jsonl" else [write({name: name for name in rows[0]}, "")]
    out, lines, line = list(header), [], 1 + len(header)
    for row, kind in zip(rows, kinds):
        raw = write(row, kind)
        raw = _spoilt(raw, row, table) if kind == "not UTF-8" else raw
        out.append(raw)
        lines.append(line)
        line += raw.count(b"\n")
    return b"".join(out), lines
