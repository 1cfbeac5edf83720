"""The requests of `bench_serve.py`, and what a right answer to each is."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distill.export.loading import LoadedModel
from distill.serving.limits import Limits

# How far a row may move with the other rows of its call: other shapes, other rounding.
TOLERANCE = 2e-5
JSON = {"Content-Type": "application/json"}
WORDS = [
    *("garden", "hose", "brass", "fitting", "wireless", "headphones", "mug", "tea", "large", "50", "ft", "[SEP]"),
    *("İstanbul", "中文", "Ünïcode", "<b>bold</b>", "naïve", "👩\u200d🚀", "case", "for", "iphone", "15"),
]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
      status: expected.
      reason: expected in the error, where it is refused.
      check: of a valid answer's JSON: why it is wrong, or "".
    """

    kind: str
    path: str
    body: Any = b""
    status: int = 200
    reason: str = ""
    check: Callable[[Any], str] | None = None
    method: str = "POST"
    headers: Mapping[str, str] = dataclasses.field(default_factory=lambda: JSON)


@dataclasses.dataclass(frozen=True)
class Answer:
    """Status 0 is none at all."""

    status: int
    body: bytes
    seconds: float


@dataclasses.dataclass
class _Drawn:
    """A valid request before its answer is known."""

    model: LoadedModel
    columns: dict[str, list[str]]
    column: bool
    coded: bool
    bare: bool
    named: bool
    explains: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, model: LoadedModel, limits: Limits, at: int) -> _Drawn:
        rows = int(rng.choice([1, 1, 2, min(5, limits.batch), limits.batch]))
        columns = {name: [_text(rng) for _ in range(rows)] for name in model.inputs}
        return cls(model, columns, at % 2 == 1, at % 5 == 0, len(model.inputs) == 1 and at % 4 < 2, at % 3 == 0)

    def asked(self, expected: Mapping[str, np.ndarray]) -> Asked:
        coded: dict[str, list[Any]] = {**self.columns}
        if self.coded:
            coded = {
                name: [{"b64": base64.b64encode(text.encode()).decode()} for text in texts]
                for name, texts in coded.items()
            }
        (first, *_) = coded.values()
        rows = [dict(zip(coded, row)) for row in zip(*coded.values())]
        value: dict[str, Any]
        value = (
            {"inputs": first if self.bare else coded} if self.column else {"instances": first if self.bare else rows}
        )
        if self.named:
            value["signature_name"] = "serving_default"
        kind = f"{self.model.name}, {'inputs' if self.column else 'instances'}"
        path = f"/v1/models/{self.model.name}:predict"
        return Asked(kind, path, _json(value), check=lambda got: _differs(got, expected, self.column))


