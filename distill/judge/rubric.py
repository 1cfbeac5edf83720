"""What a judge is asked: versioned text files, whose hash is part of a judgement's identity."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources

GRADES = (0, 1, 2, 3)  # irrelevant, complement, substitute, exact


@dataclasses.dataclass(frozen=True)
class Rubric:
    name: str
    text: str

    @property
    def hash(self) -> str:
        """sha256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_rubric(name: str) -> Rubric:
    """The rubric file of that name in this package; ValueError names those that exist."""
    folder = importlib.resources.files("distill.judge") / "rubrics"
    file = folder / f"{name}.md"
    if not file.is_file():
        known = sorted(entry.name.removesuffix(".md") for entry in folder.iterdir())
        raise ValueError(f"rubric {name!r}: there is no such file; known are {', '.join(known)}")
    return Rubric(name, file.read_text(encoding="utf-8"))
