"""The `batch` backend with a service that reads and writes the files of a folder."""

import collections
import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import EndpointConfig
from distill.judge.asking import ask
from distill.judge.batch_files import BatchFileError, BatchJudge, WaitingForBatch
from distill.judge.endpoint import EndpointJudge
from distill.judge.prompt import listing_hash
from distill.judge.rubric import load_rubric
from distill.judge.store import JudgementStore
from tests.judge.asking_endpoint import RUBRIC, pairs
from tests.judge.batch_results import (
    answered,
    expired,
    failed,
    judge,
    judged,
    lines_of,
    nonsense,
    snapshot,
    too_long,
    write,
)
from tests.judge.http_servers import Asked, completion, serving


def test_files_of_requests_are_what_a_service_takes(tmp_path: Path):
    found, waiting = judged(judge(tmp_path, limit_lines=10), pairs(24))
    assert not found and waiting is not None and waiting.pairs == 24
    assert [file.name for file in waiting.files] == [f"requests-0000{n}.jsonl" for n in range(3)]
    assert all(words in str(waiting) for words in ("requests-00002.jsonl", str(tmp_path), "24 pairs", "same command"))
    calls = [call for file in waiting.files for call in lines_of(file)]
    assert [len(lines_of(file)) for file in waiting.files] == [10, 10, 4]
    assert len({call["custom_id"] for call in calls}) == 24
    assert {(call["method"], call["url"]) for call in calls} == {("POST", "/v1/chat/completions")}
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("answer", ["logprobs", "json"])
def test_the_bodies_are_those_of_the_endpoint(answer, tmp_path: Path):
    bodies = []

    def respond(asked: Asked):
        bodies.append(asked.json)
        return completion("2")

    requests = [*pairs(10), dataclasses.replace(pairs(1)[0], repeat=1)]
    _, waiting = judged(judge(tmp_path, answer), requests)
    assert waiting is not None
    with serving(respond) as url:
        config = EndpointConfig(url=url, model="m", answer=answer, keyphrases_per_call=4, concurrency=1)
        endpoint = EndpointJudge(config, RUBRIC, None)
        list(endpoint.judge(requests))
    assert [call["body"] for call in lines_of(waiting.files[0])] == bodies
    assert endpoint.name == judge(tmp_path, answer).name


def test_a_file_is_cut_before_it_is_too_large(tmp_path: Path):
    _, waiting = judged(judge(tmp_path / "one"), pairs(20))
    assert waiting is not None
    limit = waiting.files[0].stat().st_size // 3
    _, waiting = judged(judge(tmp_path / "many", limit_bytes=limit), pairs(20))
    assert waiting is not None and len(waiting.files) >= 3
    assert all(file.stat().st_size <= limit for file in waiting.files)
    assert sum(len(lines_of(file)) for file in waiting.files) == 20
    _, waiting = judged(judge(tmp_path / "tiny", limit_bytes=1), pairs(3))
    assert waiting is not None and [len(lines_of(file)) for file in waiting.files] == [1, 1, 1]


