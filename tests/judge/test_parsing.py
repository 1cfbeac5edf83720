"""A judge's answer is exactly what was asked for, or no grade."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.judge.parsing import Parsed, parse_choice, parse_choice_logprobs, parse_list
from distill.judge.rubric import load_rubric
from tests.judge.injections import MANIPULATED_CHOICES, MANIPULATED_LISTS

GRADED, BINARY = load_rubric("graded-v1"), load_rubric("binary-v1")
UNPARSABLE = Parsed("unparsable", None, None)
IDS = ("bcdf", "ghjk")


def logs(**shares: float) -> dict[str, float]:
    return {token: math.log(share) for token, share in shares.items()}


@pytest.mark.parametrize("text", ["2", " 2\n", "2.", "\t2. "])
def test_a_choice(text):
    assert parse_choice(GRADED, text) == Parsed("graded", 2, None)


def test_a_choice_in_any_case_of_letters():
    assert parse_choice(BINARY, "Yes.") == Parsed("graded", 3, None)
    assert parse_choice(BINARY, "NO") == Parsed("graded", 0, None)
    assert parse_choice(BINARY, "Unsure") == Parsed("abstained", None, None)


@pytest.mark.parametrize("name", MANIPULATED_CHOICES)
def test_no_other_choice_becomes_a_grade(name):
    assert parse_choice(GRADED, MANIPULATED_CHOICES[name]) == UNPARSABLE


def test_logprobs_by_hand():
    parsed = parse_choice_logprobs(GRADED, {"3": math.log(0.5), "2": math.log(0.25), "The": math.log(0.25)})
    # (3 · .5 + 2 · .25) / .75
    assert (parsed.status, parsed.grade, parsed.raw_score) == ("graded", 3, pytest.approx(8 / 3))


def test_how_much_the_answers_must_weigh_is_a_setting():
    rubric = load_rubric("graded-v1")
    logprobs = {"The": math.log(0.9), "3": math.log(0.06), "2": math.log(0.02)}
    assert parse_choice_logprobs(rubric, logprobs).status == "unparsable"
    parsed = parse_choice_logprobs(rubric, logprobs, least_mass=0.05)
    assert parsed.grade == 3 and parsed.raw_score == pytest.approx(2.75)
    assert parse_choice_logprobs(rubric, {"The": 0.0}, least_mass=0.0).status == "unparsable"


@pytest.mark.parametrize("logprob", [-0.0011, -4e-05, -1e-9, 0.0])
def test_an_expected_grade_is_never_beyond_the_highest(logprob):
    # Unbounded, the first two give 3.0000000000000004, which no store takes.
    parsed = parse_choice_logprobs(load_rubric("graded-v1"), {"3": logprob})
    assert parsed.grade == 3 and parsed.raw_score is not None and 2.999 < parsed.raw_score <= 3


def test_logprobs_of_one_answer_add_up_over_its_tokens():
    tokens = {"0": 0.4, "3": 0.2, " 3": 0.15, "▁3": 0.05, "Ġ3": 0.1}
    parsed = parse_choice_logprobs(GRADED, {token: math.log(share) for token, share in tokens.items()})
    assert parsed.grade == 3 and parsed.raw_score == pytest.approx(3 * 0.5 / 0.9)


def test_logprobs_of_the_beginning_of_an_answer():
    parsed = parse_choice_logprobs(BINARY, logs(Yes=0.2, ye=0.2, uns=0.1, no=0.3, note=0.1))
    # `note` begins no answer; `uns` begins the abstention, which has no grade.
    assert (parsed.status, parsed.grade, parsed.raw_score) == ("graded", 3, pytest.approx(3 * 0.4 / 0.7))
    assert parse_choice_logprobs(BINARY, logs(unsure=0.5, yes=0.3)) == Parsed("abstained", None, None)


def test_impossible_tokens_count_nothing():
    parsed = parse_choice_logprobs(GRADED, {"3": 0.0, "2": -math.inf, "": -1e9})
    assert parsed == Parsed("graded", 3, 3.0)


@pytest.mark.parametrize(
    "logprobs",
    [
        {},
        {"The": 0.0},
        {"": 0.0, " ": 0.0},
        {"30": 0.0},
        {"3": math.log(0.49), "I": math.log(0.51)},
        {"3": math.nan},
        {"3": 0.5},
        {"3": math.inf},
        {"3": -0.1, "2": -0.1},  # more than the whole
        {"3": 0.0, "2": math.nan},
        {"3": -0.1, "The": 5.0},
        {"3": 1e9},
        {"3": math.log(0.4), " ": math.log(0.1)},
        {"３": 0.0},
        {"\n3": 0.0},
    ],
)
def test_doubtful_logprobs_are_no_grade(logprobs):
    assert parse_choice_logprobs(GRADED, logprobs) == UNPARSABLE


@given(st.lists(st.floats(0.001, 1), min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
def test_the_expected_grade_is_the_mean_of_the_scale(shares):
    total = sum(shares)
    parsed = parse_choice_logprobs(GRADED, {str(n): math.log(share / total) for n, share in enumerate(shares)})
    assert parsed.raw_score == pytest.approx(sum(n * share / total for n, share in enumerate(shares)))
    assert parsed.grade is not None and shares[parsed.grade] == pytest.approx(max(shares))


@pytest.mark.parametrize(
    "text",
    [
        '{"bcdf": "3", "ghjk": "0"}',
        '\n{"ghjk":"0","bcdf":"3"}\n',
        '```json\n{"bcdf": "3",\n "ghjk": "0"}\n```',
        '```\n{"bcdf": "3", "ghjk": "0"}\n```\n',
        json.dumps({"bcdf": "3", "ghjk": "0"}, indent=8),
    ],
)
def test_a_list(text):
    assert parse_list(GRADED, IDS, text) == [Parsed("graded", 3, None), Parsed("graded", 0, None)]


def test_a_list_in_the_order_of_its_ids():
    text = '{"bcdf": "no", "ghjk": "unsure"}'
    assert parse_list(BINARY, IDS, text) == [Parsed("graded", 0), Parsed("abstained")]
    assert parse_list(BINARY, IDS[::-1], text) == [Parsed("abstained"), Parsed("graded", 0)]


@pytest.mark.parametrize(
    "answer", ['"4"', '""', '" 3"', '"3."', '"exact"', "3", "3.0", "true", "null", '["3"]', '{"a": "3"}']
)
def test_a_wrong_answer_spoils_its_own_pair(answer):
    assert parse_list(GRADED, IDS, f'{{"bcdf": {answer}, "ghjk": "1"}}') == [UNPARSABLE, Parsed("graded", 1)]


def test_a_missing_id_spoils_its_own_pair():
    assert parse_list(GRADED, IDS, '{"ghjk": "1"}') == [UNPARSABLE, Parsed("graded", 1)]
    assert parse_list(GRADED, IDS, "{}") == [UNPARSABLE, UNPARSABLE]


@pytest.mark.parametrize("name", MANIPULATED_LISTS)
def test_a_manipulated_list_is_no_grade(name):
    assert parse_list(GRADED, IDS, MANIPULATED_LISTS[name]) == [UNPARSABLE, UNPARSABLE]


def test_long_honest_lists_pass():
    ids = [f"i{n:03}" for n in range(200)]
    text = json.dumps(dict.fromkeys(ids, "unsure"), indent=4)
    assert parse_list(BINARY, ids, text) == [Parsed("abstained")] * 200


def test_deep_or_huge_json_within_the_length_of_a_long_list_is_no_grade():
    ids = [f"i{n:03}" for n in range(200)]
    for value in ("[" * 12_000, "[" * 6_000 + "]" * 6_000, '{"a":' * 2_000, "9" * 12_000, "1e9999", '"' + "3" * 12_000):
        assert parse_list(BINARY, ids, f'{{"i000": {value}}}') == [UNPARSABLE] * 200


@given(st.text(st.one_of(st.characters(), st.sampled_from('{}[]",:0123 bcdfghjk`\n')), max_size=120))
@settings(max_examples=300, deadline=None)
def test_no_text_crashes_or_brings_a_grade_by_chance(text):
    for parsed in (*parse_list(GRADED, IDS, text), parse_choice(GRADED, text)):
        assert (parsed.grade is None) == (parsed.status != "graded")
        assert parsed.status == "unparsable" or any(digit in text for digit in "0123")
