"""Settings every process of the mesh shares, and the base of each service's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from ragweave.certificates import CertificateFiles, name_of
from ragweave.json_logs import log_levels_from
from services.mesh.roots import DEFAULT_FOLDER, Root, check_roots, root_from
from services.mesh.urls import SecretUrl, with_query

# sun_path of sockaddr_un is 108 bytes with its final NUL (unix(7)).
UNIX_PATH_MAX = 107
# Whose the root is where none is set: the tenant of development tokens (ragweave.cli).
_DEFAULT_TENANT = "default"


class MeshSettings(BaseSettings):
    """Where the parts of the mesh find one another, and what they trust. Read from RAGWEAVE_* once, then frozen."""

    model_config = SettingsConfigDict(env_prefix="RAGWEAVE_", frozen=True, extra="ignore", hide_input_in_errors=True)

    data_dir: Path = Field(Path(".ragweave"), description="Folder of everything the mesh keeps; made absolute.")
    backup_dir: Path = Field(Path(), description="Folder of backups; <data_dir>/backups where empty.")
    host: str = Field("127.0.0.1", min_length=1, description="Address servers listen on. Loopback unless meant.")
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="Address of the metrics ports; they ask nobody who they are."
    )
    profile: Literal["development", "production"] = Field("development", description="Kind of deployment.")
    process: str = Field("", max_length=200, description="Name of this process in health; service@host where empty.")
    commit: str = Field("", max_length=64, description="Commit the software was built from, where its build tells.")
    heartbeat_file: Path | None = Field(
        None, description="File this process touches every second while its event loop runs; or none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    log_levels: Annotated[dict[str, int], NoDecode] = Field(
        {}, description="Least levels of single loggers and of those below them, such as mesh.calls=warning,grpc=debug."
    )

    redis_ca: Path | None = Field(
        None, description="CA certificates for a rediss:// store (PEM); the system's if empty."
    )
    redis_url: SecretUrl = Field("", description="Redis store; unix://<data_dir>/redis/redis.sock where empty.")
    embedding_target: str = Field("127.0.0.1:50051", min_length=1, description="gRPC target of embedding.")
    retrieval_target: str = Field("127.0.0.1:50052", min_length=1, description="gRPC target of retrieval.")
    collections_target: str = Field("127.0.0.1:50053", min_length=1, description="gRPC target of collections.")
    jobs_target: str = Field("127.0.0.1:50054", min_length=1, description="gRPC target of jobs.")
    system_target: str = Field("127.0.0.1:50055", min_length=1, description="gRPC target of system.")
    gateway_target: str = Field("127.0.0.1:50056", min_length=1, description="host:port of the gateway's HTTP.")

    tls: bool = Field(False, description="Whether the processes speak mutual TLS with one another, and the edge HTTPS.")
    tls_cert: Path | None = Field(None, description="This process's certificate (PEM); the local CA's where empty.")
    tls_key: Path | None = Field(None, description="Its private key (PEM); goes with tls_cert.")
    tls_ca: Path | None = Field(None, description="CA certificates peers' must lead to (PEM); goes with tls_cert.")
    tls_server_name: str = Field(
        "", max_length=253, description="Name that services' mounted certificates carry; their targets' where empty."
    )

    jwks: SecretUrl = Field(
        "", description="Keys of user tokens: a path or URL; <data_dir>/keys/jwks.json where empty."
    )
    jwks_cache_s: int = Field(
        30, ge=1, le=50, description="Seconds keys from a URL serve before they are fetched again."
    )
    issuer: str = Field("ragweave", min_length=1, description="`iss` a user token must carry.")
    audience: str = Field("ragweave", min_length=1, description="`aud` a user token must carry.")
    public_tenant: str = Field("public", min_length=1, max_length=64, description="Tenant of callers without a token.")
    anonymous: bool = Field(True, description="Whether callers without a token may search PUBLIC collections at all.")
    operator_tenant: str = Field(
        "operator", min_length=1, max_length=64, description="Tenant whose admins may name any tenant."
    )
    mesh_jwks: SecretUrl = Field(
        "", description="Keys of service tokens: a path or URL; <data_dir>/keys/mesh_jwks.json where empty."
    )
    mesh_key: Path | None = Field(
        None, description="This process's private ES256 key (PEM); <data_dir>/keys/mesh.pem where empty."
    )
    mesh_issuer: str = Field("ragweave-mesh", min_length=1, description="`iss` of service tokens.")
    mesh_audience: str = Field("ragweave-internal", min_length=1, description="`aud` of service tokens.")
    clock_skew_s: int = Field(30, ge=0, le=60, description="Leeway on the times of a token, in seconds.")

    roots: Annotated[tuple[Root, ...], NoDecode] = Field(
        (),
        description="Folders imports may read, separated by commas: tenant=/path or tenant=name:/path, * standing for "
        "every tenant; default=<data_dir>/import where empty.",
    )
    max_document_bytes: int = Field(50 * 2**20, ge=1, le=2**31, description="Largest original, in bytes.")
    min_free_disk: int = Field(
        256 * 2**20,
        ge=0,
        le=2**40,
        description="Bytes left free on the disks of data: below, nothing is added, while reading and deleting go on.",
    )
    audit_required: bool = Field(
        False, description="Whether nothing is changed while the audit log's store does not answer."
    )
    audit_buffer: int = Field(
        10_000, ge=1, le=1_000_000, description="Audit events kept in memory while that store does not answer."
    )
    deny_list_refresh_s: float = Field(
        5.0, gt=0, le=15, description="Seconds between two looks at which tokens are revoked."
    )

    max_message_bytes: int = Field(
        16 * 2**20, ge=2**16, le=256 * 2**20, description="Longest gRPC message sent or taken, in bytes."
    )
    max_concurrent_calls: int = Field(
        4096, ge=1, le=100_000, description="Calls one server holds at a time, watches and waiting ones included."
    )
    max_running_calls: int = Field(
        64, ge=1, le=10_000, description="Users' calls of one rate class that one server runs at a time; others wait."
    )
    max_waiting_calls: int = Field(
        512, ge=0, le=100_000, description="Users' calls of one rate class that may wait; more are refused."
    )
    health_interval_s: float = Field(2.0, ge=0.05, le=60, description="Seconds between two rounds of health checks.")
    drain_s: float = Field(
        2.0,
        ge=0,
        le=60,
        description="Seconds between NOT_SERVING and refusing new calls: until the edge has looked twice.",
    )
    grace_s: float = Field(10.0, ge=0, le=600, description="Seconds calls in flight get to end while stopping.")

    breaker_failures: int = Field(
        5, ge=1, le=1000, description="Consecutive failures after which a dependency is left alone."
    )
    breaker_open_s: float = Field(30.0, gt=0, le=3600, description="Seconds it is left alone before one call probes.")
    breaker_slow_s: float = Field(
        0.25, ge=0, le=600, description="Seconds it had at least where a deadline that passes counts against it."
    )
    breaker_look_s: float = Field(
        1.0, ge=0, le=3600, description="Seconds between looks whether it may be probed early; 0 never looks."
    )

    predecessor: str = Field(
        "",
        pattern=r"^$|^\d+:\d+$",
        description="Process whose place this one takes, and waits for the end of: its pid and start time. The "
        "supervisor sets it.",
    )
    takes_over: bool = Field(
        False,
        description="Whether nobody else serves meanwhile: callers wait at this process's port, and its predecessor is "
        "told to go. The supervisor sets it.",
    )

    otlp_endpoint: SecretUrl = Field(
        "", description="OTLP gRPC endpoint for traces, such as http://127.0.0.1:4317; or none."
    )
    trace_sample_ratio: float = Field(1.0, ge=0, le=1, description="Share of new traces that are recorded.")
    trace_callers: bool = Field(
        False, description="Whether a caller's `traceparent` decides at the edge whether its trace is recorded."
    )

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, given: object) -> object:
        """Fills what derives from data_dir, so that a process that changes folder keeps its files."""
        if not isinstance(given, dict):
            return given
        data_dir = Path(given.get("data_dir") or ".ragweave").expanduser().absolute()
        derived = {
            "backup_dir": data_dir / "backups",
            "redis_url": f"unix://{data_dir}/redis/redis.sock",
            "jwks": str(data_dir / "keys" / "jwks.json"),
            "mesh_jwks": str(data_dir / "keys" / "mesh_jwks.json"),
            "mesh_key": data_dir / "keys" / "mesh.pem",
            "roots": (Root(_DEFAULT_TENANT, data_dir / DEFAULT_FOLDER),),
        }
        return {**given, "data_dir": data_dir, **{name: given.get(name) or path for name, path in derived.items()}}

    @field_validator("roots", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        return tuple(root_from(part.strip()) for part in given.split(",") if part.strip())

    @field_validator("log_levels", mode="before")
    @classmethod
    def _read_log_levels(cls, given: object) -> object:
        return log_levels_from(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _roots_fit(self) -> Self:
        apart = [path for path in (self.mesh_key, self.tls_key, self.backup_dir) if path]
        check_roots(self.roots, self.data_dir, apart)
        return self

    @field_validator("redis_url")
    @classmethod
    def _trusting(cls, url: str, known: ValidationInfo) -> str:
        authority = known.data.get("redis_ca")
        if authority and not url.startswith("rediss://"):
            raise ValueError("RAGWEAVE_REDIS_CA is for a rediss:// URL; the store would be reached without TLS")
        return with_query(url, ssl_ca_certs=str(authority)) if authority else url

    @model_validator(mode="after")
    def _certificates_are_whole(self) -> Self:
        given = {"RAGWEAVE_TLS_CERT": self.tls_cert, "RAGWEAVE_TLS_KEY": self.tls_key, "RAGWEAVE_TLS_CA": self.tls_ca}
        missing = [name for name, path in given.items() if path is None]
        if 0 < len(missing) < len(given):
            raise ValueError(f"certificates are mounted all together: {', '.join(missing)} is not set")
        if not missing and not self.tls:
            raise ValueError("certificates are mounted but not used: set RAGWEAVE_TLS=on, or leave them away")
        return self

    def certificates(self, role: str) -> CertificateFiles:
        """What the process of a role, such as "jobs", shows its peers, and whom it trusts."""
        if self.tls_cert and self.tls_key and self.tls_ca:
            return CertificateFiles(self.tls_cert, self.tls_key, self.tls_ca)
        return CertificateFiles.local(self.data_dir / "tls", role)

    def server_name(self, target: str) -> str | None:
        """The name the certificate at a gRPC target must carry; None where it is the target's own host."""
        if self.tls_cert:
            return self.tls_server_name or None
        role = self.role_at(target)
        return name_of(role) if role else None

    def role_at(self, target: str) -> str:
        """The one service, such as "jobs", that a gRPC target is set for; "" where that is none, or several."""
        fields = [name for name in type(self).model_fields if name.endswith("_target")]
        roles = [name.removesuffix("_target") for name in fields if getattr(self, name) == target]
        return roles[0] if len(roles) == 1 else ""

    @model_validator(mode="after")
    def _nobody_is_operator(self) -> Self:
        if self.operator_tenant == self.public_tenant:
            raise ValueError("operator_tenant: is the tenant of callers without a token too; set another")
        return self

    @model_validator(mode="after")
    def _socket_path_fits(self) -> Self:
        if self.redis_url.startswith("unix://"):
            path = self.redis_url.removeprefix("unix://").partition("?")[0]
            if len(path.encode()) > UNIX_PATH_MAX:
                raise ValueError(
                    f"redis_url: a unix socket path has at most {UNIX_PATH_MAX} bytes, this one has "
                    f"{len(path.encode())}; set RAGWEAVE_REDIS_URL to a shorter one"
                )
        return self


