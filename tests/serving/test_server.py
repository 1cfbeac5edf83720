"""The server over HTTP: mixed traffic, its limits, explaining, draining."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from distill.data.text import fold_tokens
from distill.serving.limits import Limits
from tests.serving.conftest import CATEGORY, FLAGS, LIMITS, MARKUP, ROOT, TITLE, K

PREDICT = "/v1/models/student:predict"


def half_sent(port, rest=b'["tea"]}', path=PREDICT, host="127.0.0.1"):
    """A connection that has sent all of a request but `rest`."""
    head = b'{"instances": '
    connection = socket.create_connection((host, port), timeout=60)
    length = len(head) + len(rest)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + head)
    return connection


def received(connection):
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        if lengths and len(body) >= int(lengths[0].split()[1]):
            break
    connection.close()
    return int(data.split()[1]), data


def test_mixed_requests_get_right_answers(server, models, bench):
    runner, mixing = bench
    mix = mixing.Mix(models, Limits(**LIMITS))
    done = runner.run(server, mix, clients=2, requests=150)
    assert len(done) == 300
    assert [f"{asked.kind}: {why}" for asked, answer in done if (why := mix.wrong(asked, answer))] == []
    kinds = {asked.kind.split(",")[0] for asked, _ in done}
    assert kinds >= {"student", "assistant", "recommender_exact", "explain", "oversized", "malformed", "empty"}
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert len(lines) >= 200
    records = [json.loads(line) for line in lines]
    assert all(
        {"time", "model", "code", "ms"} <= set(record) <= {"time", "model", "code", "ms", "rows"} for record in records
    )


def test_the_mix_notices_a_wrong_answer(models, bench):
    """What the test above relies on."""
    _, mixing = bench
    mix = mixing.Mix(models, Limits(**LIMITS))
    asked = next(one for one in mix.requests(0, 500) if one.kind.startswith("student, instances"))
    wrong = json.dumps({"predictions": [[0.1] * 16]}).encode()
    assert "differs" in mix.wrong(asked, mixing.Answer(200, wrong, 0.0))
    assert "status 500" in mix.wrong(asked, mixing.Answer(500, b"", 0.0))


def test_what_a_watcher_asks(server):
    assert server.get("/healthz")[0] == server.get("/readyz")[0] == 200
    status = json.loads(server.get("/v1/models/student")[1])
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    metadata = json.loads(server.get("/v1/models/recommender_exact/metadata")[1])
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert set(signature["inputs"]) == {"category", "title"}
    metadata = json.loads(server.get("/v1/models/student/metadata")[1])
    assert set(metadata["metadata"]["signature_def"]["signature_def"]) == {"serving_default", "keyphrase"}
    score = signature["outputs"]["score"]
    assert (score["dtype"], [d["size"] for d in score["tensor_shape"]["dim"]]) == ("DT_FLOAT", ["-1", str(K)])
    assert server.get("/v1/models/nobody")[0] == 404
    assert server.get("/v1/models/student:predict")[0] == 405


def test_metrics_count_what_was_asked(in_process, post):
    port, service, log = in_process()
    assert post(port, PREDICT, {"instances": ["tea", "mug"]})[0] == 200
    assert post(port, PREDICT, {"instances": []})[0] == 400
    assert post(port, "/v1/models/nobody:predict", {"instances": []})[0] == 404
    text = service.metrics.text().decode()
    for line in (
        'distill_requests_total{code="200",model="student"} 1.0',
        'distill_requests_total{code="400",model="student"} 1.0',
        'distill_requests_total{code="404",model="unknown"} 1.0',
        'distill_batch_rows_sum{model="student"} 2.0',
        "distill_queue_depth 0.0",
        "distill_requests_in_progress 0.0",
    ):
        assert line in text
    assert [(record["model"], record["code"]) for record in log] == [
        ("student", 200),
        ("student", 400),
        ("unknown", 404),
    ]


def test_small_requests_share_a_call(in_process, post, models):
    port, service, _ = in_process(linger=0.5, batch=8)
    answers = {}

    def ask(text):
        answers[text] = post(port, PREDICT, {"instances": [text, f"{text} cup"]})

    threads = [threading.Thread(target=ask, args=(text,)) for text in ("tea", "mug", "hose", "brass")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 'distill_batch_rows_count{model="student"} 1.0' in service.metrics.text().decode()
    for text, (status, got, _) in answers.items():
        wanted = models["student"]({"text": [text.encode(), f"{text} cup".encode()]})["embedding"]
        assert status == 200
        np.testing.assert_allclose(got["predictions"], wanted, atol=2e-5)


def test_a_keyphrase_is_read_in_its_normal_form(in_process, post, models):
    port, _, _ = in_process()
    wanted = models["student"]({"text": [b"tea mug"]})["embedding"]
    for typed in ("tea mug", "Tea\u00a0ＭＵＧ"):
        asked = {"signature_name": "keyphrase", "instances": [{"keyphrase": typed}]}
        status, got, _ = post(port, PREDICT, asked)
        assert status == 200
        np.testing.assert_allclose(got["predictions"], wanted, atol=2e-5)
    as_it_stands = post(port, PREDICT, {"instances": ["Tea\u00a0ＭＵＧ"]})[1]["predictions"]
    assert np.abs(as_it_stands - wanted).max() > 1e-3


def test_one_request_too_many_is_told_to_wait(in_process, post):
    port, _, _ = in_process(queue=1)
    waiting = half_sent(port)
    while post(port, PREDICT, {"instances": ["tea"]})[0] == 200:  # until the first one was let in
        time.sleep(0.01)
    status, got, headers = post(port, PREDICT, {"instances": ["tea"]})
    assert (status, headers["retry-after"]) == (429, "1") and "in progress" in got["error"]
    waiting.sendall(b'["tea"]}')
    assert received(waiting)[0] == 200
    assert post(port, PREDICT, {"instances": ["tea"]})[0] == 200


def test_a_body_that_does_not_come_is_given_up(in_process):
    port, service, _ = in_process(deadline=0.3)
    status, data = received(half_sent(port))
    assert status == 408 and b"did not come in time" in data
    assert service.in_progress == 0


def test_a_client_that_goes_away_leaves_nothing_behind(in_process, post):
    port, service, log = in_process(queue=1)
    half_sent(port).close()
    until = time.monotonic() + 20
    while not log and time.monotonic() < until:
        time.sleep(0.01)
    assert service.in_progress == 0 and log[0]["code"] == 400
    assert post(port, PREDICT, {"instances": ["tea"]})[0] == 200


def test_an_answer_that_comes_too_late_is_a_timeout(in_process, post):
    port, _, _ = in_process(deadline=0.2, linger=5.0)
    status, got, headers = post(port, PREDICT, {"instances": ["tea"]})
    assert status == 504 and "DEADLINE_EXCEEDED" in got["error"] and headers["retry-after"] == "1"


def test_a_body_of_unknown_length_is_bounded(in_process):
    port, _, _ = in_process(body=1000)
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for _ in range(20):
        connection.sendall(b"64\r\n" + b"x" * 100 + b"\r\n")
    connection.sendall(b"0\r\n\r\n")
    status, data = received(connection)
    assert status == 413 and b"longer than 1,000 bytes" in data
    waits = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
    waits.sendall(head.encode())
    assert received(waits)[0] == 413  # without having asked for the body


def test_a_server_that_is_not_ready_says_so(in_process, post):
    port, _, _ = in_process(state="warming")
    status, got, headers = post(port, PREDICT, {"instances": ["tea"]})
    assert (status, got["error"], headers["retry-after"]) == (503, "the server is warming", "1")


def test_explaining_a_listing(in_process, post, models, export):
    port, _, _ = in_process()
    status, got, _ = post(port, "/v1/explain", {"title": TITLE, "category": CATEGORY})
    assert status == 200
    threshold = json.loads((export / "serving.json").read_text())["threshold"]
    assert got["threshold"] == threshold
    listing = {"category": [CATEGORY.encode()], "title": [TITLE.encode()]}
    found = models["recommender_exact"](listing)
    wanted = {text.decode(): score for text, score in zip(found["keyphrase"][0], found["score"][0].tolist())}
    assert {row["keyphrase"]: pytest.approx(row["cosine"], abs=2e-5) for row in got["keyphrases"]} == wanted
    many = {name: values * K for name, values in listing.items()}
    relevance = models["assistant"]({"keyphrase": found["keyphrase"][0].tolist(), **many})["relevance"]
    of = dict(zip(wanted, relevance.tolist()))
    seen, fates = {}, {}
    for keyphrase in sorted(of, key=of.__getitem__, reverse=True):
        fates[keyphrase] = (
            "below_threshold" if of[keyphrase] < threshold else "repeated" if fold_tokens(keyphrase) in seen else "kept"
        )
        if fates[keyphrase] == "kept":
            seen[fold_tokens(keyphrase)] = keyphrase
    assert {row["keyphrase"]: row["fate"] for row in got["keyphrases"]} == fates
    assert set(fates.values()) == {"kept", "below_threshold", "repeated"}  # or the test would show little
    for row in got["keyphrases"]:
        assert row["relevance"] == pytest.approx(of[row["keyphrase"]], abs=2e-5)
        assert row["same_as"] == (seen[fold_tokens(row["keyphrase"])] if row["fate"] == "repeated" else None)
    ranks = [row["rank"] for row in got["keyphrases"] if row["rank"]]
    assert ranks == list(range(1, got["counts"]["kept"] + 1))


def test_explaining_with_less(in_process, post):
    port, _, _ = in_process(only={"recommender_exact"})
    got = post(port, "/v1/explain", {"title": MARKUP})[1]
    assert got["threshold"] is None and {row["relevance"] for row in got["keyphrases"]} == {None}
    assert set(got["counts"]) <= {"kept", "repeated"}
    cosines = [row["cosine"] for row in got["keyphrases"] if row["fate"] == "kept"]
    assert cosines == sorted(cosines, reverse=True)
    port, _, _ = in_process(only={"student"})
    assert post(port, "/v1/explain", {"title": "x"})[0] == 404


def test_sigterm_lets_requests_in_progress_finish(export, bench, tmp_path, post):
    server = bench[0].Server(export, tmp_path / "log", *FLAGS[:1], "--max_batch=1")
    waiting = half_sent(server.port)
    while b"distill_requests_in_progress 1.0" not in server.get("/metrics")[1]:
        time.sleep(0.01)
    server.process.terminate()
    until = time.monotonic() + 20
    while server.get("/readyz")[0] == 200 and time.monotonic() < until:
        time.sleep(0.01)
    assert server.get("/readyz") == (503, b"draining") and server.get("/healthz")[0] == 200
    status, got, _ = post(server.port, PREDICT, {"instances": ["tea"]})
    assert status == 503 and "draining" in got["error"]
    waiting.sendall(b'["tea"]}')
    assert received(waiting)[0] == 200
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--export={tmp}"], "holds no SavedModel"),
        (["--export={tmp}", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_misuse_is_one_line(tmp_path, flags, reason):
    pytest.importorskip("tensorflow", reason="pip install -e '.[export]'")
    pytest.importorskip("starlette", reason="pip install -e '.[serve]'")
    command = [sys.executable, "-m", "launch.serve", "--port=0", *(flag.format(tmp=tmp_path) for flag in flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert reason in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_ten_thousand_mixed_requests(export):
    command = [sys.executable, "tools/bench_serve.py", f"--export={export}", "--clients=2", "--requests=5000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (figures["requests"], figures["wrong"], figures["server_errors"], figures["exit_status"]) == (
        10_000,
        0,
        0,
        0,
    )
    assert figures["rss_growth"] < 0.05
