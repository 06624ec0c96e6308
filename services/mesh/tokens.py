"""Who a token says is calling: users' tokens verified, services' own tokens made and verified."""

import contextlib
import json
import time
import warnings
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey

from services.mesh.errors import Unauthenticated
from services.mesh.identity import Caller
from services.mesh.keys import Keys, KeysUnavailable
from services.mesh.settings import MeshSettings

# Signatures only: "none" and shared secrets are never accepted. EdDSA is Ed25519 (RFC 8037).
ALGORITHMS = ("ES256", "RS256", "EdDSA", "Ed25519")

# What each role grants; contract.md, "Scopes".
_READER = frozenset({"search", "collections.read", "jobs.read"})
_EDITOR = _READER | {"collections.write", "documents.write", "jobs.write"}
ROLES: Mapping[str, frozenset[str]] = {"reader": _READER, "editor": _EDITOR, "admin": _EDITOR | {"admin"}}

SERVICE_TOKEN_S = 300
_RENEW_BEFORE_S = 60
_CACHED_TOKENS = 4096

K = TypeVar("K")
V = TypeVar("V")


class Expiring(Generic[K, V]):
    """A bounded map of values that lapse at a time of their own; the least recently used gives way."""

    def __init__(self, size: int, clock: Callable[[], float] = time.time) -> None:
        self._size = size
        self._clock = clock
        self._items: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def get(self, key: K) -> V | None:
        found = self._items.get(key)
        if found is None:
            return None
        value, until = found
        if self._clock() >= until:
            del self._items[key]
            return None
        self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V, *, until: float) -> None:
        """Keeps `value` until the clock reads `until` (seconds)."""
        self._items[key] = value, until
        self._items.move_to_end(key)
        if len(self._items) > self._size:
            self._items.popitem(last=False)

    def clear(self) -> None:
        self._items.clear()


