"""A `batch` judge, and the lines of results that a service may write for its calls."""

import json
import math
from pathlib import Path

from distill.config import EndpointConfig
from distill.judge.backends import Judgement
from distill.judge.batch_files import BatchJudge, WaitingForBatch
from tests.judge.asking_endpoint import RUBRIC
from tests.judge.http_servers import completion


def judge(folder: Path, answer: str = "logprobs", notice=lambda text: None, rubric=RUBRIC, **limits) -> BatchJudge:
    config = EndpointConfig(model="m", answer=answer, keyphrases_per_call=4, prompt_price=1.0)
    return BatchJudge(config, rubric, folder, notice=notice, **limits)


def judged(judge: BatchJudge, requests) -> tuple[list[Judgement], WaitingForBatch | None]:
    found = []
    try:
        for judgement in judge.judge(requests):
            found.append(judgement)
    except WaitingForBatch as waiting:
        return found, waiting
    return found, None


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(call: dict, grade: str = "2") -> dict:
    """A result line as OpenAI and vLLM write it."""
    schema = call["body"].get("response_format")
    ids = schema["json_schema"]["schema"]["required"] if schema else []
    reply = completion(
        json.dumps(dict.fromkeys(ids, grade)) if ids else grade,
        logprobs=None if ids else {grade: math.log(0.9)},
        usage=(40, 4),
    )
    response = {"status_code": 200, "request_id": "r", "body": json.loads(reply.body)}
    return {"id": "b", "custom_id": call["custom_id"], "response": response, "error": None}


def failed(call: dict) -> dict:
    body = {"error": {"message": "Rate limit", "code": "rate_limit_exceeded"}}
    return {"id": "b", "custom_id": call["custom_id"], "response": {"status_code": 429, "body": body}, "error": None}


def expired(call: dict) -> dict:
    error = {"code": "batch_expired", "message": "This request could not be executed in time."}
    return {"id": "b", "custom_id": call["custom_id"], "response": None, "error": error}


def too_long(call: dict, status: int | None = 400) -> dict:
    body = {"error": {"message": "The prompt is too long", "code": "context_length_exceeded"}}
    return {"id": "b", "custom_id": call["custom_id"], "response": {"status_code": status, "body": body}, "error": None}


def nonsense(call: dict) -> dict:
    return answered(call, "9")


def write(path: Path, lines) -> None:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
