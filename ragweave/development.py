"""How keys made for development are recognised, wherever they are copied to."""

from collections.abc import Mapping
from typing import Any

# A member of the published key (RFC 7517, section 4, lets a key carry others than its own).
MARK = {"ragweave": "development"}


def is_development(jwk: Mapping[str, Any]) -> bool:
    """Whether a key of a JWKS was made by `ragweave up` for this machine alone."""
    return all(jwk.get(name) == value for name, value in MARK.items())
