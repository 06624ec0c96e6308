"""Each mutation of the contract, over real servers, held to the one rule of request ids (services/mesh/receipts.py)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from ragweave.internal.v1 import registry_service_pb2
from ragweave.internal.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from ragweave.v1 import (
    collection_service_pb2,
    document_service_pb2,
    evaluation_service_pb2,
    job_service_pb2,
    system_service_pb2,
    webhook_service_pb2,
)
from ragweave.v1.evaluation_service_pb2_grpc import (
    EvaluationServiceStub,
    add_EvaluationServiceServicer_to_server,
)
from ragweave.v1.system_service_pb2_grpc import SystemServiceStub
from ragweave.v1.webhook_service_pb2_grpc import WebhookServiceStub, add_WebhookServiceServicer_to_server
from services.jobs.adapters.redis import Redis
from services.jobs.ports_webhooks import Outbox
from services.jobs.servicer import WebhookServicer
from services.jobs.settings import Settings as JobsSettings
from services.jobs.webhook import DeliveryState, NewDelivery, Sent
from services.jobs.webhooks import Webhooks
from services.mesh.identity import acting_for
from services.mesh.serve import Wiring
from services.mesh.status import DETAILS_KEY
from services.retrieval.adapters.redis_evaluations import RedisEvaluations
from services.retrieval.convert_evaluations import query_of
from services.retrieval.evaluations import Evaluations
from services.retrieval.query_sets import QuerySets
from services.retrieval.servicer_evaluations import EvaluationServicer
from services.retrieval.settings import Settings as RetrievalSettings
from services.system.__main__ import wire as wire_system
from services.system.settings import Settings as SystemSettings
from tests.evaluations_memory import NotedJobs, RoteSearcher
from tests.jobs_store import Store, store_in
from tests.mesh.harness import World, caller_of
from tests.mesh.test_collections_service import Mesh, collections_service, create, record
from tests.mesh.test_jobs_service import inline, jobs_service
from tests.unit.test_mutations import MUTATIONS, WITHOUT

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, GONE = (f"collections/docs/documents/{each}" for each in ("a", "b", "gone"))
HOOK = "webhooks/hook"
SAMPLES = "sampleQuerySets/samples"
QUERY: Any = {"id": "q", "text": "who eats fish", "relevant": [{"name": "cat", "grade": 1}]}


@dataclass
class Door:
    """A service with things in it to change: the same in acme and in globex.

    Attributes:
        call: Calls a mutation with a request, in a tenant.
        look: All that a tenant can see, as text; equal where nothing has changed.
        etags: By name, in acme.
    """

    call: Callable[[str, Message, str], Awaitable[Any]]
    look: Callable[[str], Awaitable[str]]
    etags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One mutation.

    Attributes:
        request: One that succeeds, given the etags of what is there.
        other: Makes another request of it.
        refused: Makes one of it that is refused.
        stale: Gives it an etag that is no longer the current one.
    """

    request: Callable[[dict[str, str]], Any]
    other: Callable[[Any], None]
    refused: Callable[[Any], None]
    stale: Callable[[Any], None] | None = None


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        *above, last = path.split(".")
        for each in above:
            request = getattr(request, each)
        setattr(request, last, value)

    return change


def _batch(*names: str, **fields: Any) -> document_service_pb2.BatchDeleteDocumentsRequest:
    return document_service_pb2.BatchDeleteDocumentsRequest(parent="docs", names=names, **fields)


def _drop_a_name(request: Any) -> None:
    del request.names[-1], request.etags[-1]


def _letter(etags: dict[str, str]) -> str:
    """The dead letters of the failed job, less their items' numbers."""
    return f"deadLetters/{etags['failed'].removeprefix('jobs/')}"


