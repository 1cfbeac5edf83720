"""Two runs side by side, as a gate before the candidate replaces the baseline.

python -m launch.compare --baseline=WORKDIR --candidate=WORKDIR [--metrics=human/ndcg@10/student,...]

Exit status: 0 when no metric regresses beyond its interval, 1 when one does, 2 when the runs cannot be compared.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distill.artifacts import write_json
from distill.stages.compare import RECOMMENDATIONS, Comparison, compare_runs

BASELINE = flags.DEFINE_string("baseline", None, "Working directory of the run that is in use.")
CANDIDATE = flags.DEFINE_string("candidate", None, "Working directory of the run that would replace it.")
METRICS = flags.DEFINE_list("metrics", [], "Names as in metrics.json; by default what the student of the baseline has.")
TOLERANCE = flags.DEFINE_float("tolerance", 0.0, "A loss of up to so much is no regression.")
RESAMPLES = flags.DEFINE_integer("resamples", 1000, "Draws of the bootstrap.", lower_bound=100)
SEED = flags.DEFINE_integer("seed", 0, "Of those draws.")
TOP = flags.DEFINE_integer("top", 10, "Keyphrases of a listing whose change is told.", lower_bound=1)
ACROSS = flags.DEFINE_bool("across_data", False, "Compare although labels, grades or other referees differ.")
JSON = flags.DEFINE_string("json", None, "A file to write all of it to.")

MISUSE = 2


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        _misuse(f"unexpected argument {argv[1]!r}")
    try:
        found = compare_runs(
            Path(str(BASELINE.value)),
            Path(str(CANDIDATE.value)),
            METRICS.value,
            tolerance=TOLERANCE.value,
            resamples=RESAMPLES.value,
            seed=SEED.value,
            across_data=ACROSS.value,
            top=TOP.value,
        )
        if JSON.value:
            write_json(Path(JSON.value), _plain(dataclasses.asdict(found) | {"regressed": found.regressed}))
    except (ValueError, OSError) as error:
        _misuse(str(error))
    _print(found)
    if found.regressed:
        sys.exit(1)


def _print(found: Comparison) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table("metric", "baseline", "candidate", "difference", "95 % interval", "compared", "finding")
    for one in found.changes:
        over = f"{one.groups:,} in common" if one.paired else "unpaired: too few in common"
        if not one.paired or one.groups < max(one.baseline_groups, one.candidate_groups):
            over += f" (of {one.baseline_groups:,} and {one.candidate_groups:,})"
        if one.same_pairs is False and one.paired:
            over += ", other pairs"
        interval = f"[{one.ci_low:+.4f}, {one.ci_high:+.4f}]" if math.isfinite(one.ci_low) else "–"
        figures = f"{one.baseline:.4f}", f"{one.candidate:.4f}", f"{one.difference:+.4f}"
        table.add_row(escape(one.name), *figures, interval, over, one.finding)
    console.print(table)
    for name, why in found.left_out.items():
        console.print(f"not compared: {name}: {why}", markup=False)
    if found.recommendations:
        _print_recommendations(console, found)
    verdict = f"regressed: {', '.join(found.regressed)}" if found.regressed else "nothing regressed"
    untested = [one.name for one in found.changes if one.finding == "untested"]
    if unknown := [*untested, *(name for name in found.left_out if name != RECOMMENDATIONS)]:
        verdict += f"; nothing is known of {', '.join(unknown)}"
    console.print(verdict, markup=False, soft_wrap=True)


def _print_recommendations(console: Console, found: Comparison) -> None:
    one = found.recommendations
    assert one is not None
    console.print(
        f"recommendations of {one.listings:,} listings, the first {one.top}: {100 * one.changed_share:.1f} % of the "
        f"listings have other keyphrases, {100 * one.reordered_share:.1f} % the same in another order; overlap "
        f"{one.overlap:.2f}; {one.baseline_per_listing:.2f} → {one.candidate_per_listing:.2f} a listing; "
        f"{one.emptied:,} listings lost all, {one.filled:,} got their first",
        soft_wrap=True,
    )
    for change in one.examples:
        console.print(f"  {found.titles[change.item_id]}", markup=False, soft_wrap=True)
        for sign, keyphrases in (("+", change.come), ("−", change.gone), ("=", change.kept)):
            if keyphrases:
                console.print(f"    {sign} {', '.join(keyphrases)}", markup=False, soft_wrap=True)


def _plain(value: Any) -> Any:
    """JSON values; None where a number is not finite."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _misuse(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(MISUSE)


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        _misuse(str(error))
        raise
    for name in ("baseline", "candidate"):
        if not flags.FLAGS[name].value:
            _misuse(f"--{name} is missing; name a working directory")
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
