"""The `jax` judge gives each pair what its prompt gets alone, with whatever it was packed; and reads it as it is."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import LanguageModelConfig, ParallelConfig
from distill.judge.language_model import LanguageModelJudge, fingerprint
from distill.judge.prompt import choice_prompt
from distill.judge.rubric import Answer
from distill.models.decoder import DecoderSpec, hidden_states, init_decoder, token_logits
from distill.models.decoder_weights import load_decoder
from distill.parallel.mesh import make_mesh
from distill.parallel.partition import tree_shardings
from tests.judge.injections import ATTACKS, TEMPLATE_TOKENS
from tests.judge.small_models import CHATML, RUBRIC, SPECIALS, chat_tokenizer, request, softmax_by_hand
from tests.models.decoders import GOLDEN, plain

TOKENIZER = chat_tokenizer()
SPEC = DecoderSpec("qwen3", 512, 2, 32, 4, 2, 8, 48, 2048, rope_theta=1000.0)
TITLES = ("red steel kettle", "kettle", "blue cotton towel 2 pcs, soft", "")
KEYPHRASES = ("kettle", "electric kettle 1.7 l", "towel", "x", "kitchen things in red")


def weights(answers_weight: float = 1.0):
    """Large enough for attention to matter; `answers_weight` makes the answers' tokens likelier or not."""
    params = jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, init_decoder(SPEC, 3))
    table = params["head"]["embedding"]
    params["head"]["embedding"] = table.at[np.array([answer_token(answer.text) for answer in RUBRIC.answers])].mul(
        answers_weight
    )
    return params


def answer_token(text: str) -> int:
    return TOKENIZER.encode(text, special=False)[0]


def judge(params, shape=(1, 1, 1), row_tokens=256, batch_rows=2, rubric=RUBRIC, tokenizer=TOKENIZER, spec=SPEC):
    mesh = make_mesh(ParallelConfig(*shape), devices=jax.devices()[: math.prod(shape)])
    params = jax.device_put(params, tree_shardings(mesh, params))
    return LanguageModelJudge(
        spec, params, tokenizer, rubric, name="jax:tiny", mesh=mesh, row_tokens=row_tokens, batch_rows=batch_rows
    )


def alone(params, one) -> np.ndarray:
    """The answers' log-probabilities after the pair's whole chat in a row of its own."""
    system, _, between, _, header = TOKENIZER.pieces(choice_prompt(RUBRIC, one).messages)
    assert (system.text, header.text) == ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>assistant\n")
    parts = choice_prompt(RUBRIC, one)
    texts = [system, (parts.system, False), between, (parts.listing, False), (parts.keyphrase, False), header]
    tokens = [token for text in texts for token in TOKENIZER.encode(*text)]
    packed, _ = plain([tokens], 512, 1)
    hidden = hidden_states(SPEC, params, packed)[0, len(tokens) - 1]
    logits = np.asarray(token_logits(SPEC, params, hidden[None]))[0]
    return softmax_by_hand(logits, [answer_token(answer.text) for answer in RUBRIC.answers])


def prompt_tokens(judge, one) -> list[int]:
    """All tokens after the rubric."""
    prompt = judge._prompt(one)
    return [*prompt.listing, *prompt.keyphrase]


def log_probabilities(judgement) -> list[float]:
    found = json.loads(judgement.answer)
    assert list(found) == [answer.text for answer in RUBRIC.answers]
    return list(found.values())


PARAMS = weights()
PAIRS = [request(i, k, title, text) for i, title in enumerate(TITLES) for k, text in enumerate(KEYPHRASES)]
JUDGES = {
    "small rows": {"row_tokens": 120, "batch_rows": 1},
    "large rows": {"row_tokens": 300, "batch_rows": 3},
    "8 devices": {"shape": (8, 1, 1), "row_tokens": 150, "batch_rows": 1},
    "split parameters": {"shape": (2, 2, 2), "row_tokens": 200, "batch_rows": 1},
}


@pytest.fixture(scope="module")
def expected():
    return {(one.item, one.keyphrase_index): alone(PARAMS, one) for one in PAIRS}


@pytest.fixture(scope="module", params=JUDGES)
def packing(request):
    return judge(PARAMS, **JUDGES[request.param])


