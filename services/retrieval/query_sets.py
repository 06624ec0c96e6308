"""Sets of sample queries: questions, and what was judged to answer them."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from services.mesh.errors import (
    AlreadyExists,
    EtagMismatch,
    FailedPrecondition,
    InvalidArgument,
    SampleQuerySetNotFound,
)
from services.mesh.filters import Field, FieldType, Schema, parse
from services.mesh.lists import Listing, Page, paginate
from services.mesh.masks import Mask
from services.mesh.receipts import Receipt, once
from services.retrieval.ports_evaluation import QuerySetStore
from services.retrieval.samples import QuerySet, SampleQuery, now

MAX_BYTES: Final = 3_000_000

_MASK: Final = Mask(
    "sample_query_set",
    mutable={"description": "", "queries": ()},
    ignored=("name", "query_count", "create_time", "update_time", "etag"),
)
_FIELDS: Final = {
    "description": Field(FieldType.STRING),
    "query_count": Field(FieldType.NUMBER),
    "create_time": Field(FieldType.TIMESTAMP),
}
# `name` and `update_time` are for the order only.
_FILTERED_BY: Final = Schema(_FIELDS)
_LISTING: Final = Listing(
    Schema({**_FIELDS, "update_time": Field(FieldType.TIMESTAMP), "name": Field(FieldType.STRING)}),
    sortable=("name", "query_count", "create_time", "update_time"),
    key="name",
    default_order="create_time desc",
)


@dataclass(frozen=True, slots=True)
class Given:
    """What a caller says of a set: the fields that are set, and those to change.

    Attributes:
        paths: The update_mask.
    """

    fields: Mapping[str, Any]
    paths: Sequence[str] = ()
    etag: str = ""


class QuerySets:
    """The sample query sets of each tenant; another tenant's do not exist.

    Args:
        most: How many a tenant may have.
    """

    def __init__(self, store: QuerySetStore, *, most: int) -> None:
        self._store = store
        self._most = most

    async def create(
        self,
        tenant: str,
        set_id: str,
        given: Given,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> QuerySet:
        """The set, without its queries.

        Raises:
            InvalidArgument: The queries are none, or no set.
            AlreadyExists: One of that id exists.
            FailedPrecondition: The tenant has as many as it may.
            RequestIdReused: The receipt's id stands for another request.
        """

        async def work() -> QuerySet:
            queries = _checked(given.fields.get("queries", ()))
            made_at = now()
            made = QuerySet(
                tenant=tenant,
                id=set_id or f"s-{secrets.token_hex(8)}",
                description=given.fields.get("description", ""),
                query_count=len(queries),
                create_time=made_at,
                update_time=made_at,
                etag=_new_etag(),
                queries=queries,
            )
            if validate_only:
                known = await self._store.all(tenant)
                if any(each.id == made.id for each in known):
                    raise taken(made.id)
                if len(known) >= self._most:
                    raise too_many(self._most)
                return made
            return await self._store.add(made, self._most, receipt)

        return _brief(await once(receipt, self._store.recall, work))

    async def get(self, tenant: str, set_id: str) -> QuerySet:
        """The set with its queries. Raises SampleQuerySetNotFound."""
        return await self._store.get(tenant, set_id)

    async def list_sets(
        self, tenant: str, *, filter: str, order_by: str, page_size: int, page_token: str, page: int
    ) -> Page[QuerySet]:
        """The sets, without their queries. Raises InvalidArgument, InvalidFilter, InvalidPageToken."""
        parse(filter, _FILTERED_BY)
        query = _LISTING.query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)
        return paginate(await self._store.all(tenant), query, _fields)

    async def update(
        self,
        tenant: str,
        set_id: str,
        given: Given,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> QuerySet:
        """The set, changed, without its queries.

        Raises:
            SampleQuerySetNotFound: The tenant has no such set.
            InvalidArgument: A field is wrong.
            EtagMismatch: An etag is given and the set has another.
            RequestIdReused: The receipt's id stands for another request.
        """

        async def work() -> QuerySet:
            if validate_only:
                return _changed(await self._store.get(tenant, set_id), given)
            return await self._store.change(tenant, set_id, lambda current: _changed(current, given), receipt)

        return _brief(await once(receipt, self._store.recall, work))

    async def delete(
        self,
        tenant: str,
        set_id: str,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> QuerySet:
        """The set as it was, without its queries.

        Raises:
            SampleQuerySetNotFound: The tenant has no such set.
            EtagMismatch: `etag` is given and the set has another.
            RequestIdReused: The receipt's id stands for another request.
        """

        async def work() -> QuerySet:
            if validate_only:
                found = await self._store.get(tenant, set_id)
                _check_etag(found, etag)
                return found
            return await self._store.remove(tenant, set_id, lambda found: _check_etag(found, etag), receipt)

        return _brief(await once(receipt, self._store.recall, work))


def taken(set_id: str) -> AlreadyExists:
    return AlreadyExists(f"sampleQuerySets/{set_id} exists", name=f"sampleQuerySets/{set_id}")


def too_many(most: int) -> FailedPrecondition:
    return FailedPrecondition(f"there are {most} sample query sets, as many as a tenant may have; delete one")


def no_set(set_id: str) -> SampleQuerySetNotFound:
    return SampleQuerySetNotFound(f"sampleQuerySets/{set_id} does not exist", name=f"sampleQuerySets/{set_id}")


def _changed(current: QuerySet, given: Given) -> QuerySet:
    _check_etag(current, given.etag)
    changes = _MASK.changes(dict.fromkeys(_MASK.mutable), given.fields, given.paths)
    if "queries" in changes:
        changes["queries"] = _checked(changes["queries"])
        changes["query_count"] = len(changes["queries"])
    changed = replace(current, **changes)
    return current if changed == current else replace(changed, update_time=now(), etag=_new_etag())


def _checked(queries: Sequence[SampleQuery]) -> tuple[SampleQuery, ...]:
    """The queries, if they can be of a set.

    Raises:
        InvalidArgument: There are none, or too many bytes of them, or one of them is wrong; named.
    """
    field = "sample_query_set.queries"
    if not queries:
        raise InvalidArgument.of(field, "give at least one query")
    seen: set[str] = set()
    size = 0
    for at, query in enumerate(queries):
        if query.id in seen:
            raise InvalidArgument.of(f"{field}[{at}].id", f"{query.id!r} comes twice")
        seen.add(query.id)
        if problem := query.problem:
            raise InvalidArgument.of(f"{field}[{at}].relevant", problem)
        size += len(query.text.encode()) + sum(len(name) + 4 for name, _ in query.judgements)
    if size > MAX_BYTES:
        raise InvalidArgument.of(field, f"may be {MAX_BYTES:,} bytes in all, found {size:,}")
    return tuple(queries)


def _brief(found: QuerySet) -> QuerySet:
    return replace(found, queries=())


def _check_etag(found: QuerySet, etag: str) -> None:
    if etag and etag.strip('"') != found.etag.strip('"'):
        raise EtagMismatch(f"{found.name} has changed since this etag was read; read it again")


def _new_etag() -> str:
    return f'"{secrets.token_hex(8)}"'


def _fields(found: QuerySet) -> Mapping[str, Any]:
    return {
        "name": found.name,
        "description": found.description,
        "query_count": found.query_count,
        "create_time": found.create_time,
        "update_time": found.update_time,
    }
