"""Two working directories side by side: a candidate against the baseline that it would replace."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.artifacts import hash_json, read_json, read_manifest
from distill.config import ablations
from distill.stages.base import FOLDERS, read_tables
from distill.stages.judge_pairs import GRADED
from distill.stages.protocol import PROTOCOL

if TYPE_CHECKING:
    from distill.evaluate.compare import Change
    from distill.evaluate.compare_recommendations import RecommendationChange
    from distill.evaluate.comparisons import Sample

MODEL = "student"
METRICS = (  # of the model that is served, where both runs have them and agree about the referee
    *ablations.METRICS,
    "protocol/relevant_per_item_by_llm",
    "protocol/relevant_per_item_by_simulated",
    "protocol/relevant_per_item_by_replay",
)
RECOMMENDATIONS = "recommendations"  # beside the metrics, in what was left out
EXAMPLES = 5


class CompareError(ValueError):
    """Two runs that cannot be compared as asked; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that was compared."""

    baseline: str
    candidate: str
    changes: tuple[Change, ...]
    left_out: dict[str, str]  # metric of the usual ones, or table → why it was not compared
    recommendations: RecommendationChange | None
    titles: dict[str, str]  # item_id → title, of the examples

    @property
    def regressed(self) -> tuple[str, ...]:
        return tuple(change.name for change in self.changes if change.finding == "regressed")


def compare_runs(
    baseline: Path,
    candidate: Path,
    metrics: Sequence[str] = (),
    *,
    tolerance: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
    across_data: bool = False,
    top: int = 10,
) -> Comparison:
    """Compares two finished runs.

    Args:
      metrics: names as in metrics.json; empty: METRICS of the student, as many as the baseline has.
      tolerance: a loss of up to so much is no regression.
      across_data: compare although the human labels or another referee differ.
      top: keyphrases of a listing that the comparison of recommendations looks at.

    Raises:
      CompareError: a run is missing, unfinished or too old to compare; a metric that a run does not have (of the
        usual ones: that the candidate no longer has), or that has another referee there; no metric is left.
    """
    if not 0 <= tolerance < float("inf"):
        raise CompareError(f"tolerance={tolerance}: must be a finite number of at least 0")
    if baseline.resolve() == candidate.resolve():
        raise CompareError(f"{baseline}: is both baseline and candidate; name two runs")
    runs = _Run(baseline), _Run(candidate)
    if not across_data and runs[0].referee("human/") != runs[1].referee("human/"):
        raise CompareError(
            f"{baseline} and {candidate} have different human labels, so their figures are not of the same test; "
            "evaluate both on one data set, or allow it with --across_data"
        )
    left_out: dict[str, str] = {}
    changes = []
    for name in metrics or _usual(runs, left_out):
        samples = [run.sample(name) for run in runs]
        doubt = _doubt(runs, name)
        if doubt and not across_data:
            if metrics:
                raise CompareError(f"{name}: {doubt}; leave it out, or allow it with --across_data")
            left_out[name] = doubt
            continue
        change = _change(name, samples, tolerance, resamples, seed)
        if metrics and change.finding == "untested":
            raise CompareError(f"{name}: has no interval, as fewer than two queries or listings can be compared")
        changes.append(change)
    if all(change.finding == "untested" for change in changes):
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items()) or "they share none of the usual ones"
        raise CompareError(f"no metric to compare {candidate} with {baseline} by ({reasons}); name some with --metrics")
    recommended = _recommendations(runs, top, left_out)
    shown = {one.item_id for one in recommended.examples} if recommended else set()
    items = zip(runs[1].prepared.item_ids, runs[1].prepared.titles)
    titles = {item: title for item, title in items if item in shown}
    return Comparison(str(baseline), str(candidate), tuple(changes), left_out, recommended, titles)


class _Run:
    """One finished working directory."""

    def __init__(self, workdir: Path):
        from distill.data.tables import Prepared
        from distill.evaluate.metric_table import figure_name
        from distill.evaluate.samples import SAMPLES, read_samples

        self.workdir, self.report = workdir, workdir / FOLDERS["evaluate"]
        if not workdir.is_dir():
            raise CompareError(f"{workdir}: there is no such working directory")
        manifest = read_manifest(self.report)
        if manifest is None:
            raise CompareError(f"{self.report}: is not finished; run `python -m launch.evaluate` for it first")
        for stage in (name for name in manifest["inputs"] if name in FOLDERS):
            folder = workdir / FOLDERS[stage]
            now = read_manifest(folder)
            if now is None or hash_json(now["outputs"]) != manifest["inputs"][stage]:
                raise CompareError(
                    f"{self.report}: is of another {folder.name}/ than now stands beside it; run "
                    "`python -m launch.pipeline` for it first"
                )
        if not (self.report / SAMPLES).exists():
            raise CompareError(
                f"{self.report / SAMPLES}: is missing, as this report was written by an earlier version; run "
                "`python -m launch.evaluate --force` for it"
            )
        self.prepared = Prepared(workdir / FOLDERS["prepare"])
        self.samples = {figure_name(*key): (key[0], sample) for key, sample in read_samples(self.report).items()}

    def sample(self, name: str) -> Sample:
        """A metric's sample with its groups by name: a query's text, a listing's id."""
        import numpy as np

        from distill.evaluate.protocol import UNDIRECTED

        if name not in self.samples:
            known = sorted(one for one in self.samples if one.rpartition("/")[2] == name.rpartition("/")[2])
            near = f"; of that model it has {', '.join(known)}" if known else ""
            raise CompareError(
                f"{self.workdir}: has no values of {name!r} for each query or listing, so it cannot be compared{near}"
            )
        metric, sample = self.samples[name]
        figure = metric.partition("/")[2].partition("_by_")[0]
        if metric.startswith("protocol/") and figure in UNDIRECTED:
            raise CompareError(f"{name}: more of it is neither better nor worse, so it cannot regress")
        names = self.prepared.keyphrases if metric.startswith("human/") else self.prepared.item_ids
        return dataclasses.replace(sample, groups=np.array(names, object)[sample.groups].astype(str))

    def referee(self, metric: str) -> str:
        """A hash of what decides this metric beside the model, for two runs to agree on."""
        family, data = metric.partition("/")[0], self.workdir / FOLDERS["prepare"]
        if family == "human":
            return _content(data / "human.parquet", ("item_id", "keyphrase", "gain", "split"))
        if family == "holdout":
            return self._grades()
        if family in ("truth", "never_exposed"):
            return _content(data / "truth" / "truth.parquet", ("item_id", "keyphrase", "grade", "exposed"))
        if family == "protocol":
            return hash_json(self._protocol(metric))
        return self._assistant()

    def _grades(self) -> str:
        """Of the judge, on held-out listings."""
        path = self.workdir / FOLDERS["judge"] / GRADED
        return _content(path, ("item_id", "keyphrase", "grade"), only="holdout")

    def _assistant(self) -> str:
        manifest = read_manifest(self.workdir / FOLDERS["assistant"])
        return hash_json(manifest["outputs"] if manifest else str(self.workdir))

    def _protocol(self, metric: str) -> list[Any]:
        """Who judged by what, how much each source offered, and which others took part."""
        saved, judge = read_json(self.report / PROTOCOL), metric.rpartition("_by_")[2]
        data, pair = self.workdir / FOLDERS["prepare"], ("item_id", "keyphrase")
        own = {"assistant": self._assistant, "replay": self._grades}.get(judge, str)
        return [
            saved["judges"].get(judge, {}).get("name"),
            own(),
            saved["keyphrases_per_source"],
            sorted(saved["sources"]) if "exclusive" in metric else "",
            _content(data / "keyphrases.parquet", ("keyphrase", "search_volume")),
            _content(data / "blocklist.parquet", pair),
            _content(data / "holdout" / "recommendations.parquet", (*pair, "source")),
            _content(data / "holdout" / "search_relevance.parquet", (*pair, "passed")),
        ]

    def listings(self) -> list[str] | None:
        """Ids of the listings that this run recommended for; None where it did not."""
        manifest = read_manifest(self.workdir / FOLDERS["recommend"])
        if manifest is None:
            return None
        ids, held_out = self.prepared.item_ids, self.prepared.item_is_holdout
        some = manifest["config"]["recommend"]["items"] == "holdout"
        return [one for one, held in zip(ids, held_out.tolist()) if held or not some]


