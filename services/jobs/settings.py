"""Settings of the jobs service and of its workers."""

import socket
from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.jobs.adapters.redis import Kept, Redis
from services.jobs.adapters.redis_webhooks import RedisWebhooks
from services.jobs.adapters.web import DEFAULT_PORTS, HttpWeb
from services.jobs.adapters.xberg import ExtractionLimits
from services.jobs.addresses import Reachable
from services.jobs.webhook import SCHEDULE_S
from services.mesh.roots import check_roots
from services.mesh.settings import ServiceSettings

# A delivery stays with who sends it longer than that can take.
_LEASE_MARGIN_S = 10.0


class Settings(ServiceSettings):
    """Read from RAGWEAVE_JOBS_* once, then frozen."""

    model_config = SettingsConfigDict(
        env_prefix="RAGWEAVE_JOBS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    port: int = Field(50054, ge=0, le=65535, description="Port the gRPC server listens on; 0 takes any free one.")
    blobs: Path | None = Field(None, description="Folder of originals and their text; <data_dir>/blobs where empty.")
    extraction_s: float = Field(60.0, gt=0, le=3600, description="Seconds the text of one document may take.")
    extraction_memory_bytes: int = Field(
        2**30, ge=2**28, le=2**36, description="Address space of a process that extracts text."
    )
    retention_s: float = Field(24 * 3600, gt=0, le=10**8, description="Seconds an ended job is kept.")
    maintenance_interval_s: float = Field(60.0, gt=0, le=3600, description="Seconds between two sweeps of maintenance.")
    backlog_look_s: float = Field(
        5.0, ge=0.05, le=600, description="Seconds between two looks at how much work is left, for metrics."
    )
    content_rest_s: float = Field(
        24 * 3600,
        ge=3600,
        le=10**8,
        description="Seconds stored bytes stay after they were last sent or read for an import, if nothing needs them.",
    )
    auto_sync_look_s: float = Field(
        30.0, ge=0.05, le=86400, description="Seconds between two looks at a directory that a collection follows."
    )
    auto_sync_rest_s: float = Field(
        5.0, ge=0.05, le=86400, description="Seconds such a directory is left alone after a sync."
    )
    auto_sync_whole_s: float = Field(
        3600.0,
        ge=1,
        le=10**7,
        description="Seconds after which such a directory is synced even though it looks the same: every file is read.",
    )
    events_kept_s: float = Field(7 * 24 * 3600, ge=1, le=10**8, description="Seconds an event is kept.")
    events_kept: int = Field(
        100_000, ge=100, le=10**7, description="Events of a tenant that are kept; some 300 bytes each."
    )

    web_ports: Annotated[tuple[int, ...], NoDecode] = Field(
        DEFAULT_PORTS, description="Ports of web servers that imports may ask, separated by commas."
    )
    web_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts and networks that imports may reach though they are not public, separated by commas: "
        "wiki.corp,10.1.0.0/16. None where empty.",
    )
    web_https_only: bool = Field(False, description="Whether only https URLs are imported.")
    web_timeout_s: float = Field(30.0, ge=0.1, le=600, description="Seconds a page may take, redirects included.")

    webhooks: int = Field(20, ge=0, le=1000, description="Webhooks a tenant may have.")
    webhooks_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts and networks that webhooks may be sent to though they are not public, separated by commas. "
        "None where empty.",
    )
    webhooks_http: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts that webhooks may be sent to by plain http, separated by commas. None where empty."
    )
    webhooks_ports: Annotated[tuple[int, ...], NoDecode] = Field(
        (443, 8443), description="Ports that webhooks may be sent to, separated by commas."
    )
    webhooks_timeout_s: float = Field(15.0, ge=0.1, le=60, description="Seconds a receiver may take to answer.")
    webhooks_schedule_s: Annotated[tuple[float, ...], NoDecode] = Field(
        SCHEDULE_S,
        description="Seconds before the second attempt at a delivery, before the third and so on, separated by commas.",
    )
    webhooks_disable_after_s: float = Field(
        5 * 24 * 3600, ge=1, le=10**8, description="Seconds without one success after which a webhook is disabled."
    )
    webhooks_waiting: int = Field(
        20_000, ge=1, le=10**6, description="Deliveries that may wait for one webhook; with more it is disabled."
    )
    webhooks_retention_s: float = Field(7 * 24 * 3600, ge=1, le=10**8, description="Seconds an ended delivery is kept.")
    webhooks_kept: int = Field(
        1000,
        ge=0,
        le=10**6,
        description="Ended deliveries of one webhook that are kept: delivered ones, and dead ones.",
    )
    webhooks_of_one: int = Field(4, ge=1, le=100, description="Deliveries under way at a time, of one webhook.")
    webhooks_of_tenant: int = Field(16, ge=1, le=1000, description="Deliveries under way at a time, of one tenant.")
    webhooks_slots: int = Field(64, ge=1, le=1000, description="Deliveries one worker has under way at a time.")

    worker_name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=128,
        description="Name of this worker: the same after a restart, and of no other worker that runs.",
    )
    slots: int = Field(
        4, ge=1, le=256, description="Documents one worker has in work at a time; more where tenants wait."
    )
    extractors: int = Field(1, ge=1, le=64, description="Processes that extract text for one worker.")
    embed_batch: int = Field(32, ge=1, le=256, description="Texts of one call to the embedding service.")
    embed_calls: int = Field(4, ge=1, le=64, description="Such calls one worker has under way.")
    lease_s: float = Field(15.0, ge=0.2, le=3600, description="Seconds of silence after which a worker loses its work.")
    heartbeat_s: float = Field(1.5, ge=0.05, le=600, description="Seconds between two signs of life of a worker.")
    attempts: int = Field(5, ge=1, le=100, description="Times a document is begun before it has failed.")
    backoff_s: float = Field(1.0, ge=0.01, le=600, description="Seconds after the first failed attempt; doubles.")
    patience_s: float = Field(
        30.0, ge=0, le=3600, description="Seconds an attempt waits for a service that cannot be reached."
    )

    @field_validator(
        "web_ports",
        "web_allow",
        "webhooks_allow",
        "webhooks_http",
        "webhooks_ports",
        "webhooks_schedule_s",
        mode="before",
    )
    @classmethod
    def _listed(cls, given: object) -> object:
        return tuple(part.strip() for part in given.split(",") if part.strip()) if isinstance(given, str) else given

    @field_validator("web_ports", "webhooks_ports")
    @classmethod
    def _are_ports(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 < port < 2**16 for port in ports):
            raise ValueError("a port is a number from 1 to 65535")
        return ports

    @field_validator("web_allow", "webhooks_allow")
    @classmethod
    def _are_places(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        for at, place in enumerate(places, 1):
            try:
                Reachable([place])
            except ValueError:  # which quotes it, and errors of settings do not
                raise ValueError(f"entry {at} is neither a network nor a host name") from None
        return places

    @field_validator("webhooks_schedule_s")
    @classmethod
    def _are_delays(cls, delays_s: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= delay_s <= 10**7 for delay_s in delays_s):
            raise ValueError("a delay is a number of seconds from 0 to 10000000")
        return delays_s

    @model_validator(mode="after")
    def _roots_fit(self) -> Self:
        check_roots(self.mesh.roots, self.mesh.data_dir, [self.blobs] if self.blobs else [])
        return self

    @property
    def extraction(self) -> ExtractionLimits:
        return ExtractionLimits(
            max_document_bytes=self.mesh.max_document_bytes,
            memory_bytes=self.extraction_memory_bytes,
            timeout_s=self.extraction_s,
        )

    def web(self, *, at_most_s: float = float("inf")) -> HttpWeb:
        """The web as far as documents may come from it; a page may take `at_most_s`, or less."""
        return HttpWeb(
            timeout_s=min(self.web_timeout_s, at_most_s),
            ports=self.web_ports,
            https_only=self.web_https_only,
            allowed=Reachable(self.web_allow).allows,
        )

    def webhooks_web(self) -> HttpWeb:
        """The web as far as webhooks may be sent to it."""
        return HttpWeb(
            timeout_s=self.webhooks_timeout_s,
            ports=self.webhooks_ports,
            https_only=True,
            http_hosts=self.webhooks_http,
            connections=self.webhooks_slots,
            allowed=Reachable(self.webhooks_allow).allows,
        )

    def webhook_store(self, redis: Redis) -> RedisWebhooks:
        return RedisWebhooks(
            redis,
            lease_s=2 * self.webhooks_timeout_s + _LEASE_MARGIN_S,
            retention_s=self.webhooks_retention_s,
            keep=self.webhooks_kept,
            most_waiting=self.webhooks_waiting,
            of_hook=self.webhooks_of_one,
            of_tenant=self.webhooks_of_tenant,
        )

    @property
    def events(self) -> Kept:
        return Kept(self.events_kept_s, self.events_kept)

    @property
    def blob_folder(self) -> Path:
        return self.blobs or self.mesh.data_dir / "blobs"


class WorkerSettings(Settings):
    """Those of a worker, which runs beside the service: its metrics have a port of their own."""

    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("metrics_port", "RAGWEAVE_WORKER_METRICS_PORT"),
        description="Port of Prometheus metrics; 0 turns them off.",
    )
