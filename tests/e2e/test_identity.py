"""Every RPC of the contract, by every door, with every kind of credential that must not do."""

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from joserfc import jwt
from joserfc.jwk import ECKey

from ragweave import contract
from ragweave.contract import Method
from services.mesh.tokens import ROLES
from tests.e2e.doors import Answer, Doors, Headers, opened
from tests.e2e.stack import PREFIX, TIER, Mesh

DOORS = ("rest", "grpc", "web", "direct")
OK, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED = (
    0,
    3,
    5,
    6,
    7,
    12,
    16,
)
OWNED = "matrix-owner"
C = "collections/matrix"
D = f"{C}/documents/secret"
W = "webhooks/owned"
S = "sampleQuerySets/owned"
CANARY = "heliotrope"

# A request of each method that its owner may make, as JSON. A method without one fails the suite. `{job}` and
# `{revocation}` stand for the owner's.
REQUESTS: Mapping[str, dict[str, Any]] = {
    "CacheService/GetCacheStats": {"collection": C},
    "CacheService/ListCacheEntries": {},
    "CacheService/PurgeCache": {"collection": C},
    "CacheService/WarmCache": {"collection": C},
    "CollectionService/CreateCollection": {"collection": {"description": "x"}, "collectionId": "matrix"},
    "CollectionService/ListCollections": {},
    "CollectionService/GetCollection": {"name": C},
    "CollectionService/UpdateCollection": {"collection": {"name": C, "description": "x"}, "updateMask": "description"},
    "CollectionService/DeleteCollection": {"name": C, "force": True},
    "CollectionService/UndeleteCollection": {"name": C},
    "CollectionService/GetCollectionStats": {"name": C},
    "DirectoryService/ListRoots": {},
    "DirectoryService/ListDirectoryEntries": {"path": "."},
    "DirectoryService/ValidatePath": {"path": "."},
    "DocumentService/CreateDocument": {"parent": C, "documentId": "new", "text": "x"},
    "DocumentService/UploadDocument": {
        "parent": C,
        "documentId": "new",
        "file": {"contentType": "text/plain", "data": "eA=="},
    },
    "DocumentService/GetUpload": {"parent": C, "requestId": "nobody-s"},
    "DocumentService/ListDocuments": {"parent": C},
    "DocumentService/GetDocument": {"name": D},
    "DocumentService/BatchGetDocuments": {"parent": C, "names": [D]},
    "DocumentService/UpdateDocument": {"document": {"name": D, "title": "x"}, "updateMask": "title"},
    "DocumentService/DeleteDocument": {"name": D},
    "DocumentService/UndeleteDocument": {"name": D},
    "DocumentService/BatchDeleteDocuments": {"parent": C, "names": [D]},
    "DocumentService/ListChunks": {"parent": D},
    "EmbeddingService/Embed": {"texts": ["x"]},
    "EmbeddingService/StreamEmbed": {"id": "1", "text": "x"},
    "EmbeddingService/Rerank": {"query": "x", "documents": ["x"]},
    "EmbeddingService/CountTokens": {"texts": ["x"]},
    "EvaluationService/CreateSampleQuerySet": {
        "sampleQuerySet": {"queries": [{"id": "q", "text": "x", "relevant": [{"name": "a", "grade": 1}]}]},
        "sampleQuerySetId": "matrix",
    },
    "EvaluationService/ListSampleQuerySets": {},
    "EvaluationService/GetSampleQuerySet": {"name": S},
    "EvaluationService/UpdateSampleQuerySet": {"sampleQuerySet": {"name": S, "description": "x"}},
    "EvaluationService/DeleteSampleQuerySet": {"name": S},
    "EvaluationService/CreateEvaluation": {"evaluation": {"sampleQuerySet": S, "collections": [C]}},
    "EvaluationService/ListEvaluations": {},
    "EvaluationService/GetEvaluation": {"name": "evaluations/nowhere"},
    "EvaluationService/ListEvaluatedQueries": {"parent": "evaluations/nowhere"},
    "EventService/WatchEvents": {},
    "JobService/ImportDocuments": {"parent": C, "inline": {"documents": [{"documentId": "new", "text": "x"}]}},
    "JobService/SyncCollection": {"name": C},
    "JobService/ReprocessDocuments": {"parent": C},
    "JobService/PurgeDocuments": {"parent": C, "filter": "*", "force": True},
    "JobService/GetJob": {"name": "{job}"},
    "JobService/ListJobs": {},
    "JobService/ListJobItems": {"parent": "{job}"},
    "JobService/WatchJob": {"name": "{job}"},
    "JobService/CancelJob": {"name": "{job}"},
    "JobService/RetryJob": {"name": "{job}"},
    "JobService/DeleteJob": {"name": "{job}"},
    "JobService/ListDeadLetters": {},
    "JobService/ReplayDeadLetters": {"names": ["deadLetters/nowhere-1"]},
    "ModelService/ListModels": {},
    "ModelService/GetModel": {"name": "models/all-MiniLM-L6-v2"},
    "RetrievalService/ParseFilter": {"filter": "exists(metadata.author)"},
    "RetrievalService/Search": {"query": CANARY, "collection": C},
    "RetrievalService/BatchSearch": {"requests": [{"query": CANARY}], "collection": C},
    "RetrievalService/StreamSearch": {"search": {"query": CANARY, "collection": C}},
    "RetrievalService/FindSimilar": {"name": D},
    "SystemService/GetHealth": {},
    "SystemService/GetVersion": {},
    "SystemService/GetQuota": {"name": f"quotas/{OWNED}"},
    "SystemService/GetUsage": {},
    "SystemService/UpdateQuota": {"quota": {"name": f"quotas/{OWNED}", "limits": {"documents": 1}}},
    "SystemService/ListAuditEvents": {},
    "SystemService/CreateRevocation": {"revocation": {"subject": "nobody-in-particular"}},
    "SystemService/ListRevocations": {},
    "SystemService/DeleteRevocation": {"name": "{revocation}"},
    "SystemService/GetTenant": {"name": f"tenants/{OWNED}"},
    "SystemService/DeleteTenant": {"name": f"tenants/{OWNED}"},
    "SystemService/RestoreTenant": {"name": f"tenants/{OWNED}"},
    "SystemService/ExportTenant": {"name": f"tenants/{OWNED}"},
    "WebhookService/CreateWebhook": {"webhook": {"uri": "https://receiver.invalid/"}, "webhookId": "matrix"},
    "WebhookService/ListWebhooks": {},
    "WebhookService/GetWebhook": {"name": W},
    "WebhookService/UpdateWebhook": {"webhook": {"name": W, "description": "x"}, "updateMask": "description"},
    "WebhookService/DeleteWebhook": {"name": W},
    "WebhookService/TestWebhook": {"name": W},
    "WebhookService/ListDeliveries": {"parent": W},
    "WebhookService/ReplayDelivery": {"name": f"{W}/deliveries/1"},
}
# What acts in the caller's own tenant whatever it is sent: answered, and nothing of the owner's in the answer.
OWN = {
    "CacheService/ListCacheEntries",
    "CollectionService/CreateCollection",
    "CollectionService/ListCollections",
    "DirectoryService/ListDirectoryEntries",
    "DirectoryService/ListRoots",
    "DirectoryService/ValidatePath",
    "EmbeddingService/CountTokens",
    "EmbeddingService/Embed",
    "EmbeddingService/Rerank",
    "EmbeddingService/StreamEmbed",
    "EvaluationService/CreateSampleQuerySet",
    "EvaluationService/ListEvaluations",
    "EvaluationService/ListSampleQuerySets",
    "EventService/WatchEvents",
    "JobService/ListDeadLetters",
    "JobService/ListJobs",
    "ModelService/GetModel",
    "ModelService/ListModels",
    "RetrievalService/ParseFilter",
    "SystemService/CreateRevocation",
    "SystemService/GetHealth",
    "SystemService/GetUsage",
    "SystemService/GetVersion",
    "SystemService/ListAuditEvents",
    "SystemService/ListRevocations",
    "WebhookService/CreateWebhook",
    "WebhookService/ListWebhooks",
}
# Not even a tenant's own admin may: for operators.
OPERATORS = {"SystemService/RestoreTenant", "SystemService/UpdateQuota"}