class ServiceSettings(BaseSettings):
    """Base of each service's Settings; a subclass sets its env_prefix, such as RAGWEAVE_EMBEDDING_."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    mesh: MeshSettings = Field(default_factory=MeshSettings, description="What all processes share.")
    port: int = Field(0, ge=0, le=65535, description="Port the gRPC server listens on; 0 takes any free one.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of Prometheus metrics; 0 turns them off.")


K = TypeVar("K", bound=BaseSettings)


class BadSettings(SystemExit):
    """The environment holds settings a process cannot start with; ends it with a line for each."""


def read(kind: type[K]) -> K:
    """Settings from the environment.

    Raises:
        BadSettings: Some are out of bounds or do not go together. Names them, and quotes none: they may be passwords.
    """
    try:
        return kind()
    except ValidationError as error:
        prefix = str(
            MeshSettings.model_config["env_prefix"]
            if error.title == "MeshSettings"
            else kind.model_config["env_prefix"]
        )
        raise BadSettings("\n".join(_sentences(error, prefix))) from None
    except SettingsError as error:  # what should be JSON is not
        raise BadSettings(str(error)) from None


def _sentences(error: ValidationError, prefix: str) -> Iterator[str]:
    for each in error.errors(include_input=False, include_url=False, include_context=False):
        said = each["msg"].removeprefix("Value error, ")
        name = str(each["loc"][0]).upper() if each["loc"] else ""
        yield f"{name if name.startswith('RAGWEAVE_') else prefix + name}: {said}" if name else said
