"""The application: a page where an image is dropped, and the same over HTTP, for any server that speaks ASGI."""

import json
import logging
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import detseg
from detseg.console import one_line
from detseg.options import check_score_threshold
from detseg.serve.encode import colors, encode, preview
from detseg.serve.guard import LOCAL, Guard
from detseg.serve.limits import Limits, Refused
from detseg.serve.openapi import description, reference
from detseg.serve.uploads import discard, format_names, open_upload, read_upload
from detseg.serve.worker import Worker

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "ask.js": "text/javascript",
    "draw.js": "text/javascript",
    "save.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
OBJECTS = ("detect", "localize")  # tasks that find objects with scores
FAILED = "the server failed at this request; its log says why"
AGAIN = 2  # seconds after which one who was refused as too many are there may try again


class Model(Protocol):
    """What is served: a `detseg.predict.Predictor`, a `detseg.runtime.ExportedModel`, or what behaves as they do."""

    task: Any
    size: int
    channels: int

    @property
    def names(self) -> list[str]:
        """Class names by label."""

    @property
    def stream(self) -> Any:
        """Results of images, one by one, from images and options."""


class Question(NamedTuple):
    """What is asked of an image."""

    score_threshold: float
    preview: bool


class Service:
    """A model and what is to be known of it; its methods answer requests."""

    def __init__(self, model: Model, name: str, score_threshold: float, limits: Limits) -> None:
        check_score_threshold(score_threshold)
        self.model, self.limits, self.worker = model, limits, Worker(limits)
        self.finds_objects = model.task in OBJECTS
        self.about: dict[str, Any] = {
            "name": one_line(name),
            "version": detseg.__version__,
            "task": str(model.task),
            "names": list(model.names),
            "colors": colors(list(model.names), str(model.task)),
            "size": int(model.size),
            "channels": int(model.channels),
            "masks": bool(getattr(model, "finds_masks", False)),
            "score_threshold": score_threshold if self.finds_objects else None,
            "formats": format_names(),
            "limits": {"bytes": limits.bytes, "pixels": limits.pixels, "seconds": limits.seconds},
        }

    def look(self, data: bytes, question: Question) -> bytes:
        """The answer, as JSON, to an uploaded file; Refused if it is no image that is taken."""
        pixels = open_upload(data, self.limits, self.model.channels)
        start = time.perf_counter()
        if self.finds_objects:
            options = {"score_threshold": question.score_threshold, "batch_size": 1}
            if self.about["masks"]:
                options["run_lengths"] = True  # small for any image
            results = self.model.stream(pixels, **options)
        else:
            results = self.model.stream(pixels, 1)
        (found,) = results
        seconds = time.perf_counter() - start
        answer = {"task": self.about["task"], "width": pixels.shape[1], "height": pixels.shape[0]}
        answer |= {"seconds": round(seconds, 4), **encode(found)}
        if self.finds_objects:
            answer["score_threshold"] = question.score_threshold
        if question.preview:
            answer["preview"] = preview(pixels)
        return json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()

    def warm_up(self) -> None:
        """Predict once: what is compiled or allocated at the first image is there then."""
        side = int(self.model.size)
        blank = np.zeros((side, side, int(self.model.channels)), np.uint8)
        list(self.model.stream(blank))

    async def predict(self, request: Request) -> Response:
        """POST /predict."""
        try:
            question = self._question(request.query_params)
            place = self.worker.place()
        except Refused:
            await discard(request, self.limits)
            raise
        with place:
            data = await read_upload(request, self.limits)
            return Response(await place.run(partial(self._answer, data, question)), media_type="application/json")

    def _answer(self, data: bytes, question: Question) -> bytes:
        """As `look`; what fails is written to the log, and the client learns that it did."""
        try:
            return self.look(data, question)
        except Refused:
            raise
        except Exception as error:
            log.exception("a prediction failed")
            raise Refused(500, FAILED) from error

    def _question(self, options: Mapping[str, str]) -> Question:
        """The options of a request; Refused if there are others, or values that they do not have."""
        known = {"preview", "score_threshold"} if self.finds_objects else {"preview"}
        for name in options:
            if name not in known:
                raise Refused(400, f"there is no option {name[:100]!r} for this model, only {', '.join(sorted(known))}")
        text = options.get("score_threshold", str(self.about["score_threshold"] or 0))
        try:
            threshold = float(text)
        except ValueError:
            threshold = -1
        if not 0 <= threshold <= 1:
            raise Refused(400, f"score_threshold must be a number from 0 to 1, not {text[:100]!r}")
        shown = options.get("preview", "false").lower()
        if shown not in ("true", "false"):
            raise Refused(400, f"preview must be true or false, not {shown[:100]!r}")
        return Question(threshold, shown == "true")

    async def health(self, _: Request) -> Response:
        """GET /health."""
        return JSONResponse({"status": "ok", "requests": self.worker.busy})

    async def describe(self, _: Request) -> Response:
        """GET /model."""
        return JSONResponse(self.about)

    async def openapi(self, _: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(description(self.about))

    async def docs(self, request: Request) -> Response:
        """GET /docs."""
        return HTMLResponse(reference(description(self.about), str(request.base_url).rstrip("/")))


def create_app(
    model: Model,
    *,
    name: str = "model",
    score_threshold: float = 0.3,
    limits: Limits | None = None,
    hosts: Collection[str] | None = LOCAL,
) -> Starlette:
    """The application of a model.

    Args:
        model: what `detseg.load` or `detseg.runtime.load` gives.
        name: of the model, on the page.
        score_threshold: lowest score of objects, where a request says nothing else.
        limits: of requests.
        hosts: names by which the server may be asked; None: any, for servers that others reach.
    """
    service = Service(model, name, score_threshold, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        yield
        service.worker.close()

    app = Starlette(
        routes=[
            Route("/", partial(_file, "index.html", "text/html")),
            Route("/docs", service.docs),
            Route("/openapi.json", service.openapi),
            Route("/health", service.health),
            Route("/model", service.describe),
            Route("/predict", service.predict, methods=["POST"]),
            *(Route(f"/static/{file}", partial(_file, file, kind)) for file, kind in FILES.items()),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={
            Refused: _refuse,
            HTTPException: _no_such,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    app.state.service = service
    return app


async def _file(name: str, kind: str, _: Request) -> Response:
    return Response((PAGE / name).read_bytes(), media_type=kind)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"Retry-After": str(AGAIN)} if error.status == 503 else None
    return JSONResponse({"error": error.message}, error.status, headers)


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "there is nothing at this address; /docs says what there is", 405: "this address takes another method"}
    message = what.get(error.status_code, error.detail)
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _failed(request: Request, error: Exception) -> Response:
    """Starlette raises the error again, after this answer: whoever runs the application logs it."""
    return JSONResponse({"error": FAILED}, 500)
