"""The gateway's application: which path gives what, and its health."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.documentation import PREFIX, File
from gateway.telemetry import Observed

HEALTH = "/healthz"
# google.rpc.Code and its name, by the statuses answered here.
_CODES = {404: (5, "NOT_FOUND"), 405: (12, "UNIMPLEMENTED")}
_INTERNAL = (13, "INTERNAL")


@dataclass
class Health:
    """Whether this process should be sent anything: until it drains."""

    draining: bool = False


def application(files: Mapping[str, File], health: Health, registry: CollectorRegistry = REGISTRY) -> ASGIApp:
    """Everything this process serves, observed."""

    async def healthy(_: Request) -> Response:
        return Response(status_code=503 if health.draining else 200)

    async def docs(request: Request) -> Response:
        file = files.get(request.url.path)
        if file is None:
            raise HTTPException(404)
        return _answer(file, request)

    async def to_docs(_: Request) -> Response:
        return RedirectResponse(PREFIX, status_code=308)

    app = Starlette(
        routes=[
            Route(HEALTH, healthy),
            Route(f"{PREFIX}/", to_docs),
            Route(PREFIX, docs),
            Route(f"{PREFIX}/{{rest:path}}", docs),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    return Observed(app, frozenset(files), frozenset({HEALTH}), registry)


def _answer(file: File, request: Request) -> Response:
    if file.etag in (each.strip() for each in request.headers.get("if-none-match", "").split(",")):
        kept = {name: file.headers[name] for name in ("etag", "cache-control")}
        return Response(status_code=304, headers=kept)
    return Response(file.content, headers=dict(file.headers))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: f"no such path: {request.url.path[:256]}", 405: f"{request.url.path[:256]} takes GET only"}
    return _error(error.status_code, said.get(error.status_code, error.detail), error.headers)


async def _failed(_: Request, __: Exception) -> Response:
    return _error(500, "internal error")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The contract's one error shape."""
    code, reason = _CODES.get(status, _INTERNAL)
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "ragweave"}
    body = {"code": code, "message": message, "details": [{**detail, "metadata": {}}]}
    return JSONResponse(body, status_code=status, headers=headers)
