"""Mutual TLS between processes: who is refused, whose certificate counts for what, and how certificates change."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave.certificates import EDGE, OPERATOR, CertificateFiles, name_of
from ragweave.internal.v1 import registry_service_pb2, registry_service_pb2_grpc
from ragweave.local.authority import ensure_certificates
from services.mesh import tls
from services.mesh.edge import OWNERS
from services.mesh.identity import acting_for
from services.mesh.listening import CannotStart
from services.mesh.serve import Wiring
from services.mesh.settings import MeshSettings, ServiceSettings
from services.mesh.tls import Certificates, CertificatesUnusable
from services.mesh.tokens import ServiceTokens
from tests.mesh.edge_stack import Backend, running_backend, running_edge
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import KINDS, Kind, Scripted, add_scripted, responses_of
from tests.mesh.test_mesh_auth import Registry

ROLES = ("collections", "jobs", EDGE)
EVERY_NAME = [name_of(owner) for owner in sorted(set(OWNERS.values()))]
GET = KINDS[0]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A mesh with TLS on and certificates of its local CA."""
    ensure_certificates(tmp_path / "tls", ROLES)
    return World.in_folder(tmp_path, tls=True)


@asynccontextmanager
async def serving(world: World, scripted: Scripted, *, name: str = "collections") -> AsyncIterator[int]:
    """The port of a server that shows the certificate of `name`."""

    @asynccontextmanager
    async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
        def register(server: grpc.aio.Server) -> None:
            add_scripted(scripted, server)
            registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(Registry(), server)

        yield Wiring(register)

    async with world.running(wire, world.settings(), name=name) as port:
        yield port


def secure(port: int, files: CertificateFiles, *, shown: bool = True) -> grpc.aio.Channel:
    """A channel that trusts the files' CA and shows their certificate, or none."""
    pair = (files.key.read_bytes(), files.certificate.read_bytes()) if shown else (None, None)
    return grpc.aio.secure_channel(
        f"127.0.0.1:{port}",
        grpc.ssl_channel_credentials(files.authority.read_bytes(), *pair),
        options=[("grpc.use_local_subchannel_pool", 1)],
    )


def at(world: World, port: int, **more: Any) -> World:
    """The same mesh, with collections behind `port`."""
    mesh = MeshSettings(**{**world.mesh.model_dump(), "collections_target": f"127.0.0.1:{port}", **more})
    return World(mesh, world.user_key)


async def test_a_certificate_of_the_mesh_lets_a_peer_in(world: World) -> None:
    scripted = Scripted()
    async with serving(world, scripted) as port, secure(port, world.mesh.certificates(OPERATOR)) as channel:
        assert await responses_of(GET.start(channel, metadata=world.bearer(roles=["reader"])))
    assert scripted.calls == 1


