"""Who gets in, and who does not."""

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from ragweave.internal.v1 import registry_service_pb2, registry_service_pb2_grpc
from ragweave.v1 import collection_service_pb2, collection_service_pb2_grpc, retrieval_service_pb2_grpc, search_pb2
from services.mesh.identity import Caller, caller
from services.mesh.serve import Wiring
from services.mesh.settings import ServiceSettings
from services.mesh.tokens import ServiceTokens
from tests.mesh.harness import World, caller_of, jwks, new_key
from tests.mesh.kinds import Scripted


class Registry(registry_service_pb2_grpc.RegistryServiceServicer):
    """An internal service that only says who called."""

    def __init__(self) -> None:
        self.seen: list[Caller] = []

    async def LookupDocuments(self, request: Any, context: Any) -> registry_service_pb2.LookupDocumentsResponse:
        self.seen.append(caller(context))
        return registry_service_pb2.LookupDocumentsResponse()


class Retrieval(retrieval_service_pb2_grpc.RetrievalServiceServicer):
    """A public method open to callers without a token."""

    def __init__(self) -> None:
        self.seen: list[Caller] = []

    async def Search(self, request: Any, context: Any) -> search_pb2.SearchResponse:
        self.seen.append(caller(context))
        return search_pb2.SearchResponse()


class Door:
    """A server with a guarded, an open and an internal method."""

    def __init__(self, world: World, channel: grpc.aio.Channel, registry: Registry, retrieval: Retrieval) -> None:
        self.world, self.channel, self.registry, self.retrieval = world, channel, registry, retrieval

    async def get(self, token: str | None = None, *, header: str | None = None) -> Any:
        """GetCollection, which needs collections.read."""
        stub = collection_service_pb2_grpc.CollectionServiceStub(self.channel)
        return await stub.GetCollection(
            collection_service_pb2.GetCollectionRequest(name="a"), metadata=_sent(token, header)
        )

    async def search(self, token: str | None = None) -> Any:
        """Search, which needs no token."""
        stub = retrieval_service_pb2_grpc.RetrievalServiceStub(self.channel)
        return await stub.Search(search_pb2.SearchRequest(query="q", collection="a"), metadata=_sent(token, None))

    async def lookup(self, token: str | None = None) -> Any:
        """An internal method."""
        stub = registry_service_pb2_grpc.RegistryServiceStub(self.channel)
        request = registry_service_pb2.LookupDocumentsRequest(collection_id="a", document_ids=["d"])
        return await stub.LookupDocuments(request, metadata=_sent(token, None))


def _sent(token: str | None, header: str | None) -> Any:
    header = header or (f"Bearer {token}" if token else None)
    return (("authorization", header),) if header else ()


@pytest.fixture
async def door(world: World) -> AsyncIterator[Door]:
    registry, retrieval = Registry(), Retrieval()

    @asynccontextmanager
    async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
        def register(server: grpc.aio.Server) -> None:
            collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(Scripted(), server)
            registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
            retrieval_service_pb2_grpc.add_RetrievalServiceServicer_to_server(retrieval, server)

        yield Wiring(register)

    async with world.running(wire, world.settings()) as port, world.channel(port) as channel:
        yield Door(world, channel, registry, retrieval)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), str(raised.value.details())


