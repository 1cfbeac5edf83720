"""What a judge is asked: versioned TOML files, whose hash is part of a judgement's identity."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import re
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from distill.judge.sanitising import sanitise

# Part of every rubric's hash; raise it when the words of `prompt` or what `sanitising` does change.
PROMPT_VERSION = 1

GRADES = (0, 1, 2, 3)  # irrelevant, complement, substitute, exact

_NAME = re.compile(r"[a-z0-9_]+-v[0-9]+(-[a-z0-9_]+)*")
_LONGEST_ANSWER = 20  # characters


@dataclasses.dataclass(frozen=True)
class Answer:
    """One of the answers that a judge may give."""

    text: str  # what it writes
    grade: int | None  # 0–3, or None: it abstains
    name: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """An answered pair that the judge is shown, right or wrong, and why it is so."""

    title: str
    category: tuple[str, ...]
    attributes: Mapping[str, str] = dataclasses.field(hash=False)
    keyphrase: str
    answer: str  # the text of one of the rubric's answers
    right: bool
    why: str


@dataclasses.dataclass(frozen=True)
class Rubric:
    """A judge's task; no two answers begin with the same character, whatever its case."""

    name: str
    instruction: str
    answers: tuple[Answer, ...]
    demonstrations: tuple[Demonstration, ...]
    hash: str  # sha256 of all the above and of the prompt's version


def load_rubric(name_or_path: str) -> Rubric:
    """Reads a rubric of this package by its name, or a user's own file by its path, which ends in `.toml`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: naming the file, the field and its value, for the first entry that cannot be used.
    """
    folder = importlib.resources.files("distill.judge") / "rubrics"
    file: Traversable = Path(name_or_path) if name_or_path.endswith(".toml") else folder / f"{name_or_path}.toml"
    if not file.is_file():
        known = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
        raise FileNotFoundError(
            f"rubric {name_or_path!r}: there is no such file; give the path of a .toml or one of {', '.join(known)}"
        )
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise ValueError(f"{file}: {error}; a rubric is a TOML file in UTF-8") from error
    return _Reader(str(file)).rubric(table)