class Mix:
    """Half of the requests are valid; the others are each of the ways to be refused in turn."""

    def __init__(self, models: Mapping[str, LoadedModel], limits: Limits, valid: int = 60, seed: int = 0):
        """Answers `valid` requests by direct calls beforehand, so that checking costs no time while measuring."""
        rng = np.random.default_rng(seed)
        self._models = dict(models)
        explained = [name for name in models if name.startswith("recommender")][:1]
        kinds = list(models) * 7 + explained * 4
        drawn = [_Drawn.draw(rng, models[kinds[at % len(kinds)]], limits, at) for at in range(valid)]
        for at, one in enumerate(drawn):
            one.explains = at % len(kinds) >= 7 * len(models)
        self._valid = self._answered(drawn)
        self._refused = self._make_refused(limits)

    def requests(self, seed: int, count: int) -> Iterator[Asked]:
        """A client's, always the same for a seed."""
        rng = np.random.default_rng(seed)
        for at in range(count):
            pool = self._valid if rng.random() < 0.5 else self._refused
            yield pool[(at + rng.integers(len(pool))) % len(pool)]

    def wrong(self, asked: Asked, answer: Answer) -> str:
        """Why the answer is not the right one; "" where it is."""
        if answer.status != asked.status:
            return f"status {answer.status}, not {asked.status}: {answer.body[:200]!r}"
        try:
            value = json.loads(answer.body)
        except ValueError:
            return f"not JSON: {answer.body[:200]!r}"
        if asked.check:
            return asked.check(value)
        error = value.get("error", "")
        return "" if asked.reason in error else f"reason {error!r} does not say {asked.reason!r}"

    def _answered(self, drawn: Sequence[_Drawn]) -> list[Asked]:
        """One call a model for all rows: other shapes would only be compiled for this."""
        found: list[Asked] = []
        for model in self._models.values():
            mine = [one for one in drawn if one.model is model]
            outputs = _call(model, [one.columns for one in mine])
            explained = [(one, out) for one, out in zip(mine, outputs) if one.explains]
            found += [one.asked(out) for one, out in zip(mine, outputs) if not one.explains]
            if explained:
                found += self._explained(explained)
        return found

    def _explained(self, drawn: Sequence[tuple[_Drawn, Mapping[str, np.ndarray]]]) -> list[Asked]:
        wanted = [
            {k.decode(): float(s) for k, s in zip(out["keyphrase"][0], out["score"][0]) if np.isfinite(s)}
            for _, out in drawn
        ]
        relevance: list[dict[str, float]] = [{} for _ in drawn]
        if "assistant" in self._models:
            pairs = [
                {"keyphrase": list(scores)} | {name: texts[:1] * len(scores) for name, texts in one.columns.items()}
                for (one, _), scores in zip(drawn, wanted)
            ]
            answers = _call(self._models["assistant"], pairs)
            relevance = [dict(zip(scores, out["relevance"].tolist())) for scores, out in zip(wanted, answers)]

        def checked(wanted: Mapping[str, float], relevance: Mapping[str, float]) -> Callable[[Any], str]:
            def check(got: Any) -> str:
                for row in got["keyphrases"]:
                    keyphrase = row["keyphrase"]
                    if keyphrase in relevance and abs(row["relevance"] - relevance[keyphrase]) > TOLERANCE:
                        return f"relevance of {keyphrase!r} is {row['relevance']}, not {relevance[keyphrase]}"
                return _same_scores({row["keyphrase"]: row["cosine"] for row in got["keyphrases"]}, wanted)

            return check

        return [
            Asked(
                "explain",
                "/v1/explain",
                _json({name: texts[0] for name, texts in one.columns.items()}),
                check=checked(*expected),
            )
            for (one, _), *expected in zip(drawn, wanted, relevance)
        ]

    def _make_refused(self, limits: Limits) -> list[Asked]:
        name = "assistant" if "assistant" in self._models else next(iter(self._models))
        model = self._models[name]
        predict = f"/v1/models/{name}:predict"
        last = model.inputs[-1]
        row = dict.fromkeys(model.inputs, "x")

        def malformed(reason: str, body: Any, **changed: Any) -> Asked:
            raw = body if isinstance(body, bytes) else _json(body)
            return Asked(
                **({"kind": "malformed", "path": predict, "body": raw, "status": 400, "reason": reason} | changed)
            )

        def oversized(reason: str, body: Any, **changed: Any) -> Asked:
            return Asked("oversized", predict, body, 413, reason, **changed)

        big = _json({"instances": [row | {last: "x" * limits.body}]})
        chunked = JSON | {"Transfer-Encoding": "chunked"}
        chunks = [big[start : start + 4096] for start in range(0, len(big), 4096)]
        many = limits.batch + 1
        found = [
            oversized("longer than", big),
            oversized("longer than", chunks, headers=chunked),
            oversized(f"instances: has {many} rows", _json({"instances": [row] * many})),
            oversized(f"has {many} rows", _json({"inputs": {one: ["x"] * many for one in model.inputs}})),
            malformed("offset", b'{"instances": ['),
            malformed("not UTF-8 at byte", b'{"instances": ["\xff"]}'),
            malformed("not an object", [1, 2]),
            malformed("Missing 'inputs' or 'instances' key", {"rows": [row]}),
            malformed("both 'instances' and 'inputs'", {"instances": [row], "inputs": {}}),
            malformed("instances: is an object", {"instances": row}),
            malformed("instances[0]", {"instances": [7, 8]}),
            malformed(f"instances[1].{last}: is a number", {"instances": [row, row | {last: 7}]}),
            malformed(f"instances[0].{last}: is null", {"instances": [row | {last: None}]}),
            malformed(f"instances[0].{last}: is a list", {"instances": [row | {last: ["x"]}]}),
            malformed("is a number nan", b'{"instances": [' + _json(row | {last: float("nan")}) + b"]}"),
            malformed("is a number inf", _json({"instances": [row | {last: 0}]}).replace(b"0", b"1e999")),
            malformed("too many digits", b'{"instances": [' + b"9" * 5000 + b"]}"),
            malformed("Missing named input", {"instances": [dict.fromkeys(model.inputs[1:], "x") | {"y": "x"}]}),
            malformed("has no input 'colour'", {"instances": [row | {"colour": "red"}]}),
            malformed("inputs: Missing named input", {"inputs": {}}),
            malformed(
                f"inputs.{last}: is a string", {"inputs": row | {last: "x"} | {o: ["x"] for o in model.inputs[:-1]}}
            ),
            malformed("half of a surrogate pair", _json({"instances": [row | {last: "?"}]}).replace(b"?", b"\\ud800")),
            malformed("base64 decode", {"instances": [row | {last: {"b64": "*"}}]}),
            malformed("not UTF-8", {"instances": [row | {last: {"b64": "/w=="}}]}),
            malformed('{"b64": a string}', {"instances": [row | {last: {"b64": 1, "c": 2}}]}),
            malformed("occurs twice", b'{"instances": [], "instances": []}'),
            malformed("nested too deep", b'{"instances": ' + b"[" * 40_000),
            malformed("nested too deep", b'{"a":' * 10_000),
            malformed("signature_name: 'other' not found", {"signature_name": "other", "instances": [row]}),
            malformed("signature_name is a number", {"signature_name": 1, "instances": [row]}),
            malformed("Servable not found", {"instances": [row]}, path="/v1/models/nobody:predict", status=404),
            malformed("there is nothing here", {}, path="/v1/nothing", status=404),
            malformed("not allowed", {}, path=predict, method="PUT", status=405),
            malformed("Content-Type", {"instances": [row]}, headers={"Content-Type": "text/xml"}, status=415),
            malformed("Content-Encoding", b"\x1f\x8b", headers=JSON | {"Content-Encoding": "gzip"}, status=415),
            Asked("empty", predict, b"", 400, "the body is empty"),
            Asked("empty", predict, b" \n", 400, "the body is empty"),
            Asked("empty", predict, b"{}", 400, "Missing 'inputs' or 'instances' key"),
            Asked("empty", predict, _json({"instances": []}), 400, "No values in 'instances' array"),
        ]
        none = {name: values[:0] for name, values in model({name: [b"x"] for name in model.inputs}).items()}
        no_rows = _json({"inputs": {name: [] for name in model.inputs}})
        found.append(Asked("empty", predict, no_rows, check=lambda got: _differs(got, none, True)))
        if any(one.startswith("recommender") for one in self._models):
            found += [
                malformed("is unknown", {"title": "x", "colour": "red"}, path="/v1/explain"),
                malformed("title has", {"title": "x" * (limits.title + 1)}, path="/v1/explain"),
                Asked("empty", "/v1/explain", _json({"title": "  "}), 400, "title is empty"),
                Asked("empty", "/v1/explain", b"{}", 400, "title is missing"),
            ]
        if len(model.inputs) > 1:
            ragged = {one: ["x"] * (1 + (one == last)) for one in model.inputs}
            found.append(malformed("different lengths", {"inputs": ragged}))
        return found


