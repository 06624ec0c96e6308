"""What makes a deployment weak, and how to mend it: `ragweave doctor` names it all, production refuses the worst.

`python -m services.mesh.weaknesses` prints one JSON object a line: what, mend, refused.
"""

import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry

from ragweave.development import is_development
from services.mesh.edge_settings import EdgeSettings
from services.mesh.settings import MeshSettings, read

_SOON = timedelta(days=14)
_LARGE_SKEW_S = 30


@dataclass(frozen=True)
class Weakness:
    """One thing that is weak.

    Attributes:
        what: Names the setting or file.
        mend: What to do about it.
        refused: Whether no process of the production profile starts with it.
    """

    what: str
    mend: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


def refused(settings: MeshSettings | EdgeSettings) -> list[Weakness]:
    """What keeps a process with these settings from starting: nothing, unless the profile is production."""
    mesh = settings.mesh if isinstance(settings, EdgeSettings) else settings
    if mesh.profile != "production":
        return []
    found = [*_user_keys(mesh), *_mesh_key(mesh), *_listening(mesh)]
    if isinstance(settings, EdgeSettings):
        found += _edge_listening(settings)
    return [each for each in found if each.refused]


def weaknesses(settings: EdgeSettings, now: datetime | None = None) -> list[Weakness]:
    """Everything weak about a mesh on this machine, the worst first."""
    mesh = settings.mesh
    found = [
        *_user_keys(mesh),
        *_mesh_key(mesh),
        *_listening(mesh),
        *_edge_listening(settings),
        *_connections(mesh),
        *_anonymous(settings),
        *_skew(mesh),
        *_files(settings),
        *_certificates(settings, now or datetime.now(UTC)),
    ]
    return sorted(found, key=lambda each: not each.refused)


def _user_keys(mesh: MeshSettings) -> Iterator[Weakness]:
    mend = "set RAGWEAVE_JWKS to the keys of your identity provider"
    if _is_url(mesh.jwks):
        return  # the verifier drops development keys of whatever it fetches
    own = mesh.data_dir / "keys"
    keys = _jwks(Path(mesh.jwks))
    if keys is None:
        yield Weakness(f"the keys of user tokens cannot be read from {mesh.jwks}", mend, refused=True)
    elif Path(mesh.jwks) == own / "jwks.json" or _made_for_development(keys, own / "dev.pem"):
        yield Weakness(f"user tokens are verified with a development key ({mesh.jwks})", mend, refused=True)


def _mesh_key(mesh: MeshSettings) -> Iterator[Weakness]:
    mend = "mount a key and its JWKS and set RAGWEAVE_MESH_KEY and RAGWEAVE_MESH_JWKS"
    assert mesh.mesh_key is not None
    own = mesh.data_dir / "keys" / "mesh.pem"
    keys = [] if _is_url(mesh.mesh_jwks) else _jwks(Path(mesh.mesh_jwks))
    if not mesh.mesh_key.is_file():
        yield Weakness(f"there is no key of service tokens at {mesh.mesh_key}", mend, refused=True)
    elif keys is None:
        yield Weakness(f"the keys of service tokens cannot be read from {mesh.mesh_jwks}", mend, refused=True)
    elif mesh.mesh_key == own or _made_for_development(keys, own):
        yield Weakness(f"service tokens are signed with a development key ({mesh.mesh_key})", mend, refused=True)


def _is_url(source: str) -> bool:
    return urlsplit(source).scheme in ("http", "https")


def _listening(mesh: MeshSettings) -> Iterator[Weakness]:
    if not mesh.tls and not _is_loopback(mesh.host):
        yield Weakness(
            f"the services listen on {mesh.host} without TLS",
            "set RAGWEAVE_TLS=on, or RAGWEAVE_HOST to a loopback address",
            refused=True,
        )


def _edge_listening(settings: EdgeSettings) -> Iterator[Weakness]:
    if not settings.https and not _is_loopback(settings.host):
        yield Weakness(
            f"the edge listens on {settings.host} without TLS",
            "set RAGWEAVE_TLS=on, or RAGWEAVE_EDGE_TLS_CERT and RAGWEAVE_EDGE_TLS_KEY",
            refused=True,
        )
    if not _is_loopback(settings.admin_host):
        yield Weakness(
            f"Envoy's admin page, which can stop it, listens on {settings.admin_host}",
            "set RAGWEAVE_EDGE_ADMIN_HOST to a loopback address",
        )


