"""What the system service keeps of tenants."""

from dataclasses import dataclass
from datetime import datetime
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