@settings(max_examples=8)
@given(data=st.data())
def test_every_pair_is_answered_once_as_if_it_were_alone(packing, expected, data):
    """Streams of any length and order, listings together or scattered, pairs repeated."""
    asked = [
        dataclasses.replace(one, repeat=n)
        for n, one in enumerate(data.draw(st.lists(st.sampled_from(PAIRS), max_size=40)))
    ]
    answers = list(packing.judge(iter(asked)))
    assert sorted((a.repeat, a.item, a.keyphrase_index) for a in answers) == [
        (one.repeat, one.item, one.keyphrase_index) for one in asked
    ]
    for answer in answers:
        assert (answer.judge, answer.rubric, answer.completion_tokens) == ("jax:tiny", "small-v1", 0)
        found, alike = log_probabilities(answer), expected[answer.item, answer.keyphrase_index]
        np.testing.assert_allclose(found, alike, atol=3e-5)
        np.testing.assert_allclose(np.subtract(found, found[0]), alike - alike[0], atol=3e-5)


def test_tokens_of_a_listing_are_shared_among_its_pairs():
    one = judge(PARAMS)
    answers = list(one.judge(PAIRS[:5]))
    listing = len(TOKENIZER.encode(choice_prompt(RUBRIC, PAIRS[0]).listing, special=False))
    alone_tokens = [one.tokens(pair)[0] for pair in PAIRS[:5]]
    assert sum(answer.prompt_tokens for answer in answers) == sum(alone_tokens) - 4 * listing
    assert one.tokens(PAIRS[0]) == (
        listing + len(TOKENIZER.encode(choice_prompt(RUBRIC, PAIRS[0]).keyphrase, False)) + 6,
        0,
    )
    assert all(answer.seconds > 0 for answer in answers)


def test_grades_are_read_from_the_probabilities():
    """The answers have nearly all of the probability, so the grade is the likeliest one's, or the judge abstains."""
    params = weights(60.0)
    answers = list(judge(params).judge(PAIRS))
    statuses = set()
    for answer in answers:
        found = np.exp(log_probabilities(answer))
        statuses.add(answer.status)
        if found.sum() < 0.5:
            assert (answer.status, answer.grade, answer.raw_score) == ("unparsable", None, None)
        elif found.argmax() == 3:
            assert (answer.status, answer.grade, answer.raw_score) == ("abstained", None, None)
        else:
            assert (answer.status, answer.grade) == ("graded", (3, 1, 0)[found.argmax()])
            assert answer.raw_score == pytest.approx((3 * found[0] + found[1]) / found[:3].sum(), abs=1e-3)
    assert {"graded", "abstained"} <= statuses


def test_a_model_that_would_answer_something_else_is_unparsable():
    answers = list(judge(weights(0.0)).judge(PAIRS[:3]))
    assert {(answer.status, answer.grade, answer.raw_score) for answer in answers} == {("unparsable", None, None)}
    assert all(np.exp(log_probabilities(answer)).sum() < 0.5 for answer in answers)


def test_a_pair_that_does_not_fit_fails_and_says_what_would_take_it():
    long = request(7, 7, "blue cotton towel " * 20, "towel")
    needed = judge(PARAMS).tokens(long)[0]
    answers = list(judge(PARAMS, row_tokens=needed - 1).judge([PAIRS[0], long, PAIRS[1]]))
    assert sorted((a.item, a.status) for a in answers if a.status == "failed") == [(7, "failed")]
    assert len(answers) == 3
    (failed,) = (a for a in answers if a.status == "failed")
    assert failed.grade is None
    assert failed.answer == f"listing and keyphrase take {needed} tokens; raise judge.llm.row_tokens={needed - 1} to it"
    (scored,) = judge(PARAMS, row_tokens=needed).judge([long])
    np.testing.assert_allclose(log_probabilities(scored), alone(PARAMS, long), atol=3e-5)


def test_a_pair_beyond_the_models_positions_fails():
    long = request(7, 7, "blue cotton towel " * 20, "towel")
    prefix = len(alone_prefix())
    needed = judge(PARAMS).tokens(long)[0]
    short = dataclasses.replace(SPEC, max_positions=prefix + needed - 1)
    (failed,) = judge(PARAMS, row_tokens=needed, spec=short).judge([long])
    assert failed.status == "failed" and f"the model has {needed - 1} positions after the rubric" in failed.answer
    fits = dataclasses.replace(SPEC, max_positions=prefix + needed)
    (scored,) = judge(PARAMS, row_tokens=needed, spec=fits).judge([long])
    assert np.isfinite(log_probabilities(scored)).all()


def alone_prefix() -> list[int]:
    pieces = TOKENIZER.pieces(choice_prompt(RUBRIC, PAIRS[0]).messages)
    return [token for piece in pieces[:3] for token in TOKENIZER.encode(*piece)]


@pytest.fixture(scope="module")
def attacked():
    return judge(PARAMS, row_tokens=1600)