CASES = {
    "CollectionService/CreateCollection": Case(
        lambda _: collection_service_pb2.CreateCollectionRequest(collection={"description": "new"}),
        _set("collection.description", "newer"),
        _set("collection.embedding_model", "models/none"),
    ),
    "CollectionService/UpdateCollection": Case(
        lambda etags: collection_service_pb2.UpdateCollectionRequest(
            collection={"name": "docs", "description": "new", "etag": etags["docs"]}
        ),
        _set("collection.description", "newer"),
        _set("collection.language", "xx"),
        _set("collection.etag", '"stale"'),
    ),
    "CollectionService/DeleteCollection": Case(
        lambda etags: collection_service_pb2.DeleteCollectionRequest(name="docs", force=True, etag=etags["docs"]),
        _set("etag", ""),
        _set("force", False),
        _set("etag", '"stale"'),
    ),
    "CollectionService/UndeleteCollection": Case(
        lambda etags: collection_service_pb2.UndeleteCollectionRequest(name="old", etag=etags["old"]),
        _set("etag", ""),
        _set("name", "nowhere"),
        _set("etag", '"stale"'),
    ),
    "DocumentService/CreateDocument": Case(
        lambda _: document_service_pb2.CreateDocumentRequest(parent="docs", document_id="c", text="one two"),
        _set("text", "three"),
        _set("document_id", "a"),
    ),
    "DocumentService/UploadDocument": Case(
        lambda _: document_service_pb2.UploadDocumentRequest(
            parent="docs", document_id="c", file={"data": b"one two", "content_type": "text/plain"}
        ),
        _set("file.data", b"three"),
        _set("sha256", "0" * 64),
    ),
    "DocumentService/UpdateDocument": Case(
        lambda etags: document_service_pb2.UpdateDocumentRequest(
            document={"name": A, "title": "new", "etag": etags["a"]}
        ),
        _set("document.title", "newer"),
        _set("document.name", "collections/docs/documents/nowhere"),
        _set("document.etag", '"stale"'),
    ),
    "DocumentService/DeleteDocument": Case(
        lambda etags: document_service_pb2.DeleteDocumentRequest(name=A, etag=etags["a"]),
        _set("etag", ""),
        _set("name", "collections/docs/documents/nowhere"),
        _set("etag", '"stale"'),
    ),
    "DocumentService/UndeleteDocument": Case(
        lambda etags: document_service_pb2.UndeleteDocumentRequest(name=GONE, etag=etags["gone"]),
        _set("etag", ""),
        _set("name", "collections/docs/documents/nowhere"),
        _set("etag", '"stale"'),
    ),
    "DocumentService/BatchDeleteDocuments": Case(
        lambda etags: _batch(A, B, etags=[etags["a"], etags["b"]]),
        _drop_a_name,
        lambda request: request.etags.append("one too many"),
        lambda request: request.etags.__setitem__(1, '"stale"'),
    ),
    "JobService/ImportDocuments": Case(
        lambda _: job_service_pb2.ImportDocumentsRequest(parent="books", inline=inline(("c", "one two"))),
        lambda request: request.inline.documents.add(document_id="d", text="three"),
        _set("parent", "nowhere"),
    ),
    "JobService/SyncCollection": Case(
        lambda _: job_service_pb2.SyncCollectionRequest(name="bound"),
        _set("allow_empty", True),
        _set("name", "nowhere"),
    ),
    "JobService/ReprocessDocuments": Case(
        lambda _: job_service_pb2.ReprocessDocumentsRequest(parent="books"),
        _set("force", True),
        _set("parent", "nowhere"),
    ),
    "JobService/PurgeDocuments": Case(
        lambda _: job_service_pb2.PurgeDocumentsRequest(parent="books", filter="*", force=True),
        _set("filter", 'title = "a"'),
        _set("parent", "nowhere"),
    ),
    "JobService/CancelJob": Case(
        lambda etags: job_service_pb2.CancelJobRequest(name=etags["job"], etag=etags[etags["job"]]),
        _set("etag", ""),
        _set("name", "jobs/nowhere"),
        _set("etag", '"1-RUNNING"'),
    ),
    "JobService/RetryJob": Case(
        lambda etags: job_service_pb2.RetryJobRequest(name=etags["failed"], etag=etags[etags["failed"]]),
        _set("etag", ""),
        _set("name", "jobs/nowhere"),
        _set("etag", '"1-RUNNING"'),
    ),
    "JobService/DeleteJob": Case(
        lambda etags: job_service_pb2.DeleteJobRequest(name=etags["failed"], etag=etags[etags["failed"]]),
        _set("etag", ""),
        _set("name", "jobs/nowhere"),
        _set("etag", '"1-RUNNING"'),
    ),
    "JobService/ReplayDeadLetters": Case(
        lambda etags: job_service_pb2.ReplayDeadLettersRequest(names=[f"{_letter(etags)}-1", f"{_letter(etags)}-2"]),
        lambda request: request.names.pop(),
        lambda request: request.names.append("deadLetters/nowhere-1"),
    ),
    "EvaluationService/CreateSampleQuerySet": Case(
        lambda _: evaluation_service_pb2.CreateSampleQuerySetRequest(sample_query_set={"queries": [QUERY]}),
        _set("sample_query_set.description", "newer"),
        lambda request: request.sample_query_set.queries.append(request.sample_query_set.queries[0]),
    ),
    "EvaluationService/UpdateSampleQuerySet": Case(
        lambda etags: evaluation_service_pb2.UpdateSampleQuerySetRequest(
            sample_query_set={"name": SAMPLES, "description": "new", "etag": etags["samples"]}
        ),
        _set("sample_query_set.description", "newer"),
        lambda request: request.update_mask.paths.append("queries"),
        _set("sample_query_set.etag", '"stale"'),
    ),
    "EvaluationService/DeleteSampleQuerySet": Case(
        lambda etags: evaluation_service_pb2.DeleteSampleQuerySetRequest(name=SAMPLES, etag=etags["samples"]),
        _set("etag", ""),
        _set("name", "sampleQuerySets/nowhere"),
        _set("etag", '"stale"'),
    ),
    "EvaluationService/CreateEvaluation": Case(
        lambda _: evaluation_service_pb2.CreateEvaluationRequest(
            evaluation={"sample_query_set": SAMPLES, "collections": ["docs"]}
        ),
        _set("evaluation.description", "newer"),
        _set("evaluation.sample_query_set", "nowhere"),
    ),
    "WebhookService/CreateWebhook": Case(
        lambda _: webhook_service_pb2.CreateWebhookRequest(webhook={"uri": "https://receiver.invalid/new"}),
        _set("webhook.description", "newer"),
        _set("webhook.uri", "http://receiver.invalid/"),
    ),
    "WebhookService/UpdateWebhook": Case(
        lambda etags: webhook_service_pb2.UpdateWebhookRequest(
            webhook={"name": HOOK, "description": "new", "etag": etags["hook"]}
        ),
        _set("webhook.description", "newer"),
        _set("webhook.uri", "https://10.0.0.1/"),
        _set("webhook.etag", '"stale"'),
    ),
    "WebhookService/DeleteWebhook": Case(
        lambda etags: webhook_service_pb2.DeleteWebhookRequest(name=HOOK, etag=etags["hook"]),
        _set("etag", ""),
        _set("name", "webhooks/nowhere"),
        _set("etag", '"stale"'),
    ),
    "WebhookService/ReplayDelivery": Case(
        lambda _: webhook_service_pb2.ReplayDeliveryRequest(name=f"{HOOK}/deliveries/1"),
        _set("name", f"{HOOK}/deliveries/2"),
        _set("name", f"{HOOK}/deliveries/3"),
    ),
    "SystemService/UpdateQuota": Case(
        lambda etags: system_service_pb2.UpdateQuotaRequest(
            quota={"name": "quotas/initech", "limits": {"documents": 5}, "etag": etags["quota"]}
        ),
        _set("quota.limits.documents", 6),
        lambda request: request.update_mask.paths.append("colour"),
        _set("quota.etag", '"stale"'),
    ),
    "SystemService/CreateRevocation": Case(
        lambda _: system_service_pb2.CreateRevocationRequest(revocation={"subject": "mallory"}),
        _set("revocation.subject", "eve"),
        _set("revocation.subject", "ann"),
    ),
    "SystemService/DeleteRevocation": Case(
        lambda etags: system_service_pb2.DeleteRevocationRequest(name=etags["revocation"], etag=etags["of it"]),
        _set("etag", ""),
        _set("name", "revocations/nowhere"),
        _set("etag", '"stale"'),
    ),
}
ALL = pytest.mark.parametrize("method", CASES)


