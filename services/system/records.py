"""What the system service keeps of tenants."""

from dataclasses import dataclass
from datetime import datetime

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
