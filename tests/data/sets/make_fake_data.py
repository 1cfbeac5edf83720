"""Writes fake_data/: made-up rows in the original formats of the public sets, and a small data directory.

python -m tests.data.sets.make_fake_data
"""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FAKE = Path(__file__).parent / "fake_data"

COLOURS = ("red", "blue", "green", "black", "grey")
THINGS = ("lamp", "kettle", "boots", "backpack", "desk", "mirror", "clock", "rug")
JAPANESE = ("赤い ランプ", "電気ケトル", "登山靴 メンズ", "リュックサック", "学習机", "鏡", "目覚まし時計", "ラグ")
SPANISH = ("lámpara roja", "hervidor de agua", "botas de montaña niño", "mochila")


def esci() -> tuple[pa.Table, pa.Table]:
    """Examples and products: three locales, small and large, awkward texts, one product without a title (US15)."""
    products, examples = [], []

    def product(locale: str, number: int, title: str | None, brand: str | None, colour: str | None) -> str:
        name = f"{locale.upper()}{number:02}"
        products.append((name, title, "<b>made up</b>", "- one\n- two", brand, colour, locale))
        return name

    def example(query: str, query_id: int, item: str, locale: str, label: str, small: int, split: str) -> None:
        examples.append((len(examples), query, query_id, item, locale, label, small, 1, split))

    us = []
    for number in range(40):
        colour, thing = COLOURS[number % 5], THINGS[number % 8]
        title: str | None = f"{colour.title()} {thing} no. {number}"
        title = {3: "Salt &amp; pepper <mill>", 7: "Two\nlines\tand a tab", 15: None, 21: 'The 27" “smart” rug'}.get(
            number, title
        )
        us.append(product("us", number, title, None if number % 3 else "Acme & Söhne", colour if number % 2 else None))
    queries = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS]
    for number, query in enumerate(queries):
        split = "test" if number % 4 == 3 else "train"
        for offset in range(3):
            label = "ESCI"[(number + offset) % 4]
            example(query, number, us[(number + 7 * offset) % 40], "us", label, int(number % 10 != 9), split)
    # Query 3 ("black lamp") is in the test part; here it comes again in the training part.
    example("Black  LAMP", 900, us[0], "us", "E", 1, "train")
    for number, query in enumerate(JAPANESE):
        item = product("jp", number, f"{query} 【公式】&amp; 送料無料", "アクメ", None)
        for label in "EI":
            example(
                query,
                1000 + number,
                item if label == "E" else "JP00",
                "jp",
                label,
                number % 2,
                "train" if number % 3 else "test",
            )
    for number, query in enumerate(SPANISH):
        item = product("es", number, f"{query} n.º {number}", None, "rojo")
        example(query, 2000 + number, item, "es", "S", 1, "train" if number % 2 else "test")
    names = ("example_id", "query", "query_id", "product_id", "product_locale", "esci_label", "small_version")
    names += ("large_version", "split")
    of_products = ("product_id", "product_title", "product_description", "product_bullet_point", "product_brand")
    of_products += ("product_color", "product_locale")
    return (
        pa.table({name: [row[at] for row in examples] for at, name in enumerate(names)}),
        pa.table({name: pa.array([row[at] for row in products], pa.string()) for at, name in enumerate(of_products)}),
    )


