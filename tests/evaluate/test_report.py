"""The report: self-contained, escaped, complete, repeatable, and honest about what is absent."""

from __future__ import annotations

import html
import html.parser

import numpy as np
import pytest

from distill.evaluate import metric_table, report
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
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def full() -> report.ReportData:
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
        "protocol/student/kept": 4211.0,
    }.items():
        table.add_scalar(name, value)
    probability = rng.random(800)
    phrases = [
        report.Keyphrase("blue ceramic mug", 0.97, ("student", "bm25")),
        report.Keyphrase("<b>coffee</b> cup", 0.91, ("student",)),
        report.Keyphrase("tea set", 0.31),
    ]
    titles = [ATTACK, "Stainless steel travel tumbler 20 oz with lid, double wall, for hot and cold drinks, navy blue"]
    return report.ReportData(
        name="esci_ads",
        metrics=table.as_dict(),
        missing=table.missing,
        encoder="all-MiniLM-L6-v2",
        tasks=("distillation from the assistant (412,300 scored pairs)", "clicks (10,963 clicked pairs)"),
        judge="a large language model under rubric graded-v1",
        simulated_clicks=True,
        counts={"training listings": 5740, "held-out listings": 1024, "keyphrases": 10324, "judgements": 43054},
        quarantined={"clicks: clicks > impressions": 12},
        leaks_removed={"clicks": 41, "search_relevance": 1203},
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
        good=[report.Example(title, "Kitchen", f"B{n}", phrases) for n, title in enumerate(titles)],
        bad=[
            report.Example("Unbranded part, model unknown", "", "B9", [report.Keyphrase("car", 0.05)]),
            report.Example("?"),
        ],
        stage_seconds={"prepare": 12.4, "assistant": 312.0, "student": 7500.0},
        config={"seed": 0, "student": {"optimizer": {"learning_rate": 5e-5}, "widths": (64, 128)}},
        versions={"jax": "0.10.2", "git": "abc1234"},
    )


@pytest.fixture(scope="module")
def data():
    return full()


@pytest.fixture(scope="module")
def page(data):
    return report.render_report(data)


def test_is_well_formed_without_scripts_or_outside_references(page):
    parsed = Page(page)
    assert not parsed.open
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "xlink:href", "action", "data"}:
                assert (value or "").startswith("#"), (tag, value)
    assert "@import" not in page and "url(http" not in page


def test_ids_are_unique_and_every_reference_has_its_target(page):
    tags = Page(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a[n] or "").removeprefix("#") for _, a in tags for n in ("href", "xlink:href") if n in a}
    assert targets <= set(ids)


def test_sellers_text_is_escaped(page):
    assert "<script" not in page and "<b>coffee" not in page
    assert html.escape("<script>alert(1)</script>") in page
    assert ATTACK in Page(page).text


def test_hostile_names_reach_plots_and_tables_as_text():
    name = '</text><script>alert(1)</script>$a$ id="x'
    metrics = {f"human/ndcg@10/{model}{end}": 0.5 for model in ("student", name) for end in ("", "/ci_low", "/ci_high")}
    drawn = report.render_report(report.ReportData(name=name, metrics=metrics, curves={name: [(0, 1.0), (1, 0.5)]}))
    assert "<script" not in drawn
    Page(drawn)


def test_every_figure_and_every_missing_one_is_named(page, data):
    text = Page(page).text
    assert len(data.metrics) > 150
    for name, value in data.metrics.items():
        assert name in text
        assert report._number(value, 4) in text
    assert data.missing
    for name, reason in data.missing.items():
        assert f"{name}: {reason}" in text


def test_rendering_twice_gives_the_same_bytes(page):
    assert report.render_report(full()) == page


def test_verdict_states_figures_intervals_and_differences(page, data):
    text = " ".join(Page(page).text.partition("The data")[0].split())
    m = data.metrics
    low, high = (m[f"human/ndcg@10/student/ci_{end}"] for end in ("low", "high"))
    assert f"the student reaches nDCG@10 {m['human/ndcg@10/student']:.3f} [{low:.3f}, {high:.3f}]" in text
    change = m["diff/human/ndcg@10/student-bm25"]
    assert f"better than bm25 with {m['human/ndcg@10/bm25']:.3f} (+{change:.3f}" in text
    assert "not clearly different" in text  # recall over random lists
    assert "difference not tested" in text  # truth/recall@20 has no paired difference
    assert "The clicks are simulated" in text


def test_real_clicks_and_labels_are_not_called_simulated():
    text = Page(report.render_report(report.ReportData("run", {}))).text
    assert "are simulated" not in text


def test_simulated_human_labels_are_called_so_wherever_they_judge():
    metrics = {f"human/ndcg@10/student{end}": 0.5 for end in ("", "/ci_low", "/ci_high")}
    text = Page(report.render_report(report.ReportData("run", metrics, simulated_humans=True))).text
    assert "The human labels are simulated" in text
    assert "Against human labels (simulated)" in text
    assert "Referee: human labels" not in text


def test_a_worse_student_is_called_worse():
    metrics = {
        f"human/ndcg@10/{model}{end}": 0.5 for model in ("student", "bm25") for end in ("", "/ci_low", "/ci_high")
    }
    name = "diff/human/ndcg@10/student-bm25"
    metrics |= {name: -0.1, f"{name}/ci_low": -0.2, f"{name}/ci_high": -0.01, f"{name}/p": 0.03}
    text = " ".join(Page(report.render_report(report.ReportData("run", metrics))).text.split())
    assert "worse than bm25 with 0.500 (−0.100 [−0.200, −0.010])" in text


def test_absent_parts_say_so_with_the_given_reason():
    empty = report.ReportData(
        "run", {}, absent={"judge_figures": "The table judge_agreement is absent.", "curves": "Resumed."}
    )
    text = Page(report.render_report(empty)).text
    for line in (
        "The table judge_agreement is absent.",
        "Resumed.",
        "there is no verdict",
        "The quarantine was not handed to this report.",
        "No shorter embedding was measured.",
        "The index was not measured.",
        "No paired difference was computed.",
    ):
        assert line in text
    assert "No row was quarantined." in Page(report.render_report(report.ReportData("run", {}, quarantined={}))).text


def test_best_servable_model_is_marked_and_the_assistant_never(page, data):
    values = {
        m: data.metrics[f"human/ndcg@10/{m}"] for m in ("bm25", "zero_shot", "assistant", "student", "student@64")
    }
    assert max(values, key=lambda model: values[model]) == "assistant"
    assert f'<span class="best">{values["student"]:.3f}</span>' in page
    assert f'<span class="best">{values["assistant"]:.3f}</span>' not in page


def test_an_unreached_precision_is_admitted():
    data = report.ReportData("run", {}, relevance_threshold=0.6, precision_wanted=0.8, precision_reached=False)
    text = Page(report.render_report(data)).text
    assert "which no threshold reached" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.67449, "0.674"),
        (-0.02, "−0.020"),
        (15321.4, "15,321"),
        (4211.0, "4,211"),
        (float("nan"), "–"),
        (0.0, "0.000"),
    ],
)
def test_numbers_are_shown(value, shown):
    assert report._number(value) == shown
