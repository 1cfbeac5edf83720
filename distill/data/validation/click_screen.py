"""Impossible clicks taken out of the prepared clicks table; what is taken out stays in a file of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.config import ScreeningConfig
from distill.data import tables
from distill.data.validation.distributions import batches, files, numbers, parts
from distill.data.validation.findings import EXAMPLES, Finding, finding
from distill.data.validation.impossible_clicks import FAMILY_ERROR, ClickScreen, Rows, screen, tally

FILE = "impossible_clicks.parquet"
_COLUMNS = ("impressions", "clicks", "position")


@dataclasses.dataclass
class Screened:
    """What became of the clicks table."""

    pairs: int = 0  # that were shown
    impossible: dict[str, int] = dataclasses.field(default_factory=dict)  # `training`, `holdout` → pairs
    dropped: bool = False
    suspicious: int = 0
    unusual: int = 0  # pairs beyond the ceiling, too common to be dropped
    examples: list[str] = dataclasses.field(default_factory=list)
    suspects: list[str] = dataclasses.field(default_factory=list)

    @property
    def dropped_pairs(self) -> dict[str, int]:
        """`training`, `holdout` → pairs that are no longer in the table."""
        return self.impossible if self.dropped else {}


def screen_clicks(folder: Path, config: ScreeningConfig) -> Screened:
    """Finds impossible clicks in the prepared tables below `folder`, both splits, and drops them if `config` says so.

    Reads the table twice and, where something is to be dropped, writes it again; memory does not grow with it. What is
    dropped goes to `impossible_clicks.parquet`.
    """
    (folder / FILE).unlink(missing_ok=True)
    counted = tally(_rows(batch) for batch in batches(folder, "clicks", _COLUMNS))
    found = screen(counted, config.possible_ctr)
    out = Screened(found.pairs, dropped=config.impossible_clicks == "drop", unusual=found.unusual)
    if not len(found.impossible) and not len(found.suspicious):
        return out
    aside = folder / FILE if out.dropped and len(found.impossible) else None
    removed: list[pa.Table] = []
    for path in files(folder, "clicks"):
        split = "holdout" if path.parent.name == "holdout" else "training"
        for file in parts(path):
            impossible = _screen_file(file, found, out, rewrite=aside is not None)
            out.impossible[split] = out.impossible.get(split, 0) + len(impossible)
            removed.append(impossible)
    if aside is not None:
        with tables.TableWriter(aside, removed[0].schema) as writer:
            writer.write(pa.concat_tables(removed))
    return out


def _rows(batch: dict[str, pa.Array]) -> Rows:
    impressions, clicks, position = (numbers(batch[name]) for name in _COLUMNS)
    return impressions, clicks, position


def _pieces(file: Path) -> Iterator[pa.Table]:
    parquet = pq.ParquetFile(file)
    for group in range(parquet.num_row_groups):
        yield parquet.read_row_group(group)


def _screen_file(file: Path, found: ClickScreen, out: Screened, rewrite: bool) -> pa.Table:
    """The file's impossible rows; notes examples and, with `rewrite`, leaves the file without these rows."""
    schema = pq.read_schema(file)
    impossible: list[pa.Table] = []
    for piece in _pieces(file):
        bad, suspect = found.flags(_rows({name: piece[name] for name in _COLUMNS}))  # type: ignore[misc]
        impossible.append(piece.filter(pa.array(bad)))
        out.suspicious += int(suspect.sum())
        for rows, examples in ((bad, out.examples), (suspect, out.suspects)):
            first = np.flatnonzero(rows)[: EXAMPLES - len(examples)]
            examples += [_described(row) for row in piece.take(pa.array(first)).to_pylist()]
    bad_rows = pa.concat_tables(impossible) if impossible else schema.empty_table()
    if rewrite and len(bad_rows):
        with tables.TableWriter(file, schema) as writer:
            for piece in _pieces(file):
                bad, _ = found.flags(_rows({name: piece[name] for name in _COLUMNS}))  # type: ignore[misc]
                writer.write(piece.filter(pa.array(~bad)))
    return bad_rows


def _described(row: dict) -> str:
    place = "an unknown position" if row["position"] is None else f"position {row['position']:.1f}"
    return f"{row['item_id']} | {row['keyphrase']}: {row['clicks']:,} of {row['impressions']:,} at {place}"


def click_findings(screened: Screened, possible_ctr: float) -> list[Finding]:
    """What to tell about the screening."""
    found = []
    if count := sum(screened.impossible.values()):
        done = f"Dropped; {FILE} holds them." if screened.dropped else "Kept, as the settings say."
        found.append(
            finding(
                "impossible clicks",
                "warning",
                "clicks",
                count,
                screened.pairs,
                f"{count:,} of {screened.pairs:,} pairs with more clicks than people give: beyond a rate of "
                f"{possible_ctr:g} and beyond all that their position gets here "
                f"(family-wise error {FAMILY_ERROR:g}). {done}",
                "Look for bots, scripts and sellers who click their own ads; raise data.screening.possible_ctr if such "
                "rates are real here.",
                screened.examples,
            )
        )
    if screened.suspicious:
        found.append(
            finding(
                "suspicious clicks",
                "note",
                "clicks",
                screened.suspicious,
                screened.pairs,
                f"{screened.suspicious:,} of {screened.pairs:,} pairs clicked far more than others at their position, "
                "at a rate that is still possible. Kept.",
                "Look at some: a strong pair and a careful bot look alike.",
                screened.suspects,
            )
        )
    if screened.unusual:
        found.append(
            finding(
                "rates beyond the possible",
                "warning",
                "clicks",
                screened.unusual,
                screened.pairs,
                f"{screened.unusual:,} of {screened.pairs:,} pairs clicked on more than {possible_ctr:.0%} of their "
                "impressions, which is too common at their positions to be bots. None was dropped.",
                "Check what the columns impressions and clicks count (an impression each time it is shown?).",
            )
        )
    return found
