"""SavedModels answer strings as the JAX models do, in a process that has none of our code."""

import dataclasses

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from distill.config import ParallelConfig
from distill.data.text import item_text
from distill.data.tokenizing import Tokenizer
from distill.export.warm_up import FILE, one_of_each_length, warm_up_record
from distill.models.bi_encoder import init_bi_encoder
from distill.models.cross_encoder import init_cross_encoder
from distill.models.encoder import EncoderSpec
from distill.parallel.mesh import make_mesh
from distill.retrieval.encoding import PairScorer, embed_texts
from distill.retrieval.scann_index import KeyphraseIndex, build_index
from distill.retrieval.vectors import prefix
from tests.export.fresh_process import ask
from tests.models.helpers import scaled
from tests.retrieval.instructions import searching_by

tf = pytest.importorskip("tensorflow", reason="pip install -e '.[export]'")
pytest.importorskip("tensorflow_text", reason="pip install -e '.[export]'")

ITEM_TOKENS, KEYPHRASE_TOKENS, ROW_TOKENS, K = 20, 7, 32, 12
WORDS = [
    "garden",
    "hose",
    "brass",
    "fitting",
    "red",
    "blue",
    "large",
    "small",
    "wireless",
    "headphones",
    "noise",
    "cancelling",
    "over",
    "ear",
    "cup",
    "mug",
    "tea",
]


def texts(count, seed, longest=12):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(count)]


KEYPHRASES = sorted(set(texts(3500, 0, 7)))[:1490] + [f"{n} inch {word}" for n in (1, 2) for word in WORDS[:5]]
TITLES = [*texts(270, 1, 40), "", "Ünïcode [SEP] İstanbul 中文", "headphones"]  # more than one chunk of rows
CATEGORIES = ["" if i % 5 == 0 else WORDS[i % len(WORDS)] for i in range(len(TITLES))]


def as_typed(keyphrase):
    """Another spelling of the same keyphrase: full-width capitals, blanks, other units."""
    wide = str.maketrans({c: chr(ord(c) + 0xFEE0) for c in "ABCDEFGHIJKLM"})
    return f"\u00a0{keyphrase.upper().replace(' INCH', chr(34)).replace(' ', '  ').translate(wide)} "


class World:
    """Random models, an index of their keyphrase embeddings, and what JAX and the index say."""

    def __init__(self):
        self.tokenizer = Tokenizer.train(WORDS * 3, 150)
        self.spec = EncoderSpec(
            vocab_size=self.tokenizer.vocab_size, layers=2, width=32, heads=4, mlp_width=48, max_positions=40
        )
        self.student = scaled(init_bi_encoder(self.spec, 0))
        self.assistant = scaled(init_cross_encoder(self.spec, 1))
        self.item_texts = [item_text(t, [c] if c else []) for t, c in zip(TITLES, CATEGORIES)]
        self.items = self.embed(self.item_texts, ITEM_TOKENS)
        self.keyphrases = self.embed(KEYPHRASES, KEYPHRASE_TOKENS)

    def embed(self, texts, max_tokens):
        tokens = self.tokenizer.encode_texts(texts, max_tokens)
        mesh = make_mesh(ParallelConfig())
        return embed_texts(self.spec, self.student, tokens, row_tokens=ROW_TOKENS, mesh=mesh)

    def relevance(self, keyphrase, item):
        parts = (
            self.tokenizer.encode_raw(KEYPHRASES, KEYPHRASE_TOKENS - 2),
            self.tokenizer.encode_raw(self.item_texts, ITEM_TOKENS - 2),
        )
        specials = self.tokenizer.cls_id, self.tokenizer.sep_id
        mesh = make_mesh(ParallelConfig())
        scorer = PairScorer(self.spec, self.assistant, *parts, specials=specials, row_tokens=ROW_TOKENS, mesh=mesh)
        return 1 / (1 + np.exp(-scorer(keyphrase, item)))

    def index(self, **changed):
        settings = {"brute_force_below": 1, "target_recall": 0.9, "sample_queries": self.items[:64], "seed": 0}
        return build_index(self.keyphrases, **(settings | {"recall_at": 20} | changed))


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def tokenizer(world):
    from distill.export.characters import character_table
    from distill.export.graph_tokenizer import GraphTokenizer

    return GraphTokenizer(world.tokenizer, character_table(world.tokenizer))


