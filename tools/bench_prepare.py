"""Memory and speed of preparing one's own logs: a made-up directory of many pair rows, prepared in a child process.

    PYTHONPATH=. python tools/bench_prepare.py [--rows=20000000] [--format=tsv|parquet] [--stage] [--keep=DIR]

Prints rows a second and the peak resident memory of the child; the last line is a JSON object of the figures. The child
runs `distill.data.preparation.prepare` alone or, with `--stage`, `python -m launch.prepare` with tokenizer and encoder.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
CHUNK = 1_000_000
PREPARE = """
import sys
from pathlib import Path
from distill.config import DataConfig
from distill.data.preparation.prepare import prepare
print("\\n".join(prepare(Path(sys.argv[1]), Path(sys.argv[2]) / "data", DataConfig()).lines()))
"""


def make_directory(directory: Path, rows: int, items: int, keyphrases: int, form: str, seed: int = 0) -> None:
    """Writes items, keyphrases, human queries and `rows` rows of clicks; pairs repeat now and then."""
    rng = np.random.default_rng(seed)
    words = pa.array([f"w{number:x}" for number in range(60_000)])

    def texts(count: int, length: int) -> pa.Array:
        drawn = (len(words) * rng.random((length, count)) ** 2).astype(np.int64)  # a few words are common
        return pc.binary_join_element_wise(*(words.take(pa.array(row)) for row in drawn), " ")

    titles = texts(items, 10).to_pylist()
    titles[1::20] = titles[::20][: len(titles[1::20])]  # twins
    item_ids = pa.array([f"item-{number}" for number in range(items)])
    phrases = texts(keyphrases + keyphrases // 10, 4).unique()[:keyphrases]
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / f"items.{form}", iter([pa.table({"item_id": item_ids, "title": pa.array(titles)})]), form)
    _write(directory / f"keyphrases.{form}", iter([pa.table({"keyphrase": phrases})]), form)
    asked = np.arange(min(500, items, keyphrases))
    human = {"item_id": item_ids.take(pa.array(asked)), "keyphrase": phrases.take(pa.array(asked))}
    human |= {"gain": pa.array(np.ones(len(asked))), "split": pa.array(["test"] * len(asked))}
    _write(directory / f"human.{form}", iter([pa.table(human)]), form)

    def clicks():
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            item = rng.integers(items, size=count)
            keyphrase = (item * 7919 + rng.integers(200, size=count)) % len(phrases)
            impressions = rng.integers(1, 50, size=count)
            yield pa.table(
                {
                    "item_id": item_ids.take(pa.array(item)),
                    "keyphrase": phrases.take(pa.array(keyphrase)),
                    "impressions": impressions,
                    "clicks": rng.binomial(impressions, 0.05),
                    "position": rng.integers(1, 21, size=count),
                }
            )

    _write(directory / f"clicks.{form}", clicks(), form)


def _write(path: Path, tables, form: str) -> None:
    first = next(tables)
    if form == "parquet":
        sink = path.open("wb")
        writer = pq.ParquetWriter(sink, first.schema)
    else:
        sink = path.open("wb")
        sink.write(("\t".join(first.column_names) + "\n").encode())
        options = pacsv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        writer = pacsv.CSVWriter(sink, first.schema, write_options=options)
    with sink, writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--keyphrases", type=int, default=500_000)
    parser.add_argument("--format", choices=("tsv", "parquet"), default="tsv")
    parser.add_argument("--stage", action="store_true", help="run the whole stage, tokenizer and encoder included")
    parser.add_argument("--keep", type=Path, help="folder for what is made; kept, and not made again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        source, workdir = folder / "source", folder / "run"
        if not source.exists():
            make_directory(folder / "making", options.rows, options.items, options.keyphrases, options.format)
            (folder / "making").rename(source)
        command = [sys.executable, "-c", PREPARE, str(source), str(workdir)]
        if options.stage:
            command = [sys.executable, "-m", "launch.prepare", f"--config={ROOT}/configs/marketplace.py", "--force"]
            command += [f"--config.data.dir={source}", f"--workdir={workdir}"]
        begun = time.monotonic()
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        seconds = time.monotonic() - begun
    # Of all children the largest; no other one was started.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"{options.rows:,} pair rows in {seconds:,.0f} s: {options.rows / seconds:,.0f} a second; peak {peak:.2f} GiB"
    )
    print(
        json.dumps(
            {
                "rows": options.rows,
                "format": options.format,
                "stage": options.stage,
                "seconds": round(seconds, 1),
                "rows_per_second": round(options.rows / seconds),
                "peak_rss_gib": round(peak, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
