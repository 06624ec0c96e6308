"""Every method of the contract through every door: REST, gRPC and gRPC-Web at the edge, gRPC at the service itself."""

import json
import re
import ssl
import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

import grpc
import httpx
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from ragweave.certificates import OPERATOR
from ragweave.cli.console import edge_credentials
from ragweave.contract import HttpBinding, Method
from ragweave.local.layout import Layout
from tests.e2e.stack import OWNER, Mesh

Headers = Sequence[tuple[str, str]]
_DETAILS = "grpc-status-details-bin"
_VARIABLE = re.compile(r"\{([\w.]+)=([^}]+)\}")
_LONGEST_S = 60.0
# Streams without an end of their own.
_ENDLESS = ("WatchEvents",)
# What grpc.aio says when a call is refused while it writes a request: its own status in place of the server's.
_STATUS_LOST = "Internal error from Core"
_DATA, _TRAILERS = 0x00, 0x80


@dataclass(frozen=True)
class Answer:
    """What came back, whichever door it came by.

    Attributes:
        code: gRPC status code.
        message: Its message.
        responses: The messages that came before it.
        shaped: The refusal has the one shape of this door: code, message and details as JSON or in a Status.
        raw: Everything that came back, for looking for what must not be in it.
    """

    code: int
    message: str
    responses: tuple[Message, ...] = ()
    shaped: bool = True
    raw: bytes = b""


@dataclass(frozen=True)
class Doors:
    """The ways in of one mesh.

    Attributes:
        services: By the service's full name.
        endless_s: How long streams are asked for that have no end of their own.
    """

    http: httpx.AsyncClient
    edge: grpc.aio.Channel
    services: Mapping[str, grpc.aio.Channel] = field(default_factory=dict)
    endless_s: float = 1.5

    async def call(
        self, door: str, method: Method, request: Message, headers: Headers, *, query: Mapping[str, str] | None = None
    ) -> Answer:
        """One call through "rest", "grpc", "web" or "direct". `query` is added to the URL, or the path."""
        if door == "rest":
            return await self._rest(method, request, headers, query or {})
        if door == "web":
            return await self._web(method, request, headers, query or {})
        channel = self.edge if door == "grpc" else self.services[method.service]
        return await _grpc(channel, method, request, headers, query or {}, self._timeout_s(method))

    def _timeout_s(self, method: Method) -> float:
        return self.endless_s if method.name in _ENDLESS else _LONGEST_S

    def _bounded(self, method: Method) -> Headers:
        return [("grpc-timeout", f"{int(self._timeout_s(method) * 1000)}m")] if method.name in _ENDLESS else []

    async def _rest(self, method: Method, request: Message, headers: Headers, query: Mapping[str, str]) -> Answer:
        verb, path, body, more = rest_form(method.http[0], request)
        given = [*headers, *([("content-type", more)] if body is not None else []), *self._bounded(method)]
        if query:
            path += ("&" if "?" in path else "?") + urlencode(query)
        answer = await self.http.request(verb, path, content=body, headers=given)
        raw = answer.content + repr(answer.headers).encode()
        if answer.status_code == 200:
            lines = answer.text.splitlines() if method.server_streaming else [answer.text]
            parsed = [json.loads(line) for line in lines if line]
            return Answer(0, "", tuple(_read(method, each) for each in parsed if "code" not in each), raw=raw)
        said = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else {}
        shaped = isinstance(said, dict) and {"code", "message", "details"} <= said.keys()
        code = said["code"] if shaped else -1
        agrees = answer.status_code in _HTTP.get(code, ())
        return Answer(code, str(said.get("message", answer.text)), shaped=shaped and agrees, raw=raw)

    async def _web(self, method: Method, request: Message, headers: Headers, query: Mapping[str, str]) -> Answer:
        given = [*headers, ("content-type", "application/grpc-web+proto"), ("x-grpc-web", "1"), *self._bounded(method)]
        path = method.path + (f"?{urlencode(query)}" if query else "")
        sent = request.SerializeToString()
        answer = await self.http.post(path, content=struct.pack(">BI", _DATA, len(sent)) + sent, headers=given)
        trailers, responses = {key.lower(): value for key, value in answer.headers.items()}, []
        for kind, part in _frames(answer.content):
            if kind == _TRAILERS:
                trailers |= dict(line.split(":", 1) for line in part.decode().split("\r\n") if line)
            else:
                responses.append(_response(method).FromString(part))
        code = int(trailers.get("grpc-status", -1))
        shaped = answer.status_code in (200, *_HTTP.get(code, ()))
        raw = answer.content + repr(answer.headers).encode()
        return Answer(code, unquote(trailers.get("grpc-message", "")), tuple(responses), shaped, raw)


