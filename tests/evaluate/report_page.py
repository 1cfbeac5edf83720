"""A report with every part in it, and a reader of its page."""

from __future__ import annotations

import html.parser

import numpy as np

from distill.data.validation import findings
from distill.data.validation.about import About
from distill.evaluate import groups, metric_table, report_validation
from distill.evaluate import report_contents as contents
from distill.evaluate.report_validation_plots import FIGURES
from distill.evaluate.significance import Interval
from distill.judge.calibration import reliability
from tests.evaluate.judged import judge_figures

VOID = {"meta", "br", "hr", "img", "link", "input"}
ATTACK = '<script>alert(1)</script> "mug" & $x^2$'


class Page(html.parser.HTMLParser):
    """Tags with their attributes, all text, and whether every element is closed in order."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.hidden = False  # words for screen readers alone
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.hidden = ("class", "sr") in attrs
        self.text += " " * (tag in ("td", "th"))
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.hidden = False

    def handle_data(self, data):
        self.text += "" if self.hidden else data


def front(page: str) -> str:
    """The text of the first page, white space evened out."""
    return " ".join(Page(page[page.index('<section class="verdict"') : page.index("<nav")]).text.split())


def data_page() -> report_validation.DataPage:
    """Every part of the data page, with sellers' and buyers' texts that attack it."""
    classes = {"1": 3, "2–4": 12, "5+": 5}
    names = [name for group in FIGURES.values() for name in group]
    return report_validation.DataPage(
        About("a shop's log", "CC-BY-4.0", ATTACK, ("clicks", "keyphrases.search_volume")),
        (
            report_validation.Flow("items", "items.jsonl.gz", 100, 4, 6, kept=90),
            report_validation.Flow("clicks", "3 files", 1000, 50, 100, 41, 9, 800, 700, 100),
            report_validation.Flow("blocklist", "blocklist.tsv", 0),
        ),
        (
            findings.finding(
                "personal data", "error", "keyphrases", 3, 50, "3 rows hold a phone number.", "Drop them."
            ),
            findings.finding("the same title", "note", "items", 2, 90, "2 items share a title.", "Look.", [ATTACK]),
        ),
        dict.fromkeys(names, classes)
        | {
            "top category": {ATTACK: 40, **{f"category {row}": 20 - row for row in range(14)}},
            "impressions by position": {"1": 5000, "2": 3000, "3": 0, "unknown": 10},
            "clicks by position": {"1": 500, "2": 90, "3": 0, "unknown": 1},
        },
        (
            report_validation.Cut("item texts", 12, 90, 64, (ATTACK,)),
            report_validation.Cut("keyphrases", 0, 50, 24),
        ),
    )


def full() -> contents.ReportData:
    rng = np.random.default_rng(0)
    table = metric_table.MetricTable(resamples=100)
    queries, gains = rng.integers(0, 40, 600), rng.choice([0.0, 0.01, 0.1, 1.0], 600)
    items, grades = rng.integers(0, 60, 600), rng.integers(0, 4, 600)
    skill = {"bm25": 0.4, "zero_shot": 0.5, "assistant": 2.0, "student": 1.4, "student@64": 1.2, "student_clicks": 0.6}
    top = rng.integers(0, 50, (60, 20))
    wanted = [set(rng.integers(0, 50, 6).tolist()) for _ in range(60)]
    for model, strength in skill.items():
        metric_table.add_human(table, model, queries, gains, strength * gains + rng.normal(size=600))
        metric_table.add_holdout(table, model, items, grades, strength * grades / 2 + rng.normal(size=600))
        if model != "assistant":
            metric_table.add_recall(table, "truth/recall@20", model, rng.permuted(top, axis=1), wanted)
            metric_table.add_recall(table, "never_exposed/recall@20", model, rng.integers(0, 50, (60, 20)), wanted)
            metric_table.add_coverage(table, model, rng.integers(0, 3, 60))
            metric_table.add_alignment(table, model, top, rng.random((60, 20)) < 0.7, rng.random((60, 20)) < 0.6)
    names = ["human/ndcg@10", "human/auc_exact", "holdout/ndcg@10", "holdout/auc", "never_exposed/recall@20"]
    rivals = [("student", one) for one in ("bm25", "zero_shot", "student_clicks", "assistant")]
    metric_table.add_differences(table, rivals, names)
    for name, value in {
        "index/recall@100": 0.987,
        "index/queries_per_second": 15321.4,
        "train/student/examples_per_second": 1834.2,
        "train/assistant/examples_per_second": 411.9,
        "student/pearson_to_assistant": 0.91,
        "judge/kappa": 0.54,
        "protocol/recommend/kept_per_item": 4.2,
    }.items():
        table.add_scalar(name, value)
    probability = rng.random(800)
    phrases = [
        contents.Keyphrase("blue ceramic mug", 0.97, ("student", "bm25")),
        contents.Keyphrase("<b>coffee</b> cup", 0.91, ("student",), grade=3),
        contents.Keyphrase("tea set", 0.31, grade=0),
    ]
    titles = [ATTACK, "Stainless steel travel tumbler 20 oz with lid, double wall, for hot and cold drinks, navy blue"]
    return contents.ReportData(
        name="esci_ads",
        metrics=table.as_dict(),
        missing=table.missing,
        encoder="all-MiniLM-L6-v2",
        tasks=("distillation from the assistant (412,300 scored pairs)", "clicks (10,963 clicked pairs)"),
        judge="a large language model under rubric graded-v1",
        simulated_clicks=True,
        counts={"training listings": 5740, "held-out listings": 1024, "keyphrases": 10324, "judgements": 43054},
        data_page=data_page(),
        notices=("recommendations: table absent, nothing to de-duplicate against",),
        judge_figures=judge_figures((ATTACK, "b")),
        exposure={"truly relevant pairs": 12000, "of them never exposed": 7400},
        curves={
            f"{n}/loss": [(s, 1 / (1 + s / 50) + 0.02 * rng.random()) for s in range(400)]
            for n in ("assistant", "student")
        }
        | {"student/valid ndcg@10": [(s, 0.6 + s / 4000) for s in range(0, 401, 50)]},
        scores_by_grade={m: {g: rng.normal(g, 0.9, 300) for g in range(4)} for m in ("assistant", "student")},
        reliability=reliability(probability, rng.random(800) < probability**1.2),
        quality_by_width={
            "human/ndcg@10": {w: Interval(0.6 + w / 6000, 0.56 + w / 6000, 0.64 + w / 6000) for w in (64, 128, 384)}
        },
        relevance_threshold=0.62,
        precision_wanted=0.8,
        good=[contents.Example(title, "Kitchen", f"B{n}", phrases) for n, title in enumerate(titles)],
        bad=[
            contents.Example(
                "Unbranded part, model unknown",
                ATTACK,
                "B9",
                [contents.Keyphrase("car", 0.05, grade=1), contents.Keyphrase("bolt", 0.9, grade=2)],
                [contents.Missed(ATTACK, "the assistant finds it below the threshold")],
            ),
            contents.Example("?"),
        ],
        categories=[
            contents.CategoryTable(
                "leaf category",
                "holdout/ndcg@10",
                groups.worst_groups(
                    np.concatenate([rng.normal(0.2, 0.1, 40), rng.normal(0.8, 0.1, 60), [0.5]]).clip(0, 1),
                    [ATTACK] * 40 + ["Mugs"] * 20 + [""] * 40 + ["Rare"],
                    resamples=100,
                ),
            )
        ],
        judge_cost=contents.JudgeCost(100, 123, 45_000, 1_200, 1.25),
        index=contents.IndexFacts(10_324, 64, "tree_ah", 1_057_178, 0.987, 15321.4, [(0.9, 21000.0), (0.99, 12000.0)]),
        sizes={"student model": 91_000_000},
        revisions={"prepare": "abc1234", "student": "def5678"},
        stage_seconds={"prepare": 12.4, "assistant": 312.0, "student": 7500.0},
        config={"seed": 0, "student": {"optimizer": {"learning_rate": 5e-5}, "widths": (64, 128)}},
        versions={"jax": "0.10.2", "git": "abc1234"},
    )