def test_running_again_before_results_arrive_rewrites_nothing(tmp_path: Path):
    _, first = judged(judge(tmp_path), pairs(5))
    before = snapshot(tmp_path)
    same = judge(tmp_path)
    for asking in (same, same, judge(tmp_path)):
        found, again = judged(asking, pairs(5))
        assert not found and again is not None and first is not None and again.files == first.files
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("answer", ["logprobs", "json"])
def test_results_may_come_in_parts(answer, tmp_path: Path):
    _, waiting = judged(judge(tmp_path, answer), pairs(16))
    assert waiting is not None
    calls = lines_of(waiting.files[0])
    write(tmp_path / "batch_1_output.jsonl", [answered(call) for call in calls[::2]][::-1])
    found, waiting = judged(judge(tmp_path, answer), pairs(16))
    assert waiting is not None and len(found) == waiting.pairs == 8 and len(waiting.files) == 1
    assert {(j.status, j.grade, j.judge) for j in found} == {("graded", 2, judge(tmp_path, answer).name)}
    n = 4 if answer == "json" else 1
    assert {(j.prompt_tokens, j.completion_tokens) for j in found} == {(40 // n, 4 // n)}
    assert found[0].cost == pytest.approx(40 / n / 1e6)
    # Pairs that come now go into a file of their own; the others go on waiting for theirs.
    before = snapshot(tmp_path)
    _, waiting = judged(judge(tmp_path, answer), pairs(20))
    assert waiting is not None and waiting.pairs == 12
    assert [file.name for file in waiting.files] == ["requests-00000.jsonl", "requests-00001.jsonl"]
    assert before.items() <= snapshot(tmp_path).items()
    write(tmp_path / "z.jsonl", [answered(call) for file in waiting.files for call in lines_of(file)])
    found, waiting = judged(judge(tmp_path, answer), pairs(20))
    assert waiting is None and len({j.keyphrase_index for j in found}) == len(found) == 20


def test_the_last_good_result_of_a_call_counts(tmp_path: Path):
    _, waiting = judged(judge(tmp_path), pairs(4))
    assert waiting is not None
    a, b, c, d = lines_of(waiting.files[0])
    write(tmp_path / "1.jsonl", [answered(a, "1"), failed(b), answered(c, "3"), expired(d)])
    write(tmp_path / "2.jsonl", [answered(a, "0"), answered(b, "1"), failed(c), failed(d)])
    told = []
    found, waiting = judged(judge(tmp_path, notice=told.append, attempts=1), pairs(4))
    assert waiting is None and [j.grade for j in found] == [0, 1, 3, None]
    assert found[3].status == "failed" and "429" in found[3].answer and "Rate limit" in found[3].answer
    assert len(told) == 1 and "1 calls failed" in told[0] and "Rate limit" in told[0]
    assert len({j.call for j in found}) == 4 and {j.call.split(".")[0] for j in found} == {
        call["custom_id"] for call in (a, b, c, d)
    }


def test_what_is_no_result_is_told_and_left_out(tmp_path: Path):
    _, waiting = judged(judge(tmp_path), pairs(3))
    assert waiting is not None
    calls = lines_of(waiting.files[0])
    stranger = answered(calls[0]) | {"custom_id": "someone-elses"}
    cut = json.dumps(answered(calls[1]))[:-40]
    write(tmp_path / "out.jsonl", [answered(calls[0]), "", "no json", "[1]", '{"custom_id": 3}', stranger, cut])
    told = []
    found, waiting = judged(judge(tmp_path, notice=told.append), pairs(3))
    assert len(found) == 1 and waiting is not None and waiting.pairs == 2
    assert [n for n in range(1, 9) if any(f"out.jsonl:{n}:" in text for text in told)] == [3, 4, 5, 7]
    assert any("1 results of calls" in text for text in told) and len(told) == 5


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": ["2"]}}]},
        {"choices": [1]},
        {"choices": [{"message": {"content": None}}]},
    ],
)
def test_a_completion_of_a_wrong_shape_is_a_failure(body, tmp_path: Path):
    _, waiting = judged(judge(tmp_path), pairs(1))
    assert waiting is not None
    (call,) = lines_of(waiting.files[0])
    result = answered(call)
    result["response"]["body"] = body
    write(tmp_path / "out.jsonl", [result])
    ((answer,), waiting) = judged(judge(tmp_path, attempts=1), pairs(1))
    assert waiting is None and answer.status == "failed" and "chat completion" in answer.answer
    found, waiting = judged(judge(tmp_path, attempts=2), pairs(1))
    assert not found and waiting is not None and [file.name for file in waiting.files] == ["requests-00001.jsonl"]


def test_what_the_service_filters_is_an_abstention(tmp_path: Path):
    _, waiting = judged(judge(tmp_path), pairs(1))
    assert waiting is not None
    (call,) = lines_of(waiting.files[0])
    body = {"error": {"message": "flagged", "code": "content_filter"}}
    write(tmp_path / "out.jsonl", [failed(call) | {"response": {"status_code": 400, "body": body}}])
    same = judge(tmp_path)
    for _ in range(2):  # and it is not asked again
        ((answer,), waiting) = judged(same, pairs(1))
        assert waiting is None and answer.status == "abstained" and "flagged" in answer.answer


@pytest.mark.parametrize("answer", ["logprobs", "json"])
def test_pairs_under_way(answer, tmp_path: Path):
    assert judge(tmp_path, answer).under_way() == [] and not list(tmp_path.iterdir())
    n = 4 if answer == "json" else 1  # pairs a call
    first, again = pairs(5 * n), [dataclasses.replace(request, repeat=1) for request in pairs(2)]
    _, waiting = judged(judge(tmp_path, answer), [*first, *again])
    assert waiting is not None
    keys = [(listing_hash(request), request.keyphrase) for request in first]
    assert judge(tmp_path, answer).under_way() == keys
    graded, unread, refused, passing, _, *_ = lines_of(waiting.files[0])
    write(tmp_path / "out.jsonl", [answered(graded), nonsense(unread), too_long(refused), expired(passing)])
    left = keys[: 2 * n] + keys[3 * n :]  # all but the refused
    assert judge(tmp_path, answer).under_way() == left
    assert judge(tmp_path, answer, attempts=1).under_way() == keys[: 2 * n] + keys[4 * n :]
    same = judge(tmp_path, answer)
    judged(same, [*first, *pairs(6 * n)[5 * n :]])  # writes what failed, and pairs that no file had
    added = [(listing_hash(request), request.keyphrase) for request in pairs(6 * n)[5 * n :]]
    assert same.under_way() == judge(tmp_path, answer).under_way() == left + added
    # Another rubric, or model, has none of them.
    assert judge(tmp_path, answer, rubric=load_rubric("binary-v1")).under_way() == []
    assert BatchJudge(EndpointConfig(model="other", answer=answer), RUBRIC, tmp_path).under_way() == []
    (tmp_path / "pairs-00001.jsonl").write_text("{")
    with pytest.raises(BatchFileError, match=r"pairs-00001\.jsonl:1"):
        judge(tmp_path, answer).under_way()


