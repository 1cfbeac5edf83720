"""A tiny export of random models, and servers of it."""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from distill.data.tokenizing import Tokenizer
from distill.export.serving_facts import ServingFacts, write_facts
from distill.models.bi_encoder import init_bi_encoder
from distill.models.cross_encoder import init_cross_encoder
from distill.models.encoder import EncoderSpec
from distill.retrieval.scann_index import build_index
from tests.models.helpers import scaled

ROOT = Path(__file__).parents[2]
ITEM_TOKENS, KEYPHRASE_TOKENS, K = 14, 8, 12
WORDS = ["garden", "hose", "brass", "fitting", "red", "blue", "large", "mug", "tea", "cup"]
MARKUP = "<b>hose</b> & \"tea\" <script>document.title='x'</script>"
TITLE, CATEGORY = "large tea mug", "cup"
LIMITS = {"body": 1 << 16, "batch": 8}
FLAGS = [f"--max_body={LIMITS['body']}", f"--max_batch={LIMITS['batch']}"]


def keyphrases():
    rng = np.random.default_rng(0)
    drawn = {" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(60)}
    # Each has a neighbour that says the same.
    return sorted(drawn | {f"{text}s" for text in sorted(drawn)[:30]} | {MARKUP})


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """An export directory whose threshold drops three of the K keyphrases of one listing."""
    pytest.importorskip("tensorflow", reason="pip install -e '.[export]'")
    pytest.importorskip("tensorflow_text", reason="pip install -e '.[export]'")
    pytest.importorskip("starlette", reason="pip install -e '.[serve]'")
    from distill.export.characters import character_table
    from distill.export.graph_tokenizer import GraphTokenizer
    from distill.export.loading import load_models
    from distill.export.recommender import save_recommender
    from distill.export.saved_model import save_assistant, save_student

    root = tmp_path_factory.mktemp("export")
    trained = Tokenizer.train(WORDS * 3, 120)
    spec = EncoderSpec(vocab_size=trained.vocab_size, layers=1, width=16, heads=2, mlp_width=16, max_positions=24)
    student, assistant = scaled(init_bi_encoder(spec, 0)), scaled(init_cross_encoder(spec, 1))
    tokenizer = GraphTokenizer(trained, character_table(trained))
    save_student(root / "student", tokenizer, spec, student, ITEM_TOKENS, KEYPHRASE_TOKENS, [])
    save_assistant(root / "assistant", tokenizer, spec, assistant, KEYPHRASE_TOKENS, ITEM_TOKENS, [])
    models, _ = load_models(root)
    texts = keyphrases()
    vectors = models["student"]({"text": [text.encode() for text in texts]})["embedding"]
    index = build_index(vectors, target_recall=0.9, sample_queries=vectors[:8], seed=0, brute_force_below=10_000)
    index.save(root / "index")
    path = root / "recommender_exact"
    save_recommender(path, tokenizer, spec, student, ITEM_TOKENS, root / "index", texts, K, True, [])
    found = load_models(root)[0]["recommender_exact"]({"category": [CATEGORY.encode()], "title": [TITLE.encode()]})
    listing = {"category": [CATEGORY.encode()] * K, "title": [TITLE.encode()] * K}
    relevance = np.sort(models["assistant"]({"keyphrase": found["keyphrase"][0].tolist(), **listing})["relevance"])
    write_facts(root, ServingFacts(float(relevance[2:4].mean()), 0.9))
    return root


@pytest.fixture(scope="session")
def models(export):
    from distill.export.loading import load_models

    return load_models(export)[0]


@pytest.fixture(scope="session")
def bench():
    """The bench's modules, imported as it imports them."""
    sys.path.insert(0, str(ROOT / "tools"))
    import bench_serve
    import bench_serve_mix

    yield bench_serve, bench_serve_mix
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="session")
def server(export, bench, tmp_path_factory):
    """`launch.serve` in a process of its own, warm."""
    running = bench[0].Server(export, tmp_path_factory.mktemp("server") / "log", *FLAGS)
    yield running
    assert running.stop() == 0


@pytest.fixture
def in_process(models, export):
    """A function that serves the models in a thread with other limits, and gives (port, service, log)."""
    import uvicorn

    from distill.export.serving_facts import read_facts
    from distill.serving.app import Service
    from distill.serving.connections import http_protocol
    from distill.serving.limits import Limits

    running = []

    def start(state="ready", only=None, **limits):
        log = []
        chosen = {name: model for name, model in models.items() if only is None or name in only}
        # Patient, for these models are compiled as they are asked.
        allowed = Limits(**({"batch": LIMITS["batch"], "deadline": 120.0} | limits))
        service = Service(chosen, read_facts(export), allowed, log.append)
        service.state = state
        http = http_protocol(allowed)
        config = uvicorn.Config(service.app(), port=0, http=http, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        running.append((server, thread, service))
        return server.servers[0].sockets[0].getsockname()[1], service, log

    yield start
    for server, thread, service in running:
        server.should_exit = True
        thread.join()
        service.batcher.stop(10)


@pytest.fixture
def post():
    """A function that posts JSON and gives (status, JSON, headers)."""
    import http.client

    def send(port, path, value, host="127.0.0.1"):
        connection = http.client.HTTPConnection(host, port, timeout=60)
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text), dict(answer.getheaders())

    return send
