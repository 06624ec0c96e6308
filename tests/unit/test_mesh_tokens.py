"""Tokens and the keys they are verified with, over a clock the test turns."""

import asyncio
import json
from pathlib import Path

import pytest

from services.mesh.errors import Unauthenticated
from services.mesh.identity import Caller
from services.mesh.keys import Keys, KeysUnavailable
from services.mesh.settings import MeshSettings
from services.mesh.tokens import ROLES, Expiring, ServiceTokens, TokenVerifier, scopes_of
from tests.mesh.harness import World, caller_of, jwks, new_key


class Clock:
    """Seconds as the test says."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.in_folder(tmp_path)


def test_a_value_lapses_at_its_time() -> None:
    clock = Clock()
    kept: Expiring[str, int] = Expiring(2, clock)
    kept.put("a", 1, until=clock.now + 1)
    assert kept.get("a") == 1
    clock.now += 1
    assert kept.get("a") is None


def test_the_least_recently_used_gives_way() -> None:
    kept: Expiring[str, int] = Expiring(2, Clock())
    for name in ("a", "b"):
        kept.put(name, 1, until=2e6)
    kept.get("a")
    kept.put("c", 1, until=2e6)
    assert [kept.get(name) for name in "abc"] == [1, None, 1]


def test_each_role_grants_what_the_lesser_ones_do() -> None:
    assert ROLES["reader"] < ROLES["editor"] < ROLES["admin"]
    assert "admin" not in ROLES["editor"]


def test_scopes_and_roles_add_up() -> None:
    assert scopes_of({"scope": "search", "roles": ["unheard"]}) == {"search"}
    assert scopes_of({"scope": "admin", "roles": ["reader"]}) == ROLES["reader"] | {"admin"}
    assert scopes_of({}) == frozenset()


async def test_a_verified_token_lapses_with_its_expiry(world: World) -> None:
    clock = Clock()
    verifier = TokenVerifier(world.mesh, clock=clock)
    token = world.token(exp=int(clock.now) + 10)
    assert (await verifier.verify(token)).subject == "ann"
    clock.now += 10 + world.mesh.clock_skew_s
    with pytest.raises(Unauthenticated, match="expired"):
        await verifier.verify(token)


async def test_without_keys_tokens_are_refused_saying_where_to_look(world: World) -> None:
    Path(world.mesh.jwks).unlink()
    with pytest.raises(Unauthenticated, match="key folder"):
        await TokenVerifier(world.mesh).verify(world.token())


async def test_a_service_token_carries_its_caller_whole(world: World) -> None:
    for who in (
        caller_of("ann", tenant="acme", roles=["editor"], groups=["blue"]),
        Caller(tenant="public", subject="anonymous", anonymous=True),
        Caller(tenant="t", subject="s", tier="pro"),
    ):
        relayed = await TokenVerifier(world.mesh).verify(ServiceTokens(world.mesh, "jobs").token_for(who))
        assert relayed.service == "jobs"
        assert (relayed.tenant, relayed.subject, relayed.tier) == (who.tenant, who.subject, who.tier)
        assert (relayed.scopes, relayed.principals) == (who.scopes, who.principals)
        assert relayed.anonymous is who.anonymous


def test_a_service_token_is_made_once_for_a_caller_and_anew_before_it_lapses(world: World) -> None:
    clock = Clock()
    tokens = ServiceTokens(world.mesh, "jobs", clock=clock)
    first = tokens.token_for(caller_of("ann"))
    clock.now += 239
    assert tokens.token_for(caller_of("ann")) == first
    assert tokens.token_for(caller_of("bo")) != first
    clock.now += 1
    assert tokens.token_for(caller_of("ann")) != first


async def test_a_service_token_of_a_key_the_mesh_does_not_know_is_refused(world: World, tmp_path: Path) -> None:
    other = World.in_folder(tmp_path / "other")
    with pytest.raises(Unauthenticated, match="signature"):
        await TokenVerifier(world.mesh).verify(ServiceTokens(other.mesh, "jobs").token_for(caller_of()))


class Served:
    """A JWKS URL: what it answers, and how often it was asked."""

    def __init__(self, text: str) -> None:
        self.text: str | None = text
        self.asked = 0

    async def fetch(self, url: str) -> str:
        self.asked += 1
        if self.text is None:
            raise OSError("down")
        return self.text


async def test_keys_of_a_url_are_fetched_once_in_30_seconds_and_then_without_making_anyone_wait() -> None:
    clock, first, second = Clock(), new_key(), new_key()
    served = Served(jwks(first))
    keys = Keys("https://issuer/jwks", clock=clock, fetch=served.fetch)
    for _ in range(5):
        await keys.current()
    assert served.asked == 1
    served.text = jwks(second)
    clock.now += 30
    assert [key.kid for key in await keys.current()] == [first.kid]
    while served.asked < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [key.kid for key in await keys.current()] == [second.kid]


async def test_an_unknown_key_id_causes_a_fetch_but_not_more_than_one_in_two_seconds() -> None:
    clock, first, second = Clock(), new_key(), new_key()
    served = Served(jwks(first))
    keys = Keys("https://issuer/jwks", clock=clock, fetch=served.fetch)
    await keys.current()
    served.text = jwks(first, second)
    for _ in range(5):
        assert not await keys.fitting(second.kid)
    assert served.asked == 1
    clock.now += 2
    assert [key.kid for key in await keys.fitting(second.kid)] == [second.kid]
    assert served.asked == 2


async def test_keys_nobody_asked_for_in_long_are_fetched_before_they_serve() -> None:
    clock, first, second = Clock(), new_key(), new_key()
    served = Served(jwks(first))
    keys = Keys("https://issuer/jwks", clock=clock, fetch=served.fetch)
    await keys.current()
    served.text = jwks(second)
    clock.now += 60
    assert [key.kid for key in await keys.current()] == [second.kid]


async def test_a_key_just_written_to_a_file_serves_at_once(tmp_path: Path) -> None:
    first, second, path = new_key(), new_key(), tmp_path / "jwks.json"
    path.write_text(jwks(first))
    keys = Keys(str(path), clock=Clock())
    await keys.current()
    path.write_text(jwks(first, second))
    assert [key.kid for key in await keys.fitting(second.kid)] == [second.kid]


async def test_keys_of_no_use_here_are_left_out(tmp_path: Path) -> None:
    wanted, path = new_key(), tmp_path / "jwks.json"
    others = [
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0", "kid": wanted.kid},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        {**new_key().as_dict(private=False), "use": "enc"},
        "nonsense",
    ]
    path.write_text(json.dumps({"keys": [*others, *json.loads(jwks(wanted))["keys"]]}))
    assert [key.kid for key in await Keys(str(path)).current()] == [wanted.kid]


async def test_a_token_without_a_key_id_fits_every_key_and_a_key_without_one_every_token(tmp_path: Path) -> None:
    named, path = new_key(), tmp_path / "jwks.json"
    nameless = {name: value for name, value in new_key().as_dict(private=False).items() if name != "kid"}
    path.write_text(json.dumps({"keys": [nameless, named.as_dict(private=False)]}))
    keys = Keys(str(path))
    assert len(await keys.fitting(None)) == 2
    assert len(await keys.fitting(named.kid)) == 2
    assert [key.kid for key in await keys.fitting("another")] == [None]


async def test_keys_read_earlier_serve_while_their_source_is_down() -> None:
    clock, key = Clock(), new_key()
    served = Served(jwks(key))
    keys = Keys("https://issuer/jwks", clock=clock, fetch=served.fetch)
    await keys.current()
    served.text = None
    clock.now += 31
    assert await keys.fitting(key.kid)
    assert not await keys.fitting("another")
    assert served.asked == 2
    served.text = jwks(new_key())
    clock.now += 2
    await keys.current()
    while served.asked < 3:
        await asyncio.sleep(0)


@pytest.mark.parametrize("text", [None, "", "not json", "[]", "{}", '{"keys": [{"kty": "EC"}]}'])
async def test_keys_that_cannot_be_read_are_unavailable_not_a_crash(text: str | None) -> None:
    served = Served("")
    served.text = text
    with pytest.raises(KeysUnavailable):
        await Keys("https://issuer/jwks", fetch=served.fetch).current()


async def test_what_was_concluded_from_old_keys_can_be_dropped(tmp_path: Path) -> None:
    clock, changes = Clock(), []
    path = tmp_path / "jwks.json"
    path.write_text(jwks(new_key()))
    keys = Keys(str(path), lambda: changes.append(1), clock=clock)
    await keys.current()
    clock.now += 2
    await keys.current()
    assert len(changes) == 1
    path.write_text(jwks(new_key(), new_key()))
    clock.now += 2
    await keys.current()
    assert len(changes) == 2


def test_no_default_file_is_needed_to_build_settings(tmp_path: Path) -> None:
    assert ServiceTokens(MeshSettings(data_dir=tmp_path), "jobs")
