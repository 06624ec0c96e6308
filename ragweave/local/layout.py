"""Where the local mesh keeps its files and listens, from RAGWEAVE_* and defaults."""

import hashlib
import ipaddress
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ragweave.certificates import CertificateFiles, name_of

# sun_path of sockaddr_un is 108 bytes with its final NUL (unix(7)).
_UNIX_PATH_MAX = 107
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound

PORTS = {
    "edge": ("RAGWEAVE_EDGE_PORT", 8080),
    "edge admin": ("RAGWEAVE_EDGE_ADMIN_PORT", 9901),
    "embedding": ("RAGWEAVE_EMBEDDING_PORT", 50051),
    "retrieval": ("RAGWEAVE_RETRIEVAL_PORT", 50052),
    "collections": ("RAGWEAVE_COLLECTIONS_PORT", 50053),
    "jobs": ("RAGWEAVE_JOBS_PORT", 50054),
    "system": ("RAGWEAVE_SYSTEM_PORT", 50055),
    "gateway": ("RAGWEAVE_GATEWAY_PORT", 50056),
    "embedding metrics": ("RAGWEAVE_EMBEDDING_METRICS_PORT", 9461),
    "retrieval metrics": ("RAGWEAVE_RETRIEVAL_METRICS_PORT", 9462),
    "collections metrics": ("RAGWEAVE_COLLECTIONS_METRICS_PORT", 9463),
    "jobs metrics": ("RAGWEAVE_JOBS_METRICS_PORT", 9464),
    "system metrics": ("RAGWEAVE_SYSTEM_METRICS_PORT", 9465),
    "worker metrics": ("RAGWEAVE_WORKER_METRICS_PORT", 9466),
    "gateway metrics": ("RAGWEAVE_GATEWAY_METRICS_PORT", 9467),
}
SERVICES = ("embedding", "retrieval", "collections", "jobs", "system")
WORKER = "worker"
MOST_REPLICAS = 9
# How far apart the ports of a service's replicas are where none is set for the later ones.
_PORTS_APART = 10


# As pydantic reads a bool.
_ON, _OFF = ("on", "true", "t", "yes", "y", "1"), ("off", "false", "f", "no", "n", "0", "")


class BadSetting(Exception):
    """A setting the mesh cannot start with; the message names it."""