@pytest.fixture(scope="module")
def exported(world, tokenizer, tmp_path_factory):
    """The folder of all SavedModels, and the index behind each recommender."""
    from distill.export.recommender import save_recommender
    from distill.export.saved_model import save_assistant, save_student

    root = tmp_path_factory.mktemp("export")
    spec = world.spec
    requests = [("serving_default", {"text": ["hose", "a garden hose"]}), ("keyphrase", {"keyphrase": ["hose"]})]
    save_student(root / "student", tokenizer, spec, world.student, ITEM_TOKENS, KEYPHRASE_TOKENS, requests)
    save_assistant(root / "assistant", tokenizer, spec, world.assistant, KEYPHRASE_TOKENS, ITEM_TOKENS, [])
    indexes = {"recommender": world.index(), "prefix": world.index(width=16)}
    for name, index in indexes.items():
        index.save(root / f"index_{name}")
    for name, exact in (("recommender", False), ("recommender_exact", True), ("prefix", False)):
        path = root / f"index_{name.removesuffix('_exact')}"
        save_recommender(root / name, tokenizer, spec, world.student, ITEM_TOKENS, path, KEYPHRASES, K, exact, [])
    return root, indexes


@pytest.fixture(scope="module")
def answers(exported):
    root, _ = exported
    listings = {"category": CATEGORIES, "title": TITLES}
    at = np.arange(len(TITLES)) * 7 % len(KEYPHRASES)
    questions = {
        "student": (root / "student", {"text": [item_text(t, [c] if c else []) for t, c in zip(TITLES, CATEGORIES)]}),
        "student of keyphrases": (
            root / "student",
            {"keyphrase": [as_typed(text) for text in KEYPHRASES]},
            "keyphrase",
        ),
        "student of no keyphrase": (root / "student", {"keyphrase": []}, "keyphrase"),
        "student of none": (root / "student", {"text": []}),
        "student of one": (root / "student", {"text": ["garden hose"]}),
        "assistant": (root / "assistant", {"keyphrase": [KEYPHRASES[i] for i in at], **listings}),
        "assistant as typed": (root / "assistant", {"keyphrase": [as_typed(KEYPHRASES[i]) for i in at], **listings}),
        "assistant of none": (root / "assistant", {"keyphrase": [], "category": [], "title": []}),
        **{name: (root / name, listings) for name in ("recommender", "recommender_exact", "prefix")},
        "recommender of none": (root / "recommender", {"category": [], "title": []}),
        "recommender_exact of none": (root / "recommender_exact", {"category": [], "title": []}),
    }
    return dict(zip(questions, ask(list(questions.values()), root)))


def test_embeddings_are_those_of_the_student(world, answers):
    np.testing.assert_allclose(answers["student"]["embedding"], world.items, atol=1e-4)
    np.testing.assert_allclose(answers["student of one"]["embedding"], world.embed(["garden hose"], 9), atol=1e-4)
    assert np.ptp(world.items @ world.items.T) > 0.5  # texts differ, or equality would say little


def test_relevance_is_that_of_the_assistant(world, answers):
    at = np.arange(len(TITLES))
    wanted = world.relevance(at * 7 % len(KEYPHRASES), at)
    np.testing.assert_allclose(answers["assistant"]["relevance"], wanted, atol=1e-4)
    assert np.ptp(wanted) > 0.1


def test_keyphrases_are_read_in_their_normal_form(world, answers):
    """However they are spelt, and cut at their own length, which is not that of listings."""
    assert as_typed("1 inch hose") == '\u00a01"  ＨOSＥ '
    np.testing.assert_allclose(answers["student of keyphrases"]["embedding"], world.keyphrases, atol=1e-4)
    np.testing.assert_allclose(answers["assistant as typed"]["relevance"], answers["assistant"]["relevance"], atol=1e-6)
    lengths = world.tokenizer.encode_texts(KEYPHRASES, 100).lengths
    assert lengths.max() > KEYPHRASE_TOKENS  # or nothing was cut


