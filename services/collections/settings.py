"""Settings of the collections service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.mesh.quotas import QuotaSettings
from services.mesh.settings import ServiceSettings
from services.mesh.urls import SecretUrl


class Settings(ServiceSettings):
    """Read from RAGWEAVE_COLLECTIONS_* once, then frozen."""

    # Errors do not show what was given: the URL holds a password.
    model_config = SettingsConfigDict(
        env_prefix="RAGWEAVE_COLLECTIONS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    port: int = Field(50053, ge=0, le=65535, description="Port the gRPC server listens on; 0 takes any free one.")
    database_url: SecretUrl = Field(
        "",
        pattern=r"^$|^(postgresql|sqlite)(\+\w+)?://",
        description="postgresql://user:password@host/database or sqlite:///path; "
        "<data_dir>/collections/registry.db where empty.",
    )
    database_pool: int = Field(5, ge=1, le=100, description="Connections to the database.")
    max_upload_bytes: int = Field(100 * 2**20, ge=1, le=2**40, description="Longest file UploadDocument takes.")
    follow_poll_s: float = Field(
        1.0, gt=0, le=60, description="Seconds between looks for changes that another process recorded."
    )
    measured: int = Field(
        20, ge=0, le=1000, description="Largest collections whose sizes metrics show one by one; the rest as one."
    )
    upkeep_interval_s: float = Field(
        15.0, gt=0, le=3600, description="Seconds between sweeps for expired collections and interrupted work."
    )
    retention_s: float = Field(
        7 * 24 * 3600,
        ge=0,
        le=10**8,
        description="Seconds a deleted collection or document can be undeleted; 0 purges at once.",
    )
    quota: QuotaSettings = Field(
        default_factory=QuotaSettings, description="Limits while the system service has not told others."
    )
    limits_fresh_s: float = Field(10.0, ge=0, le=600, description="Seconds a tenant's limits are used once told.")
    events_heard_s: float = Field(
        60.0, ge=0, le=3600, description="Seconds after which an event of an erased tenant has reached all who follow."
    )