class _Reader:
    """Turns a parsed file into a rubric, or says what is wrong with it."""

    def __init__(self, file: str):
        self._file = file

    def rubric(self, table: dict[str, Any]) -> Rubric:
        kinds = {"name": str, "instruction": str, "answers": list, "demonstrations": list}
        table = self._table("", {"demonstrations": []} | table, kinds)
        if not _NAME.fullmatch(table["name"]):
            raise self._error("name", table["name"], "lower-case words joined by -, with a version: my_rubric-v1")
        answers = tuple(self._answer(f"answers[{n}]", one) for n, one in enumerate(table["answers"]))
        self._check_together(answers)
        demonstrations = tuple(
            self._demonstration(f"demonstrations[{n}]", one, answers) for n, one in enumerate(table["demonstrations"])
        )
        self._check_contrasts(demonstrations)
        rubric = Rubric(table["name"], self._filled("instruction", table["instruction"]), answers, demonstrations, "")
        meaning = json.dumps([PROMPT_VERSION, dataclasses.asdict(rubric)], sort_keys=True)
        return dataclasses.replace(rubric, hash=hashlib.sha256(meaning.encode()).hexdigest())

    def _answer(self, where: str, table: Any) -> Answer:
        kinds = {"text": str, "grade": int, "name": str, "meaning": str}
        table = self._table(where, {"grade": None} | table if isinstance(table, dict) else table, kinds)
        text, grade = table["text"], table["grade"]
        if not text or sanitise(text, _LONGEST_ANSWER).text != text or text.endswith("."):
            raise self._error(
                f"{where}.text",
                text,
                f"1–{_LONGEST_ANSWER} plain characters: no bracket, no quote, no blank around, no full stop at the end",
            )
        if grade is not None and grade not in GRADES:
            raise self._error(f"{where}.grade", grade, "0, 1, 2 or 3; leave it out for the answer that abstains")
        return Answer(
            text,
            grade,
            self._line(f"{where}.name", table["name"]),
            self._line(f"{where}.meaning", table["meaning"]),
        )

    def _check_together(self, answers: tuple[Answer, ...]) -> None:
        first: dict[str, str] = {}
        for n, answer in enumerate(answers):
            start = answer.text.casefold()[0]
            if start in first:
                raise self._error(
                    f"answers[{n}].text",
                    answer.text,
                    f"a text whose first character differs from that of {first[start]!r}, so that one token tells them "
                    "apart",
                )
            first[start] = answer.text
        if len({answer.grade for answer in answers} - {None}) < 2:
            raise self._error("answers", [answer.text for answer in answers], "answers of at least two grades")
        abstaining = [answer.text for answer in answers if answer.grade is None]
        if len(abstaining) > 1:
            raise self._error("answers", abstaining, "at most one answer without a grade")

    def _demonstration(self, where: str, table: Any, answers: tuple[Answer, ...]) -> Demonstration:
        kinds = {
            "title": str,
            "category": list,
            "attributes": dict,
            "keyphrase": str,
            "answer": str,
            "right": bool,
            "why": str,
        }
        optional = {"category": [], "attributes": {}}
        table = self._table(where, optional | table if isinstance(table, dict) else table, kinds)
        for n, level in enumerate(table["category"]):
            self._kind(f"{where}.category[{n}]", level, str)
        for name, value in table["attributes"].items():
            self._kind(f"{where}.attributes.{name}", value, str)
        known = [answer.text for answer in answers]
        if table["answer"] not in known:
            raise self._error(f"{where}.answer", table["answer"], f"one of {', '.join(known)}")
        return Demonstration(
            self._filled(f"{where}.title", table["title"]),
            tuple(table["category"]),
            table["attributes"],
            self._filled(f"{where}.keyphrase", table["keyphrase"]),
            table["answer"],
            table["right"],
            self._line(f"{where}.why", table["why"]),
        )

    def _check_contrasts(self, demonstrations: tuple[Demonstration, ...]) -> None:
        """A pair shows an answer once, and one right answer at most."""
        seen: set[tuple[str, str]] = set()
        for n, one in enumerate(demonstrations):
            pair = json.dumps([one.title, one.category, dict(one.attributes), one.keyphrase], sort_keys=True)
            if (pair, one.answer) in seen:
                raise self._error(
                    f"demonstrations[{n}].answer", one.answer, "an answer that this pair does not show yet"
                )
            if one.right and (pair, "") in seen:
                raise self._error(
                    f"demonstrations[{n}].right", one.right, "false: this pair has a right answer already"
                )
            seen |= {(pair, one.answer), (pair, "" if one.right else one.answer)}

    def _table(self, where: str, table: Any, kinds: dict[str, type]) -> dict[str, Any]:
        self._kind(where, table, dict)
        prefix = f"{where}." if where else ""
        for key, value in table.items():
            if key not in kinds:
                raise self._error(prefix + key, value, f"left out: the known keys are {', '.join(kinds)}")
            if value is not None:  # TOML has no null: only an optional entry that is absent
                self._kind(prefix + key, value, kinds[key])
        for key in kinds:
            if key not in table:
                raise ValueError(f"{self._file}: {prefix}{key} is missing; add it")
        return table

    def _kind(self, where: str, value: Any, kind: type) -> None:
        words = {str: "a string", int: "a whole number", bool: "true or false", list: "an array", dict: "a table"}
        if type(value) is not kind:  # a bool is no whole number here
            raise self._error(where, value, words[kind])

    def _filled(self, where: str, text: str) -> str:
        if not text.strip():
            raise self._error(where, text, "some text")
        return text.strip()

    def _line(self, where: str, text: str) -> str:
        if len(self._filled(where, text).splitlines()) > 1:
            raise self._error(where, text, "one line; in TOML a \\ at the end of a line joins it to the next")
        return text.strip()

    def _error(self, where: str, value: Any, wanted: str) -> ValueError:
        return ValueError(f"{self._file}: {where} = {value!r} must be {wanted}")
