"""Real servers for tests: the whole interceptor chain on a free port, tokens of throwaway keys, channels.

    world = World.in_folder(tmp_path)  # keys and MeshSettings; or World.in_folder(p, redis_url=...)

    async with world.running(wire, Settings(mesh=world.mesh, port=0)) as port: ...       # a service's own wire()
    async with world.serving(add_XServicer_to_server, servicer, name="embedding") as port: ...  # one servicer of a test

    async with world.channel(port) as channel: ...               # bare, as another backend would open it
        await XStub(channel).Get(request, metadata=world.bearer(roles=["admin"], tenant="acme"))
    async with world.channel_as(port, caller_of("ann", tenant="acme")) as channel: ...  # as a service acting for ann

`world.settings(port=0)` is a plain ServiceSettings; `world.target(port)` is "127.0.0.1:<port>". In pytest take the
fixture `world` (tests/mesh/conftest.py).
"""

import json
import time
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from ragweave.local.layout import SERVICES
from services.mesh.channels import open_channel, opening_as
from services.mesh.identity import Caller, acting_for
from services.mesh.serve import Guard, Wiring, running
from services.mesh.settings import MeshSettings, ServiceSettings
from services.mesh.tokens import ROLES
from tests.audit_fakes import unguarded

Key = ECKey | RSAKey | OKPKey
S = TypeVar("S", bound=ServiceSettings)


def caller_of(
    subject: str = "ann", *, tenant: str = "acme", roles: Sequence[str] = ("admin",), groups: Sequence[str] = ()
) -> Caller:
    """The Caller a user token with these claims verifies to."""
    return Caller(
        tenant=tenant,
        subject=subject,
        scopes=frozenset().union(*(ROLES[role] for role in roles)),
        principals=frozenset({f"user:{subject}", *(f"group:{group}" for group in groups)}),
    )


@dataclass(frozen=True)
class World:
    """Throwaway keys, the settings of a mesh that trusts them, and guards; `open_guards` where there is a store."""

    mesh: MeshSettings
    user_key: ECKey
    guard: Guard = unguarded

    @classmethod
    def in_folder(cls, folder: Path, **settings: Any) -> "World":
        """Writes keys where a mesh with this data_dir looks for them. `settings` are MeshSettings'."""
        keys = folder / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        user_key, mesh_key = new_key(), new_key()
        (keys / "jwks.json").write_text(jwks(user_key))
        (keys / "mesh_jwks.json").write_text(jwks(mesh_key))
        (keys / "mesh.pem").write_bytes(mesh_key.as_pem(private=True))
        nowhere = {f"{name}_target": "127.0.0.1:1" for name in SERVICES}  # not a mesh that runs on this machine
        given = {"data_dir": folder, "redis_url": "redis://127.0.0.1:1/0", "drain_s": 0.0, "grace_s": 1.0}
        given |= {**nowhere, **settings}
        return cls(MeshSettings(health_interval_s=0.1, **given), user_key)

    def settings(self, port: int = 0) -> ServiceSettings:
        return ServiceSettings(mesh=self.mesh, port=port)

    @staticmethod
    def target(port: int) -> str:
        return f"127.0.0.1:{port}"

    def token(self, *, key: Key | None = None, algorithm: str = "ES256", **claims: Any) -> str:
        """A user token: ann of acme, for an hour, unless claims say otherwise; a claim given as None is left out."""
        now = int(time.time())
        known = {"iss": self.mesh.issuer, "aud": self.mesh.audience, "sub": "ann", "tenant": "acme", "exp": now + 3600}
        used = {name: value for name, value in {**known, **claims}.items() if value is not None}
        signer = key or self.user_key
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # EdDSA's newer name is Ed25519
            return jwt.encode({"alg": algorithm, "kid": signer.kid}, used, signer, algorithms=[algorithm])

    def bearer(self, **claims: Any) -> tuple[tuple[str, str], ...]:
        """Call metadata with a token of these claims: `bearer(roles=["reader"], tenant="acme")`."""
        return (("authorization", f"Bearer {self.token(**claims)}"),)

    @asynccontextmanager
    async def running(
        self, wire: Callable[[S], AbstractAsyncContextManager[Wiring]], settings: S, *, name: str = "test"
    ) -> AsyncIterator[int]:
        """The port of a real server for a service's own wiring."""
        async with running(name, wire, settings, guard=self.guard) as server:
            yield server.port

    @asynccontextmanager
    async def serving(
        self, add: Callable[[Any, grpc.aio.Server], None], servicer: object, *, name: str = "test", port: int = 0
    ) -> AsyncIterator[int]:
        """The port of a real server for one servicer; `add` is the stubs' add_XServicer_to_server."""

        @asynccontextmanager
        async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
            yield Wiring(lambda server: add(servicer, server))

        async with self.running(wire, self.settings(port), name=name) as listening:
            yield listening

    @asynccontextmanager
    async def channel(self, port: int) -> AsyncIterator[grpc.aio.Channel]:
        """A bare channel: no token, no deadline, no retries."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 2**24)]
        async with grpc.aio.insecure_channel(self.target(port), options=options) as channel:
            yield channel

    @asynccontextmanager
    async def channel_as(self, port: int, who: Caller, *, service: str = "tester") -> AsyncIterator[grpc.aio.Channel]:
        """A mesh channel whose calls act for `who`; inside the block `caller()` is `who`."""
        with opening_as(service):
            opened = open_channel(self.mesh, self.target(port))
            channel = await opened.__aenter__()
        try:
            with acting_for(who):
                yield channel
        finally:
            await opened.__aexit__(None, None, None)


def new_key() -> ECKey:
    """A throwaway ES256 key with an id."""
    key = ECKey.generate_key("P-256")
    key.ensure_kid()
    return key


def jwks(*keys: Key) -> str:
    """The public halves as a JWKS document."""
    return json.dumps({"keys": [{**key.as_dict(private=False), "kid": key.kid} for key in keys]})
