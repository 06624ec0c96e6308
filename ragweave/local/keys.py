"""Development keys, made on first use: one that signs people's tokens, one that signs the services' own."""

import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey

from ragweave.development import MARK
from ragweave.local.files import replace_file

ISSUER = "ragweave"
AUDIENCE = "ragweave"


class NoKeys(Exception):
    """There is no development key to sign with."""


def ensure_keys(folder: Path) -> None:
    """Makes `dev.pem` with `jwks.json` and `mesh.pem` with `mesh_jwks.json` where they are missing.

    Private keys are readable by their owner alone; public ones bear development's mark.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for private, public in (("dev.pem", "jwks.json"), ("mesh.pem", "mesh_jwks.json")):
        if not (folder / private).exists():
            key = ECKey.generate_key("P-256", private=True)
            replace_file(folder / private, key.as_pem(private=True), 0o600)
        key = ECKey.import_key((folder / private).read_bytes())
        published = {**key.as_dict(private=False), "kid": key.thumbprint(), "use": "sig", "alg": "ES256", **MARK}
        replace_file(folder / public, json.dumps({"keys": [published]}, indent=2).encode(), 0o644)


def sign_token(
    folder: Path,
    *,
    tenant: str,
    subject: str,
    roles: Sequence[str],
    tier: str,
    groups: Sequence[str] = (),
    lifetime_s: int = 3600,
) -> str:
    """A user token by the development key. Raises NoKeys before the first `ragweave up`."""
    path = folder / "dev.pem"
    if not path.exists():
        raise NoKeys(f"no development key at {path}; `ragweave up` makes one")
    key = ECKey.import_key(path.read_bytes())
    now = int(time.time())
    claims = {
        "iss": os.environ.get("RAGWEAVE_ISSUER") or ISSUER,
        "aud": os.environ.get("RAGWEAVE_AUDIENCE") or AUDIENCE,
        "sub": subject,
        "tenant": tenant,
        "roles": list(roles),
        "tier": tier,
        "iat": now,
        "exp": now + lifetime_s,
        "jti": secrets.token_hex(8),
    }
    if groups:
        claims["groups"] = list(groups)
    return jwt.encode({"alg": "ES256", "kid": key.thumbprint(), "typ": "JWT"}, claims, key, algorithms=["ES256"])
