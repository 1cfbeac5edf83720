"""The server's routes: which there are, who is let in, and what is counted and logged of each request.

| route | answers |
|---|---|
| `POST /v1/models/NAME:predict` | TensorFlow Serving's predict |
| `GET /v1/models/NAME`, `GET /v1/models/NAME/metadata` | its status and metadata |
| `POST /v1/explain` | a listing's candidates and what becomes of each |
| `GET /` | the page that shows them |
| `GET /healthz`, `GET /readyz`, `GET /metrics` | for who watches the server |
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from distill.export.loading import LoadedModel, Signature
from distill.export.serving_facts import ServingFacts
from distill.export.warm_up import SIGNATURE
from distill.serving import predict
from distill.serving.batching import Batcher
from distill.serving.body import read_body
from distill.serving.explain import RECOMMENDERS, explain, parse_explain
from distill.serving.limits import RETRY_AFTER, Limits, RequestError, quoted
from distill.serving.metrics import CONTENT_TYPE, Metrics

_PAGE = Path(__file__).with_name("page")
_JSON = "application/json"
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Log = Callable[[Mapping[str, Any]], None]  # one record a request, without any text of the client's
Work = Callable[[Request, bytes, float, dict[str, Any]], Awaitable[bytes]]


class Service:
    """What the routes share.

    Attributes:
      state: `warming`, `ready` or `draining`; only a ready service lets requests in.
      in_progress: requests that were let in and have no answer yet.
    """

    def __init__(
        self, models: Mapping[str, LoadedModel], facts: ServingFacts | None, limits: Limits, log: Log | None = None
    ):
        self.models, self.facts, self.limits = models, facts, limits
        self.state, self.in_progress = "warming", 0
        self._log = log or (lambda record: None)
        self.metrics = Metrics(lambda: self.batcher.waiting(), lambda: self.in_progress, limits.batch)
        # A model by its name, a further signature of it by NAME:SIGNATURE.
        further = {f"{name}:{key}": one for name, model in models.items() for key, one in model.further.items()}
        self.callables: Mapping[str, Signature] = {**models, **further}
        self.batcher = Batcher(self.callables, limits, self.metrics.called)

    def app(self) -> Starlette:
        """The ASGI application."""
        page = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css")}
        page["/page.js"] = ("page.js", "text/javascript")
        app = Starlette(
            routes=[
                *(Route(path, _file(*file)) for path, file in page.items()),
                Route("/v1/models/{name}:predict", self._predict, methods=["POST"]),
                Route("/v1/models/{name}/metadata", self._metadata),
                Route("/v1/models/{name}", self._status),
                Route("/v1/explain", self._explain, methods=["POST"]),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={HTTPException: self._no_route},  # type: ignore[dict-item]
        )
        app.router.redirect_slashes = False  # it would send a client to whatever host the request names
        return app

    async def _predict(self, request: Request) -> Response:
        name = request.path_params["name"]
        return await self._answer(request, name if name in self.models else "unknown", self._run_model)

    async def _explain(self, request: Request) -> Response:
        return await self._answer(request, "explain", self._run_explain)

    async def _answer(self, request: Request, label: str, work: Work) -> Response:
        """Lets a request in, does the work and turns whatever happens into an answer, a count and a log line."""
        began = time.monotonic()
        record: dict[str, Any] = {"model": label}
        try:
            self._let_in()
            try:
                deadline = began + self.limits.deadline
                body = await read_body(request, self.limits, deadline)
                response = Response(await work(request, body, deadline, record), media_type=_JSON)
            finally:
                self.in_progress -= 1
        except RequestError as error:
            response = _error(error.status, error.reason, error.headers)
        except TimeoutError:
            reason = f"DEADLINE_EXCEEDED: no answer within {self.limits.deadline:g} s; the server is busy"
            response = _error(504, reason, RETRY_AFTER)
        except Exception:
            record["error"] = traceback.format_exc()
            response = _error(500, "internal error; the server's log says more")
        seconds = time.monotonic() - began
        self.metrics.answered(label, response.status_code, seconds)
        self._log({**record, "code": response.status_code, "ms": round(1000 * seconds, 2)})
        return response

    def _let_in(self) -> None:
        if self.state != "ready":
            raise RequestError(503, f"the server is {self.state}", RETRY_AFTER | {"Connection": "close"})
        if self.in_progress >= self.limits.queue:
            raise RequestError(429, f"{self.limits.queue} requests are in progress; try again", RETRY_AFTER)
        self.in_progress += 1

    async def _run_model(self, request: Request, body: bytes, deadline: float, record: dict[str, Any]) -> bytes:
        model = self._model(request)
        further = {key: one.inputs for key, one in model.further.items()}
        asked = predict.parse_predict(body, {SIGNATURE: model.inputs, **further}, self.limits)
        record["rows"] = asked.rows
        name = model.name if asked.signature == SIGNATURE else f"{model.name}:{asked.signature}"
        return predict.answer(await self.batcher.predict(name, asked.columns, deadline), asked.form)

    async def _run_explain(self, request: Request, body: bytes, deadline: float, record: dict[str, Any]) -> bytes:
        if not any(name in self.models for name in RECOMMENDERS):
            raise RequestError(404, "this export has no recommender, so there is nothing to explain")
        title, category = parse_explain(body, self.limits)
        found = await explain(self.batcher, list(self.models), self.facts, self.limits, title, category, deadline)
        record["rows"] = len(found["keyphrases"])
        return json.dumps(found, ensure_ascii=False, allow_nan=False).encode()

    async def _status(self, request: Request) -> Response:
        if request.path_params["name"].endswith(":predict"):
            raise HTTPException(405, headers={"Allow": "POST"})
        return self._about(request, lambda model: predict.status(self.state != "warming"))

    async def _metadata(self, request: Request) -> Response:
        return self._about(request, predict.metadata)

    def _about(self, request: Request, tell: Callable[[LoadedModel], Any]) -> Response:
        try:
            return Response(json.dumps(tell(self._model(request))), media_type=_JSON)
        except RequestError as error:
            return _error(error.status, error.reason)

    def _model(self, request: Request) -> LoadedModel:
        name = request.path_params["name"]
        if name not in self.models:
            raise RequestError(404, f"Servable not found: {quoted(name)}; there are {', '.join(self.models)}")
        return self.models[name]

    async def _healthz(self, request: Request) -> Response:
        return Response("alive", media_type="text/plain")

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _readyz(self, request: Request) -> Response:
        ready = self.state == "ready"
        return Response(self.state, 200 if ready else 503, None if ready else RETRY_AFTER, "text/plain")

    async def _no_route(self, request: Request, error: HTTPException) -> Response:
        self.metrics.answered("none", error.status_code, 0.0)
        reason = f"{request.method} is not allowed here" if error.status_code == 405 else "there is nothing here"
        return _error(error.status_code, reason, error.headers)


def _error(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps({"error": reason}), status, headers, _JSON)


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (_PAGE / name).read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, headers=_SECURITY, media_type=kind)

    return send