def _call(model: LoadedModel, several: Sequence[Mapping[str, Sequence[str]]]) -> list[dict[str, np.ndarray]]:
    """The outputs for each of several requests, by one call."""
    joined = {name: [text.encode() for columns in several for text in columns[name]] for name in model.inputs}
    outputs = model(joined)
    stops = np.cumsum([len(columns[model.inputs[0]]) for columns in several]).tolist()
    starts = [0, *stops[:-1]]
    return [{name: values[start:stop] for name, values in outputs.items()} for start, stop in zip(starts, stops)]


def _differs(got: Any, expected: Mapping[str, np.ndarray], column: bool) -> str:
    """Why the body is not that of the outputs; "" where it is."""
    values = got.get("outputs" if column else "predictions")
    if values is None:
        return f"keys {sorted(got)}"
    if len(expected) == 1:
        (name,) = expected
        values = {name: values}
    elif not column:
        values = {name: [row[name] for row in values] for name in expected}
    if set(values) != set(expected):
        return f"outputs {sorted(values)}"
    if "keyphrase" in expected:
        rows = zip(values["keyphrase"], values["score"], expected["keyphrase"], expected["score"])
        if len(values["keyphrase"]) != len(expected["keyphrase"]):
            return f"{len(values['keyphrase'])} rows"
        for keyphrases, scores, wanted, wanted_scores in rows:
            decoded = [one.decode() for one in wanted]
            why = _same_scores(dict(zip(keyphrases, scores)), dict(zip(decoded, wanted_scores.tolist())))
            if why:
                return why
        return ""
    for name, wanted in expected.items():
        # Without rows JSON keeps no further sizes.
        array = np.array(values[name], np.float32).reshape(-1 if len(wanted) else 0, *wanted.shape[1:])
        if array.shape != wanted.shape or not np.allclose(array, wanted, rtol=0, atol=TOLERANCE):
            return f"{name} differs: {array.shape} and {wanted.shape}"
    return ""


def _same_scores(got: Mapping[str, float], wanted: Mapping[str, float]) -> str:
    """Why two lists of the best are not the same; near the last score either keyphrase may stand there."""
    if len(got) != len(wanted):
        return f"{len(got)} keyphrases, not {len(wanted)}"
    last = min((score for score in wanted.values() if np.isfinite(score)), default=0.0)
    for keyphrase, score in wanted.items():
        if keyphrase not in got and score > last + 2 * TOLERANCE:
            return f"{keyphrase!r} is missing"
        if keyphrase in got and np.isfinite(score) and abs(got[keyphrase] - score) > TOLERANCE:
            return f"{keyphrase!r} has {got[keyphrase]}, not {score}"
    return ""


def _text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, 30)))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
