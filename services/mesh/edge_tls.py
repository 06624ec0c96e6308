"""The edge's certificates as Envoy takes them: secrets in files of their own, which it watches and reads anew."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragweave.certificates import EDGE, CertificateFiles, name_of
from services.mesh.edge_clusters import host_of, is_ip
from services.mesh.edge_run import replace
from services.mesh.edge_settings import EdgeSettings

_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@dataclass(frozen=True)
class EdgeTls:
    """What the template needs of TLS.

    Attributes:
        public: Path of the secret the edge shows its clients; None where it speaks plain HTTP.
        mesh: Path of the secret it shows the services; None where they speak plain gRPC.
        authority: Path of the secret that holds whom it trusts.
        names: By service, what its certificate must name one of, as SAN matchers.
    """

    public: Path | None
    mesh: Path | None
    authority: Path | None
    names: Mapping[str, Sequence[Mapping[str, Any]]]


def write_secrets(settings: EdgeSettings, out: Path, owners: Sequence[str]) -> EdgeTls:
    """Writes the files Envoy reads its secrets from to `out`; they name certificates and hold none."""
    files = settings.mesh.certificates(EDGE)
    public = mesh = authority = None
    if settings.https:
        certificate, key = settings.tls_cert or files.certificate, settings.tls_key or files.key
        public = _written(out, "public", _certificate("public", certificate, key))
    if settings.mesh.tls:
        mesh = _written(out, "mesh", _certificate("mesh", files.certificate, files.key))
        authority = _written(out, "authority", _authority("authority", files))
    names = {owner: _names(settings, owner) for owner in owners}
    return EdgeTls(public, mesh, authority, names)


def _names(settings: EdgeSettings, owner: str) -> list[Mapping[str, Any]]:
    if not settings.mesh.tls_cert:
        return [_matcher(name_of(owner))]
    if settings.mesh.tls_server_name:
        return [_matcher(settings.mesh.tls_server_name)]
    return [_matcher(host) for host in dict.fromkeys(map(host_of, settings.endpoints(owner)))]


def _matcher(name: str) -> Mapping[str, Any]:
    return {"san_type": "IP_ADDRESS" if is_ip(name) else "DNS", "matcher": {"exact": name}}


def _certificate(name: str, certificate: Path, key: Path) -> Mapping[str, Any]:
    files = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    # Envoy looks again when a file is moved into the folder, which is how ours and Kubernetes' are replaced.
    return {"name": name, "tls_certificate": {**files, "watched_directory": {"path": str(certificate.parent)}}}


def _authority(name: str, files: CertificateFiles) -> Mapping[str, Any]:
    trusted = {
        "trusted_ca": {"filename": str(files.authority)},
        "watched_directory": {"path": str(files.authority.parent)},
    }
    return {"name": name, "validation_context": trusted}


def _written(out: Path, name: str, secret: Mapping[str, Any]) -> Path:
    path = out / f"secret_{name}.json"
    replace(path, json.dumps({"resources": [{"@type": _TYPE, **secret}]}, indent=1).encode())
    return path
