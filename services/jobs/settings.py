"""Settings of the jobs service and of its workers."""

import socket
from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.jobs.adapters.redis import Kept
from services.jobs.adapters.web import DEFAULT_PORTS, HttpWeb
from services.jobs.adapters.xberg import ExtractionLimits
from services.jobs.addresses import Reachable
from services.mesh.roots import check_roots
from services.mesh.settings import ServiceSettings


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

    @field_validator("web_ports", "web_allow", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        return tuple(part.strip() for part in given.split(",") if part.strip()) if isinstance(given, str) else given

    @field_validator("web_ports")
    @classmethod
    def _are_ports(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 < port < 2**16 for port in ports):
            raise ValueError("a port is a number from 1 to 65535")
        return ports

    @field_validator("web_allow")
    @classmethod
    def _are_places(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        for at, place in enumerate(places, 1):
            try:
                Reachable([place])
            except ValueError:  # which quotes it, and errors of settings do not
                raise ValueError(f"entry {at} is neither a network nor a host name") from None
        return places

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
        description="Loopback port of Prometheus metrics; 0 turns them off.",
    )