# They need every owner, and the tenant they end: tests/unit/test_system_tenants.py holds them to the rule.
ELSEWHERE = {"SystemService/DeleteTenant", "SystemService/RestoreTenant"}


async def test_every_mutation_is_held_to_the_rule() -> None:
    kept = {method for method in MUTATIONS if (method, "request_id") not in WITHOUT} - ELSEWHERE
    assert kept == set(CASES)
    assert {method for method in kept if (method, "etag") not in WITHOUT} == {
        method for method, case in CASES.items() if case.stale
    }


# Of tests that share a service, each has tenants of its own.
_TURNS = count()


async def collections_door(mesh: Mesh) -> Door:
    """To a service that others use as well: acme and globex are two tenants whom nobody else is."""
    turn, earlier = next(_TURNS), len(mesh.others.asked)

    def who(tenant: str) -> Any:
        return mesh.as_(tenant=f"{tenant}-{turn}")

    async def call(method: str, request: Message, tenant: str) -> Any:
        service, name = method.split("/")
        stub = mesh.collections if service == "CollectionService" else mesh.documents
        sent = iter([request]) if name == "UploadDocument" else request
        return await getattr(stub, name)(sent, metadata=who(tenant))

    async def look(tenant: str) -> str:
        listing = collection_service_pb2.ListCollectionsRequest()
        seen = await mesh.collections.ListCollections(listing, metadata=who(tenant))
        parts = [str(seen)]
        for each in seen.collections:
            request = document_service_pb2.ListDocumentsRequest(parent=each.name)
            parts.append(str(await mesh.documents.ListDocuments(request, metadata=who(tenant))))
        if tenant == "acme":
            asked = {getattr(each, "request_id", "") for each in mesh.others.asked[earlier:]}
            parts.append(f"imports queued: {sorted(asked - {''})}")
        return "\n".join(parts)

    made = await create(mesh, who=who("acme"))
    etags = {"docs": made.etag}
    with acting_for(caller_of("ann", tenant=f"acme-{turn}")):
        for document_id in ("a", "b"):
            etags[document_id] = (await record(mesh, made, document_id)).etag
        await record(mesh, made, "gone")
    gone = document_service_pb2.DeleteDocumentRequest(name=GONE)
    etags["gone"] = (await mesh.documents.DeleteDocument(gone, metadata=who("acme"))).etag
    await create(mesh, "old", who=who("acme"))
    old = collection_service_pb2.DeleteCollectionRequest(name="old")
    etags["old"] = (await mesh.collections.DeleteCollection(old, metadata=who("acme"))).etag
    await create(mesh, who=who("globex"), description="x")
    return Door(call, look, etags)


