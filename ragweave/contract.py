"""What the contract says about each method, read from the compiled descriptors: policy, HTTP bindings, retries."""

import importlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from ragweave.v1 import policy_pb2

PUBLIC_PACKAGE = "ragweave.v1"
INTERNAL_PACKAGE = "ragweave.internal.v1"

# What a channel may spend on sending calls again: each failure takes one, each success gives some back, and below half
# of them nothing is sent again (gRFC A6). So a backend that fails altogether gets at most 50 calls more than offered.
RETRY_TOKENS = 100
RETRY_TOKENS_A_SUCCESS = 0.1

Idempotency = Literal["IDEMPOTENCY_UNKNOWN", "NO_SIDE_EFFECTS", "IDEMPOTENT"]


class IncompleteContract(Exception):
    """An RPC declares no policy, or one that guards nothing; names every such RPC."""


@dataclass(frozen=True, slots=True)
class HttpBinding:
    """One REST form of a method.

    Attributes:
        verb: GET, POST, PUT, PATCH, DELETE, or the kind of a custom pattern.
        template: Path template of google.api.http, such as "/api/v1/rag/{name=collections/*}".
        body: Request field the body maps to; "*" for the whole request, "" for none.
        response_body: Response field that is the body; "" for the whole response.
    """

    verb: str
    template: str
    body: str = ""
    response_body: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC and how it is guarded, limited, bounded, retried and reached.

    Attributes:
        path: Full gRPC path, "/ragweave.v1.RetrievalService/Search".
        service: Full name of its service, "ragweave.v1.RetrievalService".
        name: "Search".
        scope: Scope a user token must hold; "" on internal and open methods only.
        rate_class: SEARCH, READ, WRITE, INGEST, ADMIN or UNLIMITED.
        timeout_s: Longest time a call may take, in seconds.
        public_collections: May be called without a token, for PUBLIC collections of the public tenant.
        internal: Only services may call it.
        open: Anyone may call it, with or without a token.
        idempotency: The method's idempotency_level.
        http: REST forms, the main one first.
        client_streaming, server_streaming: Which side sends a stream.
        descriptor: The compiled descriptor itself.
    """

    path: str
    service: str
    name: str
    scope: str
    rate_class: str
    timeout_s: float
    public_collections: bool
    internal: bool
    open: bool
    idempotency: Idempotency
    http: tuple[HttpBinding, ...]
    client_streaming: bool
    server_streaming: bool
    descriptor: MethodDescriptor = field(compare=False, repr=False)

    @property
    def retried(self) -> bool:
        """Whether a channel may send it again without asking: it changes nothing and is no stream.

        A stream is resumed by who reads it. grpcio 1.85 also hangs on one whose retries are used up before its first
        message: the status never reaches the reader.
        """
        return self.idempotency == "NO_SIDE_EFFECTS" and not (self.client_streaming or self.server_streaming)


@cache
def methods() -> Mapping[str, Method]:
    """Every method of the public and the internal contract, by gRPC path.

    Raises:
        IncompleteContract: An RPC has no policy.
    """
    return read(file for package in (PUBLIC_PACKAGE, INTERNAL_PACKAGE) for file in _service_files(package))


def method(path: str) -> Method:
    """The method of a gRPC path. Raises KeyError for a path outside the contract."""
    return methods()[path]


def public_services() -> tuple[str, ...]:
    """Full names of the services other backends may call, sorted."""
    return tuple(sorted({each.service for each in methods().values() if not each.internal}))


def read(files: Iterable[FileDescriptor]) -> Mapping[str, Method]:
    """The methods of all services in `files`, by gRPC path.

    Raises:
        IncompleteContract: An RPC has no policy, or one without scope, rate class or timeout.
    """
    found: dict[str, Method] = {}
    faults: list[str] = []
    for file in files:
        for service in file.services_by_name.values():
            for descriptor in service.methods:
                each = _method(descriptor, internal=file.package == INTERNAL_PACKAGE)
                found[each.path] = each
                faults += [f"{each.path}: {fault}" for fault in _faults(each)]
    if faults:
        raise IncompleteContract("; ".join(faults))
    return MappingProxyType(found)


def service_config(
    *, load_balancing: str = "round_robin", health_check: bool = True, of: Mapping[str, Method] | None = None
) -> str:
    """gRPC service config, JSON, for channels to the mesh or its edge.

    Methods without side effects are sent once more on UNAVAILABLE, after a jittered pause (gRFC A6), until failures use
    up the throttle: no backend gets more than twice what it is offered. A failure that a service of the mesh answers
    with is not one of these: it sends headers first. Timeouts are not in it: they are set per call.

    Args:
        load_balancing: Policy name. Health checking needs round_robin; pick_first ignores it.
        health_check: Leave out backends whose grpc.health.v1 says NOT_SERVING.
        of: Methods to configure; the whole contract by default.
    """
    retried = [
        {"service": each.service, "method": each.name}
        for each in (methods() if of is None else of).values()
        if each.retried
    ]
    config: dict[str, Any] = {
        "loadBalancingConfig": [{load_balancing: {}}],
        "retryThrottling": {"maxTokens": RETRY_TOKENS, "tokenRatio": RETRY_TOKENS_A_SUCCESS},
    }
    if retried:
        config["methodConfig"] = [
            {
                "name": retried,
                "retryPolicy": {
                    "maxAttempts": 2,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    if health_check:
        config["healthCheckConfig"] = {"serviceName": ""}
    return json.dumps(config)


def _service_files(package: str) -> Iterable[FileDescriptor]:
    home = importlib.import_module(package)
    for module in sorted(info.name for info in pkgutil.iter_modules(home.__path__)):
        if module.endswith("_service_pb2"):
            yield importlib.import_module(f"{package}.{module}").DESCRIPTOR


def _method(descriptor: MethodDescriptor, *, internal: bool) -> Method:
    options = descriptor.GetOptions()
    policy = options.Extensions[policy_pb2.policy]
    service = descriptor.containing_service.full_name
    return Method(
        path=f"/{service}/{descriptor.name}",
        service=service,
        name=descriptor.name,
        scope=policy.scope,
        rate_class=policy_pb2.Policy.RateClass.Name(policy.rate_class),
        timeout_s=policy.timeout.ToNanoseconds() / 1e9,
        public_collections=policy.public_collections,
        internal=internal or policy.internal,
        open=policy.open,
        idempotency=MethodOptions.IdempotencyLevel.Name(options.idempotency_level),  # type: ignore[arg-type]
        http=tuple(_bindings(options)),
        client_streaming=descriptor.client_streaming,
        server_streaming=descriptor.server_streaming,
        descriptor=descriptor,
    )


def _bindings(options: MethodOptions) -> Iterable[HttpBinding]:
    if not options.HasExtension(annotations_pb2.http):
        return
    rule = options.Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        yield _binding(each)


def _binding(rule: HttpRule) -> HttpBinding:
    kind = rule.WhichOneof("pattern")
    verb, template = (
        (rule.custom.kind, rule.custom.path) if kind == "custom" else (str(kind).upper(), getattr(rule, str(kind)))
    )
    return HttpBinding(verb, template, rule.body, rule.response_body)


def _faults(each: Method) -> Iterable[str]:
    if each.rate_class == "RATE_CLASS_UNSPECIFIED":
        yield "no policy, or no rate class in it"
    if not each.timeout_s:
        yield "no timeout"
    if not each.scope and not (each.internal or each.open):
        yield "no scope"
    if each.open and (each.scope or each.internal):
        yield "open, and yet guarded"
