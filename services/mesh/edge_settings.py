"""How the edge is rendered and run, from RAGWEAVE_EDGE_*."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.mesh.edge_limits import DEFAULT_LIMITS, Limits, limits_from
from services.mesh.settings import MeshSettings

Names = Annotated[tuple[str, ...], NoDecode]


class EdgeSettings(BaseSettings):
    """How the edge is rendered and run. Read from RAGWEAVE_EDGE_* once, then frozen; lists are separated by commas."""

    model_config = SettingsConfigDict(
        env_prefix="RAGWEAVE_EDGE_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    mesh: MeshSettings = Field(default_factory=MeshSettings, description="What all processes share.")
    host: str = Field("127.0.0.1", min_length=1, description="Address the edge listens on. Loopback unless meant.")
    port: int = Field(8080, ge=1, le=65535, description="Port of REST, gRPC and gRPC-Web.")
    admin_host: str = Field("127.0.0.1", min_length=1, description="Address of Envoy's admin page: it can stop Envoy.")
    admin_port: int = Field(9901, ge=1, le=65535, description="Port of Envoy's admin page, /ready and /stats.")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Address of the edge's metrics port.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of /stats/prometheus without the rest of the admin page; 0: none."
    )
    concurrency: int = Field(2, ge=1, le=256, description="Worker threads.")

    collections_endpoints: Names = Field((), description="host:port of each replica; the mesh's target where empty.")
    embedding_endpoints: Names = Field((), description="host:port of each replica; the mesh's target where empty.")
    jobs_endpoints: Names = Field((), description="host:port of each replica; the mesh's target where empty.")
    retrieval_endpoints: Names = Field((), description="host:port of each replica; the mesh's target where empty.")
    system_endpoints: Names = Field((), description="host:port of each replica; the mesh's target where empty.")
    gateway_endpoints: Names = Field((), description="host:port of each replica; the mesh's target where empty.")
    health_interval_s: float = Field(0.5, ge=0.1, le=60, description="Seconds between two health checks of a replica.")
    cluster_connections: int = Field(
        1024, ge=1, le=100_000, description="Connections to the replicas of a service, by worker thread."
    )
    cluster_pending: int = Field(1024, ge=1, le=1_000_000, description="Calls of a service that wait for a connection.")
    cluster_requests: int = Field(
        4096, ge=1, le=1_000_000, description="Calls of a service under way at a time; more are UNAVAILABLE at once."
    )
    retry_budget_percent: float = Field(
        20.0, ge=0, le=100, description="Share of a service's calls under way that may be second attempts, in percent."
    )
    # A connection that breaks fails all that is under way on it at once.
    retry_concurrency: int = Field(
        64, ge=0, le=1000, description="Second attempts at a time that are allowed however few calls are under way."
    )
    ejection_failures: int = Field(
        5, ge=1, le=1000, description="Calls in a row that a replica answers with 502-504 before it is left out."
    )
    ejection_s: float = Field(5.0, gt=0, le=600, description="Seconds it is left out the first time.")

    cors_origins: Names = Field(
        ("http://localhost:*", "http://127.0.0.1:*"),
        description="Origins whose pages may call the edge; `*` stands for one host label or port. Empty: none.",
    )
    trusted_hops: int = Field(0, ge=0, le=10, description="Proxies in front of the edge whose x-forwarded-for counts.")
    max_json_bytes: int = Field(
        16 * 2**20, ge=2**10, le=256 * 2**20, description="Longest JSON body, in bytes; held in memory while checked."
    )
    max_upload_bytes: int = Field(256 * 2**20, ge=2**10, le=2**36, description="Longest upload, in bytes.")
    max_headers: int = Field(100, ge=20, le=1000, description="Headers a request may have.")
    max_headers_kib: int = Field(32, ge=8, le=512, description="Longest headers of a request, in KiB.")
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="Open connections of clients; at most half of the open files allowed."
    )
    max_heap_bytes: int = Field(
        2 * 2**30, ge=2**26, le=2**40, description="Memory Envoy may use, in bytes: nearing it, it sheds load."
    )
    rate_limiting: bool = Field(True, description="Whether callers are limited at all.")
    rate_limits: Limits = Field(
        DEFAULT_LIMITS,
        description="Calls a minute by rate class and tier, as JSON; what is not named keeps its default. `free` is "
        "also for tokens that name no known tier, `anonymous` for each address that sends no token.",
    )
    rate_limit_subjects: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="Callers of each class and tier remembered at a time, the last to call.",
    )
    rate_limit_service: str = Field(
        "",
        description="host:port of a service that counts for several edges (Envoy's rate limit protocol, v3), https:// "
        "before it for TLS; each edge counts for itself where empty.",
    )
    rate_limit_failure: Literal["allow", "deny"] = Field(
        "allow", description="While that service does not answer: leave it to the edge's own buckets, or refuse."
    )
    rate_limit_timeout_s: float = Field(0.05, ge=0.001, le=5, description="Seconds that service gets to answer.")
    headers_timeout_s: int = Field(10, ge=1, le=60, description="Seconds the headers of a request may take to arrive.")
    stream_idle_s: int = Field(60, ge=1, le=3600, description="Seconds without a byte that end a call.")
    trusted_ca: Path = Field(
        Path("/etc/ssl/certs/ca-certificates.crt"), description="CA certificates for an https JWKS URL (PEM)."
    )
    tls_cert: Path | None = Field(
        None,
        description="Certificate the edge shows its clients (PEM, with its chain); its mesh certificate where empty.",
    )
    tls_key: Path | None = Field(None, description="Private key of it (PEM); goes with tls_cert.")
    hsts_s: int | None = Field(
        None,
        ge=0,
        le=2 * 365 * 86400,
        description="Seconds browsers shall insist on HTTPS; 0 says nothing of it. Where empty and the edge speaks "
        "HTTPS: a year in production, an hour in development, whose host name others share.",
    )
    legacy_deprecated_on: date = Field(
        date(2026, 11, 1), description="Day /api/rag was deprecated, as its answers tell (RFC 9745)."
    )
    legacy_sunset_on: date = Field(
        date(2027, 11, 1), description="Day /api/rag may be gone, as its answers tell (RFC 8594)."
    )
    access_log: str = Field("/dev/stdout", min_length=1, description="File that gets one JSON line a call.")
    drain_s: int = Field(10, ge=1, le=600, description="Seconds over which a graceful drain closes connections.")
    handover_s: int = Field(
        330,
        ge=1,
        le=86_400,
        description="Seconds after which an Envoy that another has taken over from ends: longer than drain_s, and than "
        "any call that must not be cut.",
    )

    @field_validator(
        "collections_endpoints", "embedding_endpoints", "jobs_endpoints", "retrieval_endpoints", "system_endpoints",
        "gateway_endpoints", "cors_origins",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _listed(cls, given: object) -> object:
        return tuple(part.strip() for part in given.split(",") if part.strip()) if isinstance(given, str) else given

    @field_validator("rate_limits")
    @classmethod
    def _complete(cls, given: Limits) -> Limits:
        return limits_from(given)

    @model_validator(mode="after")
    def _certificate_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("RAGWEAVE_EDGE_TLS_CERT and RAGWEAVE_EDGE_TLS_KEY go together")
        return self

    @model_validator(mode="after")
    def _drains_before_it_ends(self) -> Self:
        if self.handover_s <= self.drain_s:
            raise ValueError("RAGWEAVE_EDGE_HANDOVER_S must be more than RAGWEAVE_EDGE_DRAIN_S")
        return self

    @property
    def https(self) -> bool:
        """Whether clients speak TLS to the edge: with the mesh's TLS on, or with a certificate of the edge's own."""
        return self.mesh.tls or self.tls_cert is not None

    def endpoints(self, owner: str) -> tuple[str, ...]:
        """host:port of each replica of a service."""
        own: tuple[str, ...] = getattr(self, f"{owner}_endpoints")
        return own or tuple(getattr(self.mesh, f"{owner}_target").split(","))