def test_another_rubric_or_way_of_asking_asks_anew(tmp_path: Path):
    judged(judge(tmp_path), pairs(3))
    binary = load_rubric("binary-v1")
    for number, other in ((1, judge(tmp_path, rubric=binary)), (2, judge(tmp_path, "json", rubric=binary))):
        _, waiting = judged(other, pairs(3))
        assert waiting is not None and [file.name for file in waiting.files] == [f"requests-0000{number}.jsonl"]


def test_a_run_that_died_before_a_file_was_whole_leaves_no_trace(tmp_path: Path):
    _, waiting = judged(judge(tmp_path / "whole"), pairs(5))
    assert waiting is not None
    (tmp_path / "cut").mkdir()
    shutil.copy(waiting.files[0], tmp_path / "cut")  # the file of pairs comes last
    (tmp_path / "cut" / "pairs-00000.tmp").write_bytes(b'{"custom')
    judged(judge(tmp_path / "cut"), pairs(5))
    assert snapshot(tmp_path / "cut") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize(
    "damage", [b"{", b"[]\n", b'{"custom_id": "a", "ids": []}\n', b'{"custom_id": "a", "keyphrases": [1]}\n']
)
def test_a_damaged_file_of_pairs_is_named(damage, tmp_path: Path):
    judged(judge(tmp_path), pairs(2))
    with (tmp_path / "pairs-00000.jsonl").open("ab") as file:
        file.write(damage)
    with pytest.raises(BatchFileError, match=r"pairs-00000\.jsonl:3"):
        list(judge(tmp_path).judge(pairs(2)))


def test_requests_may_be_deleted_once_they_are_sent(tmp_path: Path):
    _, waiting = judged(judge(tmp_path), pairs(2))
    assert waiting is not None
    results = [answered(call) for call in lines_of(waiting.files[0])]
    waiting.files[0].unlink()
    _, waiting = judged(judge(tmp_path), pairs(2))
    assert waiting is not None and waiting.pairs == 2 and not waiting.files[0].exists()
    write(tmp_path / "out.jsonl", results)
    found, waiting = judged(judge(tmp_path), pairs(2))
    assert len(found) == 2 and waiting is None


@pytest.mark.parametrize("answer", ["logprobs", "json"])
def test_through_the_store_until_every_pair_has_its_answer(answer, tmp_path: Path):
    """A service that fails, answers nonsense and returns only a part, time after time."""
    draw, final, sent = random.Random(3), [], collections.Counter()
    for round_ in range(30):
        with JudgementStore(tmp_path / "store") as store:
            try:
                asking = judge(tmp_path / "batch", answer, attempts=5)
                ask(store, asking, RUBRIC, pairs(40), attempts=3, receive=final.extend)
                break
            except WaitingForBatch as waiting:
                calls = [call for file in waiting.files for call in lines_of(file)]
        results = []
        for call in calls:
            if sent[call["custom_id"]] or draw.random() < 0.3:
                continue  # answered before, or not this time
            sent[call["custom_id"]] += 1
            made = draw.choice([answered, answered, answered, failed, expired, nonsense])
            results.append(made(call))
        write(tmp_path / "batch" / f"results-{round_}.jsonl", results)
    assert len(final) == 40 and collections.Counter(j.status for j in final)["graded"] >= 30
    assert {j.status for j in final} <= {"graded", "unparsable", "failed"}
    written = [line for path in (tmp_path / "batch").glob("pairs-*.jsonl") for line in lines_of(path)]
    assert max(collections.Counter(keyphrase for line in written for keyphrase in line["keyphrases"]).values()) <= 5
    with JudgementStore(tmp_path / "store", process=None) as store:
        assert all(record.answers <= 3 for record in store.records())


@settings(max_examples=30)
@given(st.data())
def test_any_order_and_any_parts_of_the_results_give_the_same(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("batch")
    requests = pairs(9)
    _, waiting = judged(judge(folder, "json"), requests)
    assert waiting is not None
    calls = lines_of(waiting.files[0])
    grades = {call["custom_id"]: str(n % 4) for n, call in enumerate(calls)}
    results = [answered(call, grades[call["custom_id"]]) for call in calls] * data.draw(st.integers(1, 2))
    results += [data.draw(st.sampled_from([failed, expired]))(call) for call in calls]
    results = data.draw(st.permutations(results))
    cut = data.draw(st.integers(0, len(results)))
    write(folder / "b.jsonl", results[:cut])
    write(folder / "a.jsonl", results[cut:])
    found, waiting = judged(judge(folder, "json"), data.draw(st.permutations(requests)))
    assert waiting is None
    assert {j.keyphrase_index: j.grade for j in found} == {n: [0, 0, 0, 0, 1, 1, 1, 1, 2][n] for n in range(9)}
