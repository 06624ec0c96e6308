"""Settings of the gateway."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ragweave.json_logs import log_levels_from
from ragweave.local.layout import Layout

ROLE = "gateway"


class Settings(BaseSettings):
    """Read from RAGWEAVE_GATEWAY_* once, then frozen; what all processes share comes from the mesh's layout."""

    model_config = SettingsConfigDict(
        env_prefix="RAGWEAVE_GATEWAY_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    mesh: Layout = Field(default_factory=Layout.read, description="Where the mesh is, and its certificates.")
    port: int = Field(50056, ge=1, le=65535, description="Port the HTTP server listens on, for the edge alone.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of Prometheus metrics; 0 turns them off.")
    metrics_host: str = Field(
        "127.0.0.1",
        min_length=1,
        validation_alias="RAGWEAVE_METRICS_HOST",
        description="Address of the metrics port; it asks nobody who they are.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias="RAGWEAVE_LOG_LEVEL", description="Least level logged."
    )
    log_levels: Annotated[dict[str, int], NoDecode] = Field(
        {}, validation_alias="RAGWEAVE_LOG_LEVELS", description="Least levels of single loggers, as the mesh has them."
    )
    heartbeat_file: Path | None = Field(
        None,
        validation_alias="RAGWEAVE_HEARTBEAT_FILE",
        description="File touched every second, for who watches this process; none where empty.",
    )
    drain_s: float = Field(
        2.0,
        ge=0,
        le=60,
        validation_alias="RAGWEAVE_DRAIN_S",
        description="Seconds between saying that it is not healthy and taking no more requests.",
    )
    grace_s: float = Field(
        10.0,
        ge=0,
        le=600,
        validation_alias="RAGWEAVE_GRACE_S",
        description="Seconds requests in flight get to end while stopping.",
    )
    certificates_look_s: float = Field(
        10.0, gt=0, le=3600, description="Seconds between two looks at whether the certificate's files have changed."
    )

    @field_validator("log_levels", mode="before")
    @classmethod
    def _read_log_levels(cls, given: object) -> object:
        return log_levels_from(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _production_is_not_in_the_clear(self) -> Self:
        if self.mesh.production and not self.mesh.tls and not _is_loopback(self.mesh.host):
            raise ValueError(
                f"the gateway listens on {self.mesh.host} without TLS; set RAGWEAVE_TLS=on, or RAGWEAVE_HOST to a "
                "loopback address"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
