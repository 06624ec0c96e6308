"""What derives from what, and which settings are refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from services.mesh.settings import MeshSettings, ServiceSettings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("RAGWEAVE_")]:
        monkeypatch.delenv(name)


def test_files_derive_from_the_data_folder() -> None:
    mesh = MeshSettings(data_dir=Path("/srv/rw"))
    assert mesh.redis_url == "unix:///srv/rw/redis/redis.sock"
    assert mesh.jwks == "/srv/rw/keys/jwks.json"
    assert mesh.mesh_jwks == "/srv/rw/keys/mesh_jwks.json"
    assert mesh.mesh_key == Path("/srv/rw/keys/mesh.pem")


def test_the_data_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert MeshSettings().data_dir == tmp_path / ".ragweave"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_DATA_DIR", "/srv/rw")
    monkeypatch.setenv("RAGWEAVE_REDIS_URL", "redis://store:6379/1")
    monkeypatch.setenv("RAGWEAVE_EMBEDDING_TARGET", "dns:///embedding:50051")
    mesh = MeshSettings()
    assert (mesh.data_dir, mesh.redis_url) == (Path("/srv/rw"), "redis://store:6379/1")
    assert mesh.embedding_target == "dns:///embedding:50051"


def test_a_service_reads_its_own_prefix_and_the_shared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix="RAGWEAVE_LAMP_")
        port: int = 50099

    monkeypatch.setenv("RAGWEAVE_LAMP_PORT", "1234")
    monkeypatch.setenv("RAGWEAVE_HOST", "::1")
    settings = Settings()
    assert (settings.port, settings.metrics_port, settings.mesh.host) == (1234, 0, "::1")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        MeshSettings().host = "0.0.0.0"
    with pytest.raises(ValidationError):
        ServiceSettings().port = 1


def test_a_socket_path_the_system_would_cut_off_is_refused_saying_what_to_set() -> None:
    with pytest.raises(ValidationError, match="RAGWEAVE_REDIS_URL"):
        MeshSettings(data_dir=Path("/" + "d" * 100))
    assert MeshSettings(data_dir=Path("/" + "d" * 100), redis_url="unix:///tmp/r.sock").redis_url


@pytest.mark.parametrize(
    "given",
    [{"clock_skew_s": 61}, {"trace_sample_ratio": 2}, {"max_message_bytes": 1}, {"profile": "other"}, {"host": ""}],
)
def test_values_out_of_bounds_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MeshSettings(**given)


def test_every_setting_explains_itself() -> None:
    for kind in (MeshSettings, ServiceSettings):
        assert [name for name, field in kind.model_fields.items() if not field.description] == []