def test_batches_of_none(answers):
    assert answers["student of no keyphrase"]["embedding"].shape == (0, 32)
    assert answers["student of none"]["embedding"].shape == (0, 32)
    assert answers["assistant of none"]["relevance"].shape == (0,)
    for name in ("recommender of none", "recommender_exact of none"):
        assert answers[name]["keyphrase"].shape == answers[name]["score"].shape == (0, K)


@pytest.mark.parametrize("name", ["recommender", "prefix"])
def test_recommendations_are_those_of_the_index(world, exported, answers, name):
    index: KeyphraseIndex = exported[1][name]
    assert index.settings.leaves > 0
    assert (index.settings.rescore > 0) == (name == "prefix")
    # Approximate search may answer otherwise where a query differs in its last bits; so this asks for equal queries, by
    # the instructions of TensorFlow's ops.
    with searching_by(avx2=False):
        found, scores = index.search(answers["student"]["embedding"], K)
    assert_equal_recommendations(answers[name], found, scores, share=1.0 if name == "recommender" else 0.98)
    found, scores = index.search(world.items, K)
    assert_equal_recommendations(answers[name], found, scores, share=0.9)


def test_exact_recommendations_are_the_nearest_keyphrases(world, answers):
    scores = world.items @ world.keyphrases.T
    found = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    assert_equal_recommendations(answers["recommender_exact"], found, np.take_along_axis(scores, found, 1))


def assert_equal_recommendations(answer, found, scores, share=1.0):
    """For at least this share of the listings; keyphrases with equal scores may change places."""
    assert answer["keyphrase"].shape == (len(TITLES), K)
    row_of = {keyphrase: i for i, keyphrase in enumerate(KEYPHRASES)}
    ours = np.vectorize(row_of.__getitem__)(answer["keyphrase"])
    equal = []
    for a, b, our_scores, values in zip(ours, found, answer["score"], scores):
        sure = values > values[-1] + 2e-4  # below, another keyphrase of almost the same score may stand
        equal.append(np.abs(our_scores - values).max() < 1e-4 and set(b[sure]) <= set(a))
    assert np.mean(equal) >= share


@pytest.mark.slow
def test_a_prefix_that_nothing_scores_again(world, tokenizer, tmp_path):
    """The index may hold a Matryoshka prefix alone: then so does the recommender."""
    from distill.export.recommender import save_recommender

    items, keyphrases = prefix(world.items, 16), prefix(world.keyphrases, 16)
    index = build_index(keyphrases, brute_force_below=10**6, target_recall=1.0, sample_queries=items[:64], seed=0)
    index.save(tmp_path / "index")
    arguments = tokenizer, world.spec, world.student, ITEM_TOKENS, tmp_path / "index", KEYPHRASES, K
    for name, exact in (("scann", False), ("exact", True)):
        save_recommender(tmp_path / name, *arguments, exact, [])
    listings = {"category": CATEGORIES, "title": TITLES}
    for answer in ask([(tmp_path / name, listings) for name in ("scann", "exact")], tmp_path):
        assert_equal_recommendations(answer, *index.search(items, K))


@pytest.mark.slow
def test_more_keyphrases_than_there_are(world, tokenizer, tmp_path):
    """An index that ScaNN's ops cannot hold is built anew; k beyond its size is its size."""
    from distill.export.recommender import save_recommender

    index = world.index(dtype="bfloat16")
    index.save(tmp_path / "index")
    arguments = tokenizer, world.spec, world.student, ITEM_TOKENS, tmp_path / "index"
    with pytest.raises(ValueError, match=r"holds 1500 keyphrases, not 1499"):
        save_recommender(tmp_path / "short", *arguments, KEYPHRASES[:-1], K, False, [])
    save_recommender(tmp_path / "all", *arguments, KEYPHRASES, 10**6, False, [])
    (answer,) = ask([(tmp_path / "all", {"category": CATEGORIES[:64], "title": TITLES[:64]})], tmp_path)
    assert answer["keyphrase"].shape == (64, len(KEYPHRASES))
    exact = np.sort(world.items[:64] @ world.keyphrases.T, axis=1)[:, ::-1][:, :20]
    assert np.mean(answer["score"][:, :20] >= exact[:, -1:] - 1e-4) >= 0.9
    missing = answer["keyphrase"] == ""
    assert (np.isneginf(answer["score"]) == missing).all()


