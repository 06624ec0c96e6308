"""What tenants may keep, and what they do: limits are set here, usage is counted by the registry."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime
from typing import Any, Final

from services.mesh.errors import DependencyUnavailable, EtagMismatch, PermissionDenied, QuotaNotFound
from services.mesh.identity import Caller, acting_for
from services.mesh.masks import Mask
from services.mesh.quotas import COUNTED, Amounts
from services.mesh.receipts import Receipt, once
from services.system.operators import Operators
from services.system.ports import QuotaStore, Usage
from services.system.records import Quota

QUOTA_MASK: Final = Mask("quota", mutable={"limits": Amounts()}, ignored=("name", "usage", "update_time", "etag"))


class Quotas:
    """Limits by tenant: the configured ones, until an operator sets others.

    Args:
        defaults: The configured ones.
    """

    def __init__(self, store: QuotaStore, usage: Usage, operators: Operators, *, defaults: Amounts) -> None:
        self._store = store
        self._usage = usage
        self._operators = operators
        self._defaults = defaults

    async def limits_of(self, tenant: str) -> Amounts:
        """What a tenant may keep."""
        return (await self._found(tenant)).limits

    async def get(self, tenant: str, who: Caller) -> Quota:
        """The limits and the usage of a tenant.

        Raises:
            QuotaNotFound: It is another tenant's, and the caller no operator.
            DependencyUnavailable: The registry does not tell the usage.
        """
        self._check_sees(tenant, who)
        quota = await self._found(tenant)
        return replace(quota, usage=await self._used(tenant, who))

    async def update(
        self,
        tenant: str,
        limits: Amounts | None,
        paths: Sequence[str],
        who: Caller,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Quota:
        """The quota with the limits of `paths` as in `limits`; without paths, with those that are not 0.

        Raises:
            PermissionDenied: The caller is no operator.
            QuotaNotFound: So it is, and it is another tenant's.
            EtagMismatch: `etag` is given and is not the current one.
            InvalidArgument: A path is wrong.
            RequestIdReused: The receipt is known with another body.
        """
        self._check_sees(tenant, who)
        if not self._operators.include(who):
            raise PermissionDenied("limits are set by operators", operator="true")
        given: Mapping[str, Any] = {} if limits is None else {"limits": limits}
        paths = paths or [f"limits.{name}" for name in COUNTED if limits is not None and getattr(limits, name)]

        def change(current: Quota | None) -> Quota:
            return _changed(current or self._configured(tenant), given, paths, etag)

        async def recall(receipt: Receipt) -> Quota | None:
            return await self._store.recall(receipt)

        async def work() -> Quota:
            if validate_only:
                return change(await self._store.find(tenant))
            return await self._store.write(tenant, change, receipt)

        written = await once(receipt, recall, work)
        try:
            return replace(written, usage=await self._used(tenant, who))
        except DependencyUnavailable:  # limits can be set while the registry is down
            return written

    def _check_sees(self, tenant: str, who: Caller) -> None:
        if tenant != who.tenant and not self._operators.include(who):
            raise QuotaNotFound(f"no quota quotas/{tenant}", quota=f"quotas/{tenant}")

    async def _found(self, tenant: str) -> Quota:
        return await self._store.find(tenant) or self._configured(tenant)

    def _configured(self, tenant: str) -> Quota:
        digest = hashlib.sha256(repr(astuple(self._defaults)).encode()).hexdigest()
        return Quota(tenant, self._defaults, etag=f'"{digest[:16]}"')

    async def _used(self, tenant: str, who: Caller) -> Amounts:
        with acting_for(replace(who, tenant=tenant)):
            return await self._usage.of_caller()


def _changed(current: Quota, given: Mapping[str, Any], paths: Sequence[str], etag: str) -> Quota:
    if etag and etag.strip('"') != current.etag.strip('"'):
        raise EtagMismatch(f"{current.name} has changed since this etag was read; read it again")
    changes = QUOTA_MASK.changes({"limits": current.limits}, given, paths)
    limits = changes.get("limits", current.limits)
    if limits == current.limits:
        return current
    return replace(current, limits=limits, update_time=datetime.now(UTC), etag=f'"{secrets.token_hex(8)}"')
