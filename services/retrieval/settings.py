"""Settings of the retrieval service."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.mesh.settings import ServiceSettings
from services.mesh.urls import SecretUrl


class Settings(ServiceSettings):
    """Read from RAGWEAVE_RETRIEVAL_* once, then frozen."""

    model_config = SettingsConfigDict(
        env_prefix="RAGWEAVE_RETRIEVAL_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    port: int = Field(50052, ge=0, le=65535, description="Port the gRPC server listens on; 0 takes any free one.")
    store: Literal["edge", "qdrant"] = Field("edge", description="Where chunks are kept: embedded, or a Qdrant server.")
    index_dir: Path | None = Field(None, description="Folder of the embedded index; <data_dir>/index where empty.")
    build_threshold: int = Field(
        10_000,
        ge=100,
        le=10_000_000,
        description="Chunks without a search graph that start building one; a twentieth of those with one, if more.",
    )
    threads: int = Field(1, ge=1, le=64, description="Threads of an engine, and of the building of a graph.")
    max_open: int = Field(64, ge=1, le=10_000, description="Small indexes the shared engine keeps open at a time.")
    engine_idle_s: float = Field(600, ge=1, le=86_400, description="Seconds after which an unused engine ends.")
    qdrant_url: SecretUrl = Field("", description="URL of the Qdrant server's REST port; gRPC is one port above it.")
    qdrant_api_key: str = Field("", repr=False, description="API key of the Qdrant server, where it wants one.")
    qdrant_prefix: str = Field("ragweave-", max_length=64, description="Before the names of Qdrant's collections.")
    qdrant_replicas: int = Field(1, ge=1, le=9, description="Copies of each shard in a Qdrant cluster.")
    qdrant_timeout_s: int = Field(30, ge=1, le=600, description="Seconds a call to the Qdrant server may take.")
    cache_bytes: int = Field(
        64 * 2**20, ge=0, le=2**36, description="Bytes of answers kept in the process; 0 keeps none there."
    )
    cache_ttl_s: float = Field(600, ge=1, le=86_400, description="Seconds an answer is kept at most.")
    cache_shared: bool = Field(True, description="Whether replicas share answers, in Redis.")
    cache_url: SecretUrl = Field("", description="Redis for shared answers, maybe a volatile one; empty: the mesh's.")
    cache_timeout_s: float = Field(0.02, gt=0, le=5, description="Seconds a search waits for a shared answer.")
    query_log_s: float = Field(
        86_400, ge=0, le=604_800, description="Seconds a question is kept to warm the cache by at most; 0 keeps none."
    )
    redis_timeout_s: float = Field(2.0, gt=0, le=60, description="Seconds a write waits for the revision counter.")
    usage_interval_s: float = Field(
        10.0, gt=0, le=600, description="Seconds between two batches of figures of searches; what a kill loses of them."
    )
    usage_waiting: int = Field(
        100_000, ge=100, le=10_000_000, description="Tenants' collections and hours counted while no batch is taken."
    )

    query_sets: int = Field(100, ge=1, le=10_000, description="Sample query sets of a tenant; 3 MB each at most.")
    evaluations: int = Field(1000, ge=1, le=10_000, description="Evaluations of a tenant that are kept; the newest.")
    evaluation_retention_s: float = Field(
        30 * 86_400, ge=86_400, le=3650 * 86_400, description="Seconds after which an evaluation is forgotten."
    )

    @property
    def index_folder(self) -> Path:
        """Of the embedded index."""
        return self.index_dir or self.mesh.data_dir / "index"

    @property
    def era(self) -> str:
        """Changes whenever the embedded index is restored from a backup, which leaves a new one."""
        try:
            return (self.index_folder / "era").read_text()
        except FileNotFoundError:
            return ""

    @model_validator(mode="after")
    def _server_is_named(self) -> Self:
        if self.store == "qdrant" and not self.qdrant_url:
            raise ValueError("store=qdrant needs a server: set RAGWEAVE_RETRIEVAL_QDRANT_URL")
        return self
