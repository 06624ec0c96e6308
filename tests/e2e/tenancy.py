"""Random calls over every RPC by three tenants, and what must hold whatever they ask: nothing crosses.

Every tenant writes a word of its own, its canary, into all content it stores, and asks with words all tenants store.
Names, etags, tokens and hashes of all tenants are in one pool, so that each keeps asking for what is the others'.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ragweave import contract
from ragweave.contract import Method
from tests.e2e.doors import Answer, Doors, Headers

OK, FAILED_PRECONDITION = 0, 9
TENANTS = ("tenancy-a", "tenancy-b", "tenancy-c")
CANARIES = {"tenancy-a": "aquamarinefinch", "tenancy-b": "burgundyheron", "tenancy-c": "ceruleanplover"}
WORDS = (
    "harbour",
    "lantern",
    "burns",
    "night",
    "while",
    "boats",
    "return",
    "from",
    "the",
    "sea",
    "with",
    "fish",
    "rope",
)
METHODS = [each for each in contract.methods().values() if not each.internal]
DOORS = ("rest", "grpc", "web", "direct")

# Fields whose values are looked for in answers, kept for all tenants, and asked with later.
_HARVESTED = (
    "name",
    "etag",
    "next_page_token",
    "consistency_token",
    "content_hash",
    "uid",
    "source_uri",
    "chunk",
    "path",
)
_IDS = ("alpha", "beta", "gamma", "delta")
_REQUEST_IDS = ("r-1", "r-2", "r-3", "r-4", "r-5", "r-6", "r-7", "r-8")
_PATHS = (".", "..", "/", "/etc", "../..", "%2e%2e", "/proc/self/root", "a/../../b")
_ORDERS = ("", "name", "name desc", "create_time desc", "update_time", "tenant", "event_time desc")
_MOST_COLLECTIONS = 4
_LISTED = (
    ("ListCollections", "collections"),
    ("ListJobs", "jobs"),
    ("ListRevocations", "revocations"),
    ("ListWebhooks", "webhooks"),
    ("ListSampleQuerySets", "sample_query_sets"),
    ("ListEvaluations", "evaluations"),
)
# What keeps its filter in a likely request.
_FILTERED = ("ParseFilter", "ReplayDeadLetters", "Search")
# Time passing would change a tenant that nobody calls.
_LEFT_OUT = {"expire_time", "ttl", "timestamp", "page"}


def roots_in(folder: Path) -> str:
    """RAGWEAVE_ROOTS with a root for each tenant below `folder`, holding a file that is named by its canary."""
    for tenant, canary in CANARIES.items():
        (folder / tenant).mkdir(parents=True)
        (folder / tenant / f"{canary}.txt").write_text(f"A file of {canary}.")
    return ",".join(f"{tenant}={folder / tenant}" for tenant in TENANTS)


@dataclass
class Pool:
    """Values seen in any tenant's answers, the newest kept."""

    seen: dict[str, list[str]] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        for described, value in message.ListFields():
            values = list(value.values()) if _is_map(described) else value if described.is_repeated else [value]
            for each in values:
                if isinstance(each, Message):
                    self.take(each)
                elif described.name in _HARVESTED and isinstance(each, str) and not _tells(described.name, each):
                    kept = self.seen.setdefault(_kind(described.name, each), [])
                    if each not in kept:
                        kept.append(each)
                        del kept[:-60]

    def any(self, made: random.Random, kind: str, default: str = "") -> str:
        kinds = sorted(each for each in self.seen if each == kind or each.startswith(f"{kind} "))
        return made.choice(self.seen[made.choice(kinds)]) if kinds else default

    def named(self, made: random.Random, pattern: str) -> str:
        """A name of a pattern such as `collections/*/documents/*`, somebody's if there is one."""
        shape = re.compile(re.escape(pattern).replace(r"\*", "[^/]+"))
        found = [name for name in self.seen.get(_kind("name", pattern), []) if shape.fullmatch(name)]
        if found and made.random() < 0.5:
            return made.choice(found)
        ids = TENANTS if pattern.startswith(("tenants/", "quotas/")) else _IDS[:2]
        return re.sub(r"\*", lambda _: made.choice(ids), pattern)


def _kind(field_name: str, value: str) -> str:
    """Where a value is kept: names by what they are of, so that many documents do not push out the one evaluation."""
    if field_name not in ("name", "chunk"):
        return field_name
    return f"name {'/'.join(value.split('/')[::2])}"


def _tells(kind: str, value: str) -> bool:
    """Whether a name holds a canary, as ids made of a text do: who asks for it finds it in its own audit log."""
    return kind != "path" and any(canary in value for canary in CANARIES.values())