@asynccontextmanager
async def jobs_door(folder: Path, store: Store) -> AsyncIterator[Door]:
    async with jobs_service(store, folder) as jobs:
        jobs.peers.add("globex", "books")
        (jobs.folder / "bound").mkdir()
        jobs.peers.add("acme", "bound", source={"directory": "bound"})

        async def call(method: str, request: Message, tenant: str) -> Any:
            return await getattr(jobs.stub, method.split("/")[1])(request, metadata=jobs.as_(tenant=tenant))

        async def look(tenant: str) -> str:
            return str(await jobs.stub.ListJobs(job_service_pb2.ListJobsRequest(), metadata=jobs.as_(tenant=tenant)))

        failed = await jobs.failed(inline=inline(("x", "one"), ("y", "two")))
        made = await jobs.submit(inline=inline(("a", "one")))
        yield Door(
            call,
            look,
            {"job": made.name, made.name: made.etag, "failed": failed.name, failed.name: failed.etag},
        )


class Unused(RegistryServiceServicer):
    """Counts what tenants use: nothing."""

    async def GetTenantUsage(self, request: Any, context: Any) -> registry_service_pb2.GetTenantUsageResponse:
        return registry_service_pb2.GetTenantUsageResponse()


def _system_beside(world: World, collections_port: int) -> SystemSettings:
    targets = {"collections_target": world.target(collections_port)}
    return SystemSettings(mesh=world.mesh.model_copy(update=targets), port=0)


