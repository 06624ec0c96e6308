"""What the local mesh's processes say of themselves: serving or not, memory, ports."""

import contextlib
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave.certificates import OPERATOR
from ragweave.local.layout import Layout, port_variable
from ragweave.local.processes import Process
from ragweave.local.supervisor import read_state, start_ticks, supervisor_pid

_PROBE_S = 2.0


@dataclass(frozen=True)
class Standing:
    """How one process is.

    Attributes:
        state: "serving", "not serving", "starting", "silent" (it takes calls and answers none) or "down".
    """

    name: str
    state: str
    pid: int
    restarts: int
    started_at: float
    address: str
    last_exit: str

    @property
    def ready(self) -> bool:
        return self.state == "serving"


def standings(layout: Layout, all_processes: list[Process]) -> list[Standing]:
    """How every process is, in starting order."""
    recorded = read_state(layout).get("processes", {}) if supervisor_pid(layout) else {}
    found = []
    for process in all_processes:
        entry = recorded.get(process.name, {})
        pid = int(entry.get("pid") or 0)
        if pid and start_ticks(pid) != entry.get("start_ticks"):
            pid = 0
        found.append(
            Standing(
                name=process.name,
                state=process_state(layout, process) if pid else "down",
                pid=pid,
                restarts=int(entry.get("restarts") or 0),
                started_at=float(entry.get("started_at") or 0),
                address=process.address,
                last_exit=str(entry.get("last_exit") or ""),
            )
        )
    return found


def memory_bytes(pid: int) -> int:
    """Proportional share of memory (PSS) of a process and of everything in its session; each of ours leads one."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(folder.name)) == pid:
                for line in (folder / "smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
    return total


def taken_ports(layout: Layout) -> dict[str, str]:
    """Parts whose port something else listens on, each with a sentence that says so and which setting to change."""
    taken = {}
    for part, port in layout.ports.items():
        with socket.socket(socket.AF_INET6 if ":" in layout.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((layout.host, port))
            except OSError as error:
                taken[part] = f"port {port} ({part}) on {layout.host}: {error.strerror}; set {port_variable(part)}"
    return taken


def process_state(layout: Layout, process: Process) -> str:
    """What a process that runs says of itself: "serving", "not serving" or "starting"."""
    if process.name == "redis":
        return "serving" if _redis_answers(layout) else "starting"
    if process.name == "envoy":
        return _edge_state(layout)
    if process.name == "gateway":
        return _gateway_state(layout, process)
    if not process.address:
        return "serving"
    return _grpc_state(layout, process)


def _grpc_state(layout: Layout, process: Process) -> str:
    try:
        opened = _channel(layout, process)
    except OSError:  # its certificates are not there yet
        return "starting"
    with opened as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(), timeout=_PROBE_S
            )
        except grpc.RpcError as error:
            hangs = isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return "silent" if hangs else "starting"
    return "serving" if answer.status == health_pb2.HealthCheckResponse.SERVING else "not serving"


def _channel(layout: Layout, process: Process) -> grpc.Channel:
    """A channel to a process's own port, which with TLS on asks for a certificate. Raises OSError without one."""
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if not layout.tls:
        return grpc.insecure_channel(process.address, options=options)
    files = layout.certificate(OPERATOR)
    shown = grpc.ssl_channel_credentials(
        files.authority.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    if name := layout.server_name(process.role):
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(process.address, shown, options=options)


def _gateway_state(layout: Layout, process: Process) -> str:
    """As the edge asks it: by HTTP, with TLS on as the edge's peer would."""
    try:
        trust = _http_trust(layout, process)
        url = f"{'https' if trust else 'http'}://{process.address}/healthz"
        urllib.request.urlopen(url, timeout=_PROBE_S, context=trust).close()  # noqa: S310 - http or https
    except urllib.error.HTTPError:
        return "not serving"
    except OSError:  # its certificates are not there yet, or nobody listens
        return "starting"
    return "serving"


def _http_trust(layout: Layout, process: Process) -> ssl.SSLContext | None:
    """What an HTTPS client of a process's own port shows and trusts; None where it speaks plain HTTP."""
    if not layout.tls:
        return None
    files = layout.certificate(OPERATOR)
    trust = ssl.create_default_context(cafile=files.authority)
    trust.load_cert_chain(files.certificate, files.key)
    # The CA is the mesh's own, and the address may be no name of a mounted certificate.
    trust.check_hostname = not layout.mounted
    return trust


def _edge_state(layout: Layout) -> str:
    """Serving when Envoy is live and has a healthy host in every cluster."""
    url = f"http://{layout.address('edge admin')}/clusters?format=json"
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_S) as response:
            clusters = json.load(response)["cluster_statuses"]
    except (OSError, ValueError):
        return "starting"
    for cluster in clusters:
        hosts = cluster.get("host_statuses", [])
        if not any(_healthy(host.get("health_status", {})) for host in hosts):
            return "not serving"
    return "serving"


def _healthy(status: dict[str, object]) -> bool:
    bad = ("failed_active_health_check", "failed_outlier_check", "pending_active_hc")
    return status.get("eds_health_status", "HEALTHY") == "HEALTHY" and not any(status.get(flag) for flag in bad)


def _redis_answers(layout: Layout) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(layout.redis_socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False
