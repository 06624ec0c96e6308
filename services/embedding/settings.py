"""Settings of the embedding service."""

import os

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.mesh.settings import ServiceSettings
from services.mesh.urls import SecretUrl


class Settings(ServiceSettings):
    """Read from RAGWEAVE_EMBEDDING_* once, then frozen."""

    model_config = SettingsConfigDict(
        env_prefix="RAGWEAVE_EMBEDDING_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    port: int = Field(50051, ge=0, le=65535, description="Port the gRPC server listens on; 0 takes any free one.")
    workers: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 32),
        ge=1,
        le=256,
        description="Batches the model runs at a time, each on a thread of its own. Defaults to the number of cores.",
    )
    max_queue: int = Field(
        1024, ge=256, le=65536, description="Texts that may wait, of queries and of documents each; more are refused."
    )
    batch_tokens: int = Field(128, ge=1, le=65536, description="Most tokens of one batch, padding included.")
    cache_bytes: int = Field(16 * 2**20, ge=0, le=2**40, description="Memory for recent embeddings in this process.")
    cache_url: SecretUrl = Field("", description="Redis store of embeddings; the mesh's redis_url where empty.")
    cache_ttl_s: int = Field(
        24 * 3600, ge=1, le=365 * 24 * 3600, description="Seconds an embedding is kept in the Redis store."
    )
    cache_timeout_s: float = Field(
        0.1, gt=0, le=5, description="Seconds the Redis store may take; a slower one is done without."
    )
