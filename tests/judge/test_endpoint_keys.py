"""The `openai` backend: where its key and address come from, and where the key must never go."""

import dataclasses
import io
import json
import logging
import traceback
from pathlib import Path

import pytest
from rich.traceback import Traceback

from distill.config import ConfigError, EndpointConfig
from distill.judge.asking import ask
from distill.judge.endpoint import EndpointError, EndpointJudge, read_key
from distill.judge.store import JudgementStore
from tests.judge.endpoint_calls import FATAL, KEY, PASSING, RUBRIC, THREE, in_turn, judge, pairs
from tests.judge.http_servers import completion, serving


@pytest.mark.parametrize("kind", [*PASSING, *FATAL, "graded"])
def test_the_key_gets_nowhere(kind, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    reply = {**PASSING, **{name: fatal for name, (fatal, _) in FATAL.items()}, "graded": THREE}[kind]
    if reply.status >= 500 or kind == "graded":  # services that quote the key wherever they can
        body = json.dumps({"error": {"message": KEY}}).encode() if kind != "graded" else completion(KEY).body
        reply = dataclasses.replace(reply, body=body)
    told: list[str] = []
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    seen = ""
    with serving(lambda asked: reply) as url, JudgementStore(tmp_path / "store") as store:
        asking = judge(url, tries=2, timeout=0.2 if kind == "silence" else 5.0, notice=told.append)
        try:
            ask(store, asking, RUBRIC, pairs(3), attempts=1, receive=lambda judgements: told.append(repr(judgements)))
        except EndpointError as error:
            seen = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__)
            shown = io.StringIO()
            rich_console(shown).print(Traceback.from_exception(type(error), error, error.__traceback__, width=300))
            seen += shown.getvalue()
    stored = b"".join(file.read_bytes() for file in (tmp_path / "store").iterdir())
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    for text in (seen, repr(asking), "".join(told), logged):
        assert KEY not in text
    assert KEY.encode() not in stored
    assert ("EndpointError" in seen) == (kind in FATAL)


def rich_console(file):
    from rich.console import Console

    return Console(file=file, width=300)


def test_the_key_comes_from_the_variable_that_the_config_names():
    named = EndpointConfig(model="m", key_variable="MY_KEY")
    assert read_key(named, {"MY_KEY": f" {KEY}\n", "OPENAI_API_KEY": "other"}) == KEY
    with pytest.raises(ConfigError, match=r"MY_KEY.*judge\.endpoint\.url"):
        read_key(named, {"OPENAI_API_KEY": KEY, "MY_KEY": " "})
    local = dataclasses.replace(named, url="http://localhost:8000/v1")
    assert read_key(local, {"OPENAI_API_KEY": KEY}) is None
    assert read_key(named, {"OPENAI_BASE_URL": "http://localhost:8000/v1"}) is None
    for broken in (f"{KEY}\n{KEY}", f"{KEY} x", f"{KEY}é", f"{KEY}\0"):
        with pytest.raises(ConfigError, match="MY_KEY") as caught:
            read_key(named, {"MY_KEY": broken})
        assert KEY not in str(caught.value)


def test_a_local_server_never_gets_the_key_of_another_service(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    respond, asked = in_turn(THREE)
    with serving(respond) as url:
        list(judge(url, key=None).judge(pairs(1)))
    assert asked and KEY not in str(asked[0].headers)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", f"https://user:{KEY}@host/v1"])
def test_an_address_that_cannot_work_is_refused(url):
    with pytest.raises(ConfigError, match=r"judge\.endpoint\.url") as caught:
        judge(url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("address", ["http://user:hunter2@localhost:9/v1", "http://localhost:9/v1?key=hunter2"])
def test_an_address_of_the_environment_is_checked_too(monkeypatch, address):
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL") as caught:
        EndpointJudge(EndpointConfig(model="m"), RUBRIC, None)
    assert "hunter2" not in str(caught.value)
