"""A tiny chat model for the judge's tests: a trained byte-level BPE with a ChatML template, and random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from distill.data.chat import ChatTokenizer
from distill.judge.backends import Request
from distill.judge.prompt import choice_prompt
from distill.judge.rubric import Answer, Rubric

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RUBRIC = Rubric(
    "small-v1",
    "How relevant is the listing?",
    (
        Answer("3", 3, "exact", "all of it"),
        Answer("1", 1, "complement", "used with it"),
        Answer("0", 0, "irrelevant", "nothing of it"),
        Answer("unsure", None, "unclear", "cannot be told"),
    ),
    (),
    "hash of small-v1",
)


def request(item: int, keyphrase: int, title: str, text: str, repeat: int = 0) -> Request:
    return Request(item, keyphrase, title, ("Home", "Kitchen"), {"colour": "red"}, text, repeat)


def chat_backend(
    vocab_size: int = 500, template: str = CHATML, every_byte: bool = True, words: str = ""
) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    parts = choice_prompt(RUBRIC, request(0, 0, "red steel kettle 1.7 l", "electric kettle"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if every_byte else [],
        show_progress=False,
    )
    texts = [parts.system, parts.listing, parts.keyphrase, "system user assistant", template, words]
    backend.train_from_iterator(texts, trainer)
    return backend


def chat_tokenizer(
    vocab_size: int = 500, template: str = CHATML, every_byte: bool = True, words: str = ""
) -> ChatTokenizer:
    backend = chat_backend(vocab_size, template, every_byte, words)
    return ChatTokenizer(json.loads(backend.to_str()), template, {"eos_token": "<|im_end|>"}, (2,))


def save_chat_model(folder: Path, width: int = 16, mlp_width: int = 32) -> Path:
    """A Llama of two layers and random weights as a Hugging Face directory."""
    folder.mkdir(parents=True)
    backend = chat_backend()
    backend.save(str(folder / "tokenizer.json"))
    rows = backend.get_vocab_size()
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (rows, width), "model.norm": (width,)}
    for layer in range(2):
        inner = {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (width // 2, width),
            "self_attn.v_proj": (width // 2, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (mlp_width, width),
            "mlp.up_proj": (mlp_width, width),
            "mlp.down_proj": (width, mlp_width),
            "input_layernorm": (width,),
            "post_attention_layernorm": (width,),
        }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in inner.items()}
    tensors = {f"{name}.weight": rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": mlp_width,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "eos_token": "<|im_end|>"}))
    return folder


def softmax_by_hand(logits: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Log-probabilities of the chosen entries of [V], in float64."""
    logits = logits.astype(np.float64)
    return logits[list(chosen)] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