def _connections(mesh: MeshSettings) -> Iterator[Weakness]:
    for variable, url, mend in (
        ("RAGWEAVE_REDIS_URL", mesh.redis_url, "use rediss://, with RAGWEAVE_REDIS_CA for a CA of your own"),
        ("RAGWEAVE_JWKS", mesh.jwks, "use https://"),
        ("RAGWEAVE_MESH_JWKS", mesh.mesh_jwks, "use https://"),
        ("RAGWEAVE_OTLP_ENDPOINT", mesh.otlp_endpoint, "use https://"),
    ):
        parts = urlsplit(url)
        if parts.scheme in ("redis", "http") and parts.hostname and not _is_loopback(parts.hostname):
            yield Weakness(f"{variable} reaches {parts.hostname} without TLS", mend)


def _anonymous(settings: EdgeSettings) -> Iterator[Weakness]:
    mesh = settings.mesh
    if mesh.anonymous and not (_is_loopback(settings.host) and _is_loopback(mesh.host)):
        yield Weakness(
            f"whoever reaches this machine may search the PUBLIC collections of the tenant {mesh.public_tenant}",
            "where that is not meant, set RAGWEAVE_ANONYMOUS=off",
        )


def _skew(mesh: MeshSettings) -> Iterator[Weakness]:
    if mesh.clock_skew_s > _LARGE_SKEW_S:
        yield Weakness(
            f"tokens are taken up to {mesh.clock_skew_s} s after they expired",
            f"keep clocks in step and set RAGWEAVE_CLOCK_SKEW_S to at most {_LARGE_SKEW_S}",
        )


def _files(settings: EdgeSettings) -> Iterator[Weakness]:
    mesh = settings.mesh
    folder = mesh.data_dir
    if folder.is_dir() and (mode := folder.stat().st_mode & 0o777) & 0o077:
        yield Weakness(f"{folder}, which holds everything, has mode {mode:o}", f"`chmod 700 {folder}`")
    keys = {
        folder / "keys" / "dev.pem",
        *folder.glob("tls/*.key"),
        *folder.glob("tls/authority/*.key"),
        *(path for path in (mesh.mesh_key, mesh.tls_key, settings.tls_key) if path),
    }
    for path in sorted(keys):
        if path.is_file() and (mode := path.stat().st_mode & 0o777) & 0o077:
            yield Weakness(f"{path}, a private key, has mode {mode:o}", f"`chmod 600 {path}`")


def _certificates(settings: EdgeSettings, now: datetime) -> Iterator[Weakness]:
    mesh = settings.mesh
    ours = [] if mesh.tls_cert else sorted((mesh.data_dir / "tls").glob("*.crt"))
    mounted = [path for path in (mesh.tls_cert, mesh.tls_ca, settings.tls_cert) if path]
    for path in [*(ours if mesh.tls else []), *mounted]:
        mend = "replace the file" if path in mounted else "`ragweave up` renews it"
        try:
            certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
        except (OSError, ValueError):
            yield Weakness(f"{path} holds no certificate that can be read", mend)
            continue
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if end <= now:
            yield Weakness(f"{path} ended on {end:%Y-%m-%d}", mend)
        elif end - now < _SOON:
            yield Weakness(f"{path} ends on {end:%Y-%m-%d}", mend)
        elif start > now:
            yield Weakness(f"{path} begins on {start:%Y-%m-%d %H:%M} UTC, later than now", "set this machine's clock")


def _jwks(path: Path) -> list[Mapping[str, Any]] | None:
    """The keys of a JWKS file; None where it cannot be read or holds none."""
    try:
        keys = json.loads(path.read_bytes())["keys"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found: list[Mapping[str, Any]] = [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []
    return found or None


def _made_for_development(keys: Iterable[Mapping[str, Any]], private: Path) -> bool:
    """Whether a key bears the mark, or is the public half of the development key, mark removed."""
    try:
        known = ECKey.import_key(private.read_bytes()).thumbprint()
    except (OSError, ValueError, JoseError):
        known = None
    return any(is_development(key) or (known and _thumbprint(key) == known) for key in keys)


def _thumbprint(key: Mapping[str, Any]) -> str | None:
    try:
        return JWKRegistry.import_key(dict(key)).thumbprint()
    except (ValueError, KeyError, TypeError, JoseError):
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    for each in weaknesses(read(EdgeSettings)):
        print(json.dumps(asdict(each)))


if __name__ == "__main__":
    main()
