"""The gateway as a process of its own: mutual TLS, certificates that change, and its end."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragweave.certificates import EDGE, CertificateFiles
from ragweave.local.authority import ensure_certificates
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(folder: Path, port: int, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """The process, once it serves; its log follows on stderr."""
    environment = {**os.environ, "RAGWEAVE_DATA_DIR": str(folder), "RAGWEAVE_GATEWAY_PORT": str(port), **settings}
    command = [sys.executable, "-m", "gateway"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        said(process, "serving")
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str], event: str) -> str:
    """Reads the log up to an event; returns its line."""
    assert process.stderr
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["event"] == event:
            return line
    raise AssertionError(f"the process ended without saying {event!r}")


def edge_trust(folder: Path) -> ssl.SSLContext:
    files = CertificateFiles.local(folder / "tls", EDGE)
    trust = ssl.create_default_context(cafile=files.authority)
    trust.load_cert_chain(files.certificate, files.key)
    return trust


def get(port: int, trust: ssl.SSLContext | None) -> int:
    url = f"{'https' if trust else 'http'}://127.0.0.1:{port}/docs"
    with urllib.request.urlopen(url, timeout=30, context=trust) as answer:
        return int(answer.status)


def serial(port: int, trust: ssl.SSLContext) -> str:
    """The serial number of the certificate that is shown."""
    with socket.create_connection(("127.0.0.1", port), 30) as plain, trust.wrap_socket(plain) as secured:
        shown = secured.getpeercert()
    assert shown
    return str(shown["serialNumber"])


def test_with_tls_on_only_who_has_a_certificate_of_the_mesh_is_answered_and_new_ones_are_taken_over(
    tmp_path: Path,
) -> None:
    tls, port = tmp_path / "tls", free_port()
    ensure_certificates(tls, ["gateway", EDGE])
    with running(tmp_path, port, RAGWEAVE_TLS="on", RAGWEAVE_GATEWAY_CERTIFICATES_LOOK_S="0.1") as process:
        trust = edge_trust(tmp_path)
        trust.check_hostname = False
        assert get(port, trust) == 200
        stranger = ssl.create_default_context(cafile=tls / "ca.crt")
        stranger.check_hostname = False
        with pytest.raises(OSError):
            get(port, stranger)
        before = serial(port, trust)
        (tls / "gateway.key").write_text("no key")
        said(process, "certificates cannot be used; the earlier ones go on serving")
        assert get(port, trust) == 200
        ensure_certificates(tls, ["gateway", EDGE])
        said(process, "certificates read anew")
        while serial(port, trust) == before:  # until who had the old ones has left
            pass
        assert get(port, trust) == 200


def test_it_says_that_it_is_not_well_before_it_goes_and_then_ends_by_itself(tmp_path: Path) -> None:
    port, heartbeat = free_port(), tmp_path / "heartbeat"
    with running(tmp_path, port, RAGWEAVE_DRAIN_S="0", RAGWEAVE_HEARTBEAT_FILE=str(heartbeat)) as process:
        assert get(port, None) == 200
        assert heartbeat.exists()
        process.send_signal(signal.SIGTERM)
        said(process, "draining")
        said(process, "stopped")
        assert process.wait(30) == 0


def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {
            **os.environ,
            "RAGWEAVE_DATA_DIR": str(tmp_path),
            "RAGWEAVE_GATEWAY_PORT": str(taken.getsockname()[1]),
        }
        done = subprocess.run(
            [sys.executable, "-m", "gateway"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert "RAGWEAVE_GATEWAY_PORT" in done.stderr
