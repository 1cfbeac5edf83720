"""Rubric files are read strictly, and their hash follows what they mean."""

from __future__ import annotations

import importlib.resources
import json
import re

import pytest

from distill.judge import rubric as rubric_module
from distill.judge.rubric import GRADES, Answer, load_rubric

SHIPPED = sorted(
    file.name.removesuffix(".toml")
    for file in (importlib.resources.files("distill.judge") / "rubrics").iterdir()
    if file.name.endswith(".toml")
)

OWN = """
name = "own-v1"
instruction = "Does the listing suit the keyphrase?"

[[answers]]
text = "yes"
grade = 3
name = "suits"
meaning = "it does"

[[answers]]
text = "no"
grade = 0
name = "does not"
meaning = "it does not"

[[answers]]
text = "unsure"
name = "unknown"
meaning = "it cannot be told"

[[demonstrations]]
title = "Pot"
category = ["Kitchen", "Pots"]
attributes = { brand = "Acme" }
keyphrase = "pan"
answer = "no"
right = true
why = "a pot is no pan"

[[demonstrations]]
title = "Pot"
category = ["Kitchen", "Pots"]
attributes = { brand = "Acme" }
keyphrase = "pan"
answer = "yes"
right = false
why = "alike is not the same"
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text: str | bytes):
        path = tmp_path / "own.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_rubric(str(path))

    return write_and_load


def test_shipped_files_are_named_after_their_rubrics():
    assert {"graded-v1", "graded-v1-shots", "binary-v1"} <= set(SHIPPED)
    assert [load_rubric(name).name for name in SHIPPED] == SHIPPED
    assert len({load_rubric(name).hash for name in SHIPPED}) == len(SHIPPED)


def test_graded_uses_the_whole_scale():
    graded = load_rubric("graded-v1")
    assert [(answer.text, answer.grade, answer.name) for answer in graded.answers] == [
        ("3", 3, "exact"),
        ("2", 2, "substitute"),
        ("1", 1, "complement"),
        ("0", 0, "irrelevant"),
    ]
    assert sorted(answer.grade for answer in graded.answers if answer.grade is not None) == list(GRADES)
    assert graded.demonstrations == ()


def test_binary_uses_the_ends_of_the_scale_and_may_abstain():
    assert {answer.text: answer.grade for answer in load_rubric("binary-v1").answers} == {
        "yes": 3,
        "no": 0,
        "unsure": None,
    }


def test_the_variant_with_demonstrations_differs_in_them_alone():
    plain, shots = load_rubric("graded-v1"), load_rubric("graded-v1-shots")
    assert (shots.instruction, shots.answers) == (plain.instruction, plain.answers)
    by_pair: dict[tuple, list[bool]] = {}
    for one in shots.demonstrations:
        by_pair.setdefault((one.title, one.keyphrase), []).append(one.right)
    assert by_pair and all(sorted(verdicts) == [False, True] for verdicts in by_pair.values())  # contrasts
    assert {one.answer for one in shots.demonstrations if one.right} == {answer.text for answer in plain.answers}


def test_a_users_own_file(load):
    rubric = load(OWN)
    assert rubric.name == "own-v1" and rubric.answers[2] == Answer("unsure", None, "unknown", "it cannot be told")
    first, second = rubric.demonstrations
    assert (first.title, first.category, first.attributes) == ("Pot", ("Kitchen", "Pots"), {"brand": "Acme"})
    assert (first.answer, first.right, second.answer, second.right) == ("no", True, "yes", False)
    assert hash(rubric) == hash(load(OWN))  # usable as a key


def test_the_hash_is_that_of_the_meaning(load):
    rewritten = "# a comment\n" + OWN.replace('"yes"', "'yes'").replace("\n\n", "\n\n# and another\n\n")
    rewritten = rewritten.replace('text = "no"\ngrade = 0\n', 'grade = 0\ntext = """no"""\n')
    assert rewritten != OWN and load(rewritten).hash == load(OWN).hash
    assert re.fullmatch("[0-9a-f]{64}", load(OWN).hash)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("own-v1", "own-v2"),
        ("Does the listing", "Would the listing"),
        ('meaning = "it does"', 'meaning = "it does."'),
        ('name = "unknown"', 'name = "unclear"'),
        ("grade = 0", "grade = 1"),
        ('text = "unsure"', 'text = "unclear"'),
        ('"Pots"]', '"Pans"]'),
        ('brand = "Acme"', 'maker = "Acme"'),
        ("right = true", "right = false"),
        ("a pot is no pan", "a pot isn't a pan"),
    ],
)
def test_any_change_of_meaning_changes_the_hash(load, old, new):
    assert old in OWN
    assert load(OWN.replace(old, new)).hash != load(OWN).hash


def test_a_change_of_the_prompts_words_changes_the_hash(load, monkeypatch):
    before = load(OWN).hash
    monkeypatch.setattr(rubric_module, "PROMPT_VERSION", rubric_module.PROMPT_VERSION + 1)
    assert load(OWN).hash != before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "own-v1"', 'name = "own"', r"name = 'own' must be .* with a version"),
        ('name = "own-v1"', "", "name is missing"),
        ('name = "own-v1"', "name = 1", "name = 1 must be a string"),
        ('name = "own-v1"', 'name = "own-v1"\nversion = 1', "version = 1 must be left out"),
        ("Does the listing suit the keyphrase?", "  ", "instruction = '  ' must be some text"),
        ("grade = 3", "grade = 4", r"answers\[0\].grade = 4 must be 0, 1, 2 or 3"),
        ("grade = 3", "grade = true", r"answers\[0\].grade = True must be a whole number"),
        ("grade = 3", "grade = 3.0", r"answers\[0\].grade = 3.0 must be a whole number"),
        ("grade = 3", "points = 3", r"answers\[0\].points = 3 must be left out"),
        ("grade = 3", "grade = 0", "at least two grades"),
        ("grade = 3\n", "", "at least two grades"),
        ('text = "no"', 'text = "yes"', r"answers\[1\].text = 'yes' must be .* first character .* 'yes'"),
        ('text = "no"', 'text = "Yellow"', r"answers\[1\].text = 'Yellow' must be .* first character"),
        ('text = "no"', 'text = ""', r"answers\[1\].text = '' must be"),
        ('text = "no"', 'text = " no"', r"answers\[1\].text = ' no' must be"),
        ('text = "no"', 'text = "no."', r"answers\[1\].text = 'no.' must be"),
        ('text = "no"', 'text = "<no>"', r"answers\[1\].text = '<no>' must be"),
        ('text = "no"', 'text = "no, it certainly is not"', r"answers\[1\].text = 'no, it certainly is not' must be"),
        ('meaning = "it does not"', 'meaning = "it\\ndoes not"', r"answers\[1\].meaning = .* must be one line"),
        ('name = "does not"', 'name = " "', r"answers\[1\].name = ' ' must be some text"),
        ('answer = "yes"', 'answer = "maybe"', r"demonstrations\[1\].answer = 'maybe' must be one of yes, no, unsure"),
        ('answer = "yes"', 'answer = "no"', r"demonstrations\[1\].answer = 'no' must be .* not show yet"),
        ("right = false", "right = true", r"demonstrations\[1\].right = True must be false"),
        ("right = false", 'right = "no"', r"demonstrations\[1\].right = 'no' must be true or false"),
        ("right = false\n", "", r"demonstrations\[1\].right is missing"),
        ('"Kitchen", "Pots"]', '"Kitchen", 2]', r"demonstrations\[0\].category\[1\] = 2 must be a string"),
        ('brand = "Acme"', "brand = 1", r"demonstrations\[0\].attributes.brand = 1 must be a string"),
        ('title = "Pot"', 'title = ""', r"demonstrations\[0\].title = '' must be some text"),
        ("[[demonstrations]]", "[[examples]]", "examples = .* must be left out"),
        ("grade = 3", "grade = ", "TOML file in UTF-8"),
    ],
)
def test_refuses(load, tmp_path, old, new, message):
    assert old in OWN
    with pytest.raises(ValueError, match=message) as caught:
        load(OWN.replace(old, new))
    assert str(tmp_path / "own.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'name = "\xff"', "UTF-8"),
        ('name = "own-v1"\ninstruction = "x"\nanswers = []', "at least two grades"),
        ('name = "own-v1"\ninstruction = "x"\nanswers = [1, 2]', r"answers\[0\] = 1 must be a table"),
        ('name = "own-v1"\ninstruction = "x"\nanswers = "yes"', "answers = 'yes' must be an array"),
    ],
)
def test_refuses_files_of_another_shape(load, text, message):
    with pytest.raises(ValueError, match=message):
        load(text)


def test_two_answers_cannot_abstain(load):
    with pytest.raises(ValueError, match="at most one answer without a grade"):
        load(OWN + '[[answers]]\ntext = "pass"\nname = "passed"\nmeaning = "the judge passes"\n')


@pytest.mark.parametrize("name", ["graded-v9", "missing.toml", "../rubric", ""])
def test_an_unknown_name_is_told_the_known_ones(name):
    with pytest.raises(FileNotFoundError, match=r"graded-v1.*binary-v1|binary-v1.*graded-v1") as caught:
        load_rubric(name)
    assert json.dumps(name).strip('"') in str(caught.value)
