"""What doctor names as weak, and what production refuses to start with."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ragweave.local.authority import LEAF_DAYS, ensure_certificates
from ragweave.local.keys import ensure_keys
from ragweave.local.layout import Layout
from ragweave.local.processes import Process, processes
from services.mesh.edge_settings import EdgeSettings
from services.mesh.settings import MeshSettings
from services.mesh.weaknesses import refused, weaknesses
from tests.mesh.harness import jwks, new_key

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAGWEAVE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as `ragweave up` makes it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    ensure_keys(folder / "keys")
    return folder


@pytest.fixture
def mounted(tmp_path: Path) -> dict[str, Any]:
    """Keys that nobody made for development."""
    user, mesh = new_key(), new_key()
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "jwks.json").write_text(jwks(user))
    (folder / "mesh_jwks.json").write_text(jwks(mesh))
    (folder / "mesh.pem").write_bytes(mesh.as_pem(private=True))
    (folder / "mesh.pem").chmod(0o600)
    return {
        "jwks": str(folder / "jwks.json"),
        "mesh_jwks": str(folder / "mesh_jwks.json"),
        "mesh_key": folder / "mesh.pem",
    }


def named(data: Path, *, now: datetime | None = None, edge: dict[str, Any] | None = None, **mesh: Any) -> list[str]:
    """What is weak, each as one sentence."""
    settings = EdgeSettings(mesh=MeshSettings(data_dir=data, **mesh), **(edge or {}))
    return [str(each) for each in weaknesses(settings, now)]


def refusals(data: Path, *, edge: dict[str, Any] | None = None, **mesh: Any) -> list[str]:
    settings = EdgeSettings(mesh=MeshSettings(data_dir=data, profile="production", **mesh), **(edge or {}))
    return [str(each) for each in refused(settings)]


def test_a_fresh_mesh_on_loopback_is_weak_by_its_development_keys_alone(data: Path) -> None:
    assert named(data) == [
        f"user tokens are verified with a development key ({data}/keys/jwks.json); set RAGWEAVE_JWKS to the keys of "
        "your identity provider",
        f"service tokens are signed with a development key ({data}/keys/mesh.pem); mount a key and its JWKS and set "
        "RAGWEAVE_MESH_KEY and RAGWEAVE_MESH_JWKS",
    ]
    assert refused(MeshSettings(data_dir=data)) == [], "development refuses nothing"


def test_mounted_keys_on_loopback_are_fit_for_production(data: Path, mounted: dict[str, Any]) -> None:
    assert refusals(data, **mounted) == []
    assert named(data, **mounted) == []


def test_production_refuses_development_keys_and_listening_in_the_clear_all_at_once(data: Path) -> None:
    said = refusals(data, host="0.0.0.0", edge={"host": "::"})
    assert [each.partition(";")[0] for each in said] == [
        f"user tokens are verified with a development key ({data}/keys/jwks.json)",
        f"service tokens are signed with a development key ({data}/keys/mesh.pem)",
        "the services listen on 0.0.0.0 without TLS",
        "the edge listens on :: without TLS",
    ]
    assert all(";" in each for each in said), "each says how to mend it"


def test_a_development_key_is_recognised_wherever_it_was_copied(data: Path, mounted: dict[str, Any]) -> None:
    copied = Path(mounted["jwks"])
    copied.write_bytes((data / "keys" / "jwks.json").read_bytes())
    assert "development key" in refusals(data, **mounted)[0]
    copied.write_text(copied.read_text().replace('"ragweave": "development"', '"ragweave": "mine"'))
    assert "development key" in refusals(data, **mounted)[0], "by the key itself, where its mark was removed"
    elsewhere = data.parent / "elsewhere"
    ensure_keys(elsewhere / "keys")
    copied.write_bytes((elsewhere / "keys" / "jwks.json").read_bytes())
    assert "development key" in refusals(data, **mounted)[0], "by its mark, where another machine made it"


@pytest.mark.parametrize("name", ["jwks", "mesh_key", "mesh_jwks"])
def test_production_refuses_keys_that_are_not_there(data: Path, mounted: dict[str, Any], name: str) -> None:
    (said,) = refusals(data, **{**mounted, name: type(mounted[name])(data / "nothing")})
    assert str(data / "nothing") in said


def test_with_tls_the_mesh_may_listen_everywhere(data: Path, mounted: dict[str, Any]) -> None:
    assert refusals(data, tls=True, host="0.0.0.0", edge={"host": "0.0.0.0"}, **mounted) == []


@pytest.mark.parametrize(
    ("mesh", "edge", "said"),
    [
        ({"host": "10.0.0.1"}, {}, "the services listen on 10.0.0.1 without TLS"),
        ({}, {"host": "10.0.0.1"}, "the edge listens on 10.0.0.1 without TLS"),
        ({}, {"admin_host": "0.0.0.0"}, "Envoy's admin page, which can stop it, listens on 0.0.0.0"),
        ({"tls": True}, {"host": "10.0.0.1"}, "whoever reaches this machine may search the PUBLIC collections"),
        ({"clock_skew_s": 45}, {}, "tokens are taken up to 45 s after they expired"),
        ({"redis_url": "redis://:pw@store.example/0"}, {}, "RAGWEAVE_REDIS_URL reaches store.example without TLS"),
        ({"jwks": "http://idp.example/jwks"}, {}, "RAGWEAVE_JWKS reaches idp.example without TLS"),
        ({"otlp_endpoint": "http://otel.example:4317"}, {}, "RAGWEAVE_OTLP_ENDPOINT reaches otel.example without TLS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weak_settings_are_named(
    data: Path, mounted: dict[str, Any], mesh: dict[str, Any], edge: dict[str, Any], said: str
) -> None:
    found = named(data, edge=edge, **{**mounted, **mesh})
    assert any(each.startswith(said) for each in found), found
    assert "pw" not in " ".join(found)


@pytest.mark.parametrize(
    ("mesh", "edge"),
    [
        ({"tls": True, "anonymous": False, "host": "0.0.0.0"}, {"host": "0.0.0.0"}),
        ({"redis_url": "rediss://store.example/0", "jwks": "https://idp.example/jwks"}, {}),
        ({"redis_url": "redis://127.0.0.1:6379", "otlp_endpoint": "http://localhost:4317"}, {"host": "::1"}),
    ],
)
def test_sound_settings_are_not(
    data: Path, mounted: dict[str, Any], mesh: dict[str, Any], edge: dict[str, Any]
) -> None:
    assert named(data, edge=edge, **{**mounted, **mesh}) == []


def test_files_open_to_others_are_named_with_the_command_that_closes_them(data: Path, mounted: dict[str, Any]) -> None:
    ensure_certificates(data / "tls", ["jobs"])
    opened = [data / "keys" / "dev.pem", data / "tls" / "jobs.key", data / "tls" / "authority" / "ca.key"]
    for path in opened:
        path.chmod(0o640)
    data.chmod(0o755)
    found = named(data, tls=True, **mounted)
    assert f"{data}, which holds everything, has mode 755; `chmod 700 {data}`" in found
    for path in opened:
        assert f"{path}, a private key, has mode 640; `chmod 600 {path}`" in found
    assert len(found) == 1 + len(opened)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (timedelta(days=LEAF_DAYS + 1), "ended on"),
        (timedelta(days=LEAF_DAYS - 3), "ends on"),
        (timedelta(days=-2), "later than now"),
    ],
    ids=["ended", "ends soon", "not yet"],
)
def test_certificates_out_of_their_time_are_named(
    data: Path, mounted: dict[str, Any], after: timedelta, said: str
) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    ensure_certificates(data / "tls", ["jobs"], now=now)
    found = named(data, tls=True, now=now + after, **mounted)
    assert [each for each in found if said in each and "jobs.crt" in each], found


# The gateway serves pages alone, and knows no keys.
MINE = [each for each in processes(Layout.read({}, ROOT)) if each.role and each.name != "gateway"]


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("RAGWEAVE_")}, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**env, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("process", MINE, ids=lambda process: process.name)
def test_no_process_starts_in_production_with_development_keys(data: Path, process: Process) -> None:
    command = [word.replace(str(ROOT / ".ragweave"), str(data)) for word in process.command[1:]]
    done = run(command, data.parent, RAGWEAVE_DATA_DIR=str(data), RAGWEAVE_PROFILE="production")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = [line.partition(" are ")[0] for line in done.stderr.splitlines()]
    assert said == [f"{process.role}: user tokens", f"{process.role}: service tokens"]


def test_up_refuses_as_the_processes_do_and_makes_no_keys(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    environment = {"RAGWEAVE_DATA_DIR": str(folder), "RAGWEAVE_PROFILE": "production", "RAGWEAVE_HOST": "0.0.0.0"}
    done = run(["-c", "from ragweave.cli import app; app(['up'])"], ROOT, **environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for said in ("user tokens", "service tokens", "without TLS"):
        assert said in done.stderr
    assert not (folder / "keys").exists()