PUBLIC = [each for each in contract.methods().values() if not each.internal]


def short(method: Method) -> str:
    return method.path.removeprefix("/ragweave.v1.")


def bearer(token: str) -> Headers:
    return [("authorization", f"Bearer {token}")]


class Forger:
    """Tokens of every kind that must be refused, and the good one they differ from."""

    def __init__(self, mesh: Mesh) -> None:
        self._key = ECKey.import_key((mesh.layout.keys / "dev.pem").read_bytes())
        self._kid = self._key.thumbprint()

    def token(self, *, key: ECKey | None = None, kid: str | None = None, **claims: Any) -> str:
        """The admin of the owner's tenant, unless claims say otherwise; a claim given as None is left out."""
        now = int(time.time())
        known = {"iss": "ragweave", "aud": "ragweave", "sub": "ann", "tenant": OWNED, "roles": ["admin"], "tier": TIER}
        used = {name: value for name, value in {**known, "exp": now + 600, **claims}.items() if value is not None}
        header = {"alg": "ES256", "kid": kid or self._kid}
        return jwt.encode(header, used, key or self._key, algorithms=["ES256"])

    def unsigned(self) -> str:
        header = urlsafe_b64encode(json.dumps({"alg": "none", "kid": self._kid}).encode()).rstrip(b"=").decode()
        return f"{header}.{self.token().split('.')[1]}."


