"""Settings of the jobs service and of its workers."""

import socket
from pathlib import Path
from typing import Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.jobs.adapters.xberg import ExtractionLimits
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

    worker_name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=128,
        description="Name of this worker: the same after a restart, and of no other worker that runs.",
    )
    slots: int = Field(4, ge=1, le=256, description="Documents one worker has in work at a time.")
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