@pytest.mark.parametrize("place", ["title", "keyphrase"])
def test_role_tags_in_untrusted_texts_stay_text(attacked, place):
    texts = [*ATTACKS.values(), *TEMPLATE_TOKENS]
    special = [TOKENIZER.encode(text, special=True)[0] for text in SPECIALS]
    for text in texts:
        one = request(0, 0, text, "kettle") if place == "title" else request(0, 0, "kettle", text)
        ids = prompt_tokens(attacked, one)
        assert [token for token in ids if token in special] == [2, 1]  # the end of the user's turn, and the assistant's


def test_what_a_template_puts_before_an_answer_belongs_to_its_token():
    """A template as Llama 2's: a blank follows the header, and the answer's token holds it."""
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}<|im_end|>"
        "{% else %}<|im_start|>{{ m['content'] }}[/INST]{% endif %}{% endfor %}"
    )
    tokenizer = chat_tokenizer(template=template, words=" 3 1 0 unsure 3 1 0 unsure")
    found = judge(PARAMS, tokenizer=tokenizer)._frame.answers
    assert found == tuple(tokenizer.encode(f" {answer.text}", special=False)[0] for answer in RUBRIC.answers)


def test_answers_that_one_token_cannot_tell_apart_are_an_error():
    """Two Cyrillic words of one first byte, in a vocabulary of bytes."""
    answers = (Answer("да", 3, "yes", "it is"), Answer("нет", 0, "no", "it is not"))
    with pytest.raises(
        ValueError, match=r"jax:tiny, rubric small-v1: the answers 'да' and 'нет' begin with the same token"
    ):
        judge(PARAMS, rubric=dataclasses.replace(RUBRIC, answers=answers))


def test_what_cannot_work_is_an_error_at_once():
    with pytest.raises(
        ValueError, match=r"even without any text, listing and keyphrase take \d+ tokens; raise judge.llm.row"
    ):
        judge(PARAMS, row_tokens=10)
    with pytest.raises(ValueError, match="the tokenizer has 500 tokens, the model 400"):
        judge(PARAMS, spec=dataclasses.replace(SPEC, vocab_size=400))
    silent = chat_tokenizer(
        template="{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match="does not write the system message"):
        judge(PARAMS, tokenizer=silent)


@pytest.fixture
def checkpoint(tmp_path):
    """A Hugging Face directory: a golden decoder of 160 tokens with a tokenizer of as few."""
    folder = tmp_path / "tiny-chat"
    shutil.copytree(GOLDEN / "qwen3", folder)
    tokenizer = chat_tokenizer(150, every_byte=False)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "tokenizer.json").write_text(tokenizer._full.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    return folder


def test_loading_a_checkpoint(checkpoint):
    mesh = make_mesh(ParallelConfig(), devices=jax.devices()[:1])
    config = LanguageModelConfig(model=str(checkpoint), row_tokens=200, batch_rows=1)
    loaded = LanguageModelJudge.load(config, RUBRIC, mesh)
    assert loaded.name == f"jax:tiny-chat:{fingerprint(checkpoint, 'float32')}"
    (answer,) = loaded.judge(PAIRS[:1])
    spec, params = load_decoder(checkpoint)
    tokens = [*loaded._frame.prefix, *prompt_tokens(loaded, PAIRS[0])]
    packed, _ = plain([tokens], len(tokens), 1)
    logits = np.asarray(token_logits(spec, params, hidden_states(spec, params, packed)[0, -1:]))[0]
    np.testing.assert_allclose(log_probabilities(answer), softmax_by_hand(logits, loaded._frame.answers), atol=3e-5)


def test_a_fingerprint_goes_by_weights_configuration_and_dtype(checkpoint, tmp_path):
    first = fingerprint(checkpoint, "float32")
    assert len(first) == 12 and int(first, 16) >= 0
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(checkpoint, moved)
    (moved / "README.md").write_text("not read")
    assert fingerprint(moved, "float32") == first
    seen = {first, fingerprint(moved, "bfloat16")}
    for name in ("model.safetensors", "config.json", "tokenizer_config.json"):
        content = bytearray((moved / name).read_bytes())
        content[-3] ^= 1
        (moved / name).write_bytes(content)
        seen.add(fingerprint(moved, "float32"))
    assert len(seen) == 5


def test_a_large_file_is_sampled_from_end_to_end(tmp_path):
    file = tmp_path / "model.gguf"
    with file.open("wb") as stream:
        stream.truncate(64 << 20)  # holes of zeros
    seen = {fingerprint(file, "float32")}
    for place, length in ((0, 1), (32 << 20, 128 << 10), ((64 << 20) - 1, 1)):  # a tensor in the middle is many samples
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"\x01" * length)
        seen.add(fingerprint(file, "float32"))
    assert len(seen) == 4
