"""What the report shows, as typed parts; `report.render_report` makes the page of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from distill.evaluate.groups import GroupTable
from distill.evaluate.report_validation import DataPage
from distill.evaluate.significance import Interval
from distill.judge.calibration import Reliability


@dataclasses.dataclass
class Keyphrase:
    """One recommended keyphrase of an example listing."""

    keyphrase: str
    relevance: float  # calibrated probability, by the assistant
    sources: Sequence[str] = ()
    grade: int | None = None  # 0–3, where the judge graded the pair


@dataclasses.dataclass
class Missed:
    """A keyphrase that the judge called exact for a listing, and that was not recommended for it."""

    keyphrase: str
    why: str  # in words


@dataclasses.dataclass
class Example:
    """A listing, what was recommended for it and what should have been."""

    title: str
    category: str = ""
    item_id: str = ""
    keyphrases: Sequence[Keyphrase] = ()
    missed: Sequence[Missed] = ()


@dataclasses.dataclass
class CategoryTable:
    """A figure of the student by category."""

    by: str  # `leaf category`
    metric: str  # `holdout/ndcg@10`
    groups: GroupTable


@dataclasses.dataclass
class JudgeCost:
    """What a language model was asked for, over all attempts."""

    pairs: int
    calls: int  # attempts, those of repeats and of human-labelled pairs too
    prompt_tokens: int
    completion_tokens: int
    price: float | None  # in the currency of the price settings; None where no price was set


@dataclasses.dataclass
class IndexFacts:
    """The index that serves, as measured where it was built."""

    keyphrases: int
    width: int
    method: str  # `brute_force` or `tree_ah`
    bytes: int  # of its files
    recall_at_100: float
    queries_per_second: float
    curve: Sequence[tuple[float, float]] = ()  # (recall, queries per second) of each setting that the tuner measured
    curve_at: int = 100  # the K of the curve's recall@K

    @property
    def bytes_per_keyphrase(self) -> float:
        return self.bytes / max(1, self.keyphrases)


@dataclasses.dataclass
class ReportData:
    """What the report shows. An empty optional part gives a line that says it is absent and why (see `absent`)."""

    name: str  # of the experiment
    metrics: Mapping[str, float]  # `MetricTable.as_dict()`
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)  # figure → reason
    absent: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # field of this class, section or referee → why it is empty
    encoder: str = ""  # the student's start, in words: `all-MiniLM-L6-v2`, `from scratch, layers: 2, width: 128`
    tasks: Sequence[str] = ()  # what the student learnt from, in words
    judge: str = ""  # who graded, in words
    # The student's opponents in the verdict; those without a figure are named as not measured.
    baselines: Sequence[str] = ("bm25", "graphex", "zero_shot", "student_clicks")
    simulated_clicks: bool = False
    simulated_humans: bool = False  # labels of the embedded marketplace, not of people
    simulated_judge: bool = False
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # items of each split, pairs judged and scored
    data_page: DataPage | None = None
    notices: Sequence[str] = ()  # tasks left out, texts cut, columns ignored
    judge_figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # as `judge_report.judge_section` reads
    judge_cost: JudgeCost | None = None  # None: nobody was asked
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # as `protocol_report` reads
    exposure: Mapping[str, int] = dataclasses.field(default_factory=dict)  # e.g. relevant pairs, of them never exposed
    curves: Mapping[str, Sequence[tuple[float, float]]] = dataclasses.field(default_factory=dict)  # (step, value)
    # model → grade → scores [n]
    scores_by_grade: Mapping[str, Mapping[int, ArrayLike]] = dataclasses.field(default_factory=dict)
    reliability: Reliability | None = None
    # metric → embedding width → figure
    quality_by_width: Mapping[str, Mapping[int, Interval]] = dataclasses.field(default_factory=dict)
    categories: Sequence[CategoryTable] = ()
    relevance_threshold: float | None = None  # probability from which a keyphrase is recommended
    precision_wanted: float | None = None
    precision_reached: bool = True
    good: Sequence[Example] = ()
    bad: Sequence[Example] = ()  # worst first: what the judge calls wrong among what was recommended
    relevant_grade: int = 2  # the judge's grade from which a recommended keyphrase is not wrong
    stage_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    index: IndexFacts | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)  # what is shipped or stored → bytes
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # resolved, nested
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)  # packages, Python, device
    revisions: Mapping[str, str] = dataclasses.field(default_factory=dict)  # stage → git revision of the code it ran
