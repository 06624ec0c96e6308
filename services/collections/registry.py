"""The registry of collections: what there is, who owns it, and that searches know of every change."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from services.collections.collection_deletions import can_come_back, check_etag, may_undelete
from services.collections.directories import check_source
from services.collections.ports import EmbeddingModel, Index, IndexStats, Models, Places, RegistryStore
from services.collections.quotas import Quotas
from services.collections.records import (
    COLLECTIONS,
    COLLECTIONS_AND_DELETED,
    Change,
    Chunking,
    Collection,
    DocumentTotals,
    SearchDefaults,
    Source,
    amounts_of,
    new_etag,
    new_id,
    now,
)
from services.collections.text import checked, collection_id_of
from services.mesh.errors import (
    AlreadyExists,
    CollectionNotFound,
    DependencyUnavailable,
    InvalidArgument,
    ModelNotFound,
    PermissionDenied,
)
from services.mesh.identity import Caller
from services.mesh.lists import Page
from services.mesh.masks import Mask
from services.mesh.receipts import Receipt, once

# ISO 639-1. A language without a stemmer is searched by its words as they stand.
LANGUAGES: Final = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es
    et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki
    kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no
    nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te
    tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
    """.split()  # noqa: SIM905 - one string reads better
)
DEFAULT_LANGUAGE: Final = "en"

COLLECTION_MASK: Final = Mask(
    "collection",
    mutable={
        "description": "",
        "labels": {},
        "chunking": Chunking(),
        "source": None,
        "disabled": False,
        "visibility": "PRIVATE",
        "default_search": None,
        "expire_time": None,
    },
    unset={"source": Source(), "default_search": SearchDefaults()},
    fixed=("embedding_model", "language"),
    ignored=(
        *("name", "uid", "revision", "document_count", "chunk_count"),
        *("create_time", "update_time", "delete_time", "purge_time", "etag"),
    ),
)

_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Followed:
    """A step of following the registry: collections, and whether all there were have been sent."""

    collections: tuple[Collection, ...] = ()
    complete: bool = False


