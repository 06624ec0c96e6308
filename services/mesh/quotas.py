"""How much a tenant keeps, and how much it may: what the owner of the limits and those who hold to them share."""

from dataclasses import dataclass, fields
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ragweave.v1 import quota_pb2
from services.mesh.errors import QuotaExceeded

_MOST: Final = 2**31 - 1  # counts are int32 in the contract
_MOST_BYTES: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Amounts:
    """Amounts of what is counted: as limits, as they are, or as a change."""

    collections: int = 0
    documents: int = 0
    chunks: int = 0
    storage_bytes: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(*(getattr(self, each) + getattr(other, each) for each in COUNTED))


COUNTED: Final = tuple(each.name for each in fields(Amounts))


class QuotaSettings(BaseSettings):
    """Limits of a tenant that nobody has set others for. Read from RAGWEAVE_SYSTEM_QUOTA_* once, then frozen."""

    model_config = SettingsConfigDict(env_prefix="RAGWEAVE_SYSTEM_QUOTA_", frozen=True, extra="ignore")

    collections: int = Field(1_000, ge=0, le=_MOST, description="Collections of a tenant.")
    documents: int = Field(1_000_000, ge=0, le=_MOST, description="Documents of all collections of a tenant.")
    chunks: int = Field(20_000_000, ge=0, le=_MOST, description="Chunks of all documents of a tenant.")
    storage_bytes: int = Field(2**40, ge=0, le=_MOST_BYTES, description="Bytes of the originals of a tenant.")

    @property
    def limits(self) -> Amounts:
        return Amounts(self.collections, self.documents, self.chunks, self.storage_bytes)


def check_quota(tenant: str, *, limits: Amounts, usage: Amounts, more: Amounts) -> None:
    """Returns where `more` fits. What is over its limit already may stay and shrink; it may not grow.

    Raises:
        QuotaExceeded: It does not fit; names every limit in the way, what is kept, and what was to be added.
    """
    over = [
        name
        for name in COUNTED
        if getattr(more, name) > 0 and getattr(usage, name) + getattr(more, name) > getattr(limits, name)
    ]
    if not over:
        return
    told = "; ".join(
        f"{name}: {getattr(usage, name)} of {getattr(limits, name)} are used, {getattr(more, name)} more do not fit"
        for name in over
    )
    first = over[0]
    raise QuotaExceeded(
        told,
        subject=f"tenants/{tenant}",
        quota=first,
        limit=str(getattr(limits, first)),
        usage=str(getattr(usage, first)),
    )


def amounts_from(message: quota_pb2.Quota.Amounts) -> Amounts:
    return Amounts(message.collections, message.documents, message.chunks, message.storage_bytes)


def amounts_to(amounts: Amounts) -> quota_pb2.Quota.Amounts:
    """As the contract has it; nothing less than nothing, counts no more than fit."""
    return quota_pb2.Quota.Amounts(
        collections=_bounded(amounts.collections, _MOST),
        documents=_bounded(amounts.documents, _MOST),
        chunks=_bounded(amounts.chunks, _MOST),
        storage_bytes=_bounded(amounts.storage_bytes, _MOST_BYTES),
    )


def _bounded(amount: int, most: int) -> int:
    return max(0, min(amount, most))