@asynccontextmanager
async def webhooks_door(folder: Path, store: Store) -> AsyncIterator[Door]:
    world = World.in_folder(folder, redis_url=store.url)

    @asynccontextmanager
    async def wire(settings: JobsSettings) -> AsyncIterator[Wiring]:
        async with settings.webhooks_web() as web:
            webhooks = Webhooks(kept, web, most=5)
            yield Wiring(lambda server: add_WebhookServiceServicer_to_server(WebhookServicer(webhooks), server))

    settings = JobsSettings(mesh=world.mesh, port=0)
    async with Redis.open(store.url, folder.name) as redis:
        kept = settings.webhook_store(redis)
        async with world.running(wire, settings) as port, world.channel(port) as opened:
            stub = WebhookServiceStub(opened)

            async def call(method: str, request: Message, tenant: str) -> Any:
                return await getattr(stub, method.split("/")[1])(request, metadata=who(tenant))

            def who(tenant: str) -> Any:
                return world.bearer(roles=["admin"], tenant=tenant)

            async def look(tenant: str) -> str:
                hooks = await stub.ListWebhooks(webhook_service_pb2.ListWebhooksRequest(), metadata=who(tenant))
                parts = [str(hooks)]
                for each in hooks.webhooks:
                    request = webhook_service_pb2.ListDeliveriesRequest(parent=each.name)
                    parts.append(str(await stub.ListDeliveries(request, metadata=who(tenant))))
                return "\n".join(parts)

            for tenant in ("globex", "acme"):
                hook = {"uri": "https://receiver.invalid/"}
                request = webhook_service_pb2.CreateWebhookRequest(webhook_id="hook", webhook=hook)
                made = await stub.CreateWebhook(request, metadata=who(tenant))
                await _give_up_two(kept, tenant)
            yield Door(call, look, {"hook": made.etag})


@asynccontextmanager
async def evaluations_door(folder: Path, store: Store) -> AsyncIterator[Door]:
    world = World.in_folder(folder, redis_url=store.url)

    @asynccontextmanager
    async def wire(settings: RetrievalSettings) -> AsyncIterator[Wiring]:
        async with RedisEvaluations.open(store.url, timeout_s=5) as kept:
            sets = QuerySets(kept.sets, most=5)
            evaluations = Evaluations(
                kept.evaluations, sets, RoteSearcher(), NotedJobs(), query_of, retention=timedelta(days=1), most=5
            )
            servicer = EvaluationServicer(sets, evaluations)
            yield Wiring(lambda server: add_EvaluationServiceServicer_to_server(servicer, server))
            for tenant in ("acme", "globex"):
                await kept.erase(tenant)

    settings = RetrievalSettings(mesh=world.mesh, port=0)
    async with world.running(wire, settings) as port, world.channel(port) as opened:
        stub = EvaluationServiceStub(opened)

        def who(tenant: str) -> Any:
            return world.bearer(roles=["admin"], tenant=tenant)

        async def call(method: str, request: Message, tenant: str) -> Any:
            return await getattr(stub, method.split("/")[1])(request, metadata=who(tenant))

        async def look(tenant: str) -> str:
            sets = await stub.ListSampleQuerySets(
                evaluation_service_pb2.ListSampleQuerySetsRequest(), metadata=who(tenant)
            )
            evaluations = await stub.ListEvaluations(
                evaluation_service_pb2.ListEvaluationsRequest(), metadata=who(tenant)
            )
            return f"{sets}\n{evaluations}"

        for tenant in ("globex", "acme"):
            request = evaluation_service_pb2.CreateSampleQuerySetRequest(
                sample_query_set_id="samples", sample_query_set={"queries": [QUERY]}
            )
            made = await stub.CreateSampleQuerySet(request, metadata=who(tenant))
        yield Door(call, look, {"samples": made.etag})