@dataclass
class Asker:
    """Makes up requests of one tenant."""

    tenant: str
    pool: Pool
    made: random.Random

    def request(self, method: Method) -> Message:
        shapes = dict(re.findall(r"\{([\w.]+)=([^}]+)\}", "".join(each.template for each in method.http)))
        request = self._message(method.descriptor.input_type, shapes, "", 0)
        if self.made.random() < 0.6:
            self._make_likely(method, request)
        return self._kept_harmless(method, request)

    def _make_likely(self, method: Method, request: Any) -> None:
        """Takes back what mostly makes a request wrong in itself, so that it gets as far as anybody's data."""
        if method.name in ("BatchGetDocuments", "BatchDeleteDocuments"):
            request.names[:] = [f"{request.parent}/documents/{self.made.choice(_IDS)}"]
        elif method.name == "ImportDocuments":
            request.inline.documents.add(document_id=self.made.choice(_IDS), text=self.content())
            del request.inline.documents[:-1]
            request.ClearField("request_id")
        elif method.name == "CreateWebhook":
            request.webhook_id = self.made.choice(_IDS)
            request.webhook.uri = f"https://{CANARIES[self.tenant]}.invalid/hook"
            request.ClearField("request_id")
        elif method.name == "CreateSampleQuerySet":
            request.sample_query_set_id = self.made.choice(_IDS[:2])
            request.sample_query_set.queries.add(id="q", text=self.content())
            del request.sample_query_set.queries[:-1]
            request.sample_query_set.queries[0].relevant.add(name=self.made.choice(_IDS), grade=1)
            request.ClearField("request_id")
        elif method.name == "CreateEvaluation":
            asked = request.evaluation
            asked.CopyFrom(type(asked)(sample_query_set=self.made.choice(_IDS[:2]), collections=_IDS[:1]))
            request.ClearField("request_id")
        elif method.name == "ReplayDeadLetters":
            request.names.clear()
            request.filter = "*"
        elif method.name == "FindSimilar":
            name = f"collections/{self.made.choice(_IDS[:2])}/documents/alpha"
            request.CopyFrom(GetMessageClass(method.descriptor.input_type)(name=name))
        elif method.name == "BatchSearch":
            request.collection = request.collection or self.made.choice(_IDS)
            for each in request.requests:
                each.CopyFrom(type(each)(query=each.query, filter=self._filter()))
        elif method.name == "StreamSearch":
            asked = request.search
            asked.CopyFrom(type(asked)(query=asked.query, collection=asked.collection, filter=self._filter()))
        elif method.name == "Search":
            kept = GetMessageClass(method.descriptor.input_type)(query=request.query, collection=request.collection)
            kept.filter = self._filter()
            request.CopyFrom(kept)
        for name in ("filter", "page_token", "order_by"):
            if name in request.DESCRIPTOR.fields_by_name and method.name not in _FILTERED:
                request.ClearField(name)
        if method.name == "PurgeDocuments":
            request.filter, request.force = "*", self.made.random() < 0.1

    def _kept_harmless(self, method: Method, request: Any) -> Message:
        """A tenant may delete itself and lock itself out: then nothing could be asked any more."""
        others = [each for each in TENANTS if each != self.tenant]
        if method.name == "DeleteTenant":
            request.name = f"tenants/{self.made.choice(others)}"
        if method.name == "CreateRevocation":
            request.revocation.subject = f"user-of-{self.made.choice(others)}"
        return request  # type: ignore[no-any-return]

    def _message(self, described: Descriptor, shapes: Mapping[str, str], path: str, depth: int) -> Any:
        message = GetMessageClass(described)()
        chosen = {self.made.choice(list(each.fields)).name for each in described.oneofs}
        for each in described.fields:
            real_oneof = each.containing_oneof is not None and not each.containing_oneof.name.startswith("_")
            wanted = each.name in chosen if real_oneof else self._wanted(f"{path}{each.name}", each, shapes, depth)
            if wanted and each.name not in _LEFT_OUT:
                self._fill(message, each, shapes, f"{path}{each.name}", depth)
        return message

    def _wanted(self, path: str, each: FieldDescriptor, shapes: Mapping[str, str], depth: int) -> bool:
        if any(shape == path or shape.startswith(f"{path}.") for shape in shapes):
            return True
        if each.name in ("parent", "name", "names", "text", "texts", "query", "collection", "data", "content_type"):
            return self.made.random() < 0.9
        return self.made.random() < (0.25 if depth == 0 else 0.15)

    def _fill(self, message: Any, each: FieldDescriptor, shapes: Mapping[str, str], path: str, depth: int) -> None:
        if each.message_type is not None and each.message_type.full_name.startswith("google.protobuf."):
            self._well_known(message, each)
        elif _is_map(each):
            getattr(message, each.name)["owner"] = CANARIES[self.tenant]
        elif each.is_repeated:
            values = [self._value(each, shapes, path, depth) for _ in range(self.made.randint(1, 3))]
            getattr(message, each.name).extend(values)
        elif each.message_type is not None:
            if depth < 4:
                getattr(message, each.name).CopyFrom(self._message(each.message_type, shapes, f"{path}.", depth + 1))
        else:
            setattr(message, each.name, self._value(each, shapes, path, depth))

    def _well_known(self, message: Any, each: FieldDescriptor) -> None:
        kind = each.message_type.name
        if kind == "FieldMask":
            getattr(message, each.name).paths.append(self.made.choice(["*", "description", "title", "metadata", "acl"]))
        elif kind == "Struct":
            getattr(message, each.name).update({"owner": CANARIES[self.tenant], "n": self.made.randint(0, 3)})

    def _value(self, each: FieldDescriptor, shapes: Mapping[str, str], path: str, depth: int) -> Any:
        if each.message_type is not None:
            return self._message(each.message_type, shapes, f"{path}.", depth + 1)
        if each.enum_type is not None:
            return self.made.choice(each.enum_type.values).number
        if each.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._bytes() if each.type == FieldDescriptor.TYPE_BYTES else self._text(each.name, shapes.get(path))
        if each.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self.made.random() < 0.3
        if each.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return self.made.random()
        return self.made.randint(0, 20)

    def _bytes(self) -> bytes:
        return self.content().encode()

    def content(self) -> str:
        return f"{' '.join(self.made.sample(WORDS, 8))} {CANARIES[self.tenant]} {self.made.randint(0, 99)}."

    def _text(self, name: str, shape: str | None) -> str:
        pick = self.made.choice
        if shape is not None:
            return self.pool.named(self.made, shape)
        known: Mapping[str, Callable[[], str]] = {
            "name": lambda: self.pool.any(self.made, "name", "collections/alpha"),
            "names": lambda: self.pool.named(self.made, "collections/*/documents/*"),
            "parent": lambda: self.pool.named(self.made, "collections/*"),
            "collection": lambda: self.pool.named(self.made, "collections/*"),
            "collections": lambda: self.pool.named(self.made, "collections/*"),
            "collection_id": lambda: pick(_IDS),
            "document_id": lambda: pick(_IDS),
            "webhook_id": lambda: pick(_IDS),
            "sample_query_set_id": lambda: pick(_IDS),
            "sample_query_set": lambda: pick(_IDS),
            "uri": lambda: f"https://{CANARIES[self.tenant]}.invalid/hook",
            "topics": lambda: "document.indexed",
            "secret": lambda: "",
            "request_id": lambda: pick(_REQUEST_IDS),
            "etag": lambda: self.pool.any(self.made, "etag"),
            "page_token": lambda: self.pool.any(self.made, "next_page_token"),
            "consistency_token": lambda: self.pool.any(self.made, "consistency_token"),
            "content_hash": lambda: self.pool.any(self.made, "content_hash"),
            "sha256": lambda: "",
            "uid": lambda: self.pool.any(self.made, "uid"),
            "filter": self._filter,
            "order_by": lambda: pick(_ORDERS),
            "query": lambda: " ".join(self.made.sample(WORDS, 4)),
            "path": self._path,
            "directory": self._path,
            "principals": lambda: pick([f"user:user-of-{each}" for each in TENANTS] + ["group:all"]),
            "content_type": lambda: pick(["text/plain", "text/markdown"]),
            "mime_type": lambda: pick(["", "text/plain"]),
            "embedding_model": lambda: "",
            "model": lambda: "",
            "language": lambda: pick(["", "en"]),
            "metadata_json": lambda: f'{{"owner": "{CANARIES[self.tenant]}"}}',
            "filename": lambda: pick(["rope.txt", "sea.md"]),
            "field": lambda: pick(["metadata.owner", "tenant", "name", "document"]),
        }
        return known.get(name, self.content)()

    def _path(self) -> str:
        """Anybody's root or file, without the part of a name that is somebody's canary."""
        found = re.sub("|".join(CANARIES.values()), "*", self.pool.any(self.made, "path", "."))
        return self.made.choice([*_PATHS, found, found])

    def _filter(self) -> str:
        pick, other = self.made.choice, self.made.choice(TENANTS)
        return pick(
            [
                "",
                f'tenant = "{other}"',
                f'tenant = "{other}" OR name != ""',
                'name != "x" OR NOT name = "x"',
                "metadata.n >= 0",
                "metadata.n >= 0 OR metadata.n < 0",
                f'name = "{self.pool.any(self.made, "name", "x")}"',
                f'collection = "{self.pool.named(self.made, "collections/*")}"',
                f'document = "{self.pool.named(self.made, "collections/*/documents/*")}"',
                f'uid = "{self.pool.any(self.made, "uid", "x")}"',
            ]
        )


