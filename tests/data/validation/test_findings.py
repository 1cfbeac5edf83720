"""Findings: worst first, short, and the same after a round through JSON."""

from __future__ import annotations

import json

import pytest

from distill.data.validation import findings
from distill.data.validation.findings import Finding, finding


def some() -> list[Finding]:
    return [
        finding("a", "note", "items", 5, 10, "five.", "nothing.", ["x"]),
        finding("b", "warning", "clicks", 1, 10, "one.", "look.", ["line\none", "two", "three", "four"]),
        finding("c", "warning", "clicks", 9, 10, "nine.", "look."),
        finding("d", "error", "human", 0, 0, "none.", "stop.", ["y" * 500]),
    ]


def test_worst_first():
    assert [one.check for one in findings.ordered(some())] == ["d", "c", "b", "a"]


def test_examples_are_few_short_and_on_one_line():
    by_check = {one.check: one for one in some()}
    assert by_check["b"].examples == ("line one", "two", "three")
    assert len(by_check["d"].examples[0]) == 120 and by_check["d"].examples[0].endswith("…")
    assert by_check["d"].share == 0.0


def test_a_place_keeps_its_line():
    assert findings.place("clicks.tsv:12") == "clicks.tsv:12"
    cut = findings.place(f"s3://bucket/{'folder/' * 40}part-0.csv.gz:14547")
    assert len(cut) == 120 and cut.startswith("…") and cut.endswith("part-0.csv.gz:14547")
    assert finding("a", "note", "clicks", 1, 1, "m.", "d.", [cut]).examples == (cut,)


def test_lines_tell_errors_and_warnings_and_count_notes():
    lines = findings.lines(some(), most=2)
    assert lines[0] == "findings: 1 error, 2 warnings, 1 note"
    assert lines[1].startswith("  error: human: none. stop.")
    assert lines[-1] == "  and 1 more, in validation.json"
    assert findings.lines([]) == ["findings: none"]


def test_records_round_trip():
    records = json.loads(json.dumps(findings.as_records(some())))
    assert findings.from_records(records) == findings.ordered(some())


def test_an_unknown_severity_is_refused():
    with pytest.raises(ValueError, match="fatal"):
        finding("a", "fatal", "items", 1, 1, "m", "d")
