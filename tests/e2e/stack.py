"""The whole mesh as its users have it: real processes behind Envoy, started and stopped by the `ragweave` command."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragweave import Client
from ragweave.certificates import OPERATOR
from ragweave.cli.console import edge_credentials
from ragweave.local.health import standings
from ragweave.local.keys import sign_token
from ragweave.local.layout import PORTS, SERVICES, WORKER, Layout, port_variable, replica_ports
from ragweave.local.processes import processes
from ragweave.local.supervisor import read_state, supervisor_pid
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PREFIX = "/api/v1/rag"
PATIENCE_S = 90.0
# Whether every mesh of the run has TLS on; `make test-tls`.
TLS = Layout.read().tls
# Which process serves what.
OWNER = {
    "CollectionService": "collections",
    "DocumentService": "collections",
    "RetrievalService": "retrieval",
    "CacheService": "retrieval",
    "EmbeddingService": "embedding",
    "ModelService": "embedding",
    "EvaluationService": "retrieval",
    "EventService": "jobs",
    "JobService": "jobs",
    "SystemService": "system",
    "DirectoryService": "collections",
    "WebhookService": "jobs",
}
# The tests' own tier, of more calls than they make; `ragweave demo` keeps the tier, and so the limits, of its users.
TIER = "tests"

# Settings of a mesh that nobody asks any more when it stops: its services need not wait for the edge to look elsewhere,
# nor for calls in flight.
UNASKED = {"RAGWEAVE_DRAIN_S": "0", "RAGWEAVE_GRACE_S": "1"}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: status, headers in lower case, and the body, parsed where it is JSON."""

    status: int
    headers: dict[str, str]
    body: Any


class Mesh:
    """One mesh in a folder of its own, on free ports; with TLS where RAGWEAVE_TLS is on or the settings say so."""

    def __init__(self, folder: Path, **settings: str) -> None:
        ports = {variable: str(free_port()) for variable, _ in PORTS.values()}
        for name in (*SERVICES, WORKER):
            for part in replica_ports(name, int(settings.get(f"RAGWEAVE_{name.upper()}_REPLICAS", "1"))):
                ports[port_variable(part)] = str(free_port())
        limits = json.dumps({name: {TIER: 10_000_000} for name in ("SEARCH", "READ", "WRITE", "INGEST", "ADMIN")})
        self.settings = {
            **ports,
            "RAGWEAVE_DATA_DIR": str(folder),
            "RAGWEAVE_EDGE_RATE_LIMITS": limits,
            "RAGWEAVE_RETRIEVAL_USAGE_INTERVAL_S": "0.5",
            "RAGWEAVE_TLS": "on" if TLS else "off",
            **settings,
        }
        self.layout = Layout.read(self.settings, ROOT)
        self.edge = self.layout.address("edge")

    def ragweave(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs the command as a user of this mesh would."""
        done = subprocess.run(
            [BIN / "ragweave", *arguments],
            env={**os.environ, **self.settings},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 5,
        )
        if check and done.returncode:
            raise AssertionError(
                f"ragweave {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def shell(self, lines: str) -> subprocess.CompletedProcess[str]:
        """Runs lines of a shell as a user of this mesh would; the first that fails ends them."""
        return subprocess.run(
            ["/bin/bash", "-e", "-o", "pipefail", "-c", lines],
            env={**os.environ, **self.settings},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def token(self, role: str = "admin", tenant: str = "default", *, tier: str = TIER, **claims: Any) -> str:
        """A development token."""
        return sign_token(
            self.layout.keys, tenant=tenant, subject=claims.pop("subject", "tester"), roles=[role], tier=tier, **claims
        )

    def client(self, **claims: Any) -> Client:
        """A client of the edge."""
        return Client(self.edge, token=self.token(**claims), credentials=edge_credentials(self.layout))

    def rest(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "",
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One HTTP call through the edge. `token`: "" is an admin's, None is none. `body`: bytes go as they are."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.layout.url}{path}", data=data, method=method, headers=headers or {})
        if data is not None:
            request.add_header("content-type", content_type)
        if token is not None:
            request.add_header("authorization", f"Bearer {token or self.token()}")
        try:
            with urllib.request.urlopen(request, timeout=60, context=self._trust()) as response:
                return _answer(response)
        except urllib.error.HTTPError as error:
            return _answer(error)

    def grpcurl(self, target: str, method: str, body: Any = None, *, token: str | None = "") -> tuple[int, Any]:
        """One call by reflection: (exit status, parsed answer or error text)."""
        command = [str(BIN / "grpcurl"), *self.grpcurl_trust(target), "-emit-defaults"]
        if token is not None:
            command += ["-H", f"authorization: Bearer {token or self.token()}"]
        command += ["-d", json.dumps(body or {}), target, method]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return (done.returncode, json.loads(done.stdout)) if done.returncode == 0 else (done.returncode, done.stderr)

    def grpcurl_trust(self, target: str) -> list[str]:
        """grpcurl's options for TLS: at a service's own port it shows the operator's certificate."""
        if not self.layout.tls:
            return ["-plaintext"]
        files = self.layout.certificate(OPERATOR)
        shown = [] if target == self.edge else ["-cert", str(files.certificate), "-key", str(files.key)]
        return ["-cacert", str(files.authority), *shown]

    def _trust(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.layout.edge_authority) if self.layout.https else None

    def names(self) -> list[str]:
        """What its processes are called."""
        return list(read_state(self.layout)["processes"])

    def pid(self, name: str) -> int:
        """The pid of a process, 0 while it is down."""
        return int(read_state(self.layout)["processes"][name]["pid"])

    def kill(self, name: str) -> int:
        """SIGKILL to one process, once it runs; returns the pid it had."""
        until = time.monotonic() + PATIENCE_S
        while not (pid := self.pid(name)):  # to kill 0 is to kill one's own
            assert time.monotonic() < until, f"{name} does not run"
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_ready(self) -> None:
        """Waits until every process serves."""
        until = time.monotonic() + PATIENCE_S
        while True:
            now = standings(self.layout, processes(self.layout))
            if all(each.ready for each in now):
                return
            if time.monotonic() > until:
                raise AssertionError(f"not ready: {[(each.name, each.state) for each in now if not each.ready]}")
            time.sleep(0.1)

    def start(self) -> None:
        """`ragweave up`."""
        self.ragweave("up")

    def stop(self) -> None:
        """`ragweave down`; then nothing of the mesh may be left."""
        pids = self.pids()
        self.ragweave("down")
        left = [pid for pid in pids if _alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left running after `down`: {left}"

    def pids(self) -> list[int]:
        """Every process of the mesh, its watchers included."""
        state = read_state(self.layout)
        ours = [int(each["pid"]) for each in state.get("processes", {}).values()]
        return [pid for pid in (*ours, int(state.get("guard", 0)), supervisor_pid(self.layout)) if pid]

    def kill_everything(self) -> None:
        """SIGKILL to the watchers first, then to all processes."""
        pids = self.pids()
        for pid in sorted(pids, key=lambda pid: pid in [int(p["pid"]) for p in self._processes()]):
            os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + PATIENCE_S
        while any(_alive(pid) for pid in pids):
            assert time.monotonic() < until
            time.sleep(0.02)

    def _processes(self) -> list[dict[str, Any]]:
        return list(read_state(self.layout)["processes"].values())


def _answer(response: Any) -> Answer:
    raw = response.read()
    headers = {name.lower(): value for name, value in response.headers.items()}
    kind = headers.get("content-type", "")
    return Answer(response.status, headers, json.loads(raw) if kind.startswith("application/json") and raw else raw)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
