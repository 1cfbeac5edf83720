"""recommend at scale: peak memory, speed, and whether a run that is killed again and again ends whole.

    PYTHONPATH=. nice python tools/bench_recommend.py --workdir=/tmp/bench_recommend

makes up a marketplace of 200,000 items and 500,000 keyphrases (`tools/recommend_workdir.py`), starts the stage, kills
it with SIGKILL at a few random moments, lets it finish, and then reads every file: each item must be in exactly one
shard, no pair may stand there twice, and shards that are made a second time must come out byte for byte. The last line
is a JSON object of the figures. Further flags go to the stage: `--config.recommend.lexical=10`.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench_common import print_table

TOOLS = Path(__file__).parent
CONFIG = TOOLS / "recommend_workdir.py"
LIMIT_GIB = 6.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="made where it does not exist; its inputs are kept")
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--keyphrases", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed")
    ours, flags = parser.parse_known_args()
    if strangers := [flag for flag in flags if not flag.startswith("--config.")]:
        parser.error(f"{strangers[0]}: neither a flag of this bench nor a --config.FIELD=VALUE")
    make_inputs(ours)

    folder, rng = ours.workdir / "recommendations", random.Random(ours.seed)
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    peaks, shards_left, seconds = [], [], 0.0
    for number in range(ours.kills):
        # At a random moment of the next part of the work, but not before the first shard of this start.
        before = done(folder)
        share = (number + rng.random()) / (ours.kills + 1)
        run = Run(ours.workdir, flags)
        while run.going() and (done(folder) <= before or done(folder) < share * total(folder)):
            time.sleep(0.05)
        time.sleep(rng.random())
        peak, spent = run.end(signal.SIGKILL)
        peaks.append(peak)
        seconds += spent
        shards_left.append(done(folder))
    run = Run(ours.workdir, flags)
    peak, spent = run.end()
    peaks.append(peak)
    seconds += spent
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    check_files(ours.workdir, counts)
    check_again(ours.workdir, flags, rng)

    rows = [
        ("items × keyphrases", f"{ours.items:,} × {ours.keyphrases:,}"),
        ("candidates read by the assistant", f"{counts['candidates']:,}"),
        ("kept", f"{counts['kept']:,}"),
        ("killed after so many shards", ", ".join(map(str, shards_left))),
        ("peak memory of each start, GiB", ", ".join(f"{peak:.2f}" for peak in peaks)),
        ("seconds in all", f"{seconds:,.0f}"),
    ]
    print_table("recommend", ("", "figure"), rows)
    figures = {"peak_gib": round(max(peaks), 3), "items_per_second": round(ours.items / seconds, 1)}
    print(json.dumps(figures))
    if max(peaks) > LIMIT_GIB:
        print(f"peak memory {max(peaks):.2f} GiB: above the {LIMIT_GIB} GiB that it must stay below", file=sys.stderr)
        return 1
    return 0


def make_inputs(ours: argparse.Namespace) -> None:
    """In a process of its own, so that its memory is not counted."""
    made = {"items": ours.items, "keyphrases": ours.keyphrases, "width": ours.width}
    note = ours.workdir / "inputs.json"
    if note.exists():
        if json.loads(note.read_text()) != made:
            sys.exit(f"error: {note}: is of other sizes than {made}; remove the folder or name another")
        return
    code = (
        "import sys, json; from pathlib import Path; from tools.recommend_workdir import Size, make_workdir\n"
        "make_workdir(Path(sys.argv[1]), Size(**json.loads(sys.argv[2])))"
    )
    subprocess.run([sys.executable, "-c", code, str(ours.workdir), json.dumps(made)], cwd=TOOLS.parent, check=True)
    note.write_text(json.dumps(made))


class Run:
    """The stage as a process."""

    def __init__(self, workdir: Path, flags: list[str]):
        command = [sys.executable, "-m", "launch.recommend", f"--config={CONFIG}", f"--workdir={workdir}", *flags]
        self._begun = time.monotonic()
        self._process = subprocess.Popen(command, cwd=TOOLS.parent, env={"JAX_PLATFORMS": "cpu", **os.environ})

    def going(self) -> bool:
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def end(self, with_signal: signal.Signals | None = None) -> tuple[float, float]:
        """Waits, or kills it; (peak memory in GiB, seconds). Without a signal it must end well."""
        if with_signal is not None:
            os.kill(self._process.pid, with_signal)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if with_signal is None and self._process.returncode:
            sys.exit(f"error: the stage ended with code {self._process.returncode}")
        return usage.ru_maxrss / 2**20, time.monotonic() - self._begun


def done(folder: Path) -> int:
    return len(list(folder.glob("part-*.json")))


def total(folder: Path) -> int:
    """Of shards, by the name of any of them."""
    name = next(folder.glob("part-*.json"), None)
    return int(name.stem.rsplit("-", 1)[1]) if name else 1


def check_files(workdir: Path, counts: dict[str, int]) -> None:
    """Ends the program where an item is missing or doubled, or a pair stands twice."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    expected = pq.read_table(workdir / "data" / "items.parquet", columns=["item_id"])["item_id"]
    seen, rows, kept = [], 0, 0
    for path in sorted((workdir / "recommendations").glob("candidates-part-*.parquet")):
        table = pq.read_table(path, columns=["item_id", "keyphrase", "fate"])
        pairs = pc.binary_join_element_wise(table["item_id"], table["keyphrase"], "\t")
        if len(pc.unique(pairs)) != len(table):
            sys.exit(f"error: {path}: holds a pair twice")
        seen.append(pc.unique(table["item_id"]).to_pylist())
        rows += len(table)
        chosen = table.filter(pc.equal(table["fate"], "kept")).select(["item_id", "keyphrase"])
        part = pq.read_table(path.with_name(path.name.removeprefix("candidates-")), columns=["item_id", "keyphrase"])
        if not chosen.equals(part):
            sys.exit(f"error: {path}: what is kept is not what stands in {path.name.removeprefix('candidates-')}")
        kept += len(part)
    names = [name for part in seen for name in part]
    if len(names) != len(set(names)) or set(names) != set(expected.to_pylist()):
        sys.exit(f"error: {len(names):,} items in the shards, {len(set(names)):,} distinct, of {len(expected):,}")
    if (rows, kept, len(names)) != (counts["candidates"], counts["kept"], counts["items"]):
        sys.exit(f"error: {rows:,} candidates and {kept:,} kept in the files, the manifest says {counts}")


def check_again(workdir: Path, flags: list[str], rng: random.Random) -> None:
    """Takes three shards away and has them made again; ends the program where a byte differs."""
    folder = workdir / "recommendations"
    before: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["outputs"]
    shards = sorted(folder.glob("part-*.json"))
    for path in rng.sample(shards, min(3, len(shards))):
        for name in (path, path.with_suffix(".parquet"), path.with_name(f"candidates-{path.stem}.parquet")):
            name.unlink()
    (folder / "manifest.json").unlink()
    Run(workdir, flags).end()
    if json.loads((folder / "manifest.json").read_text())["outputs"] != before:
        sys.exit("error: shards that were made a second time came out otherwise")


if __name__ == "__main__":
    sys.exit(main())
