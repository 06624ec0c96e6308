"""The processes of a service that serves gRPC: each address of its target is asked."""

import asyncio
import ipaddress
import re
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final, Self

import grpc

from ragweave.internal.v1 import process_service_pb2 as pb
from ragweave.internal.v1.process_service_pb2_grpc import ProcessServiceStub
from services.mesh.calls import detached
from services.mesh.channels import open_channel, opening_as
from services.mesh.convert_reports import process_from
from services.mesh.identity import Caller, acting_for
from services.mesh.reports import ProcessReport, State
from services.mesh.settings import MeshSettings
from services.mesh.tls import CertificatesUnusable

# In all less than a caller of GetHealth waits, so that what hangs is told as such.
_ANSWER_S: Final = 0.7
_RESOLVE_S: Final = 0.2
_LISTED = re.compile(r"^ipv[46]:(?://)?/?")
_NAMED = re.compile(r"^dns:(?://[^/]*/)?")


class GrpcProcesses:
    """Fulfils Processes. A process that was never reached is called by its service and its place in the target."""

    def __init__(self, settings: MeshSettings, service: str, target: str) -> None:
        self._settings = settings
        self._service = service
        self._target = target
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._names: dict[str, str] = {}
        self._answered: set[str] = set()
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    @property
    def service(self) -> str:
        return self._service

    async def look(self) -> Sequence[ProcessReport]:
        addresses = await addresses_of(self._target)
        if not addresses:
            return [ProcessReport(self._service, State.DOWN, "its address cannot be found out")]
        # Nobody's call: one look serves many, and is bounded by itself.
        with acting_for(Caller.of_service("system", self._settings.public_tenant)), detached():
            found = await asyncio.gather(*(self._ask(each, place) for place, each in enumerate(addresses, 1)))
        return sorted(found, key=lambda each: each.name)

    async def _ask(self, address: str, place: int) -> ProcessReport:
        began_s = time.perf_counter()
        name = self._names.get(address) or (self._service if place == 1 else f"{self._service}-{place}")
        try:
            stub = ProcessServiceStub(await self._channel(address))
            report = process_from(await stub.GetProcess(pb.GetProcessRequest(), timeout=_ANSWER_S))
        except grpc.aio.AioRpcError as error:
            return ProcessReport(name, self._state_after(address, error), _said(error))
        except CertificatesUnusable:
            return ProcessReport(name, State.DOWN, "cannot be asked: the certificate of system cannot be used")
        self._names[address] = report.name
        self._answered.add(address)
        return replace(report, response_s=time.perf_counter() - began_s)

    def _state_after(self, address: str, error: grpc.aio.AioRpcError) -> State:
        """One late answer on a busy machine, and one refused for want of room, tell of a process that lives."""
        answered = address in self._answered
        self._answered.discard(address)
        late = answered and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return State.DEGRADED if late or full else State.DOWN

    async def _channel(self, address: str) -> grpc.aio.Channel:
        """A channel to one process, kept; to those that say that they take no calls as well."""
        if address not in self._channels:
            with opening_as("system"):
                opened = open_channel(self._settings, address, one_of=self._target, ready_only=False)
                self._channels[address] = await self._opened.enter_async_context(opened)
        return self._channels[address]


def _said(error: grpc.aio.AioRpcError) -> str:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"does not answer within {_ANSWER_S:g} s"
    return "cannot be reached" if error.code() is grpc.StatusCode.UNAVAILABLE else f"answers {error.code().name}"


async def addresses_of(target: str) -> list[str]:
    """The addresses a gRPC target stands for, in its order; none where its name cannot be resolved just now.

    Those of a name are of one family: a host that has both is one host.
    """
    if _LISTED.match(target):
        return [each.strip() for each in _LISTED.sub("", target).split(",") if each.strip()]
    plain = _NAMED.sub("", target)
    host, _, port = plain.rpartition(":")
    if target.startswith("unix:") or not port.isdecimal() or _is_address(host.strip("[]")):
        return [plain]
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        return []
    family = socket.AF_INET if any(each[0] is socket.AF_INET for each in found) else socket.AF_INET6
    hosts = dict.fromkeys(str(each[4][0]) for each in found if each[0] is family)
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in sorted(hosts)]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
