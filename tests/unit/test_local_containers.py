"""What containers start with and are asked by: `ragweave keys`, and the probe of the process inside."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragweave.certificates import EDGE, CertificateFiles
from ragweave.cli import app
from ragweave.local import probe
from tests.ports import free_port


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of an environment such as compose.yaml gives."""
    monkeypatch.setenv("RAGWEAVE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RAGWEAVE_REDIS_URL", "redis://redis:6379/0")
    monkeypatch.setenv("RAGWEAVE_TLS", "on")
    return tmp_path / "data"


def test_keys_are_made_once_for_all_processes(data: Path) -> None:
    assert CliRunner().invoke(app, ["keys"]).exit_code == 0
    made = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    for role in ("gateway", "worker", EDGE):
        assert CertificateFiles.local(data / "tls", role).certificate in made
    assert data / "keys" / "mesh.pem" in made
    assert CliRunner().invoke(app, ["keys"]).exit_code == 0
    assert {path: path.read_bytes() for path in made} == made


def test_in_production_certificates_are_made_and_no_key_is(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_PROFILE", "production")
    assert CliRunner().invoke(app, ["keys"]).exit_code == 0
    assert (data / "tls" / f"{EDGE}.crt").exists()
    assert not (data / "keys").exists()


@pytest.mark.parametrize("process", ["collections", "gateway", "envoy"])
def test_a_process_that_does_not_answer_is_not_well(process: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CliRunner().invoke(app, ["keys"])
    part = "edge_admin" if process == "envoy" else process
    monkeypatch.setenv(f"RAGWEAVE_{part.upper()}_PORT", str(free_port()))
    monkeypatch.setenv("RAGWEAVE_PROCESS", process)
    assert probe.main() == 1


def test_what_answers_nobody_is_well_while_it_runs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAGWEAVE_PROCESS", raising=False)
    assert probe.main() == 0


def test_a_setting_that_is_none_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAGWEAVE_JOBS_PORT", "x")
    assert probe.main() == 1
    assert "RAGWEAVE_JOBS_PORT" in capsys.readouterr().out