@pytest.mark.parametrize("stranger", ["plain text", "no certificate", "another CA"])
async def test_a_process_without_a_certificate_of_the_mesh_is_refused(
    world: World, tmp_path: Path, stranger: str
) -> None:
    scripted = Scripted()
    ours = world.mesh.certificates(OPERATOR)
    ensure_certificates(tmp_path / "others", ["collections"])
    theirs = CertificateFiles.local(tmp_path / "others", "collections")
    async with serving(world, scripted) as port:
        opened = {
            "plain text": lambda: grpc.aio.insecure_channel(f"127.0.0.1:{port}"),
            "no certificate": lambda: secure(port, ours, shown=False),
            "another CA": lambda: secure(port, CertificateFiles(theirs.certificate, theirs.key, ours.authority)),
        }
        async with opened[stranger]() as channel:
            for call in (
                GET.start(channel, metadata=world.bearer(roles=["admin"])),
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert scripted.calls == 0


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_services_reach_one_another_over_tls(world: World, kind: Kind) -> None:
    scripted = Scripted()
    async with (
        serving(world, scripted) as port,
        at(world, port).channel_as(port, caller_of(), service="jobs") as channel,
    ):
        assert await responses_of(kind.start(channel))


async def test_a_server_with_another_services_certificate_is_not_spoken_to(world: World) -> None:
    scripted = Scripted()
    async with (
        serving(world, scripted, name="jobs") as port,
        at(world, port).channel_as(port, caller_of(), service="jobs") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await responses_of(GET.start(channel, timeout=2))
    assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert scripted.calls == 0


async def test_the_edges_certificate_opens_no_internal_method(world: World) -> None:
    async with serving(world, Scripted()) as port, secure(port, world.mesh.certificates(EDGE)) as channel:
        registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        for metadata in (world.bearer(roles=["admin"]), ()):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await registry.LookupDocuments(registry_service_pb2.LookupDocumentsRequest(), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_services_token_is_no_use_on_anothers_connection(world: World) -> None:
    token = ServiceTokens(world.mesh, "jobs").token_for(caller_of())
    async with serving(world, Scripted()) as port:
        for role, allowed in (("jobs", True), (EDGE, False), (OPERATOR, False)):
            async with secure(port, world.mesh.certificates(role)) as channel:
                call = GET.start(channel, metadata=(("authorization", f"Bearer {token}"),))
                if allowed:
                    await call
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
                assert refused.value.details() == f"the token is of jobs, the connection of {role}"


async def test_mounted_certificates_are_checked_against_the_name_they_are_said_to_carry(
    world: World, tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"
    ensure_certificates(mounted, ["mesh"])
    files = CertificateFiles.local(mounted, "mesh")
    paths = {"tls_cert": files.certificate, "tls_key": files.key, "tls_ca": files.authority}
    theirs = World(MeshSettings(**{**world.mesh.model_dump(), **paths}), world.user_key)
    async with serving(theirs, Scripted(), name="collections") as port:
        for named, allowed in (("", True), (name_of("mesh"), True), ("other.example", False)):
            client = at(theirs, port, tls_server_name=named)
            async with client.channel_as(port, caller_of(), service="mesh") as channel:
                call = GET.start(channel, timeout=2)
                if allowed:
                    await call
                else:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await call


def _replace(folder: Path, scratch: Path) -> None:
    """New certificates of a new CA, moved into place one after the other; the old CA stays trusted."""
    ensure_certificates(scratch, ROLES)
    both = (scratch / "ca.crt").read_bytes() + (folder / "ca.crt").read_bytes()
    (scratch / "ca.crt").write_bytes(both)
    for path in sorted(scratch.glob("*.*"), key=lambda path: path.name != "ca.crt"):
        path.rename(folder / path.name)


async def _shown(port: int, files: CertificateFiles) -> bytes | None:
    """The certificate a server shows, DER."""

    def ask() -> bytes | None:
        trust = ssl.create_default_context(cafile=files.authority)
        trust.set_alpn_protocols(["h2"])
        trust.load_cert_chain(files.certificate, files.key)
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            trust.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            return wrapped.getpeercert(binary_form=True)

    return await asyncio.to_thread(ask)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.05)


async def test_certificates_change_under_calls_without_a_restart(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_LOOK_AGAIN_S", 0.0)
    folder = tmp_path / "tls"
    async with serving(world, Scripted()) as port:
        there = at(world, port)
        async with there.channel_as(port, caller_of(), service="jobs") as channel:
            before = await _shown(port, world.mesh.certificates(OPERATOR))
            ended = asyncio.Event()

            async def call_on() -> int:
                done = 0
                while not ended.is_set():
                    await GET.start(channel)
                    done += 1
                return done

            with acting_for(caller_of()):
                calls = asyncio.create_task(call_on())
            _replace(folder, tmp_path / "new")
            assert await _shown(port, world.mesh.certificates(OPERATOR)) != before
            # The old CA is no longer trusted: only the new certificates can do.
            new, end, _ = (folder / "ca.crt").read_bytes().partition(b"-----END CERTIFICATE-----\n")
            (folder / "ca.crt").write_bytes(new + end)
            async with there.channel_as(port, caller_of(), service="jobs") as fresh:
                await GET.start(fresh)
            ended.set()
            assert await calls > 0


async def test_files_that_do_not_fit_leave_the_earlier_ones_in_use(world: World, tmp_path: Path) -> None:
    files = world.mesh.certificates("jobs")
    now = 0.0
    certificates = Certificates(files, clock=lambda: now)
    first = certificates.current()
    files.key.write_bytes(world.mesh.certificates("collections").key.read_bytes())
    now = 2.0
    assert certificates.current() is first
    files.certificate.write_bytes(world.mesh.certificates("collections").certificate.read_bytes())
    now = 4.0
    assert certificates.current().certificate == files.certificate.read_bytes() != first.certificate


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: files.key.unlink(), "jobs.key: No such file or directory; `ragweave up` makes"),
        (lambda files: files.key.write_text("x"), "jobs.key holds no PEM private key"),
        (lambda files: files.certificate.write_text("x"), "jobs.crt holds no PEM certificate"),
        (lambda files: files.authority.write_text("x"), "ca.crt holds no PEM certificate"),
        (lambda files: files.key.write_bytes((files.key.parent / "edge.key").read_bytes()), "is not the key of"),
    ],
    ids=["no key", "bad key", "bad certificate", "bad authority", "other key"],
)
async def test_certificates_that_cannot_be_used_are_told_in_one_sentence(
    world: World, spoil: Callable[[CertificateFiles], None], said: str
) -> None:
    spoil(world.mesh.certificates("jobs"))
    with pytest.raises(CertificatesUnusable) as refused:
        Certificates(world.mesh.certificates("jobs"))
    assert said in str(refused.value)
    with pytest.raises(CannotStart) as ended:
        async with serving(world, Scripted(), name="jobs"):
            pass
    assert str(ended.value) == f"jobs: {refused.value}"


def everywhere(world: World, port: int) -> dict[str, Any]:
    return {f"{owner}_endpoints": (world.target(port),) for owner in set(OWNERS.values())}


@pytest.fixture
def one_for_all(tmp_path: Path) -> World:
    """A mesh whose backend may speak for every service."""
    ensure_certificates(tmp_path / "tls", ["collections", EDGE], EVERY_NAME)
    return World.in_folder(tmp_path, tls=True)


async def test_the_edge_speaks_https_outside_and_mutual_tls_inside(one_for_all: World, tmp_path: Path) -> None:
    world = one_for_all
    async with (
        running_backend(world, Backend(), name="collections") as port,
        running_edge(world, tmp_path / "edge", Backend(), **everywhere(world, port)) as edge,
    ):
        answer = await edge.rest("POST", "/api/v1/rag/search", {"query": "q", "collection": "c"})
        assert (answer.status_code, answer.json()["hits"][0]["text"]) == (200, "q")
        assert await responses_of(GET.start(edge.channel, metadata=world.bearer(roles=["reader"])))
        assert await _handshake(edge.settings.port, world, ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", "h2")
        assert await _handshake(edge.settings.port, world, ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", "h2")


async def _handshake(port: int, world: World, version: ssl.TLSVersion) -> tuple[str | None, str | None]:
    """Version and protocol the edge agrees on with a client without a certificate."""

    def ask() -> tuple[str | None, str | None]:
        trust = ssl.create_default_context(cafile=world.mesh.certificates(EDGE).authority)
        trust.minimum_version = trust.maximum_version = version
        trust.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            trust.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            return wrapped.version(), wrapped.selected_alpn_protocol()

    return await asyncio.to_thread(ask)


async def test_the_edge_sends_nothing_to_a_server_with_another_services_certificate(
    world: World, tmp_path: Path
) -> None:
    backend = Backend()
    async with (
        running_backend(world, backend, name="jobs") as port,
        running_backend(world, backend, name="collections") as other,
        running_edge(
            world,
            tmp_path / "edge",
            backend,
            waits_for=("jobs", "collections"),
            **{**everywhere(world, port), "collections_endpoints": (world.target(other),)},
        ) as edge,
    ):
        assert (await edge.rest("GET", "/api/v1/rag/jobs/a")).status_code == 200
        refused = await edge.rest("POST", "/api/v1/rag/search", {"query": "q", "collection": "c"})
    assert (refused.status_code, refused.json()["code"]) == (503, 14)
    assert backend.seen.searches == []


async def test_the_edge_takes_new_certificates_without_a_restart(one_for_all: World, tmp_path: Path) -> None:
    world = one_for_all
    async with (
        running_backend(world, Backend(), name="collections") as port,
        running_edge(world, tmp_path / "edge", Backend(), **everywhere(world, port)) as edge,
    ):
        before = await _shown(edge.settings.port, world.mesh.certificates(EDGE))
        (tmp_path / "tls" / "edge.key").unlink()
        assert ensure_certificates(tmp_path / "tls", ["collections", EDGE], EVERY_NAME) == [EDGE]

        async def renewed() -> bool:
            return await _shown(edge.settings.port, world.mesh.certificates(EDGE)) != before

        await _until(renewed)
        answer = await edge.rest("POST", "/api/v1/rag/search", {"query": "q", "collection": "c"})
        assert answer.status_code == 200


async def test_the_edge_may_have_a_certificate_of_its_own_and_https_alone(tmp_path: Path) -> None:
    ensure_certificates(tmp_path / "tls", [EDGE])
    world, backend = World.in_folder(tmp_path), Backend()
    files = world.mesh.certificates(EDGE)
    own = {"tls_cert": files.certificate, "tls_key": files.key}
    async with (
        running_backend(world, backend) as port,
        running_edge(world, tmp_path / "edge", backend, **own, **everywhere(world, port)) as edge,
    ):
        assert edge.http.base_url.scheme == "https"
        answer = await edge.rest("POST", "/api/v1/rag/search", {"query": "q", "collection": "c"})
        assert answer.status_code == 200
