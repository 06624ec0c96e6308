"""What the system service keeps of tenants."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from math import inf

from services.mesh.deny_list import Denial, Kind
from services.mesh.quotas import Amounts


@dataclass(frozen=True, slots=True)
class Quota:
    """A tenant's limits.

    Attributes:
        update_time: When they were last set; None while they are the configured ones.
        etag: Changes with the limits.
        usage: What is kept now; None where that was not asked for, or could not be told.
    """

    tenant: str
    limits: Amounts
    etag: str
    update_time: datetime | None = None
    usage: Amounts | None = None

    @property
    def name(self) -> str:
        return f"quotas/{self.tenant}"


@dataclass(frozen=True, slots=True)
class Revocation:
    """Who is denied within a tenant: a subject, a token, or with neither the whole tenant.

    Attributes:
        creator: The subject who made it.
        expire_time: When it ends; None for never.
    """

    tenant: str
    revocation_id: str
    subject: str
    token_id: str
    reason: str
    creator: str
    create_time: datetime
    etag: str
    expire_time: datetime | None = None

    @property
    def name(self) -> str:
        return f"revocations/{self.revocation_id}"

    @property
    def denial(self) -> Denial:
        """What every process is told of it."""
        until = self.expire_time.timestamp() if self.expire_time else inf
        if self.subject:
            return Denial(self.tenant, Kind.SUBJECT, self.subject, until)
        if self.token_id:
            return Denial(self.tenant, Kind.TOKEN, self.token_id, until)
        return Denial(self.tenant, Kind.TENANT, until=until)


class TenantState(StrEnum):
    """ACTIVE: in use, or never seen; nothing is recorded of those."""

    ACTIVE = "ACTIVE"
    DELETING = "DELETING"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Part:
    """How far one service is with erasing a tenant.

    Attributes:
        erased: When last asked, it found nothing.
        confirmed: It did so when nothing could be written any more.
        code: Why it did not get on when last asked, as gRPC's number; 0 where it did.
    """

    service: str
    erased: bool = False
    confirmed: bool = False
    code: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Where a tenant stands.

    Attributes:
        subject: Who had it deleted.
        delete_time: When that was asked for.
        deny_time: When every process had been told to refuse its tokens.
        purge_time: When nothing of it was left.
    """

    tenant: str
    state: TenantState = TenantState.ACTIVE
    parts: tuple[Part, ...] = ()
    subject: str = ""
    delete_time: datetime | None = None
    deny_time: datetime | None = None
    purge_time: datetime | None = None

    @property
    def name(self) -> str:
        return f"tenants/{self.tenant}"

    def part(self, service: str) -> Part:
        """That of a service; one that it has not begun where it was added to the mesh since."""
        return next((each for each in self.parts if each.service == service), Part(service))

    def with_part(self, part: Part) -> "Tenant":
        others = tuple(each for each in self.parts if each.service != part.service)
        return replace(self, parts=tuple(sorted((*others, part), key=lambda each: each.service)))