def test_inputs_of_different_lengths_are_refused(exported):
    serve = tf.saved_model.load(str(exported[0] / "assistant")).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(keyphrase=tf.constant(["a"]), category=tf.constant(["b", "c"]), title=tf.constant(["d", "e"]))


def test_every_platform_is_lowered_for(exported):
    from tensorflow.core.protobuf import saved_model_pb2

    parsed = saved_model_pb2.SavedModel()
    parsed.ParseFromString((exported[0] / "student" / "saved_model.pb").read_bytes())
    functions = parsed.meta_graphs[0].graph_def.library.function
    calls = [node for function in functions for node in function.node_def if node.op == "XlaCallModule"]
    assert calls
    for call in calls:
        assert [p.decode() for p in call.attr["platforms"].list.s] == ["CPU", "CUDA", "TPU"]


def test_the_student_keeps_its_numerics_but_not_its_kernel(world):
    """A student trained with cuDNN's attention, in bfloat16, is lowered for every platform too."""
    from distill.export.lowering import lower_student

    spec = dataclasses.replace(world.spec, attention="cudnn", compute_dtype="bfloat16")
    _, embed = lower_student(spec, world.student)
    shapes = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int32)]
    graph = tf.function(embed, autograph=False).get_concrete_function(*shapes).graph
    (call,) = [op for op in graph.get_operations() if op.type == "XlaCallModule"]
    assert call.get_attr("platforms") == [b"CPU", b"CUDA", b"TPU"]
    assert b"cudnn" not in call.get_attr("module")


def serving_messages():
    """`tensorflow_serving/apis/{model,predict,prediction_log}.proto`, as far as a warm-up request uses them."""
    pool = descriptor_pool.DescriptorPool()
    for name in ("google/protobuf/wrappers.proto",):
        pool.Add(
            descriptor_pb2.FileDescriptorProto.FromString(descriptor_pool.Default().FindFileByName(name).serialized_pb)
        )
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="tensorflow.serving", syntax="proto3")
    label, text, message = 1, 9, 11
    shapes = {
        "ModelSpec": [("name", 1, label, text, ""), ("signature_name", 3, label, text, "")],
        "Entry": [("key", 1, label, text, ""), ("value", 2, label, 12, "")],  # a TensorProto's bytes
        "PredictRequest": [
            ("model_spec", 1, label, message, "ModelSpec"),
            ("inputs", 2, 3, message, "Entry"),
        ],
        "PredictLog": [("request", 1, label, message, "PredictRequest")],
        "PredictionLog": [("predict_log", 6, label, message, "PredictLog")],
    }
    for name, fields in shapes.items():
        kind = file.message_type.add(name=name)
        for field, number, repeated, of, target in fields:
            full = f".tensorflow.serving.{target}" if target else None
            kind.field.add(name=field, number=number, label=repeated, type=of, type_name=full)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.PredictionLog"))


def test_warm_up_requests_are_prediction_logs(exported):
    from tensorflow.core.framework import tensor_pb2

    log = serving_messages()()
    log.ParseFromString(warm_up_record({"title": ["x" * 300, "é"], "category": ["", "b"]}))
    request = log.predict_log.request
    assert request.model_spec.signature_name == "serving_default"
    tensors = {entry.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(entry.value)) for entry in request.inputs}
    assert {name: values.tolist() for name, values in tensors.items()} == {
        "title": [b"x" * 300, "é".encode()],
        "category": [b"", b"b"],
    }
    stored = [record.numpy() for record in tf.data.TFRecordDataset(str(exported[0] / "student" / FILE))]
    assert stored == [
        warm_up_record({"text": ["hose", "a garden hose"]}),
        warm_up_record({"keyphrase": ["hose"]}, "keyphrase"),
    ]


def test_warm_up_texts_have_each_length_of_padding():
    assert one_of_each_length(np.array([3, 8, 5, 9, 40, 33]), 40) == [1, 3, 4]
    assert one_of_each_length(np.array([2]), 40) == [0]
