"""Settings of the system service."""

from datetime import time
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.mesh.quotas import QuotaSettings
from services.mesh.settings import ServiceSettings
from services.mesh.urls import SecretUrl

# Those that answer for themselves, and the workers.
SERVED = {"collections", "embedding", "jobs", "retrieval", "system", "worker"}


class BackupSettings(BaseSettings):
    """Read from RAGWEAVE_BACKUP_*; their folder is RAGWEAVE_BACKUP_DIR, which retrieval reads too."""

    model_config = SettingsConfigDict(
        env_prefix="RAGWEAVE_BACKUP_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    at: time | None = Field(
        None, description="Time of the day, UTC, at which a backup is made, such as 03:15; none is where empty."
    )
    daily: int = Field(7, ge=0, le=3650, description="Days of which the last backup is kept.")
    weekly: int = Field(4, ge=0, le=520, description="Weeks of which the last backup is kept.")

    @field_validator("at", mode="before")
    @classmethod
    def _empty_is_none(cls, given: object) -> object:
        return given or None


class Settings(ServiceSettings):
    """Read from RAGWEAVE_SYSTEM_* once, then frozen."""

    # Errors do not show what was given: the URL holds a password.
    model_config = SettingsConfigDict(
        env_prefix="RAGWEAVE_SYSTEM_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    port: int = Field(50055, ge=0, le=65535, description="Port the gRPC server listens on; 0 takes any free one.")
    database_url: SecretUrl = Field(
        "",
        pattern=r"^$|^(postgresql|sqlite)(\+\w+)?://",
        description="postgresql://user:password@host/database or sqlite:///path; "
        "<data_dir>/system/system.db where empty.",
    )
    database_pool: int = Field(5, ge=1, le=100, description="Connections to the database.")
    audit_retention_days: int = Field(365, ge=1, le=36_500, description="Days that audit events are kept.")
    usage_retention_days: int = Field(30, ge=1, le=3650, description="Days that figures of searches are kept.")
    maintenance_interval_s: float = Field(60.0, gt=0, le=3600, description="Seconds between two sweeps of maintenance.")
    vital_services: Annotated[tuple[str, ...], NoDecode] = Field(
        ("retrieval",), description="Services without one of which the deployment is DOWN, separated by commas."
    )
    audit_claim_s: float = Field(
        10.0, gt=0, le=600, description="Seconds that audit events are left to a process that took them and died."
    )
    publish_interval_s: float = Field(
        5.0, gt=0, le=15, description="Seconds between two publications of the whole deny list."
    )
    max_revocations: int = Field(
        10_000, ge=1, le=1_000_000, description="Revocations a tenant may have at a time; every process holds them."
    )
    quota: QuotaSettings = Field(default_factory=QuotaSettings, description="Limits of tenants that none were set for.")
    backup: BackupSettings = Field(default_factory=BackupSettings, description="Backups made by themselves.")
    erase_settle_s: float = Field(
        90.0,
        ge=0,
        le=3600,
        description="Seconds after a tenant is denied in which something of it may still be written: those until every "
        "process knows, and those of the longest write.",
    )

    @field_validator("vital_services", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        return [each.strip() for each in given.split(",") if each.strip()] if isinstance(given, str) else given

    @field_validator("vital_services")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if set(names) - SERVED:
            raise ValueError(f"not all of them are services; those are {', '.join(sorted(SERVED))}")
        return names