@dataclass(frozen=True)
class Layout:
    """One local mesh. Two of them on one machine share nothing but the machine.

    Attributes:
        root: Folder the processes run in: the checkout or the installed project.
        data: Folder of everything the mesh keeps, absolute.
        host: Address everything listens on.
        ports: Port by part: those of PORTS, and `jobs-2`, `jobs-2 metrics` and so on where a service has replicas.
        redis_url: The store; empty where the mesh runs its own.
        production: Whether weak settings are refused.
        tls: Whether the processes speak mutual TLS, and the edge HTTPS.
        https: Whether the edge speaks HTTPS; with a certificate of its own it does so without `tls`.
        mounted: Certificate, key and CA that all processes use; the local CA's where None.
        hosts: What the local CA's certificates hold for, beside loopback.
        edge_authority: CA that tools trust at the edge; where None the local one, or the system's for a certificate of
            the edge's own.
        tls_server_name: Name that mounted certificates of services carry; their addresses where empty.
        backup_dir: Where backups stand, if not in the data folder.
        replicas: How many processes of a service, or workers, there are; one of those not named.
        targets: Where services are found that are not found at their processes' own addresses, as gRPC targets.
    """

    root: Path
    data: Path
    host: str
    ports: Mapping[str, int]
    redis_url: str = ""
    production: bool = False
    tls: bool = False
    https: bool = False
    mounted: CertificateFiles | None = None
    hosts: tuple[str, ...] = ()
    edge_authority: Path | None = None
    tls_server_name: str = ""
    backup_dir: Path | None = None
    replicas: Mapping[str, int] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, root: Path | None = None) -> "Layout":
        """Reads the environment.

        Raises:
            BadSetting: A port that is none, half of a certificate, or replicas of what can have but one.
        """
        given = os.environ if environment is None else environment
        root = (root or Path.cwd()).absolute()
        host = given.get("RAGWEAVE_HOST") or "127.0.0.1"
        replicas = _replicas(given, host)
        ports = _ports(given, replicas)
        tls = _is_on(given, "RAGWEAVE_TLS")
        own = given.get("RAGWEAVE_EDGE_TLS_CERT") or ""
        data = (root / (given.get("RAGWEAVE_DATA_DIR") or ".ragweave")).absolute()
        mounted = _mounted(given, root)
        authority = given.get("RAGWEAVE_EDGE_TLS_CA") or ""
        trusted = root / authority if authority else None
        if tls and not trusted and not own:
            trusted = mounted.authority if mounted else data / "tls" / "ca.crt"
        return cls(
            root=root,
            data=data,
            host=host,
            ports=ports,
            redis_url=given.get("RAGWEAVE_REDIS_URL") or "",
            production=given.get("RAGWEAVE_PROFILE") == "production",
            tls=tls,
            https=tls or bool(own),
            mounted=mounted,
            hosts=_hosts(given),
            edge_authority=trusted,
            tls_server_name=given.get("RAGWEAVE_TLS_SERVER_NAME") or "",
            backup_dir=root / given["RAGWEAVE_BACKUP_DIR"] if given.get("RAGWEAVE_BACKUP_DIR") else None,
            replicas=replicas,
            targets={name: target for name in SERVICES if (target := given.get(f"RAGWEAVE_{name.upper()}_TARGET"))},
        )

    @property
    def keys(self) -> Path:
        return self.data / "keys"

    @property
    def certificates(self) -> Path:
        """Folder of the local CA's certificates, one for each role."""
        return self.data / "tls"

    def certificate(self, role: str) -> CertificateFiles:
        """What the process of a role shows, and whom it trusts."""
        return self.mounted or CertificateFiles.local(self.certificates, role)

    def server_name(self, role: str) -> str:
        """The name the certificate of a role's process carries; empty where it is the process's address."""
        return self.tls_server_name if self.mounted else name_of(role)

    @property
    def url(self) -> str:
        """Where the edge is."""
        return f"{'https' if self.https else 'http'}://{self.address('edge')}"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def edge(self) -> Path:
        """Folder of the rendered edge configuration."""
        return self.data / "edge"

    @property
    def backups(self) -> Path:
        """Folder of backups."""
        return self.backup_dir or self.data / "backups"

    @property
    def state_file(self) -> Path:
        """What runs, as the supervisor last saw it."""
        return self.data / "run" / "state.json"

    def heartbeat(self, part: str) -> Path:
        """The file that a process touches while it runs."""
        return self.data / "run" / f"{part}.alive"

    @property
    def restarts(self) -> Path:
        """Folder in which a file asks the supervisor to restart the process of its name; SIGHUP has it look."""
        return self.data / "run" / "restart"

    @property
    def lock_file(self) -> Path:
        """Held by the one supervisor of this data folder; holds its pid."""
        return self.data / "run" / "supervisor.lock"

    @property
    def import_root(self) -> Path:
        """The folder directory imports may read unless RAGWEAVE_ROOTS names others."""
        return self.data / "import"

    @property
    def redis_socket(self) -> Path:
        """The store's socket; under the temporary folder where the data folder's path is too long for one."""
        path = self.data / "redis" / "redis.sock"
        if len(os.fsencode(path)) <= _UNIX_PATH_MAX:
            return path
        mark = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"ragweave-{os.getuid()}-{mark}" / "redis.sock"

    def address(self, part: str) -> str:
        """`host:port` of a part, for clients on this machine."""
        return f"{'127.0.0.1' if self.host in EVERYWHERE else self.host}:{self.ports[part]}"

    def parts(self, service: str) -> tuple[str, ...]:
        """The processes of a service, or the workers: "jobs", then "jobs-2" and so on."""
        return (service, *(f"{service}-{n}" for n in range(2, self.replicas.get(service, 1) + 1)))

    def target(self, service: str) -> str:
        """Where the mesh's channels and the edge find all replicas of a service, as a gRPC target."""
        if set_one := self.targets.get(service):
            return set_one
        addresses = [self.address(part) for part in self.parts(service)]
        return addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"

    def environment(self) -> dict[str, str]:
        """What every process of this mesh gets beside the caller's own environment."""
        return {
            "RAGWEAVE_DATA_DIR": str(self.data),
            "RAGWEAVE_BACKUP_DIR": str(self.backups),
            "RAGWEAVE_HOST": self.host,
            "PYTHONUTF8": "1",  # file names are UTF-8, whatever the locale
            "RAGWEAVE_REDIS_URL": self.redis_url or f"unix://{self.redis_socket}",
            **{variable: str(self.ports[part]) for part, (variable, _) in PORTS.items()},
            **{f"RAGWEAVE_{name.upper()}_TARGET": self.target(name) for name in (*SERVICES, "gateway")},
        }

    def replica_environment(self, part: str) -> dict[str, str]:
        """What a later replica of a service or worker gets besides: the ports that are its own."""
        service = service_of(part)
        own = {kind: f"{part}{kind.removeprefix(service)}" for kind in _kinds(service)} if part != service else {}
        return {port_variable(kind): str(self.ports[name]) for kind, name in own.items()}


