"""The demo server under mixed traffic: valid, oversized, malformed and empty requests, every answer checked.

    PYTHONPATH=. python tools/bench_serve.py --export=runs/quickstart/export [--clients=2 --requests=5000]

Starts `launch.serve` on the export and sends it the mix of `bench_serve_mix.py` from as many clients at once. A valid
answer must equal a direct call of the SavedModel in this process, a refused one must have the status that is expected
and a reason that names what was wrong. At the end SIGTERM must end the server with 0. Percentiles are by kind of
request, as a client sees them. The last line is JSON: requests, wrong answers (a list of the first ones), 5xx, the
server's memory before and after, percentiles over all; the exit status is 1 when an answer was wrong.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import print_table
from bench_serve_mix import Answer, Asked, Mix

from distill.export.loading import load_models
from distill.serving.limits import Limits

ROOT = Path(__file__).parents[1]
SHOWN_WRONG = 10


class Server:
    """`launch.serve` in a process of its own, ready to answer."""

    def __init__(self, export: Path, log: Path, *flags: str, ready_seconds: float = 600):
        self.log = log
        command = [sys.executable, "-m", "launch.serve", f"--export={export}", "--port=0", *flags]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the server ended with {self.process.wait()}: {log.read_text()}")
        self.host, _, port = urllib.parse.urlparse(self.url).netloc.rpartition(":")
        self.port = int(port)
        began = time.monotonic()
        while self.get("/readyz")[0] != 200:
            if time.monotonic() - began > ready_seconds or self.process.poll() is not None:
                self.process.kill()
                raise RuntimeError(f"the server did not become ready: {log.read_text()}")
            time.sleep(0.1)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def memory(self) -> int:
        """Resident bytes, of `/metrics`."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return int(float(next(line for line in lines if line.startswith("process_resident_memory_bytes")).split()[1]))

    def stop(self, seconds: float = 30) -> int:
        """Asks it to drain; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def client(server: Server, requests: Iterator[Asked], results: list[tuple[Asked, Answer]]) -> None:
    """Sends the requests one by one over a connection that is kept while the server keeps it."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    for asked in requests:
        began = time.perf_counter()
        try:
            connection.request(
                asked.method, asked.path, asked.body, asked.headers, encode_chunked="Transfer-Encoding" in asked.headers
            )
            got = connection.getresponse()
            answer = Answer(got.status, got.read(), time.perf_counter() - began)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            answer = Answer(0, repr(error).encode(), time.perf_counter() - began)
        results.append((asked, answer))
    connection.close()


def run(server: Server, mix: Mix, clients: int, requests: int) -> list[tuple[Asked, Answer]]:
    """All requests and their answers."""
    results: list[list[tuple[Asked, Answer]]] = [[] for _ in range(clients)]
    threads = [
        threading.Thread(target=client, args=(server, mix.requests(seed, requests), result))
        for seed, result in enumerate(results)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one for result in results for one in result]


def percentiles(answers: Sequence[Answer]) -> list[float]:
    """50, 90, 99 and all, in milliseconds."""
    return np.percentile([1000 * answer.seconds for answer in answers], [50, 90, 99, 100]).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--requests", type=int, default=5000, help="of each client")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="the server's")
    options = parser.parse_args()
    limits = Limits(body=1 << 18, batch=16)
    models, _ = load_models(options.export, threads=1)
    mix = Mix(models, limits)
    server = Server(options.export, options.log, f"--max_body={limits.body}", f"--max_batch={limits.batch}")
    try:
        run(server, mix, options.clients, max(50, options.requests // 10))
        before = server.memory()
        began = time.perf_counter()
        done = run(server, mix, options.clients, options.requests)
        seconds = time.perf_counter() - began
        after = server.memory()
    finally:
        status = server.stop()
    wrong = [f"{asked.kind}: {why}" for asked, answer in done if (why := mix.wrong(asked, answer))]
    _print(done, wrong)
    everything = percentiles([answer for _, answer in done])
    figures: dict[str, Any] = {
        "requests": len(done),
        "wrong": len(wrong),
        "wrong_examples": wrong[:SHOWN_WRONG],
        "server_errors": sum(answer.status >= 500 or not answer.status for _, answer in done),
        "requests_per_second": len(done) / seconds,
        "rss_before": before,
        "rss_after": after,
        "rss_growth": after / before - 1,
        **{f"ms_p{name}": value for name, value in zip((50, 90, 99, 100), everything)},
        "exit_status": status,
    }
    print(json.dumps(figures))
    if wrong or status:
        sys.exit(1)


def _print(done: Sequence[tuple[Asked, Answer]], wrong: Sequence[str]) -> None:
    kinds: dict[str, list[Answer]] = collections.defaultdict(list)
    for asked, answer in done:
        kinds[asked.kind].append(answer)
    rows = []
    for kind, answers in sorted(kinds.items()):
        codes = collections.Counter(answer.status for answer in answers)
        bad = sum(one.startswith(f"{kind}: ") for one in wrong)
        figures = [f"{value:.1f}" for value in percentiles(answers)]
        rows.append([kind, str(len(answers)), " ".join(map(str, sorted(codes))), str(bad), *figures])
    print_table("requests", ["request", "sent", "status", "wrong", "p50 ms", "p90 ms", "p99 ms", "max ms"], rows)


if __name__ == "__main__":
    main()
