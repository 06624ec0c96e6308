"""No settings class gives away what it was given, in an error or in its own text."""

import importlib
import os
import pkgutil
import traceback
from collections.abc import Iterator

import pytest
import redis.asyncio
from pydantic_settings import BaseSettings

import services
from services.mesh.settings import BadSettings, MeshSettings, read

CANARY = "sw0rdfish"


def _kinds() -> Iterator[type[BaseSettings]]:
    """Every settings class of the services."""
    for found in pkgutil.walk_packages(services.__path__, "services."):
        if found.name.rpartition(".")[2].endswith("settings"):
            module = importlib.import_module(found.name)
            for kind in vars(module).values():
                if isinstance(kind, type) and issubclass(kind, BaseSettings) and kind.__module__ == found.name:
                    yield kind


BROKEN = (f"{CANARY}\t", f"[{CANARY}", f"redis://:{CANARY}#1@host", f"postgresql://a:[{CANARY}@h:{CANARY}/x")
KINDS = list(_kinds())


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAGWEAVE_")]:
        monkeypatch.delenv(name)


def _variable(kind: type[BaseSettings], field: str) -> str:
    return f"{kind.model_config['env_prefix']}{field}".upper()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_errors_of_settings_quote_nothing(kind: type[BaseSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind.model_config["hide_input_in_errors"]
    refused = 0
    for field in kind.model_fields.keys() - {"roots"}:  # folders are named: nothing of them is secret
        for given in BROKEN:
            variable = _variable(kind, field)
            monkeypatch.setenv(variable, given)
            try:
                read(kind)
            except BadSettings as error:
                refused += 1
                assert CANARY not in "".join(traceback.format_exception(error))
                assert str(error).strip()
            monkeypatch.delenv(variable)
    assert refused


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_settings_show_no_url_and_no_key(kind: type[BaseSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    for field in kind.model_fields:
        if field.endswith(("url", "jwks", "endpoint", "api_key")):
            scheme = "postgresql" if field == "database_url" else "https"
            monkeypatch.setenv(_variable(kind, field), f"{scheme}://ann:{CANARY}@host.example/x")
    assert CANARY not in repr(read(kind))


def test_what_is_wrong_is_told_by_the_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_CLOCK_SKEW_S", "400")
    monkeypatch.setenv("RAGWEAVE_PROFILE", "prod")
    with pytest.raises(BadSettings) as refused:
        read(MeshSettings)
    assert [line.partition(": ")[0] for line in str(refused.value).splitlines()] == [
        "RAGWEAVE_PROFILE",
        "RAGWEAVE_CLOCK_SKEW_S",
    ]


def test_a_redis_ca_goes_with_the_url_of_a_store_that_speaks_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_REDIS_CA", "/etc/ca.pem")
    monkeypatch.setenv("RAGWEAVE_REDIS_URL", f"rediss://:{CANARY}@store.example:6380/1")
    url = read(MeshSettings).redis_url
    options = redis.asyncio.ConnectionPool.from_url(url).connection_kwargs
    assert (options["ssl_ca_certs"], options["password"], options["host"]) == ("/etc/ca.pem", CANARY, "store.example")
    monkeypatch.setenv("RAGWEAVE_REDIS_URL", "redis://store.example")
    with pytest.raises(BadSettings, match="RAGWEAVE_REDIS_URL: RAGWEAVE_REDIS_CA is for a rediss:// URL"):
        read(MeshSettings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RAGWEAVE_TLS_CERT": "/a", "RAGWEAVE_TLS": "on"}, "RAGWEAVE_TLS_KEY, RAGWEAVE_TLS_CA is not set"),
        (
            {f"RAGWEAVE_TLS_{name}": "/a" for name in ("CERT", "KEY", "CA")},
            "certificates are mounted but not used: set RAGWEAVE_TLS=on",
        ),
    ],
    ids=["half", "unused"],
)
def test_mounted_certificates_are_whole_and_in_use(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=said):
        read(MeshSettings)