class Registry:
    """Collections by tenant and id.

    A change is recorded with its event in one transaction, and holds in every search before it is acknowledged. Whether
    the index answers is asked first, so that a change it cannot learn of is refused whole; what a crash interrupts
    after that is brought to its end by `Upkeep` or by the same request, repeated.

    Args:
        poll_s: How often a follower looks for changes that another process recorded, in seconds.
    """

    def __init__(
        self,
        store: RegistryStore,
        index: Index,
        models: Models,
        places: Places,
        quotas: Quotas,
        *,
        poll_s: float = 1.0,
    ) -> None:
        self._store = store
        self._index = index
        self._models = models
        self._places = places
        self._quotas = quotas
        self._poll_s = poll_s
        self._changed = asyncio.Event()
        self._stopping = False

    async def create(
        self,
        collection_id: str,
        given: Mapping[str, Any],
        who: Caller,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Collection:
        """A new collection of the caller's tenant.

        Args:
            collection_id: Made up where empty.
            given: The fields that are set, by name; those that are not settable are passed over.

        Raises:
            AlreadyExists: The id is taken.
            InvalidArgument: A field is wrong, or names a model or language that is not there.
            QuotaExceeded: The tenant has as many as it may.
            RequestIdReused: The receipt is known with another digest.
        """

        async def work() -> Collection:
            made = await self._new(collection_id or new_id("c"), given, who.tenant)
            if validate_only:
                if await self._store.find_collection(who.tenant, made.collection_id):
                    raise _taken(made)
                await self._quotas.check(who.tenant, amounts_of(made))
                return made
            created = await self._quotas.within(
                who.tenant,
                lambda limits: self._store.write_collection(
                    who.tenant, made.collection_id, lambda current: _unless_taken(made, current), receipt, limits=limits
                ),
            )
            self.announce()
            # An index that is down learns of it from the stream when it comes back, before it answers.
            with suppress(DependencyUnavailable):
                await self._index.apply(created)
            return created

        return await once(receipt, self._recall, work)

    async def get(self, name: str, who: Caller) -> Collection:
        """The collection of a name or bare id, a deleted one too where the caller may bring it back.

        Raises:
            CollectionNotFound: There is none, or it is another tenant's.
        """
        collection_id = collection_id_of(name)
        try:
            return await self.find(collection_id, who.tenant)
        except CollectionNotFound:
            if may_undelete(who):
                for deleted in await self._store.deleted_collections(who.tenant, collection_id):
                    if can_come_back(deleted):
                        return deleted
            raise

    async def find(self, collection_id: str, tenant: str) -> Collection:
        """The collection of a bare id. Raises CollectionNotFound."""
        found = await self._store.find_collection(tenant, collection_id)
        if found is None:
            raise CollectionNotFound(f"no collection {collection_id!r}", collection=collection_id)
        return found

    async def list(self, who: Caller, *, show_deleted: bool = False, **asked: Any) -> Page[Collection]:
        """A page of the tenant's collections; `asked` as `Listing.query` takes it.

        Raises:
            PermissionDenied: With `show_deleted`, for who may not bring collections back.
        """
        if show_deleted and not may_undelete(who):
            raise PermissionDenied("show_deleted: deleted collections are for callers with the scope collections.write")
        listing = COLLECTIONS_AND_DELETED if show_deleted else COLLECTIONS
        query = listing.query(parent=who.tenant, **asked)
        return await self._store.list_collections(who.tenant, query, deleted=show_deleted)

    async def update(
        self,
        name: str,
        given: Mapping[str, Any],
        paths: Sequence[str],
        who: Caller,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Collection:
        """The collection with the fields of `paths` as in `given`; see `Mask.changes`.

        Raises:
            CollectionNotFound: There is none of that name.
            EtagMismatch: `etag` is given and is not the current one.
            InvalidArgument: A path or a value is wrong.
            DependencyUnavailable: The index does not answer; nothing has changed.
        """
        collection_id = collection_id_of(name, field="collection.name")

        async def recall(receipt: Receipt) -> Collection | None:
            answered = await self._recall(receipt)
            if answered and (current := await self._store.find_collection(who.tenant, collection_id)):
                await self._index.apply(current)
            return answered

        async def work() -> Collection:
            dated, named = _with_expiry(given, paths)
            current = await self.find(collection_id, who.tenant)
            changed = await self._changed_by(current, dated, named, etag)
            if validate_only:
                return changed
            await self._index.stats(current)  # refuses now what could not be made to hold
            written = await self._store.write_collection(
                who.tenant, collection_id, lambda latest: _changed(latest, current.uid, dated, named, etag), receipt
            )
            self.announce()
            await self._index.apply(written)
            return written

        return await once(receipt, recall, work)

    async def _recall(self, receipt: Receipt) -> Collection | None:
        return await self._store.recall(receipt, Collection)

    async def stats(self, name: str, who: Caller) -> tuple[Collection, DocumentTotals, IndexStats]:
        """What a collection holds, counted now. Raises CollectionNotFound."""
        collection = await self.find(collection_id_of(name), who.tenant)
        return collection, await self._store.totals(collection), await self._index.stats(collection)

    async def follow(self, after: int) -> AsyncIterator[Followed]:
        """Every collection of every tenant once, or the changes since `after`; then each change as it happens.

        A collection may come twice; of two, the one with the lower sequence is older.

        Raises:
            DependencyUnavailable: This process stops; another knows as much.
        """
        last = await self._store.last_sequence()
        if not 0 < after <= last:  # a follower of a registry that began anew starts anew too
            sent, after = 0, last
            while batch := await self._store.latest(sent, _BATCH):
                yield Followed(tuple(batch))
                sent = batch[-1].sequence
        complete = False
        async for changes in self._changes(after):
            if changes:
                yield Followed(tuple(change.collection for change in changes))
            elif not complete:
                yield Followed(complete=True)
                complete = True

    async def follow_changes(self, after: int) -> AsyncIterator[Sequence[Change] | int]:
        """The sequence of the last change so far; then every change after `after`, and each as it happens.

        Raises:
            DependencyUnavailable: This process stops; another knows as much.
        """
        last = await self._store.last_sequence()
        yield last
        async for batch in self._changes(min(after, last)):
            if batch:
                yield batch

    async def _changes(self, after: int) -> AsyncIterator[Sequence[Change]]:
        """Changes after `after` without end; none at all each time there are no more for now."""
        while True:
            changed = self._changed
            if self._stopping:
                raise DependencyUnavailable("collections is stopping", retry_after_s=1.0, service="collections")
            while batch := await self._store.changes(after, _BATCH):
                yield batch
                after = batch[-1].collection.sequence
            yield ()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await changed.wait()

    def stop_following(self) -> None:
        """Ends every follower's stream, which would otherwise outlast the process's grace."""
        self._stopping = True
        self.announce()

    def announce(self) -> None:
        """Wakes the followers in this process."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _new(self, collection_id: str, given: Mapping[str, Any], tenant: str) -> Collection:
        given, _ = _with_expiry(given, ())
        model = await self._model(given.get("embedding_model", ""))
        language = given.get("language") or DEFAULT_LANGUAGE
        if language not in LANGUAGES:
            raise InvalidArgument.of("collection.language", f"{language!r} is no ISO 639-1 code")
        settable = {name: value for name, value in given.items() if name in COLLECTION_MASK.mutable}
        _check(settable, model)
        if source := settable.get("source"):
            await check_source(self._places, tenant, source)
        made_at = now()
        return Collection(
            tenant=tenant,
            collection_id=collection_id,
            uid=uuid4().hex,
            embedding_model=model.name,
            dimension=model.dimension,
            language=language,
            create_time=made_at,
            update_time=made_at,
            etag=new_etag(),
            **settable,
        )

    async def _changed_by(
        self, current: Collection, given: Mapping[str, Any], paths: Sequence[str], etag: str
    ) -> Collection:
        """The change, checked against all there is before anything is written."""
        changed = _changed(current, current.uid, given, paths, etag)
        if changed.chunking != current.chunking:
            model = await self._model(current.embedding_model)
            _check({"chunking": changed.chunking}, model)
        if changed.source and changed.source != current.source:
            await check_source(self._places, current.tenant, changed.source, current.source)
        return changed

    async def _model(self, name: str) -> EmbeddingModel:
        try:
            return await self._models.embedding_model(name)
        except ModelNotFound as error:
            raise InvalidArgument.of("collection.embedding_model", error.message) from None


def _taken(collection: Collection) -> AlreadyExists:
    return AlreadyExists(f"{collection.name} exists already", collection=collection.name)


def _unless_taken(made: Collection, current: Collection | None) -> Collection:
    if current is not None:
        raise _taken(made)
    return made


def _changed(
    current: Collection | None, uid: str, given: Mapping[str, Any], paths: Sequence[str], etag: str
) -> Collection:
    if current is None or current.uid != uid:
        raise CollectionNotFound("the collection was deleted meanwhile")
    check_etag(current, etag)
    if "embedding_model" in given:
        given = {**given, "embedding_model": f"models/{given['embedding_model'].removeprefix('models/')}"}
    held = {name: getattr(current, name) for name in (*COLLECTION_MASK.mutable, *COLLECTION_MASK.fixed)}
    changes = COLLECTION_MASK.changes(held, given, paths)
    _check(changes)
    changed = replace(current, **changes)
    return current if changed == current else replace(changed, update_time=now(), etag=new_etag())


def _with_expiry(given: Mapping[str, Any], paths: Sequence[str]) -> tuple[Mapping[str, Any], Sequence[str]]:
    """`ttl` as the expire_time it means from now on."""
    paths = ["expire_time" if path == "ttl" else path for path in paths]
    ttl: timedelta | None = given.get("ttl")
    if ttl is None:
        return given, paths
    kept = {name: value for name, value in given.items() if name != "ttl"}
    try:
        return {**kept, "expire_time": now() + ttl}, paths
    except OverflowError:
        raise InvalidArgument.of("collection.ttl", "ends beyond the year 9999") from None


def _check(fields: Mapping[str, Any], model: EmbeddingModel | None = None) -> None:
    """Checks what the contract's own bounds cannot say. Raises InvalidArgument."""
    checked("collection.description", fields.get("description", ""))
    for key, value in fields.get("labels", {}).items():
        checked("collection.labels", key + value)
    expire_time: datetime | None = fields.get("expire_time")
    if expire_time is not None and expire_time <= now():
        raise InvalidArgument.of("collection.expire_time", "lies in the past")
    source: Source | None = fields.get("source")
    if source is not None:
        checked("collection.source", "".join((source.directory, *source.include_globs, *source.exclude_globs)))
    default_search: SearchDefaults | None = fields.get("default_search")
    if default_search and default_search.fusion and default_search.fusion.method == "DBSF":
        raise InvalidArgument.of("collection.default_search.fusion.dbsf", "is not served yet")
    if "chunking" in fields:
        _check_chunking(fields["chunking"], model)


def _check_chunking(chunking: Chunking, model: EmbeddingModel | None) -> None:
    if model and chunking.max_tokens > model.max_tokens:
        raise InvalidArgument.of(
            "collection.chunking.max_tokens", f"is over the {model.max_tokens} tokens {model.name} takes"
        )
    most = chunking.max_tokens or (model.max_tokens if model else 0)
    if most and chunking.overlap_tokens * 2 >= most:
        raise InvalidArgument.of("collection.chunking.overlap_tokens", f"must be less than half of {most}")
