"""The REST predict of TensorFlow Serving: which bodies are rows, and which are refused by name."""

import base64
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.serving.limits import Limits, RequestError
from distill.serving.predict import answer, parse_json, parse_predict

ONE, TWO = ("text",), ("category", "title")
LIMITS = Limits(batch=3)


def parsed(value, names, limits=LIMITS):
    return parse_predict(
        value if isinstance(value, bytes) else json.dumps(value).encode(), {"serving_default": names}, limits
    )


@pytest.mark.parametrize(
    ("value", "names", "columns", "form"),
    [
        ({"instances": ["a", "é"]}, ONE, {"text": [b"a", "é".encode()]}, "row"),
        ({"instances": [{"text": "a"}]}, ONE, {"text": [b"a"]}, "row"),
        ({"instances": [{"b64": "w6k="}]}, ONE, {"text": ["é".encode()]}, "row"),
        ({"instances": [{"title": "t", "category": ""}]}, TWO, {"category": [b""], "title": [b"t"]}, "row"),
        (
            {"instances": [{"title": {"b64": "dA=="}, "category": "c"}]},
            TWO,
            {"category": [b"c"], "title": [b"t"]},
            "row",
        ),
        ({"inputs": ["a"]}, ONE, {"text": [b"a"]}, "column"),
        ({"inputs": {"text": ["a", "b"]}}, ONE, {"text": [b"a", b"b"]}, "column"),
        ({"inputs": {"text": []}}, ONE, {"text": []}, "column"),
        ({"inputs": {"title": ["t"], "category": ["c"]}}, TWO, {"category": [b"c"], "title": [b"t"]}, "column"),
        ({"instances": ["a"], "signature_name": "serving_default"}, ONE, {"text": [b"a"]}, "row"),
        ({"instances": ["a"], "signature_name": ""}, ONE, {"text": [b"a"]}, "row"),
    ],
)
def test_rows_and_columns(value, names, columns, form):
    got = parsed(value, names)
    assert (got.columns, got.form, got.rows) == (columns, form, len(next(iter(columns.values()))))


def test_a_further_signature_has_inputs_of_its_own():
    signatures = {"serving_default": ("text",), "keyphrase": ("keyphrase",)}
    asked = {"signature_name": "keyphrase", "inputs": {"keyphrase": ["mug"]}}
    got = parse_predict(json.dumps(asked).encode(), signatures, LIMITS)
    assert (got.signature, got.columns) == ("keyphrase", {"keyphrase": [b"mug"]})
    for wrong, reason in (
        ({"inputs": {"keyphrase": ["mug"]}}, "inputs: Missing named input: text"),
        ({"signature_name": "title", "inputs": ["mug"]}, "there is 'serving_default', 'keyphrase'"),
    ):
        with pytest.raises(RequestError) as caught:
            parse_predict(json.dumps(wrong).encode(), signatures, LIMITS)
        assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("value", "names", "status", "reason"),
    [
        ({"instances": ["a"] * 4}, ONE, 413, "instances: has 4 rows; at most 3"),
        ({"inputs": {"text": ["a"] * 4}}, ONE, 413, "inputs.text: has 4 rows"),
        ({"instances": []}, ONE, 400, "No values in 'instances' array"),
        ({"instances": ["a", {"text": "b"}]}, ONE, 400, r"instances[1]: is an object, and instances[0] is not"),
        ({"instances": [{"text": "a"}, "b"]}, ONE, 400, "instances[1]: is a string, expected an object of text"),
        ({"instances": ["a"]}, TWO, 400, "instances[0]: is a string, expected an object of category, title"),
        ({"instances": [["a"]]}, ONE, 400, "instances[0]: is a list"),
        ({"instances": [True]}, ONE, 400, "instances[0]: is a boolean True, expected a string"),
        ({"inputs": {"title": ["t"]}}, TWO, 400, "inputs: Missing named input: category"),
        ({"inputs": ["t"]}, TWO, 400, "inputs: is a list, expected an object of category, title"),
        ({"inputs": {"title": ["t"], "category": []}}, TWO, 400, "different lengths: category 0, title 1"),
        ({"inputs": {"title": ["t"], "category": ["c"], "x": []}}, TWO, 400, "inputs: has no input 'x'"),
        ({"inputs": "a"}, ONE, 400, "inputs: is a string, expected a list of strings"),
        ({"inputs": None}, ONE, 400, "inputs: is null"),
        (b'{"instances": ["a"]} x', ONE, 400, "Extra data at offset 21"),
        (b'{"a": {"b": 1, "b": 2}}', ONE, 400, "'b' occurs twice"),
        ({"instances": [{"x" * 500: 1, "text": "a"}]}, ONE, 400, "…"),
    ],
)
def test_refusals_name_the_field(value, names, status, reason):
    with pytest.raises(RequestError) as caught:
        parsed(value, names)
    assert caught.value.status == status
    assert reason in caught.value.reason
    assert len(caught.value.reason) < 300  # a client's text is not sent back at length


def test_a_name_that_occurs_twice_among_many_is_found_at_once():
    """The event loop waits for it: comparing each name with all others would hold the server for minutes."""
    body = ",".join([*(f'"{n}": 1' for n in range(60_000)), '"x": 1, "x": 1']).encode()
    began = time.process_time()
    with pytest.raises(RequestError, match="'x' occurs twice"):
        parsed(b"{" + body + b"}", ONE)
    assert time.process_time() - began < 5


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["b64", "text", "title", "category", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(texts, min_size=1, max_size=3))
def test_both_formats_and_base64_say_the_same(given_texts):
    wanted = {"text": [text.encode() for text in given_texts]}
    coded = [{"b64": base64.b64encode(text.encode()).decode()} for text in given_texts]
    for value in (
        {"instances": given_texts},
        {"inputs": {"text": given_texts}},
        {"inputs": coded},
        {"instances": coded},
    ):
        assert parsed(value, ONE).columns == wanted


@given(st.sampled_from(["instances", "inputs", "signature_name"]), anything, st.sampled_from([ONE, TWO]))
def test_any_json_is_rows_of_strings_or_refused(key, value, names):
    try:
        got = parsed({"instances": ["a"]} | {key: value} if key == "signature_name" else {key: value}, names)
    except RequestError as error:
        assert error.status in (400, 413) and error.reason
    else:
        assert {len(column) for column in got.columns.values()} == {got.rows}
        assert all(isinstance(text, bytes) and text.decode() is not None for c in got.columns.values() for text in c)


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(body):
    try:
        assert isinstance(parse_json(body), dict)
    except RequestError as error:
        assert error.status == 400


def test_answers_by_row_and_by_column():
    several = {
        "keyphrase": np.array([["é".encode(), b""]], object),
        "score": np.array([[0.5, -np.inf]], np.float32),
    }
    row, column = (json.loads(answer(several, form)) for form in ("row", "column"))
    assert row == {"predictions": [{"keyphrase": ["é", ""], "score": [0.5, -np.inf]}]}
    assert column == {"outputs": {"keyphrase": [["é", ""]], "score": [[0.5, -np.inf]]}}
    one = {"relevance": np.array([0.25, 1], np.float32)}
    assert json.loads(answer(one, "row")) == {"predictions": [0.25, 1.0]}
    assert json.loads(answer(one, "column")) == {"outputs": [0.25, 1.0]}