async def _give_up_two(kept: Outbox, tenant: str) -> None:
    """Two deliveries of a tenant's webhook, sent in vain."""
    now = datetime.now(UTC)
    events = [NewDelivery("hook", at, f"job:{at}", "document.indexed", f"u-{at}", now, b"{}") for at in (1, 2)]
    assert await kept.record(tenant, 0, 2, events)
    for turn in (await kept.take(2)).turns:
        await kept.finish(turn, Sent(DeliveryState.DEAD, 500, "answered 500"))


@asynccontextmanager
async def system_door(folder: Path, store: Store) -> AsyncIterator[Door]:
    world = World.in_folder(folder, redis_url=store.url, operator_tenant="acme")
    async with (
        world.serving(add_RegistryServiceServicer_to_server, Unused()) as collections,
        world.running(wire_system, _system_beside(world, collections)) as port,
        world.channel(port) as opened,
    ):
        stub = SystemServiceStub(opened)

        def who(tenant: str) -> Any:
            return world.bearer(roles=["admin"], tenant=tenant)

        async def call(method: str, request: Message, tenant: str) -> Any:
            return await getattr(stub, method.split("/")[1])(request, metadata=who(tenant))

        async def quota() -> Any:
            asked = system_service_pb2.UpdateQuotaRequest(quota={"name": "quotas/initech"}, validate_only=True)
            return await stub.UpdateQuota(asked, metadata=who("acme"))

        async def look(tenant: str) -> str:
            listed = await stub.ListRevocations(system_service_pb2.ListRevocationsRequest(), metadata=who(tenant))
            return f"{listed}\n{await quota() if tenant == 'acme' else ''}"

        made = await stub.CreateRevocation(
            system_service_pb2.CreateRevocationRequest(revocation={"token_id": "lost"}), metadata=who("acme")
        )
        yield Door(call, look, {"quota": (await quota()).etag, "revocation": made.name, "of it": made.etag})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def collections(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with collections_service(tmp_path_factory.mktemp("collections")) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module")
async def door(method: str, collections: Mesh, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    if method.startswith("JobService/"):
        async with jobs_door(tmp_path, request.getfixturevalue("store")) as door:
            yield door
    elif method.startswith("EvaluationService/"):
        async with evaluations_door(tmp_path, request.getfixturevalue("store")) as door:
            yield door
    elif method.startswith("WebhookService/"):
        async with webhooks_door(tmp_path, request.getfixturevalue("store")) as door:
            yield door
    elif method.startswith("SystemService/"):
        async with system_door(tmp_path, request.getfixturevalue("store")) as door:
            yield door
    else:
        yield await collections_door(collections)


def sent(door: Door, method: str, request_id: str = "k-1", *changes: Callable[[Any], None] | None) -> Any:
    """The case's request under this id, changed."""
    request = CASES[method].request(door.etags)
    request.request_id = request_id
    for change in changes:
        assert change
        change(request)
    return request


async def reason(attempt: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await attempt
    raw = dict(refused.value.trailing_metadata() or ())[DETAILS_KEY]
    assert isinstance(raw, bytes)
    info = ErrorInfo()
    assert Status.FromString(raw).details[0].Unpack(info)
    return refused.value.code(), info.reason


@ALL
async def test_a_repeated_request_is_done_once_and_answered_the_same(method: str, door: Door) -> None:
    before = await door.look("acme")
    first = await door.call(method, sent(door, method), "acme")
    after = await door.look("acme")
    assert after != before
    assert await door.call(method, sent(door, method), "acme") == first
    assert await door.look("acme") == after


@ALL
async def test_the_same_id_with_another_body_is_refused(method: str, door: Door) -> None:
    await door.call(method, sent(door, method), "acme")
    after = await door.look("acme")
    other = door.call(method, sent(door, method, "k-1", CASES[method].other), "acme")
    assert await reason(other) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert await door.look("acme") == after


@ALL
async def test_equal_requests_at_once_are_one(method: str, door: Door) -> None:
    answers = await asyncio.gather(*(door.call(method, sent(door, method), "acme") for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    after = await door.look("acme")
    assert await door.call(method, sent(door, method), "acme") == answers[0]
    assert await door.look("acme") == after


@ALL
async def test_of_two_bodies_at_once_under_one_id_one_is_done(method: str, door: Door) -> None:
    async def outcome(request: Message) -> str:
        try:
            await door.call(method, request, "acme")
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    one, other = sent(door, method), sent(door, method, "k-1", CASES[method].other)
    assert sorted(await asyncio.gather(outcome(one), outcome(other))) == ["ALREADY_EXISTS", "OK"]


@ALL
async def test_what_only_validates_changes_nothing_and_keeps_no_id(method: str, door: Door) -> None:
    before = await door.look("acme")
    answer = await door.call(method, sent(door, method, "k-1", _set("validate_only", True)), "acme")
    assert isinstance(answer, Message)
    assert await door.look("acme") == before
    await door.call(method, sent(door, method, "k-1", CASES[method].other), "acme")
    assert await door.look("acme") != before


@ALL
async def test_validating_refuses_what_doing_would_refuse(method: str, door: Door) -> None:
    refused = CASES[method].refused
    done = await reason(door.call(method, sent(door, method, "k-1", refused), "acme"))
    validate = sent(door, method, "k-2", refused, _set("validate_only", True))
    assert await reason(door.call(method, validate, "acme")) == done


@ALL
async def test_a_refused_request_keeps_no_id(method: str, door: Door) -> None:
    before = await door.look("acme")
    await reason(door.call(method, sent(door, method, "k-1", CASES[method].refused), "acme"))
    assert await door.look("acme") == before
    await door.call(method, sent(door, method), "acme")
    assert await door.look("acme") != before


# The names and etags are acme's, and so is the operator.
_NOT_THEIRS = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED, grpc.StatusCode.PERMISSION_DENIED)


@ALL
async def test_an_id_of_another_tenant_is_another_id(method: str, door: Door) -> None:
    theirs = await door.look("globex")
    await door.call(method, sent(door, method), "acme")
    assert await door.look("globex") == theirs
    try:
        await door.call(method, sent(door, method, "k-1", CASES[method].other), "globex")
    except grpc.aio.AioRpcError as error:
        assert error.code() in _NOT_THEIRS


@pytest.mark.parametrize("method", [method for method, case in CASES.items() if case.stale])
async def test_a_stale_etag_is_aborted_and_nothing_changes(method: str, door: Door) -> None:
    before = await door.look("acme")
    for validate_only in (False, True):
        request = sent(door, method, "k-1", CASES[method].stale, _set("validate_only", validate_only))
        assert await reason(door.call(method, request, "acme")) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await door.look("acme") == before


async def test_an_id_of_another_method_is_another_id(collections: Mesh) -> None:
    door = await collections_door(collections)
    for method in CASES:
        if method.startswith(("CollectionService/", "DocumentService/")):
            try:
                await door.call(method, sent(door, method, "one-for-all", _forget_etags), "acme")
            except grpc.aio.AioRpcError as error:
                assert error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS), "gone, or taken"
                assert "request_id" not in str(error.details())


def _forget_etags(request: Any) -> None:
    """What the calls before have changed has others by now."""
    for of, name in ((request, "etag"), (request, "etags"), *((_of(request, each), "etag") for each in _RESOURCES)):
        if of is not None and name in of.DESCRIPTOR.fields_by_name:
            of.ClearField(name)


_RESOURCES = ("collection", "document")


def _of(request: Any, name: str) -> Any:
    return getattr(request, name) if name in request.DESCRIPTOR.fields_by_name else None