def wands() -> dict[str, str]:
    """The three files' texts: tabs as separators, CSV's quoting, as pandas writes them."""
    products = [["product_id", "product_name", "product_class", "category hierarchy", "product_description"]]
    products[0] += ["product_features", "rating_count", "average_rating", "review_count"]
    names = {4: 'round 24" mirror', 5: "tab\tin a name", 6: "name with\na line break", 7: "table &amp; chairs"}
    for number in range(30):
        thing = THINGS[number % 8]
        hierarchy = f"Furniture / {thing.title()} & More / {thing.title()}s"
        features = f"overallwidth:{number}.5|color : grey|color : white| : cream|assembly : yes, 2 people: 10 min"
        if number == 8:
            hierarchy = "Browse By Brand / All-Acme"
        if number == 9:
            hierarchy = features = ""
        products.append(
            [
                *(str(number), names.get(number, f"{COLOURS[number % 5]} {thing} , large"), f"{thing.title()}s|Gifts"),
                *(hierarchy, "" if number % 2 else 'a "fine" thing', features, "3.0", "4.5", "2.0"),
            ]
        )
    queries = [["query_id", "query", "query_class"]]
    queries += [[str(2 * n), f"{COLOURS[n % 5]} {THINGS[n % 8]}", "Any"] for n in range(23)]
    queries.append(["46", '"classic" desk', "Desks"])
    labels = [["id", "query_id", "product_id", "label"]]
    for query in range(24):
        for offset in range(4):
            label = ("Exact", "Partial", "Irrelevant", "Partial")[(query + offset) % 4]
            labels.append([str(len(labels) - 1), str(2 * query), str((query + 5 * offset) % 30), label])
    texts = {}
    for name, rows in (("product", products), ("query", queries), ("label", labels)):
        text = io.StringIO(newline="")
        csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
        texts[f"{name}.csv"] = text.getvalue()
    return texts


def encode(rows: list[dict], kind: str) -> bytes:
    """Rows of a data directory's table; lists and maps are JSON in TSV and CSV."""
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n").writerows([list(rows[0]), *cells])
    return text.getvalue().encode()


def marketplace() -> dict[str, bytes]:
    """A data directory in all four formats; one row of `clicks` has more clicks than impressions."""
    items = [
        {
            "item_id": f"i{row}",
            "title": f"{COLOURS[row % 5]} {THINGS[row % 8]} &amp; no. {row}",
            "category": ["Home", THINGS[row % 8].title()] if row % 3 else [],
            "attributes": {"brand": "Acme", "note": "two\nlines"} if row % 2 else {},
            "split": "holdout" if row >= 20 else "train",
        }
        for row in range(24)
    ]
    keyphrases = [{"keyphrase": f"{colour} {thing}", "search_volume": None} for thing in THINGS for colour in COLOURS]
    for row in range(0, 40, 2):
        keyphrases[row]["search_volume"] = 10 * row
    pairs = [{"item_id": f"i{row % 24}", "keyphrase": keyphrases[(3 * row) % 40]["keyphrase"]} for row in range(60)]
    clicks = [
        {**pair, "impressions": 5 + row, "clicks": row % 5, "position": 1.5 if row % 4 else None}
        for row, pair in enumerate(pairs)
    ]
    clicks[11]["clicks"] = 1000
    relevance = [{**pair, "score": row / 60, "passed": bool(row % 2)} for row, pair in enumerate(pairs)]
    judgements = [{**pair, "grade": row % 4, "judge": "llm", "rubric": "v1"} for row, pair in enumerate(pairs)]
    human = [
        {**pair, "label": "ES"[row % 2], "gain": 1 - row % 2 / 2, "split": "valid" if row < 4 else "test"}
        for row, pair in enumerate(pairs[:12])
    ]
    tables = {
        "items.jsonl": items,
        "keyphrases.tsv": keyphrases,
        "clicks.csv": clicks,
        "search_relevance.parquet": relevance,
        "judgements.tsv.gz": judgements,
        "human.csv": human,
        "recommendations.jsonl": [{**pair, "source": "rules"} for pair in pairs[:10]],
        "blocklist.tsv": [{"keyphrase": "red lamp", "item_id": None}, {"keyphrase": "blue rug", "item_id": "i1"}],
    }
    files = {}
    for name, rows in tables.items():
        content = encode(rows, name.split(".")[1])
        files[name] = gzip.compress(content, mtime=0) if name.endswith(".gz") else content
    return files


def write(directory: Path) -> None:
    for name in ("amazon_esci", "wayfair_wands", "marketplace"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for name, table in zip(("examples", "products"), esci()):
        pq.write_table(table, directory / "amazon_esci" / f"shopping_queries_dataset_{name}.parquet")
    for name, text in wands().items():
        (directory / "wayfair_wands" / name).write_bytes(text.encode())
    for name, content in marketplace().items():
        (directory / "marketplace" / name).write_bytes(content)


if __name__ == "__main__":
    write(FAKE)