class TokenVerifier:
    """Verifies the bearer tokens of users and of services; each is verified once and remembered until it expires.

    A token's `iss` picks whose keys it must be signed with. Keys that change make every token be verified anew.
    """

    def __init__(self, settings: MeshSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._leeway_s = settings.clock_skew_s
        self._verified: Expiring[str, Caller] = Expiring(_CACHED_TOKENS, clock)
        self._issuers = {
            settings.issuer: (self._keys(settings, settings.jwks), settings.audience, _user),
            settings.mesh_issuer: (self._keys(settings, settings.mesh_jwks), settings.mesh_audience, _service),
        }

    def _keys(self, settings: MeshSettings, source: str) -> Keys:
        return Keys(
            source,
            self._verified.clear,
            fresh_s=settings.jwks_cache_s,
            development=settings.profile == "development",
        )

    async def verify(self, token: str) -> Caller:
        """The caller a token speaks for.

        Raises:
            Unauthenticated: The token is malformed, forged, expired, not for us, or lacks a claim. Says which.
        """
        for keys, _, _ in self._issuers.values():
            await keys.keep_current()
        known = self._verified.get(token)
        if known is not None:
            return known
        header, unverified = _peek(token)
        known_issuer = self._issuers.get(str(unverified.get("iss")))
        if known_issuer is None:
            raise Unauthenticated("the token comes from an unknown issuer")
        keys, audience, caller_from = known_issuer
        claims = await self._signed(token, header, keys)
        expires = self._check_claims(claims, str(unverified.get("iss")), audience)
        who = caller_from(claims)
        self._verified.put(token, who, until=expires)
        return who

    async def _signed(self, token: str, header: Mapping[str, Any], keys: Keys) -> Mapping[str, Any]:
        kid = header.get("kid")
        try:
            fitting = await keys.fitting(kid if isinstance(kid, str) else None)
        except KeysUnavailable:
            raise Unauthenticated("no keys to verify tokens with; is the mesh's key folder in place?") from None
        for key in fitting:
            with contextlib.suppress(JoseError, ValueError, TypeError, KeyError), warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # EdDSA's newer name, Ed25519 (RFC 9864), is spreading
                return jwt.decode(token, key, algorithms=ALGORITHMS).claims
        raise Unauthenticated("the token's signature cannot be verified")

    def _check_claims(self, claims: Mapping[str, Any], issuer: str, audience: str) -> float:
        """Checks time and destination; returns when the token lapses, leeway included."""
        now = self._clock()
        expires = _seconds(claims, "exp")
        if expires is None:
            raise Unauthenticated("the token has no expiry")
        if now >= expires + self._leeway_s:
            raise Unauthenticated("the token has expired")
        for name in ("nbf", "iat"):
            at = _seconds(claims, name)
            if at is not None and at > now + self._leeway_s:
                raise Unauthenticated("the token is not valid yet")
        if claims.get("iss") != issuer:
            raise Unauthenticated("the token comes from an unknown issuer")
        meant_for = claims.get("aud")
        if audience not in (meant_for if isinstance(meant_for, list) else [meant_for]):
            raise Unauthenticated("the token is meant for another audience")
        return expires + self._leeway_s


class ServiceTokens:
    """Makes this service's tokens: short-lived, each carrying the caller it acts for; one for a caller while it lasts.

    Args:
        service: Name the others log as the relaying service.
    """

    def __init__(self, settings: MeshSettings, service: str, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._service = service
        self._clock = clock
        self._key: ECKey | None = None
        self._made: Expiring[Caller, str] = Expiring(_CACHED_TOKENS, clock)

    def token_for(self, who: Caller) -> str:
        """A token to act for `who` with. Raises FileNotFoundError naming the key file where there is none."""
        made = self._made.get(who)
        if made is None:
            now = int(self._clock())
            made = self._sign(who, now)
            self._made.put(who, made, until=now + SERVICE_TOKEN_S - _RENEW_BEFORE_S)
        return made

    def _sign(self, who: Caller, now: int) -> str:
        if self._key is None:
            assert self._settings.mesh_key is not None
            pem = self._settings.mesh_key.read_text()
            key = ECKey.import_key(pem)
            self._key = ECKey.import_key(pem, {"kid": key.thumbprint()})
        claims = {
            "iss": self._settings.mesh_issuer,
            "aud": self._settings.mesh_audience,
            "sub": self._service,
            "iat": now,
            "exp": now + SERVICE_TOKEN_S,
            "caller": {
                "tenant": who.tenant,
                "sub": who.subject,
                "scopes": sorted(who.scopes),
                "principals": sorted(who.principals),
                "tier": who.tier,
                "anonymous": who.anonymous,
                "jti": who.token_id,
                "by_itself": who.by_itself,
            },
        }
        return jwt.encode({"alg": "ES256", "kid": self._key.kid}, claims, self._key, algorithms=["ES256"])


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Scopes of `scope` (separated by spaces as in RFC 8693, or a list) and of each known role in `roles`."""
    scope = claims.get("scope", "")
    granted = frozenset(scope.split() if isinstance(scope, str) else _texts(claims, "scope"))
    return granted.union(*(ROLES.get(role, frozenset()) for role in _texts(claims, "roles")))


def _user(claims: Mapping[str, Any]) -> Caller:
    subject, tenant = _text(claims, "sub"), _text(claims, "tenant")
    return Caller(
        tenant=tenant,
        subject=subject,
        scopes=scopes_of(claims),
        principals=frozenset({f"user:{subject}", *(f"group:{group}" for group in _texts(claims, "groups"))}),
        tier=_text(claims, "tier", "free"),
        token_id=_text(claims, "jti", ""),
    )


def _service(claims: Mapping[str, Any]) -> Caller:
    acted_for = claims.get("caller")
    if not isinstance(acted_for, dict):
        raise Unauthenticated("the token lacks the claim caller")
    return Caller(
        tenant=_text(acted_for, "tenant"),
        subject=_text(acted_for, "sub"),
        scopes=frozenset(_texts(acted_for, "scopes")),
        principals=frozenset(_texts(acted_for, "principals")),
        tier=_text(acted_for, "tier", "free"),
        anonymous=acted_for.get("anonymous") is True,
        service=_text(claims, "sub"),
        token_id=_text(acted_for, "jti", ""),
        by_itself=acted_for.get("by_itself") is True,
    )


def _peek(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Header and claims, not verified: good for choosing keys and nothing else."""
    try:
        header, claims = (json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in token.split(".")[:2])
    except (ValueError, TypeError):
        raise Unauthenticated("the token is malformed") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise Unauthenticated("the token is malformed")
    return header, claims


def _text(claims: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = claims.get(name, default)
    if not isinstance(value, str) or (default is None and not value):
        raise Unauthenticated(f"the token lacks the claim {name}")
    return value


def _texts(claims: Mapping[str, Any], name: str) -> list[str]:
    value = claims.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Unauthenticated(f"the token's claim {name} is not a list of strings")
    return value


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unauthenticated(f"the token's claim {name} is not a number")
    return float(value)