def unsigned(claims: dict[str, Any], **header: Any) -> str:
    """A token with alg none, and no signature."""
    parts = ({"alg": "none", "typ": "JWT", **header}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


REFUSED = {
    "garbage": (lambda world: "garbage", "malformed"),
    "three garbage parts": (lambda world: "a.b.c", "malformed"),
    "alg none": (
        lambda world: unsigned({"iss": "ragweave", "aud": "ragweave", "sub": "ann", "tenant": "acme", "exp": 2**40}),
        "signature",
    ),
    "a key of ours nobody knows": (lambda world: world.token(key=new_key()), "signature"),
    "a signature changed": (lambda world: world.token()[:-6] + "AAAAAA", "signature"),
    "another issuer": (lambda world: world.token(iss="elsewhere"), "issuer"),
    "no issuer": (lambda world: world.token(iss=None), "issuer"),
    "the services' issuer with a user's key": (lambda world: world.token(iss="ragweave-mesh"), "signature"),
    "another audience": (lambda world: world.token(aud="elsewhere"), "audience"),
    "no audience": (lambda world: world.token(aud=None), "audience"),
    "expired beyond the leeway": (lambda world: world.token(exp=int(time.time()) - 31), "expired"),
    "no expiry": (lambda world: world.token(exp=None), "expiry"),
    "an expiry that is no number": (lambda world: world.token(exp="later"), ""),
    "not valid yet": (lambda world: world.token(nbf=int(time.time()) + 100), "not valid yet"),
    "no tenant": (lambda world: world.token(tenant=None), "tenant"),
    "an empty tenant": (lambda world: world.token(tenant=""), "tenant"),
    "no subject": (lambda world: world.token(sub=None), "sub"),
    "roles that are no list": (lambda world: world.token(roles="admin"), "roles"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_token_is_refused_saying_why_even_where_none_is_needed(door: Door, case: str) -> None:
    make, why = REFUSED[case]
    token = make(door.world)
    for call in (door.get(token), door.search(token), door.lookup(token)):
        code, message = await refusal(call)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert why in message
        assert token not in message


async def test_a_shared_secret_is_refused(door: Door) -> None:
    secret = OctKey.import_key("a secret of 32 bytes, or somewhat more", {"kid": door.world.user_key.kid})
    token = door.world.token(key=secret, algorithm="HS256")  # type: ignore[arg-type]
    assert (await refusal(door.get(token)))[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("header", ["Basic dTpw", "Bearer", "bearer ", "eyJhbGciOiJub25lIn0"])
async def test_an_authorization_of_another_kind_is_refused(door: Door, header: str) -> None:
    assert (await refusal(door.get(header=header)))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_within_the_leeway_still_serves(door: Door) -> None:
    assert await door.get(door.world.token(roles=["reader"], exp=int(time.time()) - 5))


@pytest.mark.parametrize("claims", [{"scope": "search collections.read"}, {"roles": ["reader"]}, {"roles": ["admin"]}])
async def test_scopes_come_from_scope_and_from_roles(door: Door, claims: dict[str, Any]) -> None:
    assert await door.get(door.world.token(**claims))


@pytest.mark.parametrize(
    "claims", [{}, {"scope": "search"}, {"roles": ["unheard-of"]}, {"scope": "collections.reader"}]
)
async def test_a_token_without_the_scope_is_denied(door: Door, claims: dict[str, Any]) -> None:
    assert (await refusal(door.get(door.world.token(**claims))))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_without_a_token_a_caller_acts_in_the_public_tenant_where_the_method_allows_it(door: Door) -> None:
    await door.search()
    assert door.retrieval.seen == [Caller(tenant="public", subject="anonymous", anonymous=True)]
    assert (await refusal(door.get()))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_open_to_all_still_asks_a_token_for_its_scope(door: Door) -> None:
    assert (await refusal(door.search(door.world.token(scope="jobs.read"))))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_internal_methods_are_for_services_alone(door: Door) -> None:
    for token in (None, door.world.token(roles=["admin"])):
        assert (await refusal(door.lookup(token)))[0] is grpc.StatusCode.PERMISSION_DENIED
    await door.lookup(ServiceTokens(door.world.mesh, "jobs").token_for(caller_of("ann")))
    assert (door.registry.seen[0].service, door.registry.seen[0].tenant) == ("jobs", "acme")


async def test_a_service_relays_a_caller_without_scopes_and_without_raising_it(door: Door) -> None:
    nobody = Caller(tenant="public", subject="anonymous", anonymous=True)
    await door.search(ServiceTokens(door.world.mesh, "jobs").token_for(nobody))
    assert door.retrieval.seen[0].anonymous
    assert not door.retrieval.seen[0].scopes


async def test_groups_become_principals_and_the_tier_is_kept(door: Door) -> None:
    await door.search(door.world.token(roles=["reader"], groups=["blue", "red"], tier="pro"))
    assert door.retrieval.seen[0].principals == {"user:ann", "group:blue", "group:red"}
    assert door.retrieval.seen[0].tier == "pro"


async def test_a_key_added_to_the_file_is_found_and_a_removed_one_is_no_longer_trusted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.mesh.keys._LOOK_AGAIN_S", 0.0)
    from services.mesh.tokens import TokenVerifier

    verifier = TokenVerifier(world.mesh)
    old = world.token()
    assert (await verifier.verify(old)).subject == "ann"
    second = new_key()
    (world.mesh.data_dir / "keys" / "jwks.json").write_text(jwks(second))
    assert (await verifier.verify(world.token(key=second))).subject == "ann"
    from services.mesh.errors import Unauthenticated

    with pytest.raises(Unauthenticated):
        await verifier.verify(old)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", lambda: RSAKey.generate_key(2048)),
        ("Ed25519", lambda: OKPKey.generate_key("Ed25519")),
        ("ES256", lambda: ECKey.generate_key("P-256")),
    ],
)
async def test_each_algorithm_of_the_contract_is_accepted(door: Door, algorithm: str, key: Any) -> None:
    signer = key()
    signer.ensure_kid()
    (door.world.mesh.data_dir / "keys" / "jwks.json").write_text(jwks(signer))
    assert await door.get(door.world.token(key=signer, algorithm=algorithm, roles=["reader"]))


async def test_a_mesh_that_admits_no_strangers_needs_a_token_for_public_methods_too(tmp_path: Path) -> None:
    world, servicer = World.in_folder(tmp_path, anonymous=False), Retrieval()
    add = retrieval_service_pb2_grpc.add_RetrievalServiceServicer_to_server
    async with world.serving(add, servicer) as port, world.channel(port) as channel:
        here = Door(world, channel, Registry(), servicer)
        assert await refusal(here.search()) == (grpc.StatusCode.UNAUTHENTICATED, "Search needs a token")
        await here.search(world.token(scope="search"))
