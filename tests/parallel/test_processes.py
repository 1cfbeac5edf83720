"""What two real processes agree on, and what one process makes of the same calls."""

import json
import sys

import numpy as np
import pytest

from distill.parallel.processes import Processes
from tests.parallel.pair import finish, start_pair


@pytest.fixture(scope="module")
def pair():
    done = finish(
        start_pair(lambda index, port: [sys.executable, "-m", "tests.parallel.agreeing", f"{index}", f"{port}"])
    )
    assert [status for status, _, _ in done] == [0, 0], done
    return [json.loads(out.strip().splitlines()[-1]) for _, out, _ in done]


def test_the_first_process_works_and_both_have_its_result(pair):
    assert [p["index"] for p in pair] == [0, 1] and [p["first"] for p in pair] == [True, False]
    assert [p["count"] for p in pair] == [2, 2]
    assert [p["value"] for p in pair] == [{"answer": 42}] * 2
    assert [p["ran_alone"] for p in pair] == [[True], []]
    assert [p["nested"] for p in pair] == [2, 2]


def test_a_process_that_works_alone_uses_its_own_devices(pair):
    assert [p["devices"] for p in pair] == [[8, 4], [8, 4]]


def test_rows_go_to_their_process_and_come_back_whole(pair):
    assert [p["rows_here"] for p in pair] == [[0, 3, 6, 9], [12, 15, 18, 21]]
    whole = np.arange(24).reshape(8, 3).tolist()
    assert [p["whole"] for p in pair] == [whole, whole]
    assert [p["sum"] for p in pair] == [276, 276]


def test_what_was_computed_differently_is_named(pair):
    assert pair[0]["same"] == ["returned", "None"]
    kind, words = pair[1]["same"]
    assert kind == "RuntimeError" and words.startswith("candidates: process 1 computed something else than process 0")


def test_each_has_what_all_say(pair):
    assert [p["gathered"] for p in pair] == [[{"of": 0}, {"of": 1}]] * 2


def test_an_error_on_another_process_ends_the_gathering(pair):
    assert pair[0]["gathering"] == ["OtherProcessError", "process 1 has no model"]


def test_an_error_on_the_first_process_stops_both(pair):
    assert pair[0]["failed"] == ["ValueError", "no space left on the disc"]
    assert pair[1]["failed"] == ["OtherProcessError", "no space left on the disc"]


def test_one_process_just_works():
    alone = Processes()
    assert alone.first and alone.alone
    assert alone.on_first(lambda: (1, 2)) == (1, 2)
    assert alone.gather("here") == ["here"]
    alone.check_same("rows", np.ones(3))
    with pytest.raises(KeyError):
        alone.on_first(lambda: {}["missing"])
    alone.fail(ValueError("nobody waits"))