@asynccontextmanager
async def opened(mesh: Mesh, *, endless_s: float = 1.5) -> AsyncIterator[Doors]:
    """The doors of a mesh, with its TLS where that is on."""
    trusted = ssl.create_default_context(cafile=mesh.layout.edge_authority) if mesh.layout.https else True
    async with (
        httpx.AsyncClient(
            base_url=mesh.layout.url, verify=trusted, timeout=_LONGEST_S, limits=httpx.Limits(max_connections=16)
        ) as http,
        AsyncExitStack() as channels,
    ):
        edge = await channels.enter_async_context(_channel(mesh.edge, edge_credentials(mesh.layout)))
        parts = {
            part: await channels.enter_async_context(_channel_to(mesh.layout, part))
            for part in sorted({*OWNER.values()})
        }
        yield Doors(http, edge, {f"ragweave.v1.{service}": parts[part] for service, part in OWNER.items()}, endless_s)


def _channel_to(layout: Layout, part: str) -> grpc.aio.Channel:
    """A service's own port, as an operator reaches it."""
    if not layout.tls:
        return _channel(layout.address(part), None)
    files = layout.certificate(OPERATOR)
    shown = grpc.ssl_channel_credentials(
        files.authority.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    return _channel(layout.address(part), shown, ("grpc.ssl_target_name_override", layout.server_name(part)))


def _channel(target: str, credentials: grpc.ChannelCredentials | None, *more: tuple[str, Any]) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 2**25), *more]
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def rest_form(binding: HttpBinding, request: Message) -> tuple[str, str, bytes | None, str]:
    """Verb, path with query, body and content type of a request, as google.api.http maps it."""
    left = json_format.MessageToDict(request)
    path = _VARIABLE.sub(lambda found: quote(str(_taken(left, found[1].split("."))), safe="/"), binding.template)
    body, kind = None, "application/json"
    if binding.body == "*":
        body, left = json.dumps(left).encode(), {}
    elif binding.body:
        part = getattr(request, binding.body)
        named = request.DESCRIPTOR.fields_by_name[binding.body]
        value = left.pop(named.json_name, {})
        if named.message_type.full_name == "google.api.HttpBody":
            body, kind = part.data, part.content_type or "application/octet-stream"
        else:
            body = json.dumps(value).encode()
    query = urlencode(list(_flat(left)))
    return binding.verb, path + (f"?{query}" if query else ""), body, kind


def _taken(tree: dict[str, Any], path: Sequence[str]) -> Any:
    """Takes a field out of a message's JSON by its proto path; "-" where it is not there."""
    *above, last = [re.sub(r"_(\w)", lambda found: found[1].upper(), part) for part in path]
    for part in above:
        tree = tree.get(part, {})
    return tree.pop(last, "-") or "-"


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            for each in value if isinstance(value, list) else [value]:
                yield above + name, str(each).lower() if isinstance(each, bool) else str(each)


async def _grpc(
    channel: grpc.aio.Channel,
    method: Method,
    request: Message,
    headers: Headers,
    query: Mapping[str, str],
    timeout_s: float,
) -> Answer:
    path = method.path + (f"?{urlencode(query)}" if query else "")
    kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    make: Any = getattr(channel, "_".join(kind))
    multi = make(path, request_serializer=_bytes, response_deserializer=_response(method).FromString)
    sent: Any = iter([request]) if method.client_streaming else request
    call = multi(sent, metadata=tuple(headers), timeout=timeout_s)
    responses: list[Message] = []
    try:
        if method.server_streaming:
            async for response in call:
                responses.append(response)
        else:
            responses.append(await call)
    except grpc.aio.AioRpcError as error:
        if method.client_streaming and error.details() == _STATUS_LOST:
            return await _grpc(channel, method, request, headers, query, timeout_s)
        kept = dict(error.trailing_metadata() or ())
        raw = repr(kept).encode() + (error.details() or "").encode()
        details = kept.get(_DETAILS)
        shaped = details is None or Status.FromString(details).code == error.code().value[0]
        return Answer(error.code().value[0], error.details() or "", tuple(responses), shaped, raw + _raw(responses))
    return Answer(0, "", tuple(responses), raw=_raw(responses))


def _raw(responses: Iterable[Message]) -> bytes:
    return b"".join(each.SerializeToString() for each in responses)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


def _response(method: Method) -> Any:
    return GetMessageClass(method.descriptor.output_type)


def _read(method: Method, answer: Any) -> Message:
    read: Message = json_format.ParseDict(answer, _response(method)())
    return read


def _frames(body: bytes) -> Iterable[tuple[int, bytes]]:
    while body:
        kind, length = struct.unpack(">BI", body[:5])
        yield kind & _TRAILERS, body[5 : 5 + length]
        body = body[5 + length :]


# contract.md, "Errors": the HTTP status of each gRPC code.
_HTTP = {
    1: (499,),
    3: (400, 413, 415, 431),
    4: (504,),
    5: (404,),
    6: (409,),
    7: (403,),
    8: (429,),
    9: (400,),
    10: (409,),
    11: (400,),
    12: (404, 405, 501),
    13: (500,),
    14: (503,),
    16: (401,),
}
