"""What validation says: findings, worst first, each with a count, examples and what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

SEVERITIES = ("error", "warning", "note")
EXAMPLES = 3  # of a finding, at most
_TEXT = 120  # characters of an example


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    `error`: a figure or a model of this data would be wrong. `warning`: quality suffers, or somebody should look.
    `note`: worth knowing. None of them stops a run: `data.max_bad_share` does.
    """

    check: str  # a few words that stay the same from run to run
    severity: str
    table: str
    count: int  # rows, items or keyphrases that it is about
    share: float  # of all that were looked at, 0–1
    message: str  # one sentence, with its figures
    do: str  # what to do
    examples: tuple[str, ...] = ()  # `file:line: …` or an id with its text

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r}: must be one of {', '.join(SEVERITIES)}")


def finding(
    check: str, severity: str, table: str, count: int, of: int, message: str, do: str, examples: Iterable[str] = ()
) -> Finding:
    """A finding about `count` of `of` things; examples are cut to a readable number and length."""
    shown = tuple(shorten(example) for example, _ in zip(examples, range(EXAMPLES)))
    return Finding(check, severity, table, int(count), count / of if of else 0.0, message, do, shown)


def shorten(text: str) -> str:
    """`text` on one line, cut at a readable length."""
    line = " ".join(text.split())
    return line if len(line) <= _TEXT else line[: _TEXT - 1] + "…"


def place(text: str) -> str:
    """`file:line`, cut at its beginning, since its end says where."""
    return text if len(text) <= _TEXT else "…" + text[1 - _TEXT :]


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Worst severity first, then the largest share, then by name."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), -f.share, f.table, f.check, f.message))


def lines(findings: Sequence[Finding], most: int = 12) -> list[str]:
    """The findings for a terminal: errors and warnings, a line each, and how many notes there are."""
    if not findings:
        return ["findings: none"]
    tally = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    out = ["findings: " + ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in tally.items() if count)]
    loud = [f for f in ordered(findings) if f.severity != "note"]
    for one in loud[:most]:
        out.append(f"  {one.severity}: {one.table}: {one.message} {one.do}")
        out += [f"    e.g. {one.examples[0]}"] if one.examples else []
    if len(loud) > most:
        out.append(f"  and {len(loud) - most} more, in validation.json")
    return out


def as_records(findings: Iterable[Finding]) -> list[dict]:
    """The findings as JSON holds them, worst first."""
    return [dataclasses.asdict(one) | {"examples": list(one.examples)} for one in ordered(findings)]


def from_records(records: Iterable[dict]) -> list[Finding]:
    """What `as_records` wrote."""
    return [Finding(**{**record, "examples": tuple(record["examples"])}) for record in records]
