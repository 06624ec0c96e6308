"""Ports that the mesh is to listen on: free, or taken, and by whom."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ragweave.findings import Finding, error, ok
from ragweave.local.health import taken_ports
from ragweave.local.layout import Layout, port_variable

_LISTENING = "0A"  # TCP_LISTEN of the kernel's tcp_states.h


def examine(here: Layout) -> Iterator[Finding]:
    """Of a mesh that does not run: whatever listens is somebody else."""
    taken = taken_ports(here)
    for part in taken:
        number = here.ports[part]
        by = f", by {who}" if (who := listener(number)) else ""
        mend = f"end that, or set {port_variable(part)} to a port that is free"
        yield error(f"port {number} of {part} is taken{by}", "the mesh does not start", mend)
    if not taken:
        yield ok("all ports are free")


def listener(port: int, proc: Path = Path("/proc")) -> str:
    """Who listens on a TCP port, as `pid 17 (python -m http.server)`; empty where the kernel does not tell us."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    for folder in proc.glob("[0-9]*") if sockets else ():
        with contextlib.suppress(OSError):
            if any(os.readlink(link) in sockets for link in (folder / "fd").iterdir()):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                return f"pid {folder.name} ({line[:80] or (folder / 'comm').read_text().strip()})"
    return ""


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
