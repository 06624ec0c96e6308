"""Webhooks as callers manage them, over a store in memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from services.jobs.adapters.web import HttpWeb
from services.jobs.events import TOPICS
from services.jobs.webhook import DeliveryState, WebhookState
from services.jobs.webhooks import Given, Webhooks
from services.mesh.errors import (
    AddressNotAllowed,
    AlreadyExists,
    DeliveryNotFound,
    EtagMismatch,
    FailedPrecondition,
    InvalidArgument,
    Unreachable,
    WebhookNotFound,
)
from services.mesh.receipts import Receipt
from tests.hostile_urls import ADDRESSES, hostile_urls
from tests.webhooks_memory import MemoryWebhooks

URI = "https://example.com/hook?token=a"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = Receipt("acme", "CreateWebhook", "r1", "digest")


@dataclass
class Recorder:
    """A web that answers with a status and keeps what it was sent."""

    status: int = 200
    sent: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)

    async def fetch(self, url: str, *, max_bytes: int) -> Any:
        raise NotImplementedError

    async def check(self, url: str) -> None:
        if not url.startswith("https://"):
            raise AddressNotAllowed(f"{url} is not allowed")

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> int:
        self.sent.append((url, content, headers))
        if not self.status:
            raise Unreachable("example.com did not answer within 15 s")
        return self.status


def webhooks(web: Any = None, most: int = 3) -> Webhooks:
    return Webhooks(MemoryWebhooks(lambda: datetime.now(UTC)), web or Recorder(), most=most)


def given(*paths: str, etag: str = "", ttl: timedelta | None = None, **fields: Any) -> Given:
    return Given(fields, paths, etag, ttl)


async def test_a_secret_is_shown_by_the_call_that_sets_it_and_never_again() -> None:
    hooks = webhooks()
    made = await hooks.create("acme", "w", given(uri=URI))
    secret = made.secret.get_secret_value()
    assert secret.startswith("whsec_")
    changed = await hooks.update("acme", "w", given(description="x"))
    listed = await hooks.list_webhooks("acme", filter="", order_by="", page_size=0, page_token="", page=0)
    deleted = await hooks.delete("acme", "w", validate_only=True)
    shown = [await hooks.get("acme", "w"), changed, deleted, *listed.items]
    assert [each.secret.get_secret_value() for each in shown] == [""] * 4
    assert [each.old_secret for each in shown] == [None] * 4


async def test_a_repeated_creation_shows_the_same_secret() -> None:
    hooks = webhooks()
    made = await hooks.create("acme", "", given(uri=URI), receipt=KEY)
    assert await hooks.create("acme", "", given(uri=URI), receipt=KEY) == made
    assert made.secret.get_secret_value()


async def test_a_callers_own_secret_is_taken_and_a_bad_one_refused() -> None:
    hooks = webhooks()
    made = await hooks.create("acme", "w", given(uri=URI, secret=SECRET))
    assert made.secret.get_secret_value() == SECRET
    with pytest.raises(InvalidArgument, match="24 to 64 bytes"):
        await hooks.create("acme", "v", given(uri=URI, secret="whsec_c2hvcnQ="))


async def test_after_a_new_secret_the_old_one_signs_for_as_long_as_asked() -> None:
    web = Recorder()
    hooks = webhooks(web)
    made = await hooks.create("acme", "w", given(uri=URI))
    rotated = await hooks.update("acme", "w", given("secret", ttl=timedelta(hours=1)))
    new, old = rotated.secret.get_secret_value(), made.secret.get_secret_value()
    assert new != old
    assert rotated.old_secret_expire_time
    assert timedelta(minutes=59) < rotated.old_secret_expire_time - datetime.now(UTC) <= timedelta(hours=1)
    await hooks.test("acme", "w")
    _, body, headers = web.sent[-1]
    for secret in (old, new):
        assert Verifier(secret).verify(body, dict(headers))["type"] == "webhook.test"
    at_once = await hooks.update("acme", "w", given(secret=SECRET, ttl=timedelta(0)))
    assert (at_once.secret.get_secret_value(), at_once.old_secret_expire_time) == (SECRET, None)
    await hooks.test("acme", "w")
    assert len(web.sent[-1][2]["webhook-signature"].split(" ")) == 1


async def test_an_update_of_everything_keeps_the_secret() -> None:
    hooks = webhooks(web := Recorder())
    await hooks.create("acme", "w", given(uri=URI, secret=SECRET, description="x", topics=("document.*",)))
    changed = await hooks.update("acme", "w", given("*", uri="https://other.example/"))
    assert (changed.uri, changed.description, changed.topics) == ("https://other.example/", "", ())
    await hooks.test("acme", "w")
    Verifier(SECRET).verify(web.sent[-1][1], dict(web.sent[-1][2]))


@pytest.mark.parametrize("topic", ["document.index", "documents.*", "webhook.test", "*", "document"])
async def test_a_topic_that_never_comes_is_refused(topic: str) -> None:
    with pytest.raises(InvalidArgument, match="there is no such topic"):
        await webhooks().create("acme", "w", given(uri=URI, topics=(topic,)))


async def test_every_topic_is_taken_and_every_kind_of_it() -> None:
    kinds = tuple(f"{each}.*" for each in ("collection", "ingestion", "document"))
    made = await webhooks().create("acme", "w", given(uri=URI, topics=(*TOPICS, *kinds)))
    assert all(made.wants(each, "books") for each in TOPICS)


async def test_a_webhook_without_an_address_is_refused() -> None:
    hooks = webhooks()
    with pytest.raises(InvalidArgument, match="must be set"):
        await hooks.create("acme", "w", given(description="x"))
    await hooks.create("acme", "w", given(uri=URI))
    with pytest.raises(InvalidArgument, match="must be set"):
        await hooks.update("acme", "w", given("uri"))


@pytest.mark.parametrize("url", [*hostile_urls(443), *(f"https://{each}/" for each in ADDRESSES)])
async def test_an_address_that_is_not_public_is_refused_before_anything_is_kept(url: str) -> None:
    async with HttpWeb(https_only=True, ports=[443], http_hosts=["wiki.corp"]) as web:
        hooks = webhooks(web)
        if "localhost." in url:
            pytest.skip("is a name that this machine may not know; the test of what is sent has it")
        with pytest.raises(AddressNotAllowed):
            await hooks.create("acme", "w", given(uri=url))
        with pytest.raises(WebhookNotFound):
            await hooks.get("acme", "w")


async def test_plain_http_is_for_listed_hosts() -> None:
    async with HttpWeb(https_only=True, ports=[80], http_hosts=["93.184.215.14"]) as web:
        hooks = webhooks(web)
        assert (await hooks.create("acme", "w", given(uri="http://93.184.215.14/hook"))).name == "webhooks/w"
        with pytest.raises(AddressNotAllowed, match="only https URLs are taken"):
            await hooks.create("acme", "v", given(uri="http://93.184.215.15/hook"))


async def test_what_validates_is_refused_as_what_is_done() -> None:
    hooks = webhooks(most=1)
    await hooks.create("acme", "w", given(uri=URI))
    for webhook_id, refusal in (("w", AlreadyExists), ("v", FailedPrecondition)):
        for validate_only in (True, False):
            with pytest.raises(refusal):
                await hooks.create("acme", webhook_id, given(uri=URI), validate_only=validate_only)
    assert (await webhooks().create("acme", "w", given(uri=URI), validate_only=True)).secret.get_secret_value() == ""


async def test_a_stale_etag_changes_nothing() -> None:
    hooks = webhooks()
    made = await hooks.create("acme", "w", given(uri=URI))
    changed = await hooks.update("acme", "w", given(description="x", etag=made.etag))
    assert changed.etag != made.etag
    for validate_only in (True, False):
        with pytest.raises(EtagMismatch):
            await hooks.update("acme", "w", given(description="y", etag=made.etag), validate_only=validate_only)
        with pytest.raises(EtagMismatch):
            await hooks.delete("acme", "w", etag=made.etag, validate_only=validate_only)
    assert await hooks.get("acme", "w") == changed


async def test_a_caller_disables_and_enables_it() -> None:
    hooks = webhooks()
    await hooks.create("acme", "w", given(uri=URI))
    disabled = await hooks.update("acme", "w", given(state=WebhookState.DISABLED))
    assert (disabled.state, disabled.disabled_reason) == (WebhookState.DISABLED, "it was disabled by a caller")
    enabled = await hooks.update("acme", "w", given("state"))
    assert (enabled.state, enabled.disabled_reason) == (WebhookState.ENABLED, "")


@pytest.mark.parametrize(
    ("status", "state", "error"),
    [
        (204, DeliveryState.DELIVERED, ""),
        (500, DeliveryState.DEAD, "answered 500"),
        (0, DeliveryState.DEAD, "example.com did not answer within 15 s"),
    ],
)
async def test_a_test_tells_how_it_went_and_keeps_nothing(status: int, state: DeliveryState, error: str) -> None:
    hooks = webhooks(web := Recorder(status))
    await hooks.create("acme", "w", given(uri=URI, state=WebhookState.DISABLED))
    tested = await hooks.test("acme", "w")
    assert (tested.state, tested.last_status, tested.last_error, tested.name) == (state, status, error, "")
    url, body, headers = web.sent[0]
    assert (url, headers["webhook-id"]) == (URI, tested.event_uid)
    assert json.loads(body)["data"] == {"webhook": "webhooks/w"}
    listed = await hooks.list_deliveries("acme", "w", filter="", order_by="", page_size=0, page_token="", page=0)
    assert listed.total_size == 0


async def test_webhooks_of_another_tenant_do_not_exist() -> None:
    hooks = webhooks()
    await hooks.create("acme", "w", given(uri=URI))
    for attempt in (
        hooks.get("globex", "w"),
        hooks.update("globex", "w", given(description="x")),
        hooks.delete("globex", "w"),
        hooks.test("globex", "w"),
        hooks.list_deliveries("globex", "w", filter="", order_by="", page_size=0, page_token="", page=0),
    ):
        with pytest.raises(WebhookNotFound):
            await attempt
    with pytest.raises(DeliveryNotFound):
        await hooks.replay("globex", "webhooks/w/deliveries/1")


async def test_webhooks_are_listed_newest_first_and_filtered() -> None:
    hooks = webhooks()
    for webhook_id in ("a", "b", "c"):
        await hooks.create("acme", webhook_id, given(uri=URI, collection="books" if webhook_id == "b" else ""))
    await hooks.update("acme", "c", given(state=WebhookState.DISABLED))

    async def names(**asked: Any) -> list[str]:
        known = {"filter": "", "order_by": "", "page_size": 0, "page_token": "", "page": 0}
        return [each.id for each in (await hooks.list_webhooks("acme", **{**known, **asked})).items]

    assert await names() == ["c", "b", "a"]
    assert await names(filter='collection = "collections/books"') == ["b"]
    assert await names(filter="state = ENABLED", order_by="name") == ["a", "b"]
    assert await names(page_size=1, page=2) == ["b"]


async def test_nothing_that_is_told_of_a_webhook_holds_its_secret() -> None:
    hooks = webhooks()
    made = await hooks.create("acme", "w", given(uri=URI, secret=SECRET))
    assert SECRET not in f"{made!r} {replace(made, old_secret=made.secret)!s}"
