"""The development keys: there, readable, and each the other half of what is published."""

import json
from collections.abc import Iterator
from pathlib import Path

from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from ragweave.findings import Finding, error, ok, warning
from ragweave.local.layout import Layout

_PAIRS = (("dev.pem", "jwks.json", "users'"), ("mesh.pem", "mesh_jwks.json", "services'"))


def examine(here: Layout, *, running: bool) -> Iterator[Finding]:
    """Of a mesh in development; production's keys are judged by the services."""
    for private, public, whose in _PAIRS:
        yield _pair(here.keys / private, here.keys / public, whose, running=running)


def _pair(private: Path, public: Path, whose: str, *, running: bool) -> Finding:
    mend = f"`ragweave down`, remove {private} and {public}, `ragweave up`: it makes them anew"
    why = f"no {whose} token can be made, or none that is taken"
    missing = [path for path in (private, public) if not path.exists()]
    if missing:
        said = f"{' and '.join(map(str, missing))} {'is' if len(missing) == 1 else 'are'} missing"
        if running:
            return error(said, why, "`ragweave down && ragweave up` makes it")
        return warning(said, why, "`ragweave up` makes it")
    try:
        key = ECKey.import_key(private.read_bytes())
        if not key.is_private:
            return error(f"{private} holds no private key", why, mend)
    except PermissionError:
        return error(f"{private} cannot be read by who runs this", why, f"`sudo chown $(id -u) {private}`")
    except (OSError, ValueError, JoseError):
        return error(f"{private} holds no key that can be read", why, mend)
    try:
        published = json.loads(public.read_bytes())["keys"]
        fits = any(each.get("x") == key.as_dict(private=False)["x"] for each in published)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return error(f"{public} holds no keys that can be read", why, f"`ragweave down && ragweave up` writes {public}")
    if not fits:
        said = f"{public} does not hold the public half of {private}"
        return error(said, why, f"`ragweave down && ragweave up` writes {public}")
    return ok(f"the keys of {whose} tokens in {private.parent} are in place")