class Crossing(AssertionError):
    """Something of one tenant's was seen or changed by another."""


@dataclass
class Campaign:
    """Three tenants of one mesh. `counts` holds how calls ended, by method and code."""

    doors: Doors
    headers: Mapping[str, Headers]
    pool: Pool = field(default_factory=Pool)
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    own_seen: int = 0
    calls: int = 0

    async def prepare(self, *tenants: str) -> None:
        """Two collections with a document, a webhook and an evaluation for each tenant that has lost them, named alike.

        One collection was deleted and taken back: random calls seldom find one that is deleted before it is made anew.
        An evaluation needs a set of queries that judges what is in a collection: random calls seldom make one either,
        and webhooks are deleted as often as they are made.
        """
        for tenant in tenants:
            asker = Asker(tenant, self.pool, random.Random(0))
            for name in _IDS[:2]:
                request = _message("CreateCollection", {"collection_id": name})
                request.collection.description = asker.content()
                await self._checked(tenant, "grpc", _method("CreateCollection"), request)
                made = _message("CreateDocument", {"parent": f"collections/{name}", "document_id": "alpha"})
                made.text = asker.content()
                await self._checked(tenant, "grpc", _method("CreateDocument"), made)
            await self._settled(tenant)
            again = _message("DeleteCollection", {"name": f"collections/{_IDS[0]}", "force": True})
            await self._checked(tenant, "grpc", _method("DeleteCollection"), again)
            back = _message("UndeleteCollection", {"name": f"collections/{_IDS[0]}"})
            await self._checked(tenant, "grpc", _method("UndeleteCollection"), back)
            await self._with_a_webhook(tenant)
            await self._with_an_evaluation(tenant, asker)

    async def _with_a_webhook(self, tenant: str) -> None:
        """One that is sent nothing, so that it does not change by itself."""
        hook = _message("CreateWebhook", {"webhook_id": _IDS[0]})
        hook.webhook.uri = f"https://{CANARIES[tenant]}.invalid/hook"
        hook.webhook.state = hook.webhook.DISABLED
        await self._checked(tenant, "grpc", _method("CreateWebhook"), hook)

    async def _with_an_evaluation(self, tenant: str, asker: Asker) -> None:
        listing = _method("ListEvaluations"), _message("ListEvaluations", {})
        listed = await self._checked(tenant, "grpc", *listing)
        if listed.responses and listed.responses[0].evaluations:  # type: ignore[attr-defined]
            return
        queries = _message("CreateSampleQuerySet", {"sample_query_set_id": _IDS[2]})
        query = queries.sample_query_set.queries.add(id="q", text=asker.content())
        query.relevant.add(name="alpha", grade=1)
        await self._checked(tenant, "grpc", _method("CreateSampleQuerySet"), queries)
        evaluated = _message("CreateEvaluation", {})
        evaluated.evaluation.sample_query_set, evaluated.evaluation.collections[:] = _IDS[2], [_IDS[0]]
        await self._checked(tenant, "grpc", _method("CreateEvaluation"), evaluated)
        await self._checked(tenant, "grpc", *listing)

    async def batch(self, seed: int, calls: int, *, often: Sequence[str] = ()) -> None:
        """Random calls by one tenant; whatever they were, the others are as they were before.

        Args:
            often: Methods that every other call is one of.

        Raises:
            Crossing: They are not, or an answer held something of theirs.
        """
        made = random.Random(seed)
        actor = made.choice(TENANTS)
        others = [each for each in TENANTS if each != actor]
        await self.prepare(actor)
        before = {tenant: await self._fingerprint(tenant) for tenant in others}
        asker = Asker(actor, self.pool, made)
        for start in range(0, calls, 4):
            asked = [(_any_method(made, often), made.choice(DOORS)) for _ in range(min(4, calls - start))]
            await asyncio.gather(*(self._random(actor, door, method, asker) for method, door in asked))
        await self._tidy(actor)
        for tenant in others:
            now = await self._fingerprint(tenant)
            changed = sorted(dict(now.items() ^ before[tenant].items()))
            if changed:
                raise Crossing(f"seed {seed}: calls of {actor} changed {tenant}: {changed}")

    async def _random(self, actor: str, door: str, method: Method, asker: Asker) -> None:
        if (door == "rest" and not method.http) or (door == "web" and method.client_streaming):
            door = "grpc"
        await self._checked(actor, door, method, asker.request(method))

    async def _checked(self, actor: str, door: str, method: Method, request: Message) -> Answer:
        answer = await self.doors.call(door, method, request, self.headers[actor])
        self.calls += 1
        self.counts[method.name, answer.code] += 1
        self.own_seen += CANARIES[actor].encode() in answer.raw
        for tenant, canary in CANARIES.items():
            if tenant != actor and canary.encode() in answer.raw:
                raise Crossing(f"{actor} saw what is {tenant}'s: {door} {method.name} of {request}: {answer.raw!r}")
        if answer.code in (13, 2) or not answer.shaped:
            raise AssertionError(f"{door} {method.name} of {request}: {answer}")
        for each in answer.responses:
            self.pool.take(each)
        return answer

    async def _tidy(self, tenant: str) -> None:
        """Waits for the tenant's jobs, and deletes collections over the few that keep the campaign quick."""
        await self._settled(tenant)
        collections = [each.name async for each in self._every(tenant, "ListCollections", "collections")]
        for name in collections[_MOST_COLLECTIONS:]:
            request = _message("DeleteCollection", {"name": name, "force": True})
            await self._checked(tenant, "grpc", _method("DeleteCollection"), request)

    async def _settled(self, tenant: str) -> None:
        async for job in self._every(tenant, "ListJobs", "jobs"):
            watch = _method("WatchJob")
            if job.state in (1, 2, 6):
                await self.doors.call("grpc", watch, _message("WatchJob", {"name": job.name}), self.headers[tenant])

    async def _fingerprint(self, tenant: str) -> dict[str, bytes]:
        """Everything the tenant has, by name."""
        found: dict[str, bytes] = {}
        for listing, kind in _LISTED:
            async for each in self._every(tenant, listing, kind):
                found[each.name] = each.SerializeToString(deterministic=True)
                if listing == "ListCollections":
                    async for document in self._every(tenant, "ListDocuments", "documents", parent=each.name):
                        found[document.name] = document.SerializeToString(deterministic=True)
                        async for chunk in self._every(tenant, "ListChunks", "chunks", parent=document.name):
                            found[chunk.name] = chunk.SerializeToString(deterministic=True)
        quota = await self._own(tenant, "GetQuota", name=f"quotas/{tenant}")
        found["quota"] = quota.SerializeToString(deterministic=True)
        return found

    async def _every(self, tenant: str, listing: str, kind: str, **given: Any) -> Any:
        token = ""
        while True:
            page = await self._own(tenant, listing, page_size=100, page_token=token, **given)
            for each in getattr(page, kind):
                yield each
            if not (token := page.next_page_token):
                return

    async def _own(self, tenant: str, name: str, /, **given: Any) -> Any:
        answer = await self.doors.call("direct", _method(name), _message(name, given), self.headers[tenant])
        assert answer.code == OK, (tenant, name, given, answer)
        return answer.responses[0]


