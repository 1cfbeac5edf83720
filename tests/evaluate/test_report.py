"""The report's page: self-contained, escaped, valid, complete, repeatable, and honest about what is absent."""

from __future__ import annotations

import html
import subprocess

import pytest

from distill.evaluate import report_contents as contents
from distill.evaluate import report_format
from distill.evaluate.report import render_report
from tests.evaluate.report_page import ATTACK, Page, full


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
    drawn = render_report(contents.ReportData(name=name, metrics=metrics, curves={name: [(0, 1.0), (1, 0.5)]}))
    assert "<script" not in drawn
    Page(drawn)


def test_every_figure_and_every_missing_one_is_named(page, data):
    text = Page(page).text
    assert len(data.metrics) > 150
    for name, value in data.metrics.items():
        assert name in text
        assert report_format.number(value, 4) in text
    assert data.missing
    for name, reason in data.missing.items():
        assert f"{name}: {reason}" in text


def test_rendering_twice_gives_the_same_bytes(page):
    assert render_report(full()) == page


def test_every_plot_is_described_and_stands_in_a_table(page, data):
    tags = Page(page).tags
    drawings = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(drawings) == page.count("This figure in numbers") == 13
    assert all(one["role"] == "img" and one["aria-label"] for one in drawings)
    figures = data.quality_by_width["human/ndcg@10"][128]
    assert f"<td>128</td><td>{figures.estimate:.3f}</td><td>{figures.ci_low:.3f}</td>" in page


def test_is_valid_html(page):
    html5lib = pytest.importorskip("html5lib", reason="the validator html5lib is not installed")
    empty = render_report(contents.ReportData("run", {}))
    for one in (page, empty):
        html5lib.HTMLParser(strict=True).parse(one)
    with pytest.raises(html5lib.html5parser.ParseError):
        html5lib.HTMLParser(strict=True).parse(page.replace("</main>", "</p></main>"))


def test_characters_that_html_forbids_are_replaced_wherever_they_stand():
    html5lib = pytest.importorskip("html5lib", reason="the validator html5lib is not installed")
    text = "a\x00b\x0b\x1f\x7f\x85\ufdd0\ufffe\U0001ffff\tz"
    example = contents.Example(text, text, text, [contents.Keyphrase(text, 0.5)], [contents.Missed(text, text)])
    metrics = {f"human/ndcg@10/{model}{end}": 0.5 for model in ("student", text) for end in ("", "/ci_low", "/ci_high")}
    data = contents.ReportData(text, metrics, bad=[example], curves={text: [(0, 1.0), (1, 0.5)]}, config={"a": text})
    page = render_report(data)
    html5lib.HTMLParser(strict=True).parse(page)
    assert "a\ufffdb" + "\ufffd" * 7 + "\tz" in page


def test_every_table_scrolls_by_itself_where_the_screen_is_narrow(page):
    assert page.count("<table") == page.count('<div class="wide" role="group" aria-label=') > 15


def test_absent_parts_say_so_with_the_given_reason():
    empty = contents.ReportData(
        "run", {}, absent={"judge_figures": "The table judge_agreement is absent.", "curves": "Resumed."}
    )
    text = Page(render_report(empty)).text
    for line in (
        "The table judge_agreement is absent.",
        "Resumed.",
        "there is no verdict",
        "What prepare made of the data was not handed to this report.",
        "No shorter embedding was measured.",
        "The index was not measured.",
        "No paired difference was computed.",
    ):
        assert line in text


def test_best_servable_model_is_marked_and_the_assistant_never(page, data):
    values = {
        m: data.metrics[f"human/ndcg@10/{m}"] for m in ("bm25", "zero_shot", "assistant", "student", "student@64")
    }
    assert max(values, key=lambda model: values[model]) == "assistant"
    assert f'<span class="best">{values["student"]:.3f}</span>' in page
    assert f'<span class="best">{values["assistant"]:.3f}</span>' not in page


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
    assert report_format.number(value) == shown


@pytest.mark.parametrize("word", ["--only=('a','b')", "plain", "two words", "it's $HOME", 'say "x"', "--x=`y`'"])
def test_a_command_can_be_pasted_into_a_shell(word):
    command = f"printf %s {report_format.shell_word(word)}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == word
