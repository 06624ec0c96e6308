"""Revocations: who is denied, recorded here and published to every process."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from services.mesh.errors import (
    DependencyUnavailable,
    EtagMismatch,
    FailedPrecondition,
    InvalidArgument,
    RevocationNotFound,
)
from services.mesh.filters import Field, FieldType, Schema
from services.mesh.identity import Caller
from services.mesh.lists import Listing, Page
from services.mesh.receipts import Receipt, once
from services.system.ports import DenyListPublisher, RevocationStore
from services.system.records import Revocation

REVOCATIONS: Final = Listing(
    Schema(
        {
            "name": Field(FieldType.STRING, ordered=True),
            "subject": Field(FieldType.STRING, ordered=True),
            "token_id": Field(FieldType.STRING, ordered=True),
            "reason": Field(FieldType.STRING, ordered=True),
            "creator": Field(FieldType.STRING, ordered=True),
            "create_time": Field(FieldType.TIMESTAMP),
            "expire_time": Field(FieldType.TIMESTAMP),
        }
    ),
    sortable=("create_time", "expire_time", "name"),
    key="name",
    default_order="create_time desc",
)

# The one of a whole tenant; no id that is made up looks like it.
_WHOLE: Final = "tenant"
_NAME = re.compile(r"revocations/([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})", re.ASCII)


def revocation_fields(revocation: Revocation) -> Mapping[str, Any]:
    """What filters and orders look at, by field name."""
    return {name: getattr(revocation, name) for name in REVOCATIONS.schema.fields}


@dataclass(frozen=True, slots=True)
class NewRevocation:
    """What is to be denied: one of subject and token_id is set."""

    subject: str = ""
    token_id: str = ""
    reason: str = ""
    expire_time: datetime | None = None


class Revocations:
    """Revocations of each tenant; another tenant's do not exist.

    One that was acknowledged is recorded and published. What was recorded and not published, because something died in
    between, is by the sweep that publishes all there is every `interval_s`; it also mends a store that lost the list.

    Args:
        most: How many a tenant may have at a time; every process holds them all.
    """

    def __init__(
        self, store: RevocationStore, publisher: DenyListPublisher, *, interval_s: float = 5.0, most: int = 10_000
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._interval_s = interval_s
        self._most = most
        self._publishing = asyncio.Lock()
        self._log = structlog.get_logger("system.revocations")

    async def create(
        self, given: NewRevocation, who: Caller, *, receipt: Receipt | None = None, validate_only: bool = False
    ) -> Revocation:
        """Denies a token or a subject of the caller's tenant.

        A caller may revoke the token it calls with, but not itself: nobody who made that slip could undo it.

        Raises:
            InvalidArgument: A field is wrong.
            FailedPrecondition: It is the caller's own subject, or the tenant has as many as it may.
            RequestIdReused: The receipt is known with another body.
            DependencyUnavailable: It cannot be published now, and so was not made, or is as soon as it can be.
        """
        return await once(receipt, self._recall, lambda: self._create(given, who, receipt, validate_only))

    async def list_revocations(self, who: Caller, **asked: Any) -> Page[Revocation]:
        """A page of the tenant's, the newest first; `asked` as `Listing.query` takes it."""
        query = REVOCATIONS.query(parent=who.tenant, **asked)
        return await self._store.list_revocations(who.tenant, query, _now())

    async def delete(
        self, name: str, who: Caller, *, etag: str = "", receipt: Receipt | None = None, validate_only: bool = False
    ) -> Revocation:
        """Ends a revocation.

        Raises:
            RevocationNotFound: There is none of that name.
            EtagMismatch: `etag` is given and is not the current one.
            RequestIdReused: The receipt is known with another body.
            DependencyUnavailable: It cannot be published now, and so still holds, or does not as soon as it can be.
        """
        return await once(receipt, self._recall, lambda: self._delete(name, who, etag, receipt, validate_only))

    async def deny_tenant(self, tenant: str, *, creator: str, reason: str) -> None:
        """Denies a whole tenant, until `allow_tenant`. May be repeated."""
        await self._publisher.check()
        await self._store.add(_made(NewRevocation(reason=reason), tenant, creator, _WHOLE))
        await self.publish()

    async def allow_tenant(self, tenant: str) -> None:
        """Ends that. May be repeated."""
        await self._publisher.check()
        found = await self._store.find(tenant, _WHOLE, _now())
        if found:
            with suppress(RevocationNotFound):
                await self._store.remove(found)
        await self.publish()

    async def erase(self, tenant: str) -> int:
        """Drops a tenant's revocations, less that of the whole tenant; returns how many those were."""
        return await self._store.erase(tenant)

    async def publish(self) -> None:
        """Tells every process all there is; of two at once, the second with what the first recorded."""
        async with self._publishing:
            await self._publisher.publish([each.denial for each in await self._store.holding(_now())])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Publishes inside the block, from its beginning on."""
        sweeping = asyncio.create_task(self._run())
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    async def _run(self) -> None:
        failing = False
        while True:
            try:
                await self._store.prune(_now())
                await self.publish()
                failing = False
            except DependencyUnavailable as error:
                if not failing:
                    self._log.warning("the deny list is published later", reason=error.message)
                failing = True
            except Exception:
                self._log.exception("the deny list cannot be published")
            await asyncio.sleep(self._interval_s)

    async def _create(
        self, given: NewRevocation, who: Caller, receipt: Receipt | None, validate_only: bool
    ) -> Revocation:
        _check(given)
        if given.subject == who.subject:
            raise FailedPrecondition(
                f"subject: {who.subject!r} is yourself, and could not be let in again by you; revoke a token of yours, "
                "or ask another administrator"
            )
        if await self._store.count(who.tenant) >= self._most:
            raise FailedPrecondition(f"the tenant has {self._most} revocations; end some, or let them expire")
        made = _made(given, who.tenant, who.subject, secrets.token_hex(8))
        if validate_only:
            return made
        await self._publisher.check()  # refuses now what could not be made to hold
        added = await self._store.add(made, receipt)
        await self.publish()
        return added

    async def _delete(
        self, name: str, who: Caller, etag: str, receipt: Receipt | None, validate_only: bool
    ) -> Revocation:
        found = await self._find(name, who)
        if etag and etag.strip('"') != found.etag.strip('"'):
            raise EtagMismatch(f"{found.name} has changed since this etag was read; read it again")
        if validate_only:
            return found
        await self._publisher.check()
        removed = await self._store.remove(found, receipt)
        await self.publish()
        return removed

    async def _find(self, name: str, who: Caller) -> Revocation:
        named = _NAME.fullmatch(name)
        if named is None:
            raise InvalidArgument.of("name", "must be revocations/{revocation}")
        found = await self._store.find(who.tenant, named[1], _now()) if named[1] != _WHOLE else None
        if found is None:
            raise RevocationNotFound(f"no revocation {name!r}", revocation=name)
        return found

    async def _recall(self, receipt: Receipt) -> Revocation | None:
        """The recorded answer, published if a crash came between."""
        answered = await self._store.recall(receipt)
        if answered:
            await self.publish()
        return answered


def _made(given: NewRevocation, tenant: str, creator: str, revocation_id: str) -> Revocation:
    return Revocation(
        tenant=tenant,
        revocation_id=revocation_id,
        subject=given.subject,
        token_id=given.token_id,
        reason=given.reason,
        creator=creator,
        create_time=_now(),
        expire_time=given.expire_time,
        etag=f'"{secrets.token_hex(8)}"',
    )


def _check(given: NewRevocation) -> None:
    if bool(given.subject) == bool(given.token_id):
        raise InvalidArgument.of("revocation", "one of subject and token_id must be set")
    for field in ("subject", "token_id", "reason"):
        if "\0" in getattr(given, field):
            raise InvalidArgument.of(f"revocation.{field}", "holds a NUL character")
    if given.expire_time is not None and given.expire_time <= _now():
        raise InvalidArgument.of("revocation.expire_time", "lies in the past")


def _now() -> datetime:
    return datetime.now(UTC)