def _any_method(made: random.Random, often: Sequence[str]) -> Method:
    """Any; seldom one that leaves nothing to ask for, or that lasts."""
    if often and made.random() < 0.5:
        return _method(made.choice(often))
    chosen = made.choice(METHODS)
    seldom = chosen.name in ("DeleteCollection", "WatchEvents") and made.random() < 0.8
    return made.choice(METHODS) if seldom else chosen


def _method(name: str) -> Method:
    return next(each for each in METHODS if each.name == name)


def _message(name: str, given: Mapping[str, Any]) -> Any:
    return GetMessageClass(_method(name).descriptor.input_type)(**given)


def _is_map(described: FieldDescriptor) -> bool:
    return described.message_type is not None and described.message_type.GetOptions().map_entry


def summary(campaign: Campaign) -> str:
    """How many calls of each method were answered, and how many refused."""
    lines = []
    for name in sorted({name for name, _ in campaign.counts}):
        codes: Iterable[tuple[int, int]] = sorted(
            (code, count) for (method, code), count in campaign.counts.items() if method == name
        )
        lines.append(f"{name}: " + ", ".join(f"{code}: {count}" for code, count in codes))
    return "\n".join(lines)


def never_reached(campaign: Campaign, but: Sequence[str]) -> list[str]:
    """Methods of which no call got to somebody's data: what holds of them holds for nothing."""
    reached = {name for (name, code), _ in campaign.counts.items() if code in (OK, FAILED_PRECONDITION)}
    return sorted({each.name for each in METHODS} - reached - set(but))