def service_of(part: str) -> str:
    """What a process is a replica of: "jobs" for "jobs-2"."""
    name, _, number = part.rpartition("-")
    return name if number.isdecimal() else part


def port_variable(part: str) -> str:
    """The setting of a part's port: RAGWEAVE_JOBS_2_METRICS_PORT for "jobs-2 metrics"."""
    return PORTS[part][0] if part in PORTS else f"RAGWEAVE_{re.sub('[- ]', '_', part).upper()}_PORT"


def replica_ports(service: str, replicas: int) -> list[str]:
    """The parts that a service's later replicas, or workers, have ports as: "jobs-2", "jobs-2 metrics"."""
    numbers = range(2, replicas + 1)
    return [f"{service}-{n}{kind.removeprefix(service)}" for n in numbers for kind in _kinds(service)]


def _kinds(service: str) -> list[str]:
    """The parts of PORTS that are a service's."""
    return [part for part in PORTS if part in (service, f"{service} metrics")]


def _replicas(given: Mapping[str, str], host: str) -> dict[str, int]:
    found = {}
    for name in (*SERVICES, WORKER):
        variable = f"RAGWEAVE_{name.upper()}_REPLICAS"
        text = given.get(variable) or "1"
        if not text.isdecimal() or not 1 <= int(text) <= MOST_REPLICAS:
            raise BadSetting(f"{variable}: {text!r} is not a number of processes (1 to {MOST_REPLICAS})")
        if text != "1":
            found[name] = int(text)
    if "retrieval" in found and (given.get("RAGWEAVE_RETRIEVAL_STORE") or "edge") == "edge":
        raise BadSetting(
            "RAGWEAVE_RETRIEVAL_REPLICAS: the embedded index belongs to one process; set "
            "RAGWEAVE_RETRIEVAL_STORE=qdrant and RAGWEAVE_RETRIEVAL_QDRANT_URL, or leave it at 1"
        )
    if found.keys() - {WORKER} and not _is_ipv4(host):
        raise BadSetting(f"RAGWEAVE_HOST: replicas on this machine are found by an IPv4 address, and {host!r} is none")
    return found


def _ports(given: Mapping[str, str], replicas: Mapping[str, int]) -> dict[str, int]:
    ports = {part: _port(given, variable, default) for part, (variable, default) in PORTS.items()}
    for service, number in replicas.items():
        for part in replica_ports(service, number):
            name, _, kind = part.partition(" ")
            first = ports[f"{service} {kind}".strip()]
            apart = (int(name.rpartition("-")[2]) - 1) * _PORTS_APART
            ports[part] = _port(given, port_variable(part), first + apart)
    twice = {port for port in ports.values() if list(ports.values()).count(port) > 1}
    if twice:
        clash = ", ".join(f"{port_variable(part)}={port}" for part, port in ports.items() if port in twice)
        raise BadSetting(f"two parts have the same port: {clash}")
    return ports


def _port(given: Mapping[str, str], variable: str, default: int) -> int:
    text = given.get(variable) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise BadSetting(f"{variable}: {text!r} is not a port (1 to 65535)")
    return int(text)


def _is_ipv4(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 4
    except ValueError:
        return False


def _is_on(given: Mapping[str, str], variable: str) -> bool:
    text = (given.get(variable) or "").strip().lower()
    if text not in (*_ON, *_OFF):
        raise BadSetting(f"{variable}: {text!r} is neither on nor off")
    return text in _ON


def _mounted(given: Mapping[str, str], root: Path) -> CertificateFiles | None:
    variables = ("RAGWEAVE_TLS_CERT", "RAGWEAVE_TLS_KEY", "RAGWEAVE_TLS_CA")
    paths = [root / given[variable] for variable in variables if given.get(variable)]
    if not paths:
        return None
    if len(paths) < len(variables):
        missing = ", ".join(variable for variable in variables if not given.get(variable))
        raise BadSetting(f"certificates are mounted all together: {missing} is not set")
    return CertificateFiles(*paths)


def _hosts(given: Mapping[str, str]) -> tuple[str, ...]:
    """What others may call this machine: the addresses listened on, and RAGWEAVE_TLS_HOSTS."""
    listened = [given.get(variable) or "" for variable in ("RAGWEAVE_HOST", "RAGWEAVE_EDGE_HOST")]
    named = [each.strip() for each in (given.get("RAGWEAVE_TLS_HOSTS") or "").split(",")]
    return tuple(dict.fromkeys(each for each in (*listened, *named) if each and each not in EVERYWHERE))