CREDENTIALS: Mapping[str, Callable[[Forger], Headers]] = {
    "no token": lambda made: [],
    "another scheme": lambda made: [("authorization", "Basic YW5uOnB3")],
    "bad signature": lambda made: bearer(made.token(key=ECKey.generate_key("P-256"))),
    "alg none": lambda made: bearer(made.unsigned()),
    "unknown kid": lambda made: bearer(made.token(key=ECKey.generate_key("P-256"), kid="unknown")),
    "wrong audience": lambda made: bearer(made.token(aud="another")),
    "wrong issuer": lambda made: bearer(made.token(iss="another")),
    "no exp": lambda made: bearer(made.token(exp=None)),
    "expired 61 s ago": lambda made: bearer(made.token(exp=int(time.time()) - 61)),
    "not valid yet": lambda made: bearer(made.token(nbf=int(time.time()) + 61)),
    "no tenant": lambda made: bearer(made.token(tenant=None)),
    "empty tenant": lambda made: bearer(made.token(tenant="")),
    "no subject": lambda made: bearer(made.token(sub=None)),
}


@pytest.fixture(scope="module")
def forger(mesh: Mesh) -> Forger:
    return Forger(mesh)


@pytest.fixture
async def doors(mesh: Mesh) -> AsyncIterator[Doors]:
    async with opened(mesh) as made:
        yield made


@pytest.fixture(scope="module")
def owned(mesh: Mesh) -> Iterator[dict[str, str]]:
    """The owner's tenant: a collection with a document, a job and a revocation, by what stands for them."""
    token = mesh.token(tenant=OWNED, subject="ann")
    made = mesh.rest("POST", f"{PREFIX}/collections?collectionId=matrix", {"description": CANARY}, token=token)
    assert made.status == 200, made
    documents = {"inline": {"documents": [{"documentId": "secret", "text": f"The {CANARY} blooms at night."}]}}
    queued = mesh.rest("POST", f"{PREFIX}/{C}/documents:import", documents, token=token)
    assert queued.status == 200, queued
    with mesh.client(tenant=OWNED, subject="ann") as client:
        client.wait(queued.body["name"])
    denied = mesh.rest("POST", f"{PREFIX}/revocations", {"subject": f"{CANARY}-bob"}, token=token)
    assert denied.status == 200, denied
    hook = {"uri": "https://receiver.invalid/", "description": CANARY, "topics": ["collection.deleted"]}
    assert mesh.rest("POST", f"{PREFIX}/webhooks?webhookId=owned", hook, token=token).status == 200
    queries = [{"id": "q", "text": CANARY, "relevant": [{"name": D, "grade": 1}]}]
    samples = {"description": CANARY, "queries": queries}
    assert mesh.rest("POST", f"{PREFIX}/sampleQuerySets?sampleQuerySetId=owned", samples, token=token).status == 200
    yield {"{job}": queued.body["name"], "{revocation}": denied.body["name"]}
    assert mesh.rest("DELETE", f"{PREFIX}/{C}?force=true", token=token).status == 200
    assert mesh.rest("DELETE", f"{PREFIX}/{denied.body['name']}", token=token).status == 200
    assert mesh.rest("DELETE", f"{PREFIX}/{W}", token=token).status == 200
    assert mesh.rest("DELETE", f"{PREFIX}/{S}", token=token).status == 200


def request_of(method: Method, owned: Mapping[str, str]) -> Message:
    given = json.dumps(REQUESTS[short(method)])
    for mark, name in owned.items():
        given = given.replace(mark, name)
    read: Message = json_format.Parse(given, GetMessageClass(method.descriptor.input_type)())
    return read


async def answers(
    doors: Doors, door: str, methods: list[Method], owned: Mapping[str, str], headers: Headers, **query: str
) -> list[tuple[str, Answer]]:
    """Every method's answer by a door; over REST by each of its forms, and not at all where it has none."""
    asked = [
        (short(form), form, request_of(form, owned))
        for method in methods
        for form in ([replace(method, http=(each,)) for each in method.http] if door == "rest" else [method])
        if not (door == "web" and method.client_streaming)  # gRPC-Web has no such calls
    ]
    gate = asyncio.Semaphore(8)

    async def one(name: str, method: Method, request: Message) -> tuple[str, Answer]:
        async with gate:
            return name, await doors.call(door, method, request, headers, query=query)

    return await asyncio.gather(*(one(*each) for each in asked))


