"""Settings of the embedding service."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.embedding.rerank_sources import RerankSource, key_files_from, sources_from
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
        1024,
        ge=256,
        le=65536,
        description="Texts that may wait, of queries, of documents and to rerank each; more are refused.",
    )
    niceness: int = Field(
        5,
        ge=0,
        le=19,
        description="How far models leave the processor to others, as nice(1) has it: what waits is read together.",
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
    rerank_models: Annotated[tuple[RerankSource, ...], NoDecode] = Field(
        (),
        repr=False,
        description="Reranking models, separated by commas, the default first: model=/folder, model=https://host/v1 or "
        "model=tei+https://host; none where empty.",
    )
    rerank_keys: Annotated[dict[str, Path], NoDecode] = Field(
        default_factory=dict,
        repr=False,
        description="Files with the API keys of their endpoints, separated by commas: model=/file.",
    )
    rerank_workers: int = Field(
        default_factory=lambda: min(max(1, (os.cpu_count() or 1) // 2), 32),
        ge=1,
        le=256,
        description="Batches a reranking model here runs at a time. Defaults to half the cores: queries need the rest.",
    )

    @field_validator("rerank_models", mode="before")
    @classmethod
    def _sources(cls, given: object) -> object:
        return sources_from(given) if isinstance(given, str) else given

    @field_validator("rerank_keys", mode="before")
    @classmethod
    def _key_files(cls, given: object) -> object:
        return key_files_from(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _keys_have_models(self) -> Self:
        if self.rerank_keys.keys() - {each.model for each in self.rerank_models}:
            raise ValueError(
                "RAGWEAVE_EMBEDDING_RERANK_KEYS names a model that RAGWEAVE_EMBEDDING_RERANK_MODELS does not"
            )
        return self
