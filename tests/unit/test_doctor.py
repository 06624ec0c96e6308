"""What doctor finds wrong with a machine and its mesh, each made wrong here, and how it says to mend it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from ragweave.doctor import code, keys, machine, mesh, ports
from ragweave.findings import Finding, Severity, error, from_lines, ok, to_lines, warning
from ragweave.local.health import Standing
from ragweave.local.keys import ensure_keys
from ragweave.local.layout import PORTS, Layout
from ragweave.v1.health_pb2 import Health
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout.read({"RAGWEAVE_DATA_DIR": str(tmp_path / "data")}, tmp_path)
    made.logs.mkdir(parents=True)
    return made


def one(findings: Iterable[Finding]) -> Finding:
    (found,) = findings
    assert found.severity is Severity.OK or (found.why and found.mend), "what is wrong is mended somehow"
    return found


def wrong(findings: Iterable[Finding]) -> Finding:
    return one(each for each in findings if each.severity is not Severity.OK)


def test_findings_travel_as_lines() -> None:
    several = [ok("fine"), warning("what", "why", "mend"), error("a\nb", "c", "d")]
    assert from_lines(to_lines(several)) == several


def test_an_older_python_is_named(layout: Layout) -> None:
    assert wrong(machine.software(layout, (3, 10))).what == "this is Python 3.10, and 3.11 or later is needed"


def test_a_store_that_is_not_installed_is_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "no redis-server" in wrong(machine.software(layout)).what


@pytest.mark.parametrize(
    ("free", "severity"), [(3 * GIB, Severity.OK), (GIB, Severity.WARNING), (GIB // 8, Severity.ERROR)]
)
def test_a_disk_that_is_nearly_full_is_told_before_it_is(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, free: int, severity: Severity
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))  # type: ignore[attr-defined]
    found = one(machine.disk(layout))
    assert found.severity is severity and str(layout.data) in found.what


def test_a_data_folder_that_is_not_there_yet_is_looked_at_where_it_would_be(tmp_path: Path) -> None:
    assert one(machine.disk(Layout.read({"RAGWEAVE_DATA_DIR": str(tmp_path / "a" / "b")}, tmp_path)))


@pytest.mark.parametrize(
    ("free", "severity"), [(4 * GIB, Severity.OK), (GIB // 2, Severity.WARNING), (GIB // 8, Severity.ERROR)]
)
def test_little_memory_is_told(tmp_path: Path, free: int, severity: Severity) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 8000000 kB\nMemAvailable: {free // 1024} kB\n")
    assert one(machine.memory(tmp_path / "meminfo")).severity is severity
    assert not list(machine.memory(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("allowed", "severity"),
    [(65536, Severity.OK), (-1, Severity.OK), (1024, Severity.WARNING), (256, Severity.ERROR)],
)
def test_a_low_limit_of_open_files_is_told_with_the_command_that_lifts_it(allowed: int, severity: Severity) -> None:
    found = one(machine.files(allowed))
    assert found.severity is severity
    assert severity is Severity.OK or "ulimit -n" in found.mend


def test_a_folder_of_somebody_else_is_told_with_the_command_that_hands_it_over(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not list(machine.folder(layout))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != layout.logs and real(path, mode))  # root may all
    found = one(machine.folder(layout))
    assert str(layout.logs) in found.what and found.mend == f"`sudo chown -R {os.getuid()} {layout.data}`"


def test_a_taken_port_is_told_with_who_has_it(layout: Layout) -> None:
    serve = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            port = int(other.stdout.readline())
            taken = Layout.read({"RAGWEAVE_JOBS_PORT": str(port), **free_ports(but="RAGWEAVE_JOBS_PORT")}, layout.root)
            found = wrong(ports.examine(taken))
        finally:
            other.kill()
    assert found.what.startswith(f"port {port} of jobs is taken, by pid {other.pid} ({sys.executable} -c import socket")
    assert "RAGWEAVE_JOBS_PORT" in found.mend
    assert one(ports.examine(Layout.read(free_ports(), layout.root))).what == "all ports are free"


def free_ports(but: str = "") -> dict[str, str]:
    """A setting of a free port for every part."""
    return {variable: str(free_port()) for variable, _ in PORTS.values() if variable != but}


def test_missing_keys_are_made_by_up_and_are_an_error_under_a_mesh_that_runs(layout: Layout) -> None:
    for running, severity in ((False, Severity.WARNING), (True, Severity.ERROR)):
        for found in keys.examine(layout, running=running):
            assert (found.severity, "missing" in found.what, "ragweave up" in found.mend) == (severity, True, True)
    ensure_keys(layout.keys)
    assert [each.severity for each in keys.examine(layout, running=True)] == [Severity.OK] * 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mesh.pem", b"nonsense", "mesh.pem holds no key that can be read"),
        ("mesh.pem", None, "mesh.pem is missing"),
        ("mesh_jwks.json", b"{}", "mesh_jwks.json holds no keys that can be read"),
        ("mesh_jwks.json", b'{"keys": [{"x": "another"}]}', "mesh_jwks.json does not hold the public half of"),
        ("dev.pem", b"", "dev.pem holds no key that can be read"),
    ],
)
def test_keys_that_do_not_serve_are_named(layout: Layout, name: str, content: bytes | None, said: str) -> None:
    ensure_keys(layout.keys)
    if content is None:
        (layout.keys / name).unlink()
    else:
        (layout.keys / name).write_bytes(content)
    assert said in wrong(keys.examine(layout, running=True)).what


def test_generated_code_that_is_not_what_the_protos_say_is_named(tmp_path: Path) -> None:
    """Beside a generator that makes what is there, less what is changed here: the real one takes a second."""
    for folder in ("ragweave/v1", "ragweave/internal/v1", "protos"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ragweave/v1/job_pb2.py").write_text("1")
    make = "import sys, pathlib; f = pathlib.Path(sys.argv[1], 'ragweave/v1'); f.mkdir(parents=True)\n"
    (tmp_path / "protos/generate.py").write_text(make + "(f / 'job_pb2.py').write_text('1')")
    assert one(code.stubs(tmp_path)).severity is Severity.OK
    (tmp_path / "ragweave/v1/job_pb2.py").write_text("2")
    (tmp_path / "ragweave/v1/gone_pb2_grpc.pyi").touch()
    found = one(code.stubs(tmp_path))
    assert (
        found.what.endswith("ragweave/v1/gone_pb2_grpc.pyi, ragweave/v1/job_pb2.py") and found.mend == "`make protos`"
    )
    (tmp_path / "protos/generate.py").write_text("import sys; sys.exit('job.proto:1: no')")
    assert one(code.stubs(tmp_path)).what == "the protos do not compile: job.proto:1: no"
    shutil.rmtree(tmp_path / "protos")
    assert not list(code.stubs(tmp_path))


def test_an_installation_of_another_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "ragweave"\nversion = "99.0"')
    found = one(code.version(tmp_path))
    assert "the checkout is 99.0" in found.what and found.mend == "`make install`"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\nversion = "1"')
    assert not list(code.version(tmp_path))
    assert one(code.version(ROOT)).severity is Severity.OK


def standing(name: str = "jobs", **given: Any) -> Standing:
    known = {"state": "serving", "pid": 1, "restarts": 0, "started_at": 1000.0, "address": "", "last_exit": ""}
    return Standing(name=name, **{**known, **given})


def test_processes_that_began_before_the_code_was_changed_are_named(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "a.py").touch()
    os.utime(tmp_path / "services" / "a.py", (2000, 2000))
    found = one(code.running(tmp_path, [standing(), standing("new", started_at=3000.0), standing("down", pid=0)]))
    assert found.what.startswith("jobs began before services/a.py was changed")
    assert not list(code.running(tmp_path, [standing(started_at=3000.0)]))


def test_a_process_that_is_down_or_keeps_ending_is_named_with_its_last_words(layout: Layout) -> None:
    (layout.logs / "jobs.log").write_text("starting\nport 50054 (jobs) is taken\n\n")
    down = standing(state="down", pid=0)
    assert wrong(mesh.processes(layout, [down, standing("system", pid=0)])).what == "jobs is down"
    looping = standing(restarts=7, started_at=1000.0, last_exit="exited with 1", pid=0, state="down")
    found = one(mesh.processes(layout, [looping], now_s=1005.0))
    assert found.what == "jobs keeps ending: started 8 times, last exited with 1"
    assert found.why.endswith("port 50054 (jobs) is taken") and found.mend == "`ragweave logs jobs`"
    steady = standing(restarts=7, started_at=1000.0, pid=0)
    assert one(mesh.processes(layout, [steady], now_s=5000.0)).severity is Severity.OK


def test_a_process_that_has_used_up_its_files_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "17" / "fd"
    folder.mkdir(parents=True)
    (tmp_path / "17" / "limits").write_text("Limit  Soft Limit\nMax open files            10         20       files\n")
    for number in range(8):
        (folder / str(number)).touch()
    assert not list(mesh.files(standing(pid=17), tmp_path))
    (folder / "8").touch()
    assert one(mesh.files(standing(pid=17), tmp_path)).what == "jobs has 9 of 10 files open"


def span(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def health(**process: Any) -> Health:
    whole = {"name": "jobs", "state": Health.SERVING, "uptime": span(9), "version": "1"}
    return Health(services=[Health.Service(name="jobs", processes=[Health.Process(**{**whole, **process})])])


def test_a_healthy_deployment_has_no_findings() -> None:
    fine = Health.Dependency(name="redis", state=Health.SERVING, breaker=Health.Breaker(state=Health.Breaker.CLOSED))
    busy = Health.Queue(name="jobs", depth=500, leased=4, oldest_age=span(9000))
    assert not list(mesh.reported(health(dependencies=[fine], queues=[busy])))


def test_what_processes_lack_is_told_and_what_they_do_without_is_no_error() -> None:
    gone = Health.Dependency(name="redis", state=Health.DOWN, required=True, error="redis does not answer")
    found = one(mesh.reported(health(dependencies=[gone])))
    assert (found.severity, found.what) == (Severity.ERROR, "jobs cannot reach redis: redis does not answer")
    gone.required = False
    assert one(mesh.reported(health(dependencies=[gone]))).severity is Severity.WARNING


def test_an_open_breaker_is_told_with_why_it_opened() -> None:
    breaker = Health.Breaker(state=Health.Breaker.OPEN, failures=5, last_error="ConnectionError")
    gone = Health.Dependency(name="vector store", state=Health.DOWN, breaker=breaker)
    found = one(mesh.reported(health(dependencies=[gone])))
    assert found.what == "jobs leaves vector store alone: its breaker is open after 5 failures"
    assert "ConnectionError" in found.why


def test_jobs_that_are_stuck_are_told() -> None:
    held = Health.Queue(name="jobs", depth=1, leased=2, late_leases=2, longest_silence=span(400))
    assert "held by a worker that has been silent for 400 s" in one(mesh.reported(health(queues=[held]))).what
    idle = Health.Queue(name="jobs", depth=3, oldest_age=span(600))
    assert one(mesh.reported(health(queues=[idle]))).what == "3 jobs wait, the oldest for 10 min"
    late = Health.Queue(name="jobs", depth=1, leased=2, late_leases=2, longest_silence=span(30))
    assert not list(mesh.reported(health(queues=[late]))), "somebody will take them over"


def test_a_process_that_does_not_answer_and_one_of_another_version_are_told() -> None:
    told = health()
    told.services[0].processes.add(name="jobs-2", state=Health.DOWN, error="does not answer within 0.7 s")
    assert one(mesh.reported(told)).what == "jobs-2 does not answer within 0.7 s"
    told = health()
    told.services[0].processes.add(name="jobs-2", state=Health.SERVING, uptime=span(1), version="2")
    assert one(mesh.reported(told)).what == "the processes run 2 versions: 1, 2"


def test_a_listener_of_another_user_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text("head\n 0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4711 1\n")
    (tmp_path / "17" / "fd").mkdir(parents=True)
    os.symlink("socket:[4711]", tmp_path / "17" / "fd" / "3")
    (tmp_path / "17" / "cmdline").write_bytes(b"nc\0-l\0")
    assert ports.listener(8080, tmp_path) == "pid 17 (nc -l)"
    (tmp_path / "17" / "fd" / "3").unlink()
    assert ports.listener(8080, tmp_path) == ""