def test_every_public_method_is_in_the_table() -> None:
    assert {short(each) for each in PUBLIC} == REQUESTS.keys()
    assert REQUESTS.keys() >= OWN | OPERATORS


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("credential", CREDENTIALS)
async def test_every_method_refuses_a_caller_it_cannot_verify(
    doors: Doors, forger: Forger, owned: dict[str, str], door: str, credential: str
) -> None:
    headers = CREDENTIALS[credential](forger)
    methods = [each for each in PUBLIC if headers or not (each.public_collections or each.open)]
    got = await answers(doors, door, methods, owned, headers)
    assert len(got) >= len(methods) - 2
    assert [(name, each) for name, each in got if (each.code, each.shaped) != (UNAUTHENTICATED, True)] == []
    assert [name for name, each in got if CANARY.encode() in each.raw] == []


@pytest.mark.parametrize("door", DOORS)
async def test_a_token_in_the_query_string_is_no_token(
    doors: Doors, forger: Forger, owned: dict[str, str], door: str
) -> None:
    methods = [each for each in PUBLIC if not (each.public_collections or each.open)]
    for name in ("access_token", "token", "authorization"):
        got = await answers(doors, door, methods, owned, [], **{name: forger.token()})
        # A service knows no path with a query.
        expected = (UNIMPLEMENTED,) if door == "direct" else (UNAUTHENTICATED,)
        assert [(method, each) for method, each in got if each.code not in expected or not each.shaped] == []


@pytest.mark.parametrize("door", DOORS)
async def test_every_method_refuses_a_token_without_its_scope(
    doors: Doors, forger: Forger, owned: dict[str, str], door: str
) -> None:
    every = set().union(*ROLES.values())
    for scope in sorted({each.scope for each in PUBLIC if not each.open}):
        token = forger.token(roles=None, scope=" ".join(sorted(every - {scope})))
        got = await answers(doors, door, [each for each in PUBLIC if each.scope == scope], owned, bearer(token))
        assert [(name, each) for name, each in got if (each.code, each.shaped) != (PERMISSION_DENIED, True)] == []


@pytest.mark.parametrize("door", DOORS)
async def test_another_tenant_finds_nothing(doors: Doors, forger: Forger, owned: dict[str, str], door: str) -> None:
    stranger = bearer(forger.token(tenant=f"matrix-stranger-{door}", sub="ann"))
    theirs = [each for each in PUBLIC if short(each) not in OWN]
    for name, each in await answers(doors, door, theirs, owned, stranger):
        assert CANARY.encode() not in each.raw, (name, each)
        allowed = (NOT_FOUND, PERMISSION_DENIED) if name in OPERATORS else (NOT_FOUND,)
        codes = {each.code}
        if name == "RetrievalService/BatchSearch":  # each of its queries fails alone
            codes = {result.error.code for result in each.responses[0].results}  # type: ignore[attr-defined]
        assert codes <= set(allowed) and each.shaped, (name, each)
    for name, each in await answers(doors, door, [each for each in PUBLIC if short(each) in OWN], owned, stranger):
        assert CANARY.encode() not in each.raw, (name, each)
        assert each.code in (OK, INVALID_ARGUMENT, ALREADY_EXISTS), (name, each)
        # Its own audit log tells what it asked for.
        assert name == "SystemService/ListAuditEvents" or OWNED.encode() not in each.raw, (name, each)


@pytest.mark.parametrize("door", DOORS)
async def test_nobody_who_was_refused_changed_anything(
    doors: Doors, forger: Forger, owned: dict[str, str], door: str
) -> None:
    mine = bearer(forger.token())
    read = {short(each): each for each in PUBLIC}
    for name in (
        "CollectionService/GetCollection",
        "DocumentService/GetDocument",
        "JobService/GetJob",
        "WebhookService/GetWebhook",
        "EvaluationService/GetSampleQuerySet",
    ):
        ((_, found),) = await answers(doors, door, [read[name]], owned, mine)
        assert found.code == 0, (name, found)
    ((_, listed),) = await answers(doors, door, [read["DocumentService/ListDocuments"]], owned, mine)
    assert [each.name for each in listed.responses[0].documents] == [D]  # type: ignore[attr-defined]