def _usual(runs: tuple[_Run, _Run], left_out: dict[str, str]) -> list[str]:
    """METRICS of the student that the baseline has; adds to `left_out` those of the candidate alone."""
    from distill.evaluate.metric_table import figure_name

    before, after = ([name for name in (figure_name(one, MODEL) for one in METRICS) if name in r.samples] for r in runs)
    if lost := [name for name in before if name not in after]:
        raise CompareError(
            f"{runs[1].workdir}: does not have {', '.join(lost)}, which the baseline has, and what is not measured "
            "cannot pass; evaluate the candidate with the same tables and settings (`--protocol` too), or say with "
            "--metrics what decides"
        )
    left_out |= {name: "only the candidate has it" for name in after if name not in before}
    return before


def _doubt(runs: tuple[_Run, _Run], name: str) -> str:
    """Why the two runs' figures of this name are not of one test; empty where they are."""
    metric = runs[0].samples[name][0]
    if runs[0].referee(metric) == runs[1].referee(metric):
        return ""
    family = metric.partition("/")[0]
    return {
        "human": "the human labels differ",
        "holdout": "the judge's grades of held-out listings differ",
        "truth": "the known truth differs",
        "never_exposed": "the known truth differs",
        "protocol": "the protocol's judge, sources or tables differ",
    }.get(family, "its referee is each run's own assistant")


def _change(name: str, samples: list[Sample], tolerance: float, resamples: int, seed: int) -> Change:
    from distill.evaluate.compare import compare

    try:
        return compare(name, *samples, tolerance=tolerance, resamples=resamples, seed=seed)
    except ValueError as error:
        raise CompareError(str(error)) from None


def _recommendations(runs: tuple[_Run, _Run], top: int, left_out: dict[str, str]) -> RecommendationChange | None:
    from distill.evaluate.compare_recommendations import compare_recommendations

    listings = [run.listings() for run in runs]
    if listings[0] is None or listings[1] is None:
        left_out[RECOMMENDATIONS] = f"the {'baseline' if listings[0] is None else 'candidate'} has none"
        return None
    other = set(listings[0])
    common = [one for one in listings[1] if one in other]
    if not common:
        left_out[RECOMMENDATIONS] = "the runs recommend for no listing in common"
        return None
    columns = ["item_id", "keyphrase", "rank"]
    before, after = (read_tables(run.workdir / FOLDERS["recommend"], "part-*.parquet", columns) for run in runs)
    return compare_recommendations(before, after, common, top=top, examples=EXAMPLES)


def _content(path: Path, columns: Sequence[str], only: str = "") -> str:
    """A hash of a table's rows, in whatever order; of those where the flag `only` is set. Empty where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return ""
    table = pq.read_table(path, columns=[*columns, *([only] if only else [])])
    if only:
        table = table.filter(table[only])
    table = table.select(list(columns)).sort_by([(name, "ascending") for name in columns])
    digest, sink = hashlib.sha256(), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata().combine_chunks(), max_chunksize=1 << 30)
    digest.update(sink.getvalue())
    return digest.hexdigest()
